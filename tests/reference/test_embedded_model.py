"""The embedded model is what its card says: file, sizes, tokenizer, and bits a byte on held-out text."""

import hashlib
import os
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import zstandard
from bench_runs import ROOT

from pytest_h2o.reference.bench import token_bits
from pytest_h2o.reference.cache import EvictingCache
from pytest_h2o.reference.gguf import GgufFile
from pytest_h2o.reference.model import Model, generate, read_tokenizer

MODEL = ROOT / "fixtures" / "models" / "austen-5m.gguf"
CARD = (ROOT / "fixtures" / "models" / "README.md").read_text()
HELD_OUT = (ROOT / "fixtures" / "text" / "heldout.txt").read_bytes()
CHECKED_BYTES = 10_000
SIZES = {
    "layers": "layers",
    "channels": "embedding",
    "query heads": "heads",
    "KV heads": "kv_heads",
    "head size": "head_dim",
    "feed-forward channels": "feed_forward",
    "context, tokens": "context",
    "RoPE theta": "rope_theta",
    "vocabulary, tokens": "vocabulary",
}
"""Rows of the card, and the hyper-parameters that they tell of."""


def card_value(label: str) -> str:
    """The second cell of the card's table row that starts with ``label``."""
    found = re.search(rf"^\| {re.escape(label)} \| ([^|]+) \|", CARD, re.MULTILINE)
    if found is None:
        raise LookupError(f"the card has no row {label!r}")
    return found[1].strip()


def card_number(label: str) -> float:
    return float(card_value(label).replace(",", ""))


@pytest.fixture(scope="module")
def file() -> GgufFile:
    return GgufFile(MODEL)


def test_the_files_are_those_of_the_card() -> None:
    assert MODEL.stat().st_size == card_number("file size, bytes") <= 6_000_000
    assert hashlib.sha256(MODEL.read_bytes()).hexdigest() == card_value("SHA-256 of the file")
    assert len(HELD_OUT) == card_number("held-out text, bytes")
    assert hashlib.sha256(HELD_OUT).hexdigest() == card_value("SHA-256 of the held-out text")


def test_the_sizes_are_those_of_the_card_and_suit_the_eviction_policy(file: GgufFile) -> None:
    hyper = file.hyper
    assert {label: getattr(hyper, name) for label, name in SIZES.items()} == {name: card_number(name) for name in SIZES}
    assert hyper.heads >= 2 * hyper.kv_heads
    assert hyper.layers > 4
    assert hyper.context >= 1024
    shapes = hyper.tensor_shapes()
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == card_number("parameters")
    kinds = {file._tensors[name].tensor_type.name for name, shape in shapes.items() if len(shape) == 2}
    assert kinds == {card_value("type of matrices")}


def test_the_vocabulary_is_bytes_merges_and_the_begin_mark(file: GgufFile) -> None:
    tokens, merges = (file.metadata(f"tokenizer.ggml.{name}", "array") for name in ("tokens", "merges"))
    assert tokens[file.metadata("tokenizer.ggml.bos_token_id", "number")] == "<|begin|>"
    assert sorted(tokens[257:]) == sorted(merge.replace(" ", "") for merge in merges)
    assert all(len(token) == 1 for token in tokens[1:257])


def test_the_held_out_text_encodes_to_as_many_tokens_as_the_card_says(file: GgufFile) -> None:
    tokenizer = read_tokenizer(file)
    tokens = tokenizer.encode(HELD_OUT.decode("ascii"))[len(tokenizer.first) :]
    assert len(tokens) == card_number("held-out text, tokens")
    assert tokenizer.library.decode(tokens).encode() == HELD_OUT


@cache
def bits_per_byte(window: int) -> float:
    """Windows of `window` tokens after the begin mark, moved on by half; the unseen half of each counts."""
    file = GgufFile(MODEL)
    model, tokenizer, bits = Model(file), read_tokenizer(file), 0.0
    tokens = tokenizer.encode(HELD_OUT[:CHECKED_BYTES].decode("ascii"))[len(tokenizer.first) :]
    cache = EvictingCache(file.hyper, window, half=False)
    for start in range(0, len(tokens) - window // 2, window // 2):
        piece = np.array(tokens[start : start + window])
        counted = window // 2 if start else 0
        cache.clear()
        logits = model.logits(model.prefill(np.array([0, *piece[:-1]]), cache)[counted:])
        bits += float(token_bits(logits, piece[counted:]).sum())
    return bits / CHECKED_BYTES


def test_bits_per_byte_are_those_of_the_card_and_better_than_zstd() -> None:
    bits = bits_per_byte(1024)
    assert bits == pytest.approx(card_number("bits a byte of its first 10,000 bytes, context 1,024"), abs=0.002)
    assert bits < 2.0
    assert bits < 8 * len(zstandard.compress(HELD_OUT[:CHECKED_BYTES], 19)) / CHECKED_BYTES


@pytest.mark.slow
def test_a_longer_context_is_worth_something() -> None:
    """1.6318 bits with 64 tokens, 1.6188 with 1,024: little, and all that eviction puts at stake."""
    assert bits_per_byte(1024) < bits_per_byte(64) - 0.01


NAMED = os.environ.get("H2O_SMOLLM2_GGUF")
RECORDED = ROOT / "fixtures/recordings/other/llm_demo_prose_h2o_off.stdout.txt"


@pytest.mark.skipif(not NAMED, reason="H2O_SMOLLM2_GGUF names no model file")
def test_it_answers_as_the_engine_did() -> None:
    """The engine ran 8-bit weights, a repetition penalty and another tokenizer, so the first words are compared."""
    pytest.importorskip("tokenizers")
    file = GgufFile(Path(str(NAMED)))
    tokenizer = read_tokenizer(file)
    text = (ROOT / "fixtures/prompts/prose.txt").read_text("utf-8")
    prompt = np.array(tokenizer.encode(text))
    assert len(prompt) == 436
    assert tokenizer.library.decode(prompt.tolist()) == text
    cache = EvictingCache(file.hyper, len(prompt) + 24)
    said = tokenizer.library.decode(generate(Model(file), cache, prompt, 24).tokens)
    answer = "The keeper moved his chair because he was not a careless man"
    assert answer in said
    assert answer in RECORDED.read_text("utf-8")

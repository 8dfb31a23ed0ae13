"""Tokenizers from model files."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_model import write_gguf

from pytest_h2o.errors import UsageError
from pytest_h2o.reference.gguf import GgufFile
from pytest_h2o.reference.model import BpeTokenizer, ByteTokenizer, read_tokenizer

TEXT = "naïve café: 12 € — \U0001f600\n"


def byte_alphabet() -> list[str]:
    """The character that stands for each byte in vocabularies of the GPT-2 kind."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def test_a_byte_tokenizer_takes_every_text(tmp_path: Path) -> None:
    tokenizer = read_tokenizer(GgufFile(write_gguf(tmp_path / "model.gguf")))
    tokens = tokenizer.encode(TEXT)
    assert tokens == list(TEXT.encode("utf-8"))
    assert tokenizer.decode([256, *tokens, 257]) == TEXT
    assert tokenizer.byte_length([256, *tokens]) == len(TEXT.encode("utf-8"))


def test_a_first_token_is_put_before_the_text() -> None:
    assert ByteTokenizer([256]).encode("a") == [256, 97]


def test_byte_pairs_are_merged_by_rank_and_digits_split() -> None:
    pytest.importorskip("tokenizers")
    alphabet = byte_alphabet()
    vocabulary = ["<end>", *alphabet, "th", "the", "Ġthe", "12"]
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("1", "2")]
    tokenizer = BpeTokenizer(vocabulary, merges, {0}, split_digits=True)
    assert tokenizer.encode("the the 12") == [258, 259, 1 + 32, 1 + ord("1"), 1 + ord("2")]
    joined = BpeTokenizer(vocabulary, merges, {0}, split_digits=False)
    assert joined.encode("a12") == [1 + ord("a"), 260]
    tokens = tokenizer.encode(TEXT)
    assert tokenizer.decode([0, *tokens, 0]) == TEXT
    assert tokenizer.byte_length([0, *tokens]) == len(TEXT.encode("utf-8"))


def test_an_unknown_tokenizer_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    file = GgufFile(write_gguf(path, tokenizer="llama"))
    with pytest.raises(UsageError) as caught:
        read_tokenizer(file)
    assert str(caught.value) == (
        "the model has a tokenizer that the reference bench does not know\n"
        f"  where: {path}, tokenizer.ggml.model\n  came: llama, pattern default\n"
        "  expected: byte, or gpt2 with pattern smollm, gpt-2, default\n"
        "  next: name a GGUF file of a Llama-style model in `llm_model` of the config"
    )

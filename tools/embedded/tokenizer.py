"""Byte-pair encoding of the embedded model, learned with the ``tokenizers`` library in the layout of GPT-2."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

BEGIN = "<|begin|>"  # token 0, set before every text
BYTES = 256


def train_tokenizer(text: bytes, vocab: int) -> Tokenizer:
    """Learn ``vocab`` tokens, the begin mark and the 256 bytes among them, from ASCII ``text``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[BEGIN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.decode("ascii").splitlines(keepends=True), trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, text: bytes) -> NDArray[np.int64]:
    """Tokens of ``text`` without the begin mark, int64 ``[tokens]``.

    Paragraphs are encoded apart, each with its line ends, so that memory is bounded; the pieces of the GPT-2 pattern
    never join a line end to the letter after it, so the tokens are those of the whole text but for runs of white space.
    """
    parts = [encoding.ids for encoding in tokenizer.encode_batch(paragraphs(text))]
    return np.concatenate([np.asarray(part, dtype=np.int64) for part in parts])


def paragraphs(text: bytes) -> list[str]:
    """Pieces of ``text`` that end with an empty line; together they are ``text``."""
    return [part + "\n\n" for part in text.decode("ascii").split("\n\n")[:-1]] + (
        [rest] if (rest := text.decode("ascii").split("\n\n")[-1]) else []
    )


def merges_of(tokenizer: Tokenizer) -> list[str]:
    """Merges in order of rank, each as two tokens and a blank between."""
    pairs: Sequence[Sequence[str]] = json.loads(tokenizer.to_str())["model"]["merges"]
    return [" ".join(pair) for pair in pairs]


def tokens_of(tokenizer: Tokenizer) -> list[str]:
    """Token texts in order of their number, in the byte alphabet of GPT-2."""
    by_text: dict[str, int] = tokenizer.get_vocab()
    return sorted(by_text, key=by_text.__getitem__)


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write the tokenizer beside the checkpoints, so that a resumed run uses the same."""
    tokenizer.save(str(path))

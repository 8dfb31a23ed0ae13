"""Text to tokens and back, from the metadata of a GGUF file.

Two kinds are known, by ``tokenizer.ggml.model``:

``byte``
    Token b is the byte b for b from 0 to 255; tokens from 256 on are special ones, which no text encodes to. It is
    what a small model needs, and has no vocabulary to learn.
``gpt2``
    Byte-pair encoding over bytes (Sennrich et al., arXiv 1508.07909; Radford et al., 2019). The ``tokenizers`` library
    does it, imported only here: its pattern needs Unicode classes, and its merges a fast loop, that numpy and the
    standard library lack.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from pytest_h2o.errors import UsageError
from pytest_h2o.reference.gguf_file import GgufFile

BYTES = 256
_NORMAL_TOKEN = 1
_SPLITS_DIGITS = {"smollm": True, "gpt-2": False, "default": False}
"""Names in ``tokenizer.ggml.pre`` with the GPT-2 pattern; whether each digit is a piece of its own."""


class Tokenizer(Protocol):
    """What the bench needs of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Tokens of plain text, a leading beginning-of-sequence token where the model asks for one."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens, without special ones; bytes that are no UTF-8 become replacement characters."""

    def byte_length(self, tokens: Sequence[int]) -> int:
        """How many bytes of UTF-8 text the tokens stand for; special ones stand for none."""


class ByteTokenizer:
    """One token a byte.

    Parameters
    ----------
    first : sequence of int
        Tokens to put before every text.
    """

    def __init__(self, first: Sequence[int] = ()) -> None:
        self._first = list(first)

    def encode(self, text: str) -> list[int]:
        return [*self._first, *text.encode("utf-8")]

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(token for token in tokens if token < BYTES).decode("utf-8", errors="replace")

    def byte_length(self, tokens: Sequence[int]) -> int:
        return sum(token < BYTES for token in tokens)


class BpeTokenizer:
    """Byte-pair encoding as in GPT-2, by the ``tokenizers`` library.

    Parameters
    ----------
    vocabulary : sequence of str
        Token texts in the byte alphabet of GPT-2, where one character stands for one byte.
    merges : sequence of (str, str)
        In order of rank.
    special : set of int
        Tokens that stand for no text.
    split_digits : bool
        Whether every digit is a piece of its own.
    first : sequence of int
        Tokens to put before every text.

    Raises
    ------
    UsageError
        The library is not installed, or the vocabulary and the merges do not fit each other.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        merges: Sequence[tuple[str, str]],
        special: set[int],
        *,
        split_digits: bool,
        first: Sequence[int] = (),
    ) -> None:
        self._lengths = [0 if token in special else len(text) for token, text in enumerate(vocabulary)]
        self._special = special
        self._first = list(first)
        self._library = _build(vocabulary, merges, split_digits)

    def encode(self, text: str) -> list[int]:
        tokens: list[int] = self._library.encode(text, add_special_tokens=False).ids
        return [*self._first, *tokens]

    def decode(self, tokens: Sequence[int]) -> str:
        plain = [token for token in tokens if token not in self._special]
        text: str = self._library.decode(plain, skip_special_tokens=False)
        return text

    def byte_length(self, tokens: Sequence[int]) -> int:
        return sum(self._lengths[token] for token in tokens)


def read_tokenizer(file: GgufFile) -> Tokenizer:
    """Build the tokenizer of a model.

    Raises
    ------
    UsageError
        Of a kind that is not known, or its metadata is missing or contradicts itself.
    """
    kind = file.text("tokenizer.ggml.model")
    first = _first_tokens(file)
    if kind == "byte":
        if file.hyper.vocabulary < BYTES:
            raise file.fault(
                "the model's vocabulary is too small for a byte tokenizer",
                came=f"{file.hyper.vocabulary} tokens",
                expected="at least 256",
                key="tokenizer.ggml.model",
            )
        return ByteTokenizer(first)
    pattern = file.text("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or pattern not in _SPLITS_DIGITS:
        raise file.fault(
            "the model has a tokenizer that the reference bench does not know",
            came=f"{kind}, pattern {pattern}",
            expected=f"byte, or gpt2 with pattern {', '.join(_SPLITS_DIGITS)}",
            key="tokenizer.ggml.model",
        )
    return _read_bpe(file, first, split_digits=_SPLITS_DIGITS[pattern])


def _read_bpe(file: GgufFile, first: list[int], *, split_digits: bool) -> BpeTokenizer:
    vocabulary = file.items("tokenizer.ggml.tokens")
    if len(vocabulary) != file.hyper.vocabulary or len(set(vocabulary)) != len(vocabulary):
        raise file.fault(
            "the tokens of the model do not fit its embedding",
            came=f"{len(vocabulary)} tokens, {len(set(vocabulary))} of them different",
            expected=f"{file.hyper.vocabulary} different ones",
            key="tokenizer.ggml.tokens",
        )
    kinds = file.items("tokenizer.ggml.token_type", [_NORMAL_TOKEN] * len(vocabulary))
    special = {token for token, kind in enumerate(kinds) if kind != _NORMAL_TOKEN}
    merges = [tuple(str(merge).split(" ")) for merge in file.items("tokenizer.ggml.merges")]
    if any(len(merge) != 2 for merge in merges):
        raise file.fault("a merge of the tokenizer is no pair", expected="two tokens", key="tokenizer.ggml.merges")
    try:
        return BpeTokenizer(vocabulary, [(a, b) for a, b in merges], special, split_digits=split_digits, first=first)
    except ValueError as error:
        raise file.fault(
            "the tokenizer of the model contradicts itself", came=str(error), key="tokenizer.ggml.merges"
        ) from error


def _first_tokens(file: GgufFile) -> list[int]:
    if not file.flag("tokenizer.ggml.add_bos_token", False):
        return []
    token = file.number("tokenizer.ggml.bos_token_id")
    if token != int(token) or not 0 <= token < file.hyper.vocabulary:
        raise file.fault(
            "the first token of a text is none of the model's",
            came=str(token),
            expected=f"0 to {file.hyper.vocabulary - 1}",
            key="tokenizer.ggml.bos_token_id",
        )
    return [int(token)]


def _build(vocabulary: Sequence[str], merges: Sequence[tuple[str, str]], split_digits: bool) -> Any:
    try:
        from tokenizers import Tokenizer as Library
        from tokenizers import decoders, models, pre_tokenizers
    except ImportError as error:
        raise UsageError(
            "the model's tokenizer needs a library that is not installed",
            came=str(error),
            expected="the package tokenizers",
            hint="pip install tokenizers",
        ) from error
    try:
        library = Library(models.BPE({text: token for token, text in enumerate(vocabulary)}, list(merges)))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(str(error)) from error
    pieces: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if split_digits else []
    library.pre_tokenizer = pre_tokenizers.Sequence([*pieces, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    library.decoder = decoders.ByteLevel()
    return library

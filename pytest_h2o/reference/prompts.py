"""Prompts and held-out text as tokens."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np

from pytest_h2o.errors import UsageError
from pytest_h2o.reference.gguf_file import GgufFile
from pytest_h2o.reference.model import Tokens
from pytest_h2o.reference.settings import BenchConfig
from pytest_h2o.reference.tokenizer import Tokenizer

DEFAULT_PROMPT = "prompt.txt"


def read_text(path: Path, key: str) -> str:
    """Text of a file that the config names.

    Raises
    ------
    UsageError
        It cannot be read, is no UTF-8, or is empty.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise UsageError("a text of the config cannot be read", where=f"{key}: {path}", came=error.strerror) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            "a text of the config is no UTF-8", where=f"{key}: {path}", came=str(error), expected="UTF-8 text"
        ) from error
    if not text.strip():
        raise UsageError("a text of the config is empty", where=f"{key}: {path}", expected="text")
    return text


def prompt_tokens(config: BenchConfig, file: GgufFile, tokenizer: Tokenizer | None, length: int) -> Tokens:
    """A prompt of exactly `length` tokens: real text, or one token repeated if the config asks for that.

    A text that is shorter is said again from its start.

    Raises
    ------
    UsageError
        The text cannot be read, or the token is none of the model's.
    """
    if config.prompt_token is not None:
        if config.prompt_token >= file.hyper.vocabulary:
            raise config.fault(
                "the prompt's token is none of the model's",
                "prompt_token",
                config.prompt_token,
                f"0 to {file.hyper.vocabulary - 1}",
            )
        return np.full(length, config.prompt_token, dtype=np.int64)
    if tokenizer is None:
        raise ValueError("a text prompt needs a tokenizer")
    if config.prompt_file is not None:
        text = read_text(config.prompt_file, "prompt_file")
    else:
        text = resources.files("pytest_h2o.reference").joinpath(DEFAULT_PROMPT).read_text("utf-8")
    return np.resize(np.array(tokenizer.encode(text), dtype=np.int64), length)

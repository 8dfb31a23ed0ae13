"""llm_demo: says a prompt on with a model; run with H2O on and off, and the text read out of what it printed."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from pytest_h2o.bench.process import run_child
from pytest_h2o.errors import BenchError, NotMeasured, TableError
from pytest_h2o.files import TooLarge, read_regular, write_new_json

_TEXT_BEGINS = re.compile(r"^prompt file is [^\n]*\n", re.MULTILINE)
_TEXT_ENDS = re.compile(r"^#{10,}[^\n]*$", re.MULTILINE)
_WARNING = re.compile(r"(?:Drop (?:stale|invalid)|Clamp invalid) [^\n]*\n")
"""The engine prints these into the middle of words, each with its own line end: the text goes on behind it."""

MAX_OUTPUT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Demo:
    """How llm_demo is run; `folder` is new, and takes its configs and outputs."""

    program: Path
    folder: Path
    max_tokens: int
    timeout_s: float

    def say(self, name: str, config: Mapping[str, Any], prompt: Path) -> str:
        """Run it on a prompt and return the text that it generated."""
        path, output = self.folder / f"{name}.json", self.folder / f"{name}.stdout.txt"
        write_new_json(path, {**config, "sampler_type": "greedy"})
        argv = (str(self.program), str(path), str(prompt), str(self.max_tokens), "--prompt-file-mode=whole")
        with tempfile.TemporaryDirectory(prefix="pytest-h2o-demo-") as scratch:  # else tmp/ of the working directory
            asked = {"LLM_DEMO_TMP_PATH": scratch}
            child = run_child(argv, stdout_path=output, timeout_s=self.timeout_s, environment=asked)
        if child.returncode == 0 and not child.timed_out:
            return read_demo_text(output)
        ended = f"ended with {child.signal_name or f'exit code {child.returncode}'}"
        what = f"llm_demo {f'did not end within {self.timeout_s:g} s' if child.timed_out else ended}"
        raise BenchError(what, where=str(output), expected="a run that ends with exit code 0", **child.facts())


def read_demo_text(path: Path) -> str:
    """The text that a recorded output of llm_demo holds; TableError if there is none, or the file is too large."""
    try:
        return parse_demo_text(read_regular(path, MAX_OUTPUT_BYTES).decode("utf-8", "replace"), str(path))
    except TooLarge as error:
        what, expected = "an output of llm_demo is too large", f"at most {MAX_OUTPUT_BYTES:,}"
        raise TableError(what, where=str(path), came=error.strerror, expected=expected) from None
    except OSError as error:
        raise TableError("an output of llm_demo cannot be read", where=str(path), came=error.strerror) from error


def parse_demo_text(output: str, where: str) -> str:
    """Cut the generated text out of an output: between the line of the prompt's file and the line of ``#``.

    Warnings of the engine are cut out by their pattern, up to their line ends, wherever they stand.
    """
    output = output.replace("\r\n", "\n")
    begins = _TEXT_BEGINS.search(output)
    ends = None if begins is None else _TEXT_ENDS.search(output, begins.end())
    if begins is None or ends is None:
        missing = "line 'prompt file is …'" if begins is None else "line of # behind the text"
        raise TableError("an output of llm_demo has no text", where=where, came=f"no {missing}", expected="both lines")
    return _WARNING.sub("", output[begins.end() : ends.start()]).removesuffix("\n")


@dataclass(frozen=True)
class TextPair:
    """Two texts of one prompt, with eviction off and on; the prefix is what both begin with."""

    prompt: str
    prefix_words: int
    prefix_chars: int
    words_off: int
    words_on: int
    similarity: float
    """Share of words that stand in both in the same order, 0 to 1: twice the matching words over all words of both
    (Ratcliff and Metzener 1988, as Python's difflib has it)."""
    degenerate: str | None = None
    """What there is to say of texts that are one word over and over."""

    def render(self) -> str:
        said = "" if self.degenerate is None else f"; {self.degenerate}"
        return (
            f"{self.prompt}: {self.words_off} words with H2O off, {self.words_on} with H2O on; the first "
            f"{self.prefix_words} words ({self.prefix_chars} characters) are the same, "
            f"similarity {self.similarity:.3f}{said}"
        )


@dataclass(frozen=True)
class TextComparison:
    """The texts of one row, every prompt; `candidate` is its run id."""

    candidate: str
    pairs: tuple[TextPair, ...]

    @property
    def similarity(self) -> float:
        """Mean over the prompts, 0 to 1; higher is better."""
        return sum(pair.similarity for pair in self.pairs) / len(self.pairs)

    def refuse_wordless(self) -> None:
        """NotMeasured for two texts without a word: they are alike, and say nothing of the cache."""
        wordless = [pair.prompt for pair in self.pairs if not pair.words_off and not pair.words_on]
        if wordless:
            raise NotMeasured(
                "llm_demo said not a single word, with H2O off and on",
                where=f"prompt {', '.join(wordless)}",
                came="texts without a letter or digit",
                expected="text to compare",
                hint="look at its outputs in the folder of the preset; NaN logits say one token for ever",
            )


_SHARE = 0.9
"""Of the words of a text: from here on it is one word over and over."""


def _words(text: str) -> list[str]:
    """The words of a text; none of one that has no letter or digit."""
    return text.split() if any(sign.isalnum() for sign in text) else []


def _describe_degenerate(**texts: Sequence[str]) -> str | None:
    """Which of the texts are one word, or one over and over, and how often it stands there."""
    said = []
    for state, words in texts.items():
        word, times = Counter(words).most_common(1)[0] if words else ("", 0)
        if words and (len(words) == 1 or times >= _SHARE * len(words)):
            said.append(f"{word[:20]!r} is {times} of {len(words)} words with H2O {state}")
    return f"degenerate text: {', '.join(said)}" if said else None


def compare_texts(prompt: str, off: str, on: str) -> TextPair:
    """Compare the text with eviction off and the one with eviction on."""
    words_off, words_on = _words(off), _words(on)
    return TextPair(
        prompt=prompt,
        prefix_words=_common(words_off, words_on),
        prefix_chars=_common(off, on),
        words_off=len(words_off),
        words_on=len(words_on),
        similarity=SequenceMatcher(None, words_off, words_on, autojunk=False).ratio(),
        degenerate=_describe_degenerate(off=words_off, on=words_on),
    )


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(first), len(second)))

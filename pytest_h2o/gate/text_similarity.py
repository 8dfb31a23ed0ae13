"""How alike two generated texts are: the same prompt said on with eviction off and on. Pure.

One changed token changes all that follow, so greedy text leaves that of the full cache after any small change, a
harmless one too. These figures tell of a model that broke (repetition, noise), not of a little loss: they are reported,
and gate only where somebody sets a target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from typing import Any


@dataclass(frozen=True)
class TextPair:
    """Two texts of one prompt.

    Attributes
    ----------
    prompt : str
        Name of the prompt.
    prefix_words, prefix_chars : int
        Length of what both begin with, in whole words and in characters.
    words_off, words_on : int
        Words of the text with eviction off and on.
    similarity : float
        Share of words that stand in both in the same order, 0 to 1: twice the matching words over all words of both
        (Ratcliff and Metzener 1988, as Python's difflib has it). 1 for two empty texts.
    """

    prompt: str
    prefix_words: int
    prefix_chars: int
    words_off: int
    words_on: int
    similarity: float

    def render(self) -> str:
        """One line."""
        return (
            f"{self.prompt}: {self.words_off} words with H2O off, {self.words_on} with H2O on; the first "
            f"{self.prefix_words} words ({self.prefix_chars} characters) are the same, similarity {self.similarity:.3f}"
        )


@dataclass(frozen=True)
class TextComparison:
    """The texts of one row: every prompt."""

    candidate: str
    """Run id of the row."""
    pairs: tuple[TextPair, ...]

    @property
    def similarity(self) -> float:
        """Mean over the prompts, 0 to 1; higher is better."""
        return sum(pair.similarity for pair in self.pairs) / len(self.pairs)

    def to_json(self) -> dict[str, Any]:
        """Built-in values only; `from_json` reads them back."""
        return {"candidate": self.candidate, "pairs": [asdict(pair) for pair in self.pairs]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> TextComparison:
        """Read what `to_json` gave."""
        return cls(value["candidate"], tuple(TextPair(**pair) for pair in value["pairs"]))


def compare_texts(prompt: str, off: str, on: str) -> TextPair:
    """Compare the text with eviction off and the one with eviction on."""
    words_off, words_on = off.split(), on.split()
    return TextPair(
        prompt=prompt,
        prefix_words=_common(words_off, words_on),
        prefix_chars=_common(off, on),
        words_off=len(words_off),
        words_on=len(words_on),
        similarity=SequenceMatcher(None, words_off, words_on, autojunk=False).ratio(),
    )


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    return next(
        (place for place, (a, b) in enumerate(zip(first, second, strict=False)) if a != b),
        min(len(first), len(second)),
    )

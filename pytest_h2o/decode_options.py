"""The values of the decode options, read. Only the standard library is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_h2o.errors import UsageError

if TYPE_CHECKING:
    from pytest_h2o.options import Settings


def parse_baseline(text: str, origin: str) -> float:
    """Read a decode baseline in tok/s; UsageError unless it is a positive finite number."""
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not 0 < number < float("inf"):
        raise UsageError(
            f"{origin} takes paired, a decode speed or none",
            came=repr(text),
            expected="paired; tok/s with H2O off, above 0, as 56.02; or none to leave the decode threshold out",
        )
    return number


MAX_DECODE_PAIRS = 200
"""The longest comparison that the critical values are computed for."""


def parse_budget(text: str, origin: str) -> tuple[int | None, float | None]:
    """Read a decode budget: pairs and seconds, either one None where it is not said.

    Raises
    ------
    UsageError
        The text is not like ``20``, ``60s`` or ``20,60s``, or a number is out of range.
    """
    pairs: int | None = None
    elapsed_s: float | None = None
    for part in text.split(","):
        word = part.strip()
        try:
            if word.endswith("s") and elapsed_s is None:
                elapsed_s = float(word[:-1])
            elif pairs is None and word.isdecimal():
                pairs = int(word)
            else:
                raise ValueError
            if not (pairs is None or 1 <= pairs <= MAX_DECODE_PAIRS):
                raise ValueError
            if not (elapsed_s is None or 0 < elapsed_s < float("inf")):
                raise ValueError
        except ValueError:
            raise UsageError(
                f"{origin} takes pairs, seconds or both",
                came=repr(text),
                expected=f"for example 20 (pairs, at most {MAX_DECODE_PAIRS}), 60s or 20,60s",
            ) from None
    return pairs, elapsed_s


def check_baseline_bench(settings: Settings) -> None:
    """Another build is paired with the bench: it needs one, and no other baseline."""
    other, baseline = settings.given["baseline-bench"], settings.given["decode-baseline"]
    if settings["bench"] is None:
        raise UsageError(
            "a build to compare with was given, and no bench",
            came=f"{other.origin} {other.value}",
            expected="--h2o-bench PATH, the build that is judged",
        )
    if baseline.value not in (None, "paired"):
        raise UsageError(
            "a build to compare with and another decode baseline were both given",
            came=f"{other.origin} {other.value} and {baseline.origin} {baseline.value}",
            expected="one of the two",
        )

"""What the bench printed besides its table: warnings counted by kind, and the reason of a failure.

A run can print megabytes of warnings, some of them in the middle of other text, with no line end before them. The
output is read once, in pieces; what is kept is bounded however much was printed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pytest_h2o.errors import one_line

_PIECE_BYTES = 64 * 1024
_MAX_KINDS = 64
_MAX_LINE = 1000
_MAX_PATTERNS = 256
_MAX_REASONS = 3
OTHER_KINDS = "(further kinds)"

# Warnings of the engine's KV cache. They may stand anywhere in a line, and reach to its end.
_ENGINE_WARNING = re.compile(r"(?:Drop (?:stale|invalid)|Clamp invalid) (?=[a-z_-]+)")
_KV_LEN = re.compile(r"\bkv_len=(\d{1,12})\b")
_DETAIL = re.compile(r"\w+[=<>]+[-+\w.]+[.,;]?|[=<>]+")
_NUMBER = re.compile(r"0x[0-9a-f]+|(?<!\w)[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?", re.IGNORECASE)

_INFORMATION = re.compile(
    r"The device supports:|CPU Group:|\[H2O(?:-LOSSLESS)?\] layer=|\||config path is |main, \d+, cost time:"
    r"|Prepare for tuning opt |prompt file is |load tokenizer|tokenizer_type|#+$|usage: |options:$|-\w+,? +(?:--|<)"
    r"|[\w ]*(?:tokens num|time|speed|RTF|pixels_mp) += "
)

_TEXT_BEGINS, _TEXT_ENDS = "prompt file is ", re.compile(r"#{10,}")

_FAILURE = re.compile(
    r"^error\b|unable to|cannot |could not|failed|invalid parameter|exception|\bwhat\(\)|assertion|out of memory|"
    r"bad_alloc|segmentation fault|aborted|terminate called|error while loading|parse arguments error",
    re.IGNORECASE,
)

_WEAK_FAILURE = re.compile(r"not exist|not found|no such|\berror\b", re.IGNORECASE)


@dataclass(frozen=True)
class OutputSummary:
    """What a run printed, in few words."""

    warnings: Mapping[str, int] = field(default_factory=dict)
    """Kind -> how often: the text of a warning without its numbers. Of more than 64 kinds the rest is one."""
    max_kv_len: int | None = None
    """Largest cache length, in tokens, that a warning named. Above prompt + generated length it shows that the cache
    was not cleared between repeats."""
    reason: str | None = None
    """The lines that best explain a failure; None if nothing looks like one."""


def count_warnings(path: Path) -> OutputSummary:
    """Summarise the recorded output of a run."""
    with path.open("rb") as file:
        return summarize_output(file)


def summarize_output(file: BinaryIO) -> OutputSummary:
    """Count the warnings in an output and find the reason of a failure."""
    scan = _Scan()
    for line in _pieces(file):
        scan.take(line)
    return OutputSummary(scan.warnings, scan.max_kv_len, scan.reason())


def _pieces(file: BinaryIO) -> Iterator[str]:
    """Lines as text; a line longer than a piece comes in several, cut at a blank so that no number is split."""
    rest = b""
    while piece := file.readline(_PIECE_BYTES):
        data = rest + piece
        rest = b""
        if not data.endswith(b"\n") and len(piece) == _PIECE_BYTES:
            blank = data.rfind(b" ")
            if blank > 0 and len(data) - blank < 4096:
                data, rest = data[: blank + 1], data[blank + 1 :]
        yield data.decode("utf-8", "replace")
    if rest:
        yield rest.decode("utf-8", "replace")


class _Scan:
    """What was seen so far. Everything here is bounded."""

    def __init__(self) -> None:
        self.warnings: dict[str, int] = {}
        self.max_kv_len: int | None = None
        self.failures: list[str] = []
        self.weak_failures: list[str] = []
        self.in_generated_text = False
        self.kind_of_pattern: dict[str, str] = {}

    def take(self, line: str) -> None:
        if "kv_len=" in line:
            longest = max((int(match[1]) for match in _KV_LEN.finditer(line)), default=0)
            self.max_kv_len = max(self.max_kv_len or 0, longest) or None
        starts = [match.start() for match in _ENGINE_WARNING.finditer(line)]
        for start, end in itertools.pairwise([*starts, len(line)]):
            self._count(line[start:end])
        self._take_rest(line[: starts[0]] if starts else line)

    def _take_rest(self, line: str) -> None:
        """The part of a line that no engine warning takes."""
        text = line[:_MAX_LINE].strip()
        if self.in_generated_text:
            self.in_generated_text = _TEXT_ENDS.fullmatch(text) is None
            return
        self.in_generated_text = text.startswith(_TEXT_BEGINS)
        if not text or _INFORMATION.match(text):
            return
        is_new = self._count(text)
        if is_new and _FAILURE.search(text):
            _keep(self.failures, text)
        elif is_new and _WEAK_FAILURE.search(text):
            _keep(self.weak_failures, text)

    def _count(self, text: str) -> bool:
        """Count a warning; True if it may be the first of its kind."""
        # Runs of one warning differ in numbers alone: what they are is worked out once.
        pattern = _NUMBER.sub("N", text[:_MAX_LINE])
        kind = self.kind_of_pattern.get(pattern)
        is_new = kind is None
        if kind is None:
            kind = _kind(pattern)
            if len(self.kind_of_pattern) < _MAX_PATTERNS:
                self.kind_of_pattern[pattern] = kind
        if kind not in self.warnings and len(self.warnings) >= _MAX_KINDS:
            kind = OTHER_KINDS
        self.warnings[kind] = self.warnings.get(kind, 0) + 1
        return is_new

    def reason(self) -> str | None:
        return "; ".join(self.failures or self.weak_failures) or None


def _keep(lines: list[str], text: str) -> None:
    line = one_line(text)
    if len(lines) < _MAX_REASONS and line not in lines:
        lines.append(line)


def _kind(pattern: str) -> str:
    """Name of a warning whose numbers stand as N: details like ``: layer=N kv_len=N.`` at its end are cut off."""
    words = pattern.split()
    end = len(words)
    while end > 1 and _DETAIL.fullmatch(words[end - 1]):
        end -= 1
    short = " ".join(words[:end])
    return one_line(short.removesuffix(":") if end < len(words) else short, limit=120)

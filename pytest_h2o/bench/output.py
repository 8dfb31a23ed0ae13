"""What the bench printed besides its table: warnings counted by kind, and the reason of a failure.

A run can print megabytes of warnings, some of them in the middle of other text, with no line end before them. The
output is read once, in pieces; what is kept is bounded however much was printed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from pytest_h2o.errors import BenchError, one_line
from pytest_h2o.inputs.signs import SIGNS, Sign

_PIECE_BYTES = 64 * 1024
_LONGEST = 256
"""No message that is looked for is longer, in bytes; nor is a sequence of a terminal, such as a colour."""
_MAX_KINDS = 64
_MAX_LINE = 1000
_MAX_PATTERNS = 256
_MAX_REASONS = 3
OTHER_KINDS = "(further kinds)"

# Warnings of the engine's KV cache. They may stand anywhere in a line, and reach to its end.
_ENGINE_WARNING = re.compile(r"(?:Drop (?:stale|invalid)|Clamp invalid) (?=[a-z_-]+)")
_FATAL = {text.lower(): sign for sign in SIGNS if sign.severity == "fatal" for text in (sign.text, *sign.also)}
_MESSAGE = re.compile(
    rf"{_ENGINE_WARNING.pattern}|(?:\[[\w-]+\] ?)?(?i:({'|'.join(map(re.escape, _FATAL))}))", re.ASCII
)
_HARMLESS = re.compile("|".join(re.escape(sign.text) for sign in SIGNS if sign.severity == "harmless"))
ENGINE_LINE = re.compile(
    rf"(?:\[[\w-]+\] ?)?(?:{_ENGINE_WARNING.pattern}|"
    rf"{'|'.join(re.escape(sign.text) for sign in SIGNS if not sign.may_be_said)})[^\n]*\n"
    r"|\[H2O(?:-LOSSLESS)?\] [^\n]*\n"
)
"""What the engine prints into a text that it generates, between any two characters of it, each up to its line end."""
_FLOOR = next(sign.text for sign in SIGNS if sign.name == "floor_keep")
_LOGGED = re.compile(r"\[H2O-LOSSLESS\] layer=0 kv=(\d{1,12})\b")
_CODED = re.compile(r"\[H2O-LOSSLESS\] layer=\d+ .*?\btokens=(\d{1,9})\b")
_DECODED = re.compile(r"\bdecode tokens num\s*=\s*(\d{1,12})\b")
_WHOLE = re.compile(rf"{_MESSAGE.pattern}|{_DECODED.pattern}|{re.escape(_FLOOR)}".encode())
_TERMINAL = re.compile(rb"\x1b(?:\[[0-?]{0,99}[ -/]{0,9}[@-~]|\][^\x07\x1b]{0,200}(?:\x07|\x1b\\))")
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
    floor_dominates: int = 0
    """How often the engine said that the protected tokens alone met the target, so that a step evicted nothing."""
    coded_tokens: Mapping[str, int] = field(default_factory=dict)
    """Tokens of a block -> how many blocks of so many the engine said that it coded."""
    decoded_tokens: int | None = None
    """The fewest tokens that it said it decoded; None if it said none."""
    logged_kv: int | None = None
    """The longest cache of layer 0 that a line of its statistics named; those of other layers may grow over repeats."""


def count_warnings(path: Path, *, has_text: bool = False) -> OutputSummary:
    """Summarise the recorded output of a run; `has_text`: of llm_demo, with the text that the model wrote in it."""
    with path.open("rb") as file:
        return summarize_output(file, has_text=has_text)


def summarize_output(file: BinaryIO, *, has_text: bool = False) -> OutputSummary:
    """Count the warnings in an output and find the reason of a failure."""
    scan = _Scan(has_text=has_text)
    for line in _pieces(file):
        scan.take(line)
    return OutputSummary(
        scan.warnings,
        scan.max_kv_len,
        scan.reason(),
        scan.floor_dominates,
        scan.coded_tokens,
        scan.decoded_tokens,
        scan.logged_kv,
    )


Advise = Callable[[], str | None]
"""Says what to do about ``layer_nums`` where the config of the model lacks it; None where it has it."""


def first_cause(output: OutputSummary, advise: Advise) -> str | None:
    """The likely cause of stale plans and fatal signs in an output: a config without ``layer_nums``."""
    drifts = [s for s in SIGNS if (s.severity == "fatal" and not s.cause) or s.name == "stale_plan"]
    told = any(sign.text in output.warnings for sign in drifts)
    advice = advise() if told else None
    return None if advice is None else f"first cause: {advice}"


def check_signs(output: OutputSummary, printed: Path, allowed: Mapping[str, int], advise: Advise, **facts: Any) -> None:
    """Fail a launch whose output has fatal signs, of a broken cache or a missing backend, or more than are allowed."""
    seen = [(sign, output.warnings[sign.text]) for sign in SIGNS if sign.text in output.warnings]
    bad = [(sign, count) for sign, count in seen if _exceeds(sign, count, allowed)]
    if not bad:
        return
    lines = _lines_of(printed, [sign for sign, _ in bad])
    limits = [f"at most {allowed[sign.name]} x {sign.text}" for sign, _ in bad if sign.name in allowed]
    others = "; ".join(f"{count:,} x {sign.text}" for sign, count in seen if (sign, count) not in bad)
    came = [f"{count:,} x {sign.text} ({sign.meaning}): {lines.get(sign.text, 'no line')}" for sign, count in bad]
    names = ", ".join(f"{sign.name}: {count}" for sign, count in bad)
    is_cache = any(not sign.cause for sign, _ in bad)
    causes = [*(sign.cause for sign, _ in bad if sign.cause), first_cause(output, advise) if is_cache else None]
    cause = "; ".join(dict.fromkeys(filter(None, causes))) or "the engine or its settings are at fault"
    of = "a broken cache" if is_cache else "a missing backend"
    raise BenchError(
        f"the bench printed signs of {of}: no figure of this launch can be trusted",
        where=str(printed),
        came="; ".join(came) + (f"; beside {others}" if others else ""),
        expected=", ".join(limits) or "none of these lines",
        hint=f"{cause}; a preset that knows of them allows a number, allow_signs: {{{names}}}",
        **facts,
    )


def _exceeds(sign: Sign, count: int, allowed: Mapping[str, int]) -> bool:
    return count > allowed[sign.name] if sign.name in allowed else sign.severity == "fatal"


def describe_allowed(allowed: Mapping[str, int], outputs: Iterable[OutputSummary | None]) -> list[str]:
    """What a preset allows and what came of it in some launches, a line a sign."""
    counts = [{} if output is None else output.warnings for output in outputs]
    texts = {sign.name: sign.text for sign in SIGNS}
    return [
        f"allow_signs: {name}, at most {most:,} x {texts[name]} a launch; most that came: "
        f"{max((each.get(texts[name], 0) for each in counts), default=0):,}"
        for name, most in allowed.items()
    ]


def _lines_of(printed: Path, signs: Sequence[Sign]) -> dict[str, str]:
    """The first line with each of these signs, cut before it, by its text; what cannot be read gives none."""
    lines: dict[str, str] = {}
    try:
        with printed.open("rb") as file:
            for line in _pieces(file):
                for sign in signs:
                    wordings = "|".join(map(re.escape, (sign.text, *sign.also)))
                    if sign.text not in lines and (found := re.search(wordings, line, re.IGNORECASE)):
                        lines[sign.text] = repr(one_line(line[found.start() :]))
                if len(lines) == len(signs):
                    break
    except OSError:
        pass
    return lines


def _pieces(file: BinaryIO) -> Iterator[str]:
    """Lines as text without colours; one longer than a piece comes in several, none cut within a number or message.

    What is looked for is ASCII, which UTF-16 makes of it with a NUL beside each byte: those go.
    """
    rest = b""
    while piece := file.readline(_PIECE_BYTES):
        data = _TERMINAL.sub(b"", rest + piece.replace(b"\0", b""))
        rest = b""
        if not data.endswith(b"\n") and len(piece) == _PIECE_BYTES:
            data, rest = _cut(data)
        yield data.decode("utf-8", "replace")
    if rest:
        yield rest.decode("utf-8", "replace")


def _cut(data: bytes) -> tuple[bytes, bytes]:
    """Cut the begin of a long line at a blank, far enough from its end that a message begun before it is whole."""
    most = max(0, len(data) - _LONGEST)
    at = data.rfind(b" ", max(0, most - 4096), most) + 1 or most
    window = max(0, at - _LONGEST)
    spans = (match.span() for match in _WHOLE.finditer(data, window, at + _LONGEST))
    at = next((begin for begin, end in spans if begin < at < end), at)
    return data[:at], data[at:]


class _Scan:
    """What was seen so far. Everything here is bounded."""

    def __init__(self, *, has_text: bool) -> None:
        self.has_text = has_text
        self.warnings: dict[str, int] = {}
        self.max_kv_len: int | None = None
        self.failures: list[str] = []
        self.weak_failures: list[str] = []
        self.floor_dominates = 0
        self.coded_tokens: dict[str, int] = {}
        self.decoded_tokens: int | None = None
        self.logged_kv: int | None = None
        self.in_generated_text = False
        self.kind_of_pattern: dict[str, str] = {}

    def take(self, line: str) -> None:
        self._take_statistics(line)
        if "kv_len=" in line:
            longest = max((int(match[1]) for match in _KV_LEN.finditer(line)), default=0)
            self.max_kv_len = max(self.max_kv_len or 0, longest) or None
        found = [
            (match.start(), fatal)
            for match, fatal in _messages(line)
            if not (self.in_generated_text and fatal is not None and fatal.may_be_said)
        ]
        ends = [start for start, _ in found[1:]] + [len(line)]
        for (start, fatal), end in zip(found, ends, strict=False):
            text = line[start:end]
            if fatal is not None:
                sign = fatal.text
                self.warnings[sign] = self.warnings.get(sign, 0) + 1
                _keep(self.failures, text[:_MAX_LINE].strip())
            else:
                self._count(text)
        self._take_rest(line[: found[0][0]] if found else line)

    def _take_statistics(self, line: str) -> None:
        """What the lines of the engine's statistics say; one may stand behind other text."""
        if "[H2O" in line:
            self.floor_dominates += line.count(_FLOOR)
            if (logged := _LOGGED.search(line)) is not None:
                self.logged_kv = max(self.logged_kv or 0, int(logged[1]))
            if (coded := _CODED.search(line)) is not None:
                tokens = (
                    coded[1] if coded[1] in self.coded_tokens or len(self.coded_tokens) < _MAX_KINDS else OTHER_KINDS
                )
                self.coded_tokens[tokens] = self.coded_tokens.get(tokens, 0) + 1
        if not self.in_generated_text and "decode tokens num" in line:
            counts = [int(match[1]) for match in _DECODED.finditer(line)]
            known = [] if self.decoded_tokens is None else [self.decoded_tokens]
            self.decoded_tokens = min(counts + known, default=None)

    def _take_rest(self, line: str) -> None:
        """The part of a line that no engine warning takes."""
        text = line[:_MAX_LINE].strip()
        if self.in_generated_text:
            self.in_generated_text = _TEXT_ENDS.fullmatch(text) is None
            return
        self.in_generated_text = self.has_text and text.startswith(_TEXT_BEGINS)
        if not text or _INFORMATION.match(text) or _HARMLESS.search(text):
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


def _messages(line: str) -> Iterator[tuple[re.Match[str], Sign | None]]:
    """The messages of a line, each with its fatal sign or None. A line without a fatal text skips the slow pattern."""
    lowered = line.lower()
    if any(text in lowered for text in _FATAL):
        for match in _MESSAGE.finditer(line):
            yield match, _FATAL[match[1].lower()] if match[1] else None
    else:
        for match in _ENGINE_WARNING.finditer(line):
            yield match, None


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

"""The errors of this project: one small tree, each a message a person can act on.

Every error says what went wrong, where, what came, what was expected and what to do next; a part that does
not apply is left out. Nothing else may reach a user for bad input: not a traceback, and not a pass.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

MAX_PART = 4000
"""Characters of one line of a message."""


class H2OError(Exception):
    """Something that a person can mend.

    Parameters
    ----------
    what : str
        One line: what went wrong.
    where : str, optional
        File, line, key, field: as exact as is known.
    came, expected : str, optional
        What was found there, and what would have been accepted.
    hint : str, optional
        What to do next.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        came: str | None = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.came = came
        self.expected = expected
        self.hint = hint

    def __str__(self) -> str:
        return _told(self.what, where=self.where, came=self.came, expected=self.expected, next=self.hint)


def _told(head: str, **parts: str | None) -> str:
    """A line, and one for each part that is known; each at most `MAX_PART` long, what moves a cursor escaped."""
    lines = [head, *(f"  {name}: {text}" for name, text in parts.items() if text is not None)]
    short = (line if len(line) <= MAX_PART else f"{line[:MAX_PART]}… ({len(line)} characters)" for line in lines)
    return "\n".join(
        "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in line)
        for line in short
    )


class UsageError(H2OError):
    """Options or arguments that cannot be used together, or at all."""


class Fault(NamedTuple):
    """One thing that is wrong in a preset or scope file, or in a setting given on the command line.

    Attributes
    ----------
    what : str
        One line: what is wrong.
    file : str
        The file as it was named, or the option or command line that gave the setting.
    key : str
        Path of the key, for example ``targets.lossy`` or ``h2o_block_tokens[2]``; empty: the file as a whole.
    line, column : int or None
        From 1; None where there is no text to point at.
    came, expected, hint : str or None
        What was found there, what would have been accepted, what to do next.
    """

    what: str
    file: str
    key: str = ""
    line: int | None = None
    column: int | None = None
    came: str | None = None
    expected: str | None = None
    hint: str | None = None

    def __str__(self) -> str:
        """`file:line:column: key: what`, then what came, what was expected, what to do; control signs escaped."""
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        head = ": ".join(part for part in (place, self.key, self.what) if part)
        return _told(head, came=self.came, expected=self.expected, next=self.hint)


class PresetError(H2OError):
    """A preset or scope file that breaks its schema: file, line and key of every fault, all at once.

    Parameters
    ----------
    faults : sequence of Fault
        Every fault that was found. The text shows the first `MAX_SHOWN`, or fewer long ones, and counts the rest.
    """

    MAX_SHOWN = 100
    MAX_TEXT = 32_000
    """Characters after which no further fault is shown."""

    def __init__(self, what: str, *, faults: Sequence[Fault] = (), **parts: str | None) -> None:
        super().__init__(what, **parts)
        self.faults = tuple(faults)

    @classmethod
    def from_faults(cls, faults: Sequence[Fault], inside: str = "") -> PresetError:
        """One error of all `faults` (at least one), which says how many there are and inside what."""
        files = list(dict.fromkeys(fault.file for fault in faults))
        number = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        inside = inside or (files[0] if len(files) == 1 else f"{len(files)} files")
        return cls(f"{number} in {inside}", faults=faults)

    def __str__(self) -> str:
        if not self.faults:
            return super().__str__()
        lines = [_told(self.what)]
        room = self.MAX_TEXT
        for fault in self.faults[: self.MAX_SHOWN]:
            lines.append(str(fault))
            room -= len(lines[-1])
            if room < 0:
                break
        if left := len(self.faults) - len(lines) + 1:
            lines.append(f"and {left} more")
        return "\n".join(lines)


class BenchError(H2OError):
    """A run of the bench that gave no sound row.

    Parameters
    ----------
    argv : sequence of str
        The command as it was launched; empty for a recorded log.
    returncode : int or None
        Exit status; None if the process never ended by itself.
    signal_name : str or None
        For example ``SIGSEGV``, if a signal ended it.
    elapsed_s : float or None
        Seconds from launch to end.
    output_tail : str
        The last lines that the process printed.
    """

    def __init__(
        self,
        what: str,
        *,
        argv: Sequence[str] = (),
        returncode: int | None = None,
        signal_name: str | None = None,
        elapsed_s: float | None = None,
        output_tail: str = "",
        **parts: str | None,
    ) -> None:
        super().__init__(what, **parts)
        self.argv = tuple(argv)
        self.returncode = returncode
        self.signal_name = signal_name
        self.elapsed_s = elapsed_s
        self.output_tail = output_tail


class TableError(BenchError):
    """A log or JSON of the bench from which no row can be read."""


class DumpError(H2OError):
    """A KV dump that cannot be trusted: the file and the field."""


class CodecError(H2OError):
    """A codec that cannot be built, or encoded bytes that are damaged."""


class RoundTripError(CodecError):
    """Decoded bits differ from the bits that were encoded; `where` has the first differing offset."""


class StoreError(H2OError):
    """A run folder, a result file or a baseline that cannot be read or written."""


class ExecutorError(H2OError):
    """Workers on other machines that cannot be reached, or cannot do the work."""


class NotMeasured(H2OError):
    """A value that a verdict needs and nothing has measured. Missing data never passes."""


class OptedOut(H2OError):
    """A threshold that the user left out on purpose: the item is skipped with this reason, never passed."""


class PluginError(H2OError):
    """Code of a plugin that raised something, or gave something else than it should."""


class InconclusiveDecode(UserWarning):
    """An item passed although its decode verdict is inconclusive (``--h2o-inconclusive warn``): the gate does not."""


def describe_error(error: BaseException) -> str:
    """Type and text of whatever was raised; the text of what others raise can be had only with care."""
    try:
        text = str(error)
    except Exception as worse:
        text = f"a text that cannot be had ({type(worse).__name__})"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def as_ours(error: BaseException, what: str, *, kind: type[H2OError] = H2OError, **parts: str | None) -> H2OError:
    """The error itself if it is one of ours; else one that says what went wrong, what was raised, and at which line."""
    if isinstance(error, H2OError):
        return error
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    where = None if last is None else f"{last.tb_frame.f_code.co_filename}:{last.tb_lineno}"
    return kind(what, **{"where": where, **parts}, came=describe_error(error))


@contextmanager
def blaming(what: str, *, kind: type[H2OError] = PluginError, **parts: str | None) -> Iterator[None]:
    """Make whatever code of a plugin raises an error of ours that says whose it is; SystemExit too."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        ours = as_ours(error, what, kind=kind, **parts)
        if ours is error:
            raise
        raise ours from error


def error_to_json(error: H2OError) -> dict[str, Any]:
    """Built-in values that `error_from_json` makes the same error of; the faults of a preset are not kept."""
    names = ["what", "where", "came", "expected", "hint"]
    if isinstance(error, BenchError):
        names += ["argv", "returncode", "signal_name", "elapsed_s", "output_tail"]
    record = {name: getattr(error, name) for name in names}
    return {"kind": type(error).__name__} | {k: list(v) if isinstance(v, tuple) else v for k, v in record.items()}


def error_from_json(value: Mapping[str, Any]) -> H2OError:
    """Make an error of its record."""
    try:
        fields = dict(value)
        kind = globals()[fields.pop("kind")]
        if not issubclass(kind, H2OError):
            raise TypeError(f"{kind.__name__} is no error of ours")
        made: H2OError = kind(fields.pop("what"), **fields)
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            "an error of a launch was kept in another shape than this version reads",
            came=f"{type(error).__name__}: {error}",
            hint="start a new run folder",
        ) from error
    return made


_HARMFUL = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories that move a cursor, hide or reorder text, or that no terminal shows."""

_MOST_NAME_BYTES, _MOST_PATH_BYTES = 255, 2048


def make_printable(text: str, *, keep: str = "\n\t") -> str:
    """Replace what a terminal would act on by its visible escape (``\\x1b``, ``\\u202e``)."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char if char in keep or unicodedata.category(char) not in _HARMFUL else _escape(char) for char in text
    )


def one_line(text: str, *, limit: int = 200) -> str:
    """Return text on one line, printable, cut to a length that a table or message can show."""
    line = make_printable(" ".join(text.split()), keep="")
    return line if len(line) <= limit else line[: limit - 1] + "…"


def can_name_file(text: str) -> bool:
    """Whether a system could have a file of this path.

    No NUL and no half of a surrogate pair, both of which JSON can spell, and no longer than Linux takes.
    """
    try:
        name = os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return b"\0" not in name and len(name) <= _MOST_PATH_BYTES and max(map(len, name.split(b"/"))) <= _MOST_NAME_BYTES


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def number_of(count: int, thing: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def near_names(name: str, names: Iterable[str], most: int = 1, cutoff: float = 0.6) -> list[str]:
    """The known names that are most like a misspelt one, the nearest first."""
    return list(_near_names(name, tuple(names), most, cutoff))


@lru_cache(maxsize=1024)  # every entry of a manifest asks the same
def _near_names(name: str, names: tuple[str, ...], most: int, cutoff: float) -> tuple[str, ...]:
    from difflib import get_close_matches

    return tuple(get_close_matches(name, names, n=most, cutoff=cutoff))


def did_you_mean(
    name: str, names: Iterable[str], *, most: int = 1, cutoff: float = 0.6, quoted: bool = False
) -> str | None:
    """The question for a hint; None if no name is like it."""
    near = near_names(name, names, most, cutoff)
    return f"did you mean {' or '.join(map(repr if quoted else str, near))}?" if near else None

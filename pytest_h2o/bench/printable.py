"""Text from a child process or a log, made harmless for a terminal, a report and a log of CI."""

from __future__ import annotations

import os
import unicodedata

_HARMFUL = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories that move a cursor, hide or reorder text, or that no terminal shows."""


def make_printable(text: str, *, keep: str = "\n\t") -> str:
    """Replace what a terminal would act on by its visible escape (``\\x1b``, ``\\u202e``).

    Parameters
    ----------
    text : str
        Any text, as it was printed.
    keep : str
        Control characters that may stay.

    Returns
    -------
    str
        The same text; control, format, surrogate and unassigned characters stand as ``\\xNN`` or ``\\uNNNN``.
    """
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
    """Whether a system could have a file of this name: no NUL, no half of a surrogate pair (JSON can spell both)."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _escape(char: str) -> str:
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"

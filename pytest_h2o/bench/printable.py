"""Text from a child process or a log, made harmless for a terminal, a report and a log of CI."""

from __future__ import annotations

import os
import unicodedata

_HARMFUL = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories that move a cursor, hide or reorder text, or that no terminal shows."""

_MOST_NAME_BYTES, _MOST_PATH_BYTES = 255, 2048


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
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"

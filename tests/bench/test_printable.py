"""Text of others made harmless."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from pytest_h2o.errors import make_printable, one_line


@given(st.text())
def test_nothing_harmful_is_left(text: str) -> None:
    shown = make_printable(text)
    assert all(c in "\n\t" or unicodedata.category(c)[0] != "C" for c in shown)
    assert make_printable(shown) == shown


def test_escapes_are_visible() -> None:
    assert make_printable("a\x1b[0m\r\n\tb\u202e\U000e0001é ±") == "a\\x1b[0m\\x0d\n\tb\\u202e\\U000e0001é ±"


def test_one_line() -> None:
    assert one_line("  a\n b\tc\x00 ") == "a b c\\x00"
    assert one_line("x" * 300) == "x" * 199 + "…"

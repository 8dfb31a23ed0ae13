"""Text of others made harmless, and errors as JSON."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_h2o.errors import (
    StoreError,
    TableError,
    UsageError,
    error_from_json,
    error_to_json,
    make_printable,
    one_line,
)


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


@pytest.mark.parametrize("value", [{}, {"kind": "Exception", "what": "x"}, {"kind": "H2OError"}, {"kind": "Sequence"}])
def test_an_error_of_another_shape_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(StoreError, match="an error of a launch was kept in another shape"):
        error_from_json(value)


def test_errors_of_every_kind_survive() -> None:
    for error in (UsageError("a", where="b"), TableError("a", argv=["x"], output_tail="t"), StoreError("a", hint="h")):
        made = error_from_json(json.loads(json.dumps(error_to_json(error))))
        assert type(made) is type(error)
        assert vars(made) == vars(error)

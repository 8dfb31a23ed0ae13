"""Checks that the tests of the parsers share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_h2o.bench.rows import Row
from pytest_h2o.errors import TableError


def check_error(call: Callable[[], object], *lines: str) -> None:
    """The whole text of the error, line by line."""
    with pytest.raises(TableError) as caught:
        call()
    assert str(caught.value).split("\n") == list(lines)


def check_rows_or_error(call: Callable[[], tuple[Row, ...]], name: str) -> None:
    """At least one row, or an error that names the file."""
    try:
        rows = call()
    except TableError as error:
        where = error.where
    else:
        assert rows
        where = name
    assert where is not None
    assert where.startswith(name)

"""Checks that the tests of the parsers share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_h2o.bench.rows import Row
from pytest_h2o.errors import TableError

from .samples import FIXTURES


def refusal(call: Callable[[], object]) -> str:
    """The whole text of the error."""
    with pytest.raises(TableError) as caught:
        call()
    return str(caught.value).replace(str(FIXTURES), "FIXTURES")


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

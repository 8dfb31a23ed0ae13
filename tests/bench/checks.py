"""Checks that the tests of the parsers share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_h2o.errors import TableError

from .samples import FIXTURES


def refusal(call: Callable[[], object]) -> str:
    """The whole text of the error."""
    with pytest.raises(TableError) as caught:
        call()
    return str(caught.value).replace(str(FIXTURES), "FIXTURES")

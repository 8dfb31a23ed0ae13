"""Hooks that the gate calls, for a conftest or a plugin to implement."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_h2o.codecs.base import Codec


@pytest.hookspec
def pytest_h2o_codecs(config: pytest.Config) -> Iterable[type[Codec]]:
    """Give codec classes that scopes can name, besides those of the package and of entry points.

    Called once in each process of a run, when the first gate item is collected; not at all in a run without gate
    items. A class that is registered already may be given again.
    """
    raise NotImplementedError("a specification, which pytest never calls")

"""Names of executors: ``cores``, or ``dask://HOST:PORT``."""

from __future__ import annotations

import re

from pytest_h2o.errors import UsageError

CORES = "cores"
"""Those of this machine."""

_DASK = re.compile(r"dask://((?:\[[0-9A-Fa-f:.%]+\]|[^\s/:\[\]]+):([0-9]{1,5}))")


def dask_address(name: str, origin: str) -> str | None:
    """``HOST:PORT`` of a dask scheduler, or None for the cores of this machine; UsageError, naming `origin`, else."""
    if name == CORES:
        return None
    match = _DASK.fullmatch(name)
    if match is None or not 0 < int(match[2]) < 1 << 16:
        raise UsageError(f"{origin} does not know this executor", came=repr(name), expected="cores or dask://HOST:PORT")
    return match[1]

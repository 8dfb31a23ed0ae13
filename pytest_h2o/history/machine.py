"""The machine that timings belong to, as one line of text."""

from __future__ import annotations

import platform
from functools import lru_cache
from pathlib import Path

from pytest_h2o.cores import usable_cores


@lru_cache(maxsize=1)
def describe_machine() -> str:
    """System, processor and usable cores. No host name: a baseline is committed, and machines of a farm are alike."""
    return f"{platform.system()} {platform.machine()}, {_processor()}, {usable_cores()} cores"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model", "cpu model"):
                return " ".join(value.split())
    except OSError:
        pass  # no such file outside Linux
    return platform.processor() or "processor not known"

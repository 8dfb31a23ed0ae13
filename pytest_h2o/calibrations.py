"""Calibrations in the user's cache: one file for each machine, binary, model, backend and number of threads."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_h2o.errors import StoreError
from pytest_h2o.store import digest_file

if TYPE_CHECKING:
    from pytest_h2o.bench.command import BenchSettings
    from pytest_h2o.bench.config import BaseConfig
    from pytest_h2o.gate.decode import Budget
    from pytest_h2o.gate.noise import Noise


def calibration_path(bench: BenchSettings, base: BaseConfig) -> Path:
    """Where the calibration of a bench and model on this machine is kept; it need not be there.

    The folder is ``pytest-h2o/noise`` in ``$XDG_CACHE_HOME``, or in ``~/.cache``. The name is a digest of machine,
    binary, model config and its place, backend and threads: change one of them, and no old calibration is taken for it.
    """
    marks = (
        platform.node(),
        bench.digest,
        digest_file(base.path),
        str(base.base_dir),
        bench.backend,
        str(bench.threads),
    )
    name = hashlib.sha256("\0".join(marks).encode("utf-8", "surrogateescape")).hexdigest()[:24]
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "pytest-h2o" / "noise" / f"{name}.json"


def read_noise(path: Path) -> Noise | None:
    """The noise that a calibration recorded; None if there is none.

    Raises
    ------
    StoreError
        The file is there and cannot be read.
    """
    if not path.exists():
        return None
    from pytest_h2o.gate.noise import Noise

    try:
        return Noise.from_json(json.loads(path.read_text(encoding="utf-8")))
    except StoreError as error:
        raise StoreError(error.what, where=str(path), came=error.came, hint=error.hint) from error
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(
            "a calibration cannot be read", where=str(path), came=str(error), hint="remove it, or calibrate again"
        ) from error


def flag_target(path: Path, budget: Budget, target: float | None) -> tuple[str, ...]:
    """Say that a target is finer than this machine's noise allows; nothing where it is not, or where no one knows.

    A calibration that cannot be read is said and not used: it is advice, and no verdict rests on it.
    """
    try:
        noise = read_noise(path)
    except StoreError as error:
        return (f"the calibration {path} is not used: {error.what} ({error.came})",)
    if noise is None or target is None:
        return ()
    floor = noise.floor(budget.pairs)
    if floor is None or target >= floor:
        return ()
    return (
        f"the decode target of {target:.1%} is below the noise floor of this machine, {floor:.1%} with {budget.pairs} "
        f"pairs (a launch spreads by {noise.launch_spread:.1%}): expect an inconclusive verdict; more pairs lower the "
        "floor",
    )

"""What the controller tells a worker of pytest-xdist: settings, run folder, and how to get what it makes there.

A worker that xdist starts itself on this machine (``-n 2``, ``--tx popen``) writes into the run folder. Every other one
(``--tx socket=…``, ``ssh=…``, ``popen//chdir=…``) is taken to be away: it works in a folder of its own, and what it
makes travels with its records. Paths of the options are resolved on the controller; where they lie below its root and
the worker has the same below its own, they are those.
"""

from __future__ import annotations

import hashlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_h2o.embedded import digest_program
from pytest_h2o.errors import UsageError
from pytest_h2o.options import BY_NAME, EMBEDDED_BENCH, Given, Settings
from pytest_h2o.report.shipping import Shipping
from pytest_h2o.resume import make_ready
from pytest_h2o.store import SHARED, is_in_use

_SAME_EVERYWHERE = ("bench", "baseline-bench", "demo", "base-config")
"""Files that must have the same content wherever items run: their figures are those of one run."""

_LOOK_S = 0.2


@dataclass(frozen=True)
class Told:
    """What a worker works with; `shipping` is None where it writes into the run folder itself."""

    settings: Settings
    run_dir: Path
    shipping: Shipping | None = None


def tell_worker(settings: Settings, run_dir: Path, root: Path, *, away: bool) -> dict[str, Any]:
    """What the controller sends to a worker; built-in types only.

    Raises
    ------
    UsageError
        Something was asked for that a worker that is away cannot do.
    """
    if away and settings["compare"] is not None:
        raise UsageError(
            f"{settings.origin('compare')} needs the history and the baselines, which a remote worker cannot read",
            where=str(settings["out-dir"]),
            hint="run the comparison with local workers (-n), or afterwards: pytest-h2o compare",
        )
    digests = {name: digest_program(settings[name]) for name in _SAME_EVERYWHERE if away and settings[name] is not None}
    told = {"settings": settings.to_json(), "run_dir": str(run_dir), "root": str(root)}
    return {**told, "away": away, "digests": digests, "embedded": str(EMBEDDED_BENCH), "pid": os.getpid()}


def hear_controller(told: Mapping[str, Any], root: Path) -> Told:
    """Make of what the controller sent what this worker works with.

    Parameters
    ----------
    told : mapping
        Of `tell_worker`.
    root : Path
        Root of the tests here.

    Raises
    ------
    UsageError
        A file that must be the same everywhere is another one here.
    """
    given = {name: Given(value["value"], value["origin"]) for name, value in told["settings"].items()}
    if given["bench"].value == told["embedded"]:  # the one of this installation
        given["bench"] = Given(str(EMBEDDED_BENCH), given["bench"].origin)
    run_dir, there = Path(told["run_dir"]), Path(told["root"])
    if not told["away"]:
        _end_with(told["pid"])
        return Told(_with_paths(given, there, there), run_dir)
    settings = _with_paths(given, there, root)
    _check_digests(settings, told["digests"])
    # Of this user, machine and run: its workers here share it, and a run that goes on finds it again.
    key = hashlib.sha256(str(run_dir).encode()).hexdigest()[:8]
    scratch = Path(tempfile.gettempdir(), f"pytest-h2o-{os.getuid()}", "runs", key, run_dir.name)
    if settings["resume"] is not None and scratch.is_dir() and not is_in_use(scratch / SHARED):
        make_ready(scratch)
    settings = Settings({**settings.given, "out-dir": Given(scratch.parent, settings.origin("out-dir"))})
    return Told(settings, scratch, Shipping(((str(scratch), str(run_dir)), (str(root), str(there)))))


def _with_paths(given: Mapping[str, Given], there: Path, here: Path) -> Settings:
    """Settings with the paths among them made paths again, those below the root there moved below the root here."""

    def move(text: str) -> Path:
        path = Path(text)
        if path.is_relative_to(there):
            moved = here / path.relative_to(there)
            return moved if moved.exists() or not path.exists() else path
        return path

    moved: dict[str, Given] = {}
    for name, (value, origin) in given.items():
        kind = BY_NAME[name].kind
        if value is not None and kind == "path":
            value = move(value)
        elif value is not None and kind in ("paths", "texts"):
            value = tuple(move(item) if kind == "paths" else item for item in value)
        moved[name] = Given(value, origin)
    return Settings(moved)


def _check_digests(settings: Settings, digests: Mapping[str, str]) -> None:
    for name, expected in digests.items():
        found = digest_program(settings[name])
        if found != expected:
            raise UsageError(
                f"{settings.origin(name)} is another file for this worker than for the controller",
                where=f"{settings[name]} on {os.uname().nodename}",
                came="no such file" if found == "unreadable" else f"SHA-256 {found[:16]}",
                expected=f"SHA-256 {expected[:16]}",
                hint="send it along with --rsyncdir, or put it at the same path on every machine",
            )


def _end_with(controller: int) -> None:
    """End this process soon after its controller, whatever ended that: xdist alone takes up to 15 s to notice.

    By KILL, as the controller was: nothing here needs to be put away, and the guard ends a bench that runs.
    """
    if os.getppid() != controller:
        return  # whoever started us so has other ways

    def watch() -> None:
        while os.getppid() == controller:
            time.sleep(_LOOK_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="h2o-controller-watch", daemon=True).start()

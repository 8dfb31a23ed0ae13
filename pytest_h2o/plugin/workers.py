"""Files of a worker that cannot reach the run folder: they travel inside its records, as text."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import signal
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_h2o.bench.command import RunFiles, again_folder, digest_files, digest_program, model_files, read_base_config
from pytest_h2o.errors import StoreError, UsageError
from pytest_h2o.gate.decode import pairs_folder
from pytest_h2o.gate.metrics import GATE_OPTIONS
from pytest_h2o.inputs.options import EMBEDDED_BENCH, Given, Settings
from pytest_h2o.report.diagnosis import ItemReport
from pytest_h2o.run.journal import MAX_FILE_BYTES, MAX_OUTPUT_BYTES
from pytest_h2o.run.store import SHARED, is_in_use, make_ready

LAUNCHED_BESIDE = ("consistency", "demo")
"""Folders of a preset with launches that are no rows."""


@dataclass
class Shipping:
    """Makes records of one worker fit for the controller.

    Attributes
    ----------
    places : tuple of (str, str)
        Folder here and folder of the controller that stands for it; the first is that of the run.
    """

    places: tuple[tuple[str, str], ...]
    _sent: set[str] = field(default_factory=set)

    def send(self, told: ItemReport) -> ItemReport:
        """The same report with the files of what it measured, each once, and with the controller's paths."""
        record = json.loads(told.record)
        root = Path(self.places[0][0])
        files = {path.relative_to(root).as_posix(): path for path in _files_of(root, record)}
        new = {name: _pack(path) for name, path in files.items() if name not in self._sent}
        self._sent |= new.keys()
        text = self._rename(json.dumps(record))
        return told._replace(
            text=told.text and self._rename(told.text),
            diagnosis=told.diagnosis and self._rename(told.diagnosis),
            record=json.dumps({**json.loads(text), "files": new}),
            figures=tuple((name, self._rename(value)) for name, value in told.figures),
        )

    def _rename(self, text: str) -> str:
        for here, there in self.places:
            for old, new in ((here, there), (json.dumps(here)[1:-1], json.dumps(there)[1:-1])):
                text = re.sub(re.escape(old) + r"(?![\w.-])", lambda _, new=new: new, text)  # type: ignore[misc]
        return text


def _files_of(root: Path, record: Mapping[str, Any]) -> Iterator[Path]:
    """The files that a record speaks of: whoever wrote them has ended."""
    data = record["data"]
    if record["kind"] == "sweep":
        for beside in LAUNCHED_BESIDE:
            yield from sorted(p for p in (root / record["name"]).glob(f"{beside}*/**/[!.]*") if p.is_file())
    runs = [(p["preset"], p["result"]["shares_run_with"] or p["result"]["run_id"]) for p in data["points"]]
    runs += [(p["preset"], p["shares_run_with"] or p["manifest"]["run_id"]) for p in data["failed"]]
    for preset, run_id in runs:
        files = RunFiles(root / preset, run_id)
        for folder in (files.config.parent, files.log.parent):
            yield from sorted(folder.glob(f"{run_id}.*"))
        yield from sorted((root / preset).glob(f"{again_folder('*')}/*/{run_id}.*"))
    for key in data["comparisons"]:
        yield from sorted((root / pairs_folder(key)).glob("[cl]o*/[!.]*"))


def _pack(path: Path) -> str:
    """The bytes of a file as text; StoreError if it cannot be read or is far too long."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if path.name.endswith(".stdout.txt") and size > MAX_OUTPUT_BYTES:
                file.seek(size - MAX_OUTPUT_BYTES)
                data = b"[the first %d bytes stayed on the machine of the worker]\n" % file.tell() + file.read()
            else:
                data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise StoreError("a file of a run has gone", where=str(path), came=error.strerror or str(error)) from error
    if len(data) > MAX_FILE_BYTES:
        raise StoreError(
            "a file of a run is too long to be sent", where=str(path), came=f"more than {MAX_FILE_BYTES:,} bytes"
        )
    return base64.b85encode(zlib.compress(data)).decode("ascii")


_SAME_EVERYWHERE = ("bench", "baseline-bench", "demo", "base-config")
"""Files that must have the same content wherever items run, and what they load: their figures are those of one run."""

_LOOK_S = 0.2


@dataclass(frozen=True)
class Told:
    """What a worker works with; `shipping` is None where it writes into the run folder itself."""

    settings: Settings
    run_dir: Path
    shipping: Shipping | None = None


def look_away(settings: Settings) -> dict[str, str]:
    """Digests of what must be the same for a remote worker; UsageError if settings ask for what no such worker can."""
    if settings["compare"] is not None:
        raise UsageError(
            f"{settings.origin('compare')} needs the history and the baselines, which a remote worker cannot read",
            where=str(settings["out-dir"]),
            hint="run the comparison with local workers (-n), or afterwards: pytest-h2o compare",
        )
    if settings["launcher"] is not None:
        raise UsageError(
            f"{settings.origin('launcher')} launches from here, and items run on remote workers",
            came=settings["launcher"],
            hint="run them with local workers (-n), or without the launcher",
        )
    return {name: _digest(settings, name) for name in _SAME_EVERYWHERE if settings[name] is not None}


def hear_controller(told: Mapping[str, Any], root: Path) -> Told:
    """Make of what the controller sent what this worker works with."""
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

    kinds = {option.name: option.kind for option in GATE_OPTIONS}
    moved: dict[str, Given] = {}
    for name, (value, origin) in given.items():
        kind = kinds[name]
        if value is not None and kind == "path":
            value = move(value)
        elif value is not None and kind in ("paths", "texts"):
            value = tuple(move(item) if kind == "paths" else item for item in value)
        moved[name] = Given(value, origin)
    return Settings(moved)


def _digest(settings: Settings, name: str) -> str:
    """SHA-256 of a file that must be the same everywhere, with what belongs to it: libraries, the files of a model."""
    path: Path = settings[name]
    if name != "base-config" or not path.is_file():
        return digest_program(path)
    base = read_base_config(path, settings.origin(name))
    return digest_files([("config", path), *model_files(base).items()])


def _check_digests(settings: Settings, digests: Mapping[str, str]) -> None:
    for name, expected in digests.items():
        found = _digest(settings, name)
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

"""Files of a worker that cannot reach the run folder: they travel inside its records, as text."""

from __future__ import annotations

import base64
import binascii
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from pytest_h2o.bench.command import RunFiles
from pytest_h2o.errors import StoreError
from pytest_h2o.gate.paired import DECODE_FOLDER
from pytest_h2o.report.item_report import ItemReport
from pytest_h2o.store import write_new_bytes

MAX_OUTPUT_BYTES = 1024 * 1024
"""Of what a bench prints besides its table only the end travels, if it is longer."""
LAUNCHED_BESIDE = ("consistency", "demo")
"""Folders of a preset with launches that are no rows."""

MAX_FILE_BYTES = 64 * MAX_OUTPUT_BYTES


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
        return replace(
            told,
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
    for preset in data["comparisons"]:
        yield from sorted((root / preset / DECODE_FOLDER).glob("[cl]o*/[!.]*"))


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


def receive_files(files: Mapping[str, str], run_dir: Path) -> None:
    """Write the files of a record into the run folder; one that is there stays.

    Raises
    ------
    StoreError
        A name leads out of the run folder, or what came is no file of `Shipping`.
    """
    for name, text in files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise StoreError("a worker sent a file that would lie outside the run folder", where=name)
        target = run_dir / path
        if target.exists():
            continue
        unpack = zlib.decompressobj()
        try:
            data = unpack.decompress(base64.b85decode(text), MAX_FILE_BYTES)
        except (ValueError, zlib.error, binascii.Error) as error:
            raise StoreError("a file that a worker sent is damaged", where=name, came=str(error)) from error
        if not unpack.eof:
            raise StoreError("a file that a worker sent is damaged", where=name, came="its end is missing")
        write_new_bytes(target, data)

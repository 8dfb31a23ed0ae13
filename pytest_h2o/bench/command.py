"""How a bench is started: its program (the embedded one, or a path), its settings, and the files of one run."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_h2o.errors import BenchError, StoreError
from pytest_h2o.files import digest_file
from pytest_h2o.inputs.options import EMBEDDED_BENCH, EMBEDDED_WORD


def is_embedded(bench: Path | None) -> bool:
    """Whether a bench is the one that comes with the plugin."""
    return bench == EMBEDDED_BENCH


def parse_bench(text: str) -> Path:
    """The bench that a word of a command line names: ``reference``, or a path."""
    return EMBEDDED_BENCH if text == EMBEDDED_WORD else Path(text)


def program_command(bench: Path) -> tuple[str, ...]:
    """The words that start a bench, before its flags; a bare name is a file here, not in PATH."""
    return (sys.executable, "-m", "pytest_h2o.reference") if is_embedded(bench) else (str(bench.absolute()),)


def digest_program(bench: Path) -> str:
    """SHA-256 of a bench, hexadecimal: of its file, or of all modules of the one that comes with the plugin."""
    if not is_embedded(bench):
        return digest_file(bench)
    names = sorted(path.name for path in bench.parent.glob("*.py"))
    text = "".join(f"{name} {digest_file(bench.parent / name)}\n" for name in names)
    return hashlib.sha256(text.encode()).hexdigest()


def embedded_base_config() -> Path:
    """The base config of the embedded model."""
    return shipped("models") / "embedded" / "config.json"


def shipped(name: str) -> Path:
    """A folder of data that comes with the plugin; in a source checkout, that in fixtures/."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "shipped" / name, package.parent / "fixtures" / name):
        if folder.is_dir():
            return folder
    raise StoreError(f"this installation has no {name}", where=str(package), hint="install pytest-h2o again")


@dataclass(frozen=True)
class BenchSettings:
    """How the bench is launched."""

    command: tuple[str, ...]
    """The program, and arguments that come before ours (``python -m module``)."""
    backend: str = "cpu"
    """cpu, opencl or metal."""
    threads: int = 4
    attention_option: int = 0
    """``-qatten``; other than 0 this engine quantises the cache and switches H2O off."""
    timeout_s: float = 1800.0
    """After which a run is ended."""
    grace_s: float = 5.0
    """That it then has to end by itself."""
    program: Path | None = None
    """The bench where `command` does not begin with it."""
    with_json: bool = True
    """Whether llm_bench is asked for its rows as JSON too; older ones refuse that."""

    @classmethod
    def for_program(cls, program: Path, **settings: Any) -> BenchSettings:
        """Settings for a program by its path, which is made absolute: a bare name is a file here, not in PATH."""
        return cls(program_command(program), program=program, **settings)

    @property
    def digest(self) -> str:
        """SHA-256 of the bench, hexadecimal."""
        return digest_program(self.program or Path(self.command[0]))


@dataclass(frozen=True)
class RunFiles:
    """The files of one run in the folder of its sweep."""

    directory: Path
    run_id: str

    @property
    def config_file(self) -> str:
        """The config that the run reads, as the manifest names it: relative to the folder of the sweep."""
        return f"configs/{self.run_id}.json"

    @property
    def log_file(self) -> str:
        """Its table (``-fp``), as rows and the manifest name it."""
        return f"logs/{self.run_id}.log"

    @property
    def config(self) -> Path:
        return self.directory / self.config_file

    @property
    def log(self) -> Path:
        return self.directory / self.log_file

    @property
    def stdout(self) -> Path:
        """All that it prints besides."""
        return self.log.with_name(f"{self.run_id}.stdout.txt")

    @property
    def json(self) -> Path:
        """Its results as JSON (``-j``)."""
        return self.log.with_name(f"{self.run_id}.json")

    @property
    def marker(self) -> Path:
        """Stands while the run is launched; one that nobody launches any more tells of a process that died."""
        return self.log.with_name(f".{self.run_id}.launching")

    @property
    def _outputs(self) -> tuple[Path, ...]:
        return (self.config, self.log, self.stdout, self.json)

    def refuse_existing(self) -> None:
        """Check that the run would not write over, or append to, what is there."""
        for path in self._outputs:
            if path.exists() or path.is_symlink():
                raise BenchError(
                    f"{self.run_id} has been run into this folder before",
                    where=str(path),
                    expected="no such file: the bench appends to its log, and nothing here is overwritten",
                    hint="choose another output folder, or move the old files away",
                )

    def move_broken_off(self, *, unmarked: bool = False) -> str | None:
        """Move what a launch left whose process died to other names; nothing is deleted.

        Call it only where no other process can be launching this run.
        """
        is_broken_off = self.marker.exists() or (unmarked and any(path.exists() for path in self._outputs))
        return self.move_aside("broken-off") if is_broken_off else None

    def move_aside(self, why: str) -> str:
        """Move what a launch left to other names, ``RUN_ID.WHY-1`` say, and return that; StoreError if it cannot be."""
        names = (replace(self, run_id=f"{self.run_id}.{why}-{number}") for number in itertools.count(1))
        moved = next(files for files in names if not any(path.exists() for path in files._outputs))
        try:
            for source, target in zip(self._outputs, moved._outputs, strict=True):
                if source.exists():
                    source.rename(target)
        except OSError as error:
            what, came = f"what a launch left ({why}) cannot be moved aside", error.strerror or str(error)
            hint = "choose another output folder"
            raise StoreError(what, where=str(self.directory), came=came, hint=hint) from error
        return moved.run_id


def plain_path(path: Path) -> str:
    """A path that llm_bench takes whole: absolute if it can be, else relative to where we are."""
    absolute = str(path.absolute())
    relative = os.path.relpath(absolute)
    relative = relative if relative.startswith("..") else f"./{relative}"
    for name in (absolute, relative):
        if not re.search(r"[\s,]", name):
            return name
    raise BenchError(
        "the bench cannot be given this path",
        where=absolute,
        came="a path with a blank or a comma, where the bench cuts its arguments",
        expected="a path without them",
        hint="choose another output folder, or start from inside the folder whose name has them",
    )


def repeat_command(argv: Sequence[str]) -> str:
    """Return a shell line that repeats a run with its table on the terminal: nothing is written or appended."""
    written = {place + more for place, word in enumerate(argv) if word in ("-fp", "-j") for more in (0, 1)}
    return shlex.join(word for place, word in enumerate(argv) if place not in written)

"""The bench and the model that come with the plugin: what a gate runs where nobody names others."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from pytest_h2o.errors import StoreError
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

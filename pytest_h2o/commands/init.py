"""``pytest-h2o init``: copy the starter gates into a repository."""

from __future__ import annotations

import argparse
from pathlib import Path

from pytest_h2o.errors import StoreError
from pytest_h2o.store import write_new_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", default=".", help="the repository (default: here); gates/ is made in it")


def starter_folder() -> Path:
    """The gates that ship with the package; in a source checkout, those beside it."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "starter", package.parent / "gates"):
        if (folder / "test_sweep.py").is_file():
            return folder
    raise StoreError("this installation has no starter gates", where=str(package), hint="install pytest-h2o again")


def run(args: argparse.Namespace) -> int:
    source, target = starter_folder(), Path(args.folder) / "gates"
    names = sorted(
        path.relative_to(source)
        for pattern in ("*.py", "*.yaml", "presets/*.yaml")
        for path in source.glob(pattern)
        if path.is_file()
    )
    there = [name for name in names if (target / name).exists()]
    if there:
        raise StoreError(
            "some of the starter files are there already; nothing was written",
            where=str(target),
            came=", ".join(map(str, there)),
            hint="remove them, or name another folder",
        )
    for name in names:
        write_new_bytes(target / name, (source / name).read_bytes())
    print(f"wrote {len(names)} files to {target}")
    print("next: set root: in gates/scopes.yaml to your KV dump, then")
    print(f"  pytest {target} --h2o-bench ./build/llm_bench --h2o-base-config path/to/config.json")
    return 0

"""``pytest-h2o init`` and ``schema``: what a repository starts with, and what an editor checks it by."""

from __future__ import annotations

import argparse
import json
from copy import deepcopy
from pathlib import Path
from typing import Literal

from pytest_h2o.errors import StoreError
from pytest_h2o.files import write_new_bytes


def add_arguments_init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", default=".", help="the repository (default: here); gates/ is made in it")


def starter_folder() -> Path:
    """The gates that ship with the package; in a source checkout, those beside it."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "starter", package.parent / "gates"):
        if (folder / "test_sweep.py").is_file():
            return folder
    raise StoreError("this installation has no starter gates", where=str(package), hint="install pytest-h2o again")


def run_init(args: argparse.Namespace) -> int:
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


def add_arguments_schema(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", choices=("preset", "scopes", "summary", "journal"), default="preset")


def render_json_schema(kind: Literal["preset", "scopes"]) -> str:
    """The JSON schema (draft 2020-12) of preset or scope files as text, for editors.

    A swept key takes one value or a list. Rules between keys (a layer range that is empty, two scopes that
    decide) are not in it: only loading the file checks those.
    """
    from pytest_h2o.gate.targets import target_schemas
    from pytest_h2o.inputs.checking import schema_of
    from pytest_h2o.inputs.presets import PresetKeys
    from pytest_h2o.inputs.scopes import ScopeFile

    model = PresetKeys if kind == "preset" else ScopeFile
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **deepcopy(schema_of(model))}
    if kind == "preset":
        targets = schema["$defs"]["Targets"]
        targets["properties"] |= target_schemas()
    return json.dumps(schema, indent=2) + "\n"


def run_schema(args: argparse.Namespace) -> int:
    if args.kind in ("preset", "scopes"):
        print(render_json_schema(args.kind), end="")
    else:
        from pytest_h2o.report.schema import make_schema

        print(json.dumps(make_schema(args.kind), indent=2))
    return 0

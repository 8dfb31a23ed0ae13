"""``pytest-h2o schema``: the JSON schema of preset or scope files, and of what a run writes."""

from __future__ import annotations

import argparse
import json
from typing import Literal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", choices=("preset", "scopes", "summary", "journal"), default="preset")


def render_json_schema(kind: Literal["preset", "scopes"]) -> str:
    """The JSON schema (draft 2020-12) of preset or scope files as text, for editors.

    A swept key takes one value or a list. Rules between keys (a layer range that is empty, two scopes that
    decide) are not in it: only loading the file checks those.
    """
    from pytest_h2o.preset_model import PresetKeys
    from pytest_h2o.schema.json_schema import schema_of
    from pytest_h2o.scopes import ScopeFile

    model = PresetKeys if kind == "preset" else ScopeFile
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema_of(model)}
    return json.dumps(schema, indent=2) + "\n"


def render_artifact_schema(kind: Literal["summary", "journal"]) -> str:
    """The JSON schema of summary.json, or of a line of the journal, with unit and origin of every number."""
    from pytest_h2o.report.number_fields import make_schema

    return json.dumps(make_schema(kind), indent=2) + "\n"


def run(args: argparse.Namespace) -> int:
    if args.kind in ("summary", "journal"):
        print(render_artifact_schema(args.kind), end="")
        return 0
    print(render_json_schema(args.kind), end="")
    return 0

"""``pytest-h2o schema``: the JSON schema of preset or scope files."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", choices=("preset", "scopes"), default="preset")


def run(args: argparse.Namespace) -> int:
    from pytest_h2o.schema.json_schema import render_json_schema

    print(render_json_schema(args.kind), end="")
    return 0

"""Every number of a real run has a unit and an origin in the shipped schema, and the run is valid by it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pytest_h2o.cli.main import main
from pytest_h2o.report.summary import JOURNAL_NUMBERS, SUMMARY_NUMBERS, make_schema
from tests.report.conftest import ROOT, GateRun


def numbers_of(value: Any, schema: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every number of a JSON value, with the part of the schema that is about it; None where there is none."""
    if isinstance(value, dict):
        for key, part in value.items():
            inner = (schema or {}).get("properties", {}).get(key) or (schema or {}).get("additionalProperties")
            # The result of a scope is documented as a whole, field by field in docs/artifacts.md.
            inner = schema if inner is None and (schema or {}).get("unit", "").startswith("docs/") else inner
            yield from numbers_of(part, inner, f"{path}.{key}")
    elif isinstance(value, list):
        inner = schema if (schema or {}).get("unit", "").startswith("docs/") else (schema or {}).get("items")
        for part in value:
            yield from numbers_of(part, inner, f"{path}[]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, schema


def check_numbers(artifact: str, *values: Any) -> int:
    schema = make_schema(artifact)
    jsonschema.Draft202012Validator.check_schema(schema)
    found = 0
    for value in values:
        jsonschema.validate(value, schema)
        for path, part in numbers_of(value, schema):
            assert part is not None, f"{artifact}: {path} is in no schema"
            assert part.get("unit"), f"{artifact}: {path} has no unit"
            assert part.get("from"), f"{artifact}: {path} does not say where it comes from"
            found += 1
    return found


def test_every_number_of_the_summary_has_a_unit_and_an_origin(gate_run: GateRun) -> None:
    assert check_numbers("summary", gate_run.read("summary.json")) > 60


def test_every_number_of_the_journal_has_a_unit_and_an_origin(gate_run: GateRun) -> None:
    assert check_numbers("journal", *gate_run.journal) > 1000


def test_so_has_every_number_of_a_run_with_pairs_and_a_comparison(paired_run: Path) -> None:
    summary = json.loads((paired_run / "summary.json").read_text(encoding="utf-8"))
    assert summary["presets"]["target_ratio_v3"]["decode"]["outcome"] == "pass"
    assert summary["presets"]["target_ratio_v3"]["comparison"]["counts"]["equal"] > 100
    check_numbers("summary", summary)
    lines = (paired_run / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    check_numbers("journal", *map(json.loads, lines))


def test_a_number_without_a_unit_is_found(gate_run: GateRun) -> None:
    summary = gate_run.read("summary.json")
    with pytest.raises(AssertionError, match=r"summary: \.items\.surprise is in no schema"):
        check_numbers("summary", {**summary, "items": {**summary["items"], "surprise": 1}})
    with pytest.raises(jsonschema.ValidationError):
        check_numbers("summary", {**summary, "exit_status": "none"})
    with pytest.raises(jsonschema.ValidationError):
        check_numbers("summary", {**summary, "version": 2})


@pytest.mark.parametrize("kind", ["summary", "journal"])
def test_the_command_prints_the_schema(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", kind]) == 0
    assert json.loads(capsys.readouterr().out) == make_schema(kind)


def test_every_number_is_documented() -> None:
    text = (ROOT / "docs" / "artifacts.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    opened = tuple(name.partition("<field>")[0] for name in documented if name.endswith("<field>"))
    paths = [field.path for field in (*SUMMARY_NUMBERS, *JOURNAL_NUMBERS)]
    # What a comparison with an earlier run has is listed once, under summary.json.
    missing = [path for path in paths if path not in documented and not path.startswith("comparison.")]
    assert [path for path in missing if not path.startswith(opened)] == []

"""The artifacts of a run: documented field by field, numbers with unit and origin, copies whole or not there."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pytest_h2o.cli.main import main
from pytest_h2o.errors import StoreError
from pytest_h2o.report.artifacts import JOURNAL_NUMBERS, _keep, make_schema, read_run, write_artifacts
from pytest_h2o.report.build import build_summary
from pytest_h2o.run.journal import Collector
from tests.report.conftest import ROOT, GateRun
from tests.report.gate_items import make_comparison

TEXT = (ROOT / "docs" / "artifacts.md").read_text(encoding="utf-8")


def documented(heading: str) -> set[str]:
    """The fields in the tables of one section."""
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))


def fields_of(value: Any, known: set[str], path: str = "") -> Iterator[str]:
    """Every field of a JSON value, as the tables name it; names that they leave open stand as they leave them open."""
    if isinstance(value, list):
        if not any(isinstance(item, dict) for item in value):
            yield f"{path}[]"
        for item in value:
            if isinstance(item, dict):
                yield from fields_of(item, known, f"{path}[]")
    elif isinstance(value, dict):
        opened = re.compile(rf"{re.escape(path + '.' if path else '')}(<[^>]+>)")
        placeholder = next((match[1] for name in sorted(known) if (match := opened.match(name))), None)
        for key, item in value.items():
            yield from fields_of(item, known, f"{path}.{placeholder or key}".lstrip("."))
        if not value:
            yield f"{path}.{placeholder}" if placeholder else path
    else:
        yield path


def check_documented(heading: str, *values: Any) -> None:
    known = documented(heading)
    assert len(known) > 5, heading
    found = {field for value in values for field in fields_of(value, known)}
    # An object or list of which only the parts are listed; and a row that stands for whatever a name holds.
    whole = {name.rpartition(end)[0] for name in known for end in (".", "[]")}
    opened = tuple(name for name in known if name.endswith(">"))
    missing = {
        f for f in found - known - whole if f.removesuffix("[]") not in known | whole and not f.startswith(opened)
    }
    assert not missing, f"not in docs/artifacts.md, {heading}: {sorted(missing)}"


@pytest.fixture(scope="module")
def journal(gate_run: GateRun, old_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Lines of a run of recordings, of one with pairs of launches, and of a comparison."""
    lines = (old_run / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    compared = make_comparison(tmp_path_factory.mktemp("compared")).record("gates/x.py::test_x", "failed", None)
    return [*gate_run.journal, *map(json.loads, lines), {"version": 1, "duration_s": 0.1, **compared}]


@pytest.fixture(scope="module")
def summaries(gate_run: GateRun, old_run: Path, journal: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of a run as it ended; and as it is made now of a journal with pairs and a comparison."""
    collector = read_run(old_run).collector
    collector.take(json.loads(json.dumps(journal[-1])))
    made = build_summary(collector)
    assert made.presets["smoke"].decode is not None
    assert made.scopes["front2_grouped_192_8"].comparison is not None
    return [gate_run.read("summary.json"), made.to_json()]


def test_every_field_is_documented(
    summaries: list[dict[str, Any]], journal: list[dict[str, Any]], gate_run: GateRun
) -> None:
    check_documented("summary.json", *summaries)
    check_documented("journal.jsonl", *journal)
    check_documented("run.json", gate_run.read("run.json"))
    for scope in ("front2_upper", "front2_grouped_192_8"):
        check_documented("`offline_lossless_<scope>.json`", gate_run.read(f"offline_lossless_{scope}.json"))


def test_a_field_that_is_not_documented_is_found() -> None:
    with pytest.raises(AssertionError, match=r"\['presets\.<preset>\.verdicts\[\]\.surprise', 'surprise'\]"):
        check_documented(
            "summary.json", {"surprise": 1, "presets": {"any": {"verdicts": [{"surprise": 2}], "rows": 1}}}
        )


def test_every_file_of_a_run_is_in_the_table(gate_run: GateRun, old_run: Path) -> None:
    named = re.findall(r"^\| `([^`]+)` \|", TEXT.split("## Conventions")[0], re.MULTILINE)
    patterns = [re.compile(re.sub(r"<[^>]+>", "[^/]+", name.replace(".", r"\.")) + "$") for name in named]
    folders = (gate_run.run_dir, old_run)
    files = [str(path.relative_to(folder)) for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert files
    assert not [file for file in files if not any(pattern.match(file) for pattern in patterns)]


def numbers_of(value: Any, schema: dict[str, Any], root: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every number of a JSON value, with the part of the schema that is about it; empty where there is none."""
    told = schema
    if "unit" not in schema:
        parts = [schema, *schema.get("anyOf", ())]
        parts += [root["$defs"][part["$ref"].rpartition("/")[2]] for part in parts if "$ref" in part]
        told = {key: part for one in parts for key, part in one.items()}
        told["properties"] = {name: part for one in parts for name, part in one.get("properties", {}).items()}
    # The result of a scope is documented as a whole, field by field in docs/artifacts.md.
    whole = schema if schema.get("unit", "").startswith("docs/") else {}
    if isinstance(value, dict):
        for key, part in value.items():
            inner = told.get("properties", {}).get(key) or told.get("additionalProperties") or whole
            yield from numbers_of(part, inner, root, f"{path}.{key}")
    elif isinstance(value, list):
        for part in value:
            yield from numbers_of(part, told.get("items") or whole, root, f"{path}[]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, schema


def check_numbers(artifact: str, *values: Any) -> int:
    schema = make_schema(artifact)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    found = 0
    for value in values:
        validator.validate(value)
        for path, part in numbers_of(value, schema, schema):
            assert part.get("unit"), f"{artifact}: {path} has no unit"
            assert part.get("from"), f"{artifact}: {path} does not say where it comes from"
            found += 1
    return found


def test_every_number_has_a_unit_and_an_origin(summaries: list[dict[str, Any]], journal: list[dict[str, Any]]) -> None:
    assert check_numbers("summary", *summaries) > 150
    assert check_numbers("journal", *journal) > 1000


def test_a_number_without_a_unit_is_found(gate_run: GateRun) -> None:
    summary = gate_run.read("summary.json")
    with pytest.raises(AssertionError, match=r"summary: \.items\.surprise has no unit"):
        check_numbers("summary", {**summary, "items": {**summary["items"], "surprise": 1}})
    for change in ({"exit_status": "none"}, {"version": 2}):
        with pytest.raises(jsonschema.ValidationError):
            check_numbers("summary", {**summary, **change})


@pytest.mark.parametrize("kind", ["summary", "journal"])
def test_the_command_prints_the_schema(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", kind]) == 0
    assert json.loads(capsys.readouterr().out) == make_schema(kind)


def test_every_number_of_the_journal_is_documented() -> None:
    known = set(re.findall(r"^\| `([^`]+)` \|", TEXT, re.MULTILINE))
    opened = tuple(name.partition("<field>")[0] for name in known if name.endswith("<field>"))
    # What a comparison with an earlier run has is listed once, under summary.json.
    paths = {field.path for field in JOURNAL_NUMBERS if not field.path.startswith(("comparison.", *opened))}
    assert paths - known == set()


def test_a_copy_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "a.log", tmp_path / "run" / "a.log"
    source.write_bytes(b"row")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="No space left on device"):
            _keep([(source, target)])
    assert list(target.parent.iterdir()) == []
    _keep([(source, target)])
    assert target.read_bytes() == b"row"
    source.write_bytes(b"other")
    _keep([(source, target)])
    assert target.read_bytes() == b"row"


def test_run_json_is_written_when_all_others_are_on_the_disk(
    gate_run: GateRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    kept = Collector(tmp_path / "run", read_run(gate_run.run_dir).collector.settings)
    for record in gate_run.journal:
        kept.add(json.dumps(record), duration_s=0.2)
    write_artifacts(kept, started=0, ended=1, exit_status=1)
    last = next(number for number, path in enumerate(synced) if path.name.startswith(".run.json."))
    files = {path for path in kept.run_dir.rglob("*") if path.is_file()}
    assert len(files) > 30
    assert files - {*synced[:last]} == {kept.run_dir / "run.json"}


def test_a_recorded_file_that_has_gone_is_told(tmp_path: Path) -> None:
    gone = tmp_path / "gone.log"
    assert _keep([(gone, tmp_path / "run" / "gone.log")]) == [
        f"a recorded file cannot be copied into the run folder: {gone}: No such file or directory"
    ]

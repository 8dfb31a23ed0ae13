"""Every field of every artifact is documented."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.conftest import ROOT, GateRun

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


def test_summary_json_is_documented(gate_run: GateRun, paired_run: Path) -> None:
    paired = json.loads((paired_run / "summary.json").read_text(encoding="utf-8"))
    check_documented("summary.json", gate_run.read("summary.json"), paired)


def test_the_journal_is_documented(gate_run: GateRun, paired_run: Path) -> None:
    lines = (paired_run / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    check_documented("journal.jsonl", *gate_run.journal, *map(json.loads, lines))


def test_run_json_is_documented(gate_run: GateRun) -> None:
    check_documented("run.json", gate_run.read("run.json"))


@pytest.mark.parametrize("scope", ["front2_upper", "front2_grouped_192_8"])
def test_lossless_results_are_documented(scope: str, gate_run: GateRun) -> None:
    check_documented("offline_lossless_<scope>.json", gate_run.read(f"offline_lossless_{scope}.json"))


def test_a_field_that_is_not_documented_is_found() -> None:
    with pytest.raises(AssertionError, match=r"\['presets\.<preset>\.verdicts\[\]\.surprise', 'surprise'\]"):
        check_documented(
            "summary.json", {"surprise": 1, "presets": {"any": {"verdicts": [{"surprise": 2}], "rows": 1}}}
        )


def test_every_file_of_a_run_is_in_the_table(gate_run: GateRun, paired_run: Path) -> None:
    named = re.findall(r"^\| `([^`]+)` \|", TEXT.split("## Conventions")[0], re.MULTILINE)
    patterns = [re.compile(re.sub(r"<[^>]+>", "[^/]+", name.replace(".", r"\.")) + "$") for name in named]
    folders = (gate_run.run_dir, paired_run)
    files = [str(path.relative_to(folder)) for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert files
    assert not [file for file in files if not any(pattern.match(file) for pattern in patterns)]

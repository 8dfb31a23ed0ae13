"""The manifest of a sweep: equal to the recorded one, and refused where it is damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_h2o.bench.manifest import manifest_entry, read_manifest
from pytest_h2o.errors import StoreError
from pytest_h2o.files import write_new_json

from .samples import SWEEP, recorded_points

POINTS = recorded_points()


def test_a_manifest_equals_the_recorded_one(tmp_path: Path) -> None:
    entries = [manifest_entry(point.manifest_fields(), 0) for point in POINTS]
    write_new_json(tmp_path / "manifest.json", entries)
    assert (tmp_path / "manifest.json").read_bytes() == (SWEEP / "manifest.json").read_bytes()


def test_a_shared_run_is_named_last() -> None:
    entry = manifest_entry(POINTS[9].manifest_fields(), 0, shares_run_with=POINTS[0].run_id)
    assert list(entry)[-4:] == ["config", "log", "return_code", "shares_run_with"]
    assert (entry["run_id"], entry["log"], entry["shares_run_with"]) == (
        POINTS[9].run_id, f"logs/{POINTS[0].run_id}.log", POINTS[0].run_id,
    )  # fmt: skip


def test_the_recorded_manifest_is_read() -> None:
    entries = read_manifest(SWEEP / "manifest.json")
    assert [entry.run_id for entry in entries] == [point.run_id for point in POINTS]
    first = entries[0]
    assert (first.log_file, first.config_file) == (f"logs/{first.run_id}.log", f"configs/{first.run_id}.json")
    assert (first.return_code, first.shares_run_with) == (0, None)
    assert [entry.differences(point) for entry, point in zip(entries, POINTS, strict=True)] == [[]] * 27


def test_differences_are_named() -> None:
    entry = read_manifest(SWEEP / "manifest.json")[0]
    other = replace(POINTS[0], sink_tokens=32, lossless={**POINTS[0].lossless, "kv_lossless_front_n": 4, "new": 1})
    assert entry.differences(other) == ["sink_tokens 16, not 32", "kv_lossless_front_n 2, not 4"]


def entry(**changes: object) -> str:
    return json.dumps([{"run_id": "a", "log": "logs/a.log", "return_code": 0, **changes}])


@pytest.mark.parametrize(
    ("text", "where", "came"),
    [
        ("[", ":1:2", "Expecting value"),
        ("{}", "", "{}"),
        ("[1]", ": entry 1", "int"),
        ('[{"run_id": ""}]', ": entry 1", "run_id ''"),
        (entry(return_code="0"), ": entry 1", "return_code '0'"),
        (entry(return_code=True), ": entry 1", "return_code True"),
        (entry(run_id="a\x1b[0m"), ": entry 1", "run_id 'a\\x1b[0m'"),
        (entry(shares_run_with=1), ": entry 1", "shares_run_with 1"),
        (entry(log=None), ": entry 1", "log None"),
        (entry(log="/etc/passwd"), ": entry 1", "log '/etc/passwd'"),
        (entry(log="../a.log"), ": entry 1", "log '../a.log'"),
        (entry(log="logs\\..\\..\\a.log"), ": entry 1", "log 'logs\\\\..\\\\..\\\\a.log'"),
        (entry(log="C:\\a.log"), ": entry 1", "log 'C:\\\\a.log'"),
        (entry(log="a\0b"), ": entry 1", "log 'a\\x00b'"),
        (entry(config="/c.json"), ": entry 1", "config '/c.json'"),
        (json.dumps(json.loads(entry()) * 2), "", "the run id a twice"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, text: str, where: str, came: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(StoreError) as caught:
        read_manifest(path)
    assert caught.value.what.startswith("a manifest of a sweep ")
    assert (caught.value.where, caught.value.came) == (f"{path}{where}", came)

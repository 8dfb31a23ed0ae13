"""What is kept of runs: one line a run, safe against two writers and damage; baselines by name."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.bench.machine import describe_machine
from pytest_h2o.errors import StoreError, UsageError
from pytest_h2o.run import history
from pytest_h2o.run.history import (
    Damage,
    RunRecord,
    _checksum,
    append_record,
    check_baseline_name,
    list_baselines,
    read_baseline,
    read_history,
    read_record,
    record_to_json,
    render_line,
    resolve_record,
    rolling_runs,
    save_baseline,
)
from tests.records import make_record

RUNS = [f"2026010{day}-000000-{day}{day}{day}{day}{day}{day}" for day in (1, 2, 3)]
RECORDS = [make_record(run) for run in RUNS]
LINES = [render_line(record).encode() for record in RECORDS]


def sealed(record: Any, schema: Any = 1) -> bytes:
    """A record in its envelope, with the right checksum whatever it holds."""
    return json.dumps({"schema": schema, "sha256": _checksum(record), "record": record}).encode()


def write_history(folder: Path, *parts: bytes) -> Path:
    path = folder / "history.jsonl"
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "cannot be read"),
        (b'{"schema": ' + b"9" * 5000 + b"}", "cannot be read"),
        (b"[]", "another shape"),
        (b"{}", "this is no record of a run"),
        (b'{"schema": true}', "another schema"),
        (b'{"schema": 1}', "was changed"),
        (sealed(None), "another shape"),
    ],
)
def test_what_is_no_record_is_one_clear_error(data: bytes, what: str) -> None:
    with pytest.raises(StoreError, match=what):
        read_record(data, "here")


RATIO = "subjects[0].figures.all.lossless_ratio"


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda r: r.pop("run"), "run"),
        (lambda r: r.update(overall_pass=None), "overall_pass"),
        (lambda r: r["subjects"][0].update(kind="thing"), "subjects[0].kind"),
        (lambda r: r["subjects"][0]["figures"]["all"].update(lossless_ratio=True), RATIO),
        (lambda r: r["subjects"][0]["figures"]["all"].update(lossless_ratio=10**301), RATIO),
        (lambda r: r["metrics"]["h2o_lossy"].update(better="up"), "metrics.h2o_lossy.better"),
    ],
)
def test_another_shape_names_the_place(change: Callable[[dict[str, Any]], Any], where: str) -> None:
    record = record_to_json(RECORDS[0])["record"]
    change(record)
    with pytest.raises(StoreError) as caught:
        read_record(sealed(record), "here")
    assert caught.value.what == "a record of a run has another shape than this version reads"
    assert caught.value.where == f"here: {where}"


def test_records_come_oldest_first(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "history.jsonl"
    assert list(read_history(path)) == []
    for record in RECORDS:
        append_record(path, record)
    assert list(read_history(path)) == RECORDS
    assert path.read_bytes() == b"".join(LINES)
    indented = json.dumps(record_to_json(RECORDS[0]), indent=1, sort_keys=True)
    assert read_record(indented.encode(), "here") == RECORDS[0]


def test_a_torn_last_line_is_left_out_and_nothing_is_glued_to_it(tmp_path: Path) -> None:
    path = write_history(tmp_path, LINES[0], LINES[1][:500])
    torn = Damage(f"{path}:2", "a torn last line: whoever wrote it was stopped; left out")
    assert list(read_history(path)) == [RECORDS[0], torn]
    append_record(path, RECORDS[2])
    first, damage, last = read_history(path)
    assert (first, last) == (RECORDS[0], RECORDS[2])
    assert str(damage).startswith(f"{path}:2: a record of a run cannot be read: ")
    assert path.read_bytes() == LINES[0] + LINES[1][:500] + b"\n" + LINES[2]


def test_a_line_that_only_lacks_its_end_is_whole(tmp_path: Path) -> None:
    path = write_history(tmp_path, LINES[0], LINES[1][:-1])
    assert list(read_history(path)) == RECORDS[:2]
    append_record(path, RECORDS[2])
    assert list(read_history(path)) == RECORDS


def test_damaged_lines_are_named_and_good_ones_stay_usable(tmp_path: Path) -> None:
    other, changed = sealed({}, schema=2) + b"\n", LINES[1].replace(b"1.4676", b"1.5676")
    path = write_history(tmp_path, LINES[0], b"not JSON\n", other, b"\n", changed, LINES[2])
    found = list(read_history(path))
    assert [entry for entry in found if isinstance(entry, RunRecord)] == [RECORDS[0], RECORDS[2]]
    named = [str(entry) for entry in found if isinstance(entry, Damage)]
    assert named[0] == f"{path}:2: a record of a run cannot be read: Expecting value; left out"
    assert named[1] == f"{path}:3: a record of a run has another schema than this version reads: schema 2; left out"
    assert named[2].startswith(f"{path}:5: a record of a run was changed after it was written: SHA-256 ")
    assert len(named) == 3


def test_a_line_without_end_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_RECORD_BYTES", 4000)
    path = write_history(tmp_path, b"x" * 50_001 + b"\n", LINES[0][:0], b"y\n")
    assert [str(entry).removeprefix(str(path)) for entry in read_history(path)] == [
        ":1: a line of more than 4,000 bytes",
        ":2: a record of a run cannot be read: Expecting value; left out",
    ]


@given(place=st.integers(0, len(LINES[1]) - 2), new=st.binary(max_size=3), cut=st.integers(0, 40))
@example(place=0, new=b"\n", cut=0)
def test_damage_to_one_line_never_reaches_another(
    tmp_path_factory: pytest.TempPathFactory, place: int, new: bytes, cut: int
) -> None:
    damaged = LINES[1][:place] + new + LINES[1][min(place + cut, len(LINES[1]) - 1) :]
    path = write_history(tmp_path_factory.mktemp("history"), LINES[0], damaged, LINES[2])
    found = list(read_history(path))
    good = [entry for entry in found if isinstance(entry, RunRecord)]
    assert good[0] == RECORDS[0]
    assert good[-1] == RECORDS[2]
    assert all(record in RECORDS for record in good), "a damaged line was read as another record"
    assert len(good) == 3 or any(isinstance(entry, Damage) for entry in found)


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from pytest_h2o.run.history import append_record
from tests.records import make_record, make_subject
figures = {f"row {i}": {"lossless_ratio": 1.0 + i} for i in range(400)}
for number in range(12):
    append_record(Path(sys.argv[1]), make_record(f"{sys.argv[2]}-{number}", make_subject(figures)))
"""


def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    path, root = tmp_path / "history.jsonl", str(Path(__file__).parents[1])
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path, name, root]) for name in ("a", "b")]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    found = list(read_history(path))
    runs = [entry.run for entry in found if isinstance(entry, RunRecord)]
    assert len(found) == 24
    assert sorted(runs) == sorted(f"{name}-{number}" for name in ("a", "b") for number in range(12))
    assert [run for run in runs if run.startswith("a")] == [f"a-{number}" for number in range(12)]


HOLDER = """
import sys, time
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_writer_that_is_killed_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it lives, and never gives the lock back, the others end with an error."""
    monkeypatch.setattr(history, "LOCK_TIMEOUT_S", 0.2)
    path = tmp_path / "history.jsonl"
    command = [sys.executable, "-c", HOLDER, str(tmp_path / ".history.jsonl.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match="another process has held the history for too long"):
            append_record(path, RECORDS[0])
        holder.kill()
    append_record(path, RECORDS[1])
    assert list(read_history(path)) == RECORDS[1:2]


def test_a_history_that_cannot_be_written_or_read_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").mkdir()
    with pytest.raises(StoreError, match="the history cannot be written"):
        append_record(tmp_path / "history.jsonl", RECORDS[0])
    with pytest.raises(StoreError, match="the history cannot be read"):
        list(read_history(tmp_path / "history.jsonl"))


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", "", ".hidden", "-x", "a b", "x" * 81, "a\n", "ä"])
def test_a_name_that_no_file_may_have_is_refused(name: str, snapshot: SnapshotAssertion) -> None:
    with pytest.raises(UsageError) as caught:
        check_baseline_name(name, "--h2o-save")
    assert str(caught.value) == snapshot


def test_a_baseline_is_kept_and_never_replaced_unasked(tmp_path: Path) -> None:
    path = save_baseline(tmp_path, "main", RECORDS[0])
    assert path == tmp_path / "baselines" / "main.json"
    with pytest.raises(StoreError, match="would be overwritten"):
        save_baseline(tmp_path, "main", RECORDS[1])
    assert read_baseline(tmp_path, "main") == RECORDS[0]
    save_baseline(tmp_path, "main", RECORDS[1], overwrite=True)
    assert read_baseline(tmp_path, "main") == RECORDS[1]
    assert list_baselines(tmp_path) == ["main"]


def test_a_missing_baseline_names_those_that_there_are(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    save_baseline(tmp_path, "main", RECORDS[0])
    save_baseline(tmp_path, "release-1.0", RECORDS[0])
    with pytest.raises(UsageError) as caught:
        read_baseline(tmp_path, "mian")
    assert str(caught.value).replace(str(tmp_path), "HERE") == snapshot


def test_a_record_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_RECORD_BYTES", 100)
    path = save_baseline(tmp_path, "main", RECORDS[0])
    with pytest.raises(StoreError, match="too large"):
        read_record(path)


def test_a_run_is_found_by_folder_file_baseline_and_name(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    for record in RECORDS:
        append_record(tmp_path / "history.jsonl", record)
    saved = save_baseline(tmp_path, "main", RECORDS[0])
    folder = tmp_path / RUNS[1]
    folder.mkdir()
    with pytest.raises(UsageError, match="the folder holds no figures of a run"):
        resolve_record(str(folder), tmp_path)
    (folder / "figures.json").write_text(json.dumps(record_to_json(RECORDS[1])))
    assert resolve_record(str(folder), tmp_path) == (f"run folder {folder}", RECORDS[1])
    assert resolve_record(str(saved), tmp_path) == (f"file {saved}", RECORDS[0])
    assert resolve_record("main", tmp_path) == ("baseline main", RECORDS[0])
    assert resolve_record("last", tmp_path) == ("the history", RECORDS[2])
    assert resolve_record("222222", tmp_path) == ("the history", RECORDS[1])
    with pytest.raises(UsageError, match="3 runs have 2026 in their name"):
        resolve_record("2026", tmp_path)
    with pytest.raises(UsageError) as caught:
        resolve_record("nothing", tmp_path)
    assert str(caught.value).replace(str(tmp_path), "HERE") == snapshot


@pytest.mark.parametrize("number", ["2", "101", "-5", "5.0", "five", ""])
def test_a_number_of_earlier_runs_is_a_whole_one_from_3_to_100(number: str) -> None:
    with pytest.raises(UsageError, match=f"takes a number of earlier runs behind rolling:\n  came: 'rolling:{number}'"):
        rolling_runs(f"rolling:{number}")
    assert [rolling_runs(text) for text in ("rolling:3", "rolling:100", "last", None)] == [3, 100, None, None]


def test_the_machine_has_no_name() -> None:
    text = describe_machine()
    assert text == describe_machine()
    assert text.endswith(" cores")
    assert os.uname().nodename not in text.split()

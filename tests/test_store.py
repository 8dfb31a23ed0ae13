"""The run folder: atomic, never overwritten, each result made once."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from pytest_h2o.errors import StoreError
from pytest_h2o.files import append_line, write_new_bytes, write_new_json, write_new_text
from pytest_h2o.run.store import OnceStore, is_in_use, name_run


def test_a_file_that_is_there_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "summary.md"
    write_new_text(path, "first\n")
    with pytest.raises(StoreError) as caught:
        write_new_text(path, "second\n")
    assert str(caught.value) == (
        "a file that exists would be overwritten\n"
        f"  where: {path}\n"
        "  next: choose another output, or move the old file away"
    )
    assert path.read_text() == "first\n"
    write_new_text(path, "third\n", overwrite=True)
    assert path.read_text() == "third\n"
    assert [p.name for p in path.parent.iterdir()] == ["summary.md"]


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="a file cannot be written"):
        write_new_bytes(tmp_path / "file" / "run.json", b"{}")


def test_json_artifacts_hold_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        write_new_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_files_get_the_usual_rights(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_new_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_journal_grows_by_lines(tmp_path: Path) -> None:
    for number in range(3):
        append_line(tmp_path / "run" / "journal.jsonl", {"n": number})
    lines = (tmp_path / "run" / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line)["n"] for line in lines] == [0, 1, 2]


def test_file_and_name_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is synced, by what it is: each new folder in the one above it, the file, then its name."""
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_new_bytes(tmp_path / "run" / "logs" / "a.log", b"x")
    temporary = synced.pop(2)
    assert synced == [str(tmp_path), f"{tmp_path}/run", f"{tmp_path}/run/logs"]
    assert temporary.startswith(f"{tmp_path}/run/logs/.a.log.")
    del synced[:]
    for _ in range(2):
        append_line(tmp_path / "run" / "journal.jsonl", {})
    journal = f"{tmp_path}/run/journal.jsonl"
    assert synced == [journal, f"{tmp_path}/run", journal]


def test_a_store_is_in_use_until_its_process_ends(tmp_path: Path) -> None:
    assert not is_in_use(tmp_path)
    store = OnceStore(tmp_path)
    store.use()
    assert is_in_use(tmp_path)
    del store
    assert not is_in_use(tmp_path)


def test_names_of_runs_differ() -> None:
    assert len({name_run() for _ in range(50)}) == 50


def test_a_result_is_made_once_for_all_who_ask(tmp_path: Path) -> None:
    made: list[int] = []
    barrier = threading.Barrier(4)
    results = []

    def ask() -> None:
        store = OnceStore(tmp_path)
        barrier.wait()
        results.append(store.once("point/run_0001", lambda: made.append(1) or {"value": 0.1}))  # type: ignore[func-returns-value]

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
    assert results == [{"value": 0.1}] * 4


def test_a_computation_that_fails_is_not_kept(tmp_path: Path) -> None:
    store = OnceStore(tmp_path)

    def fail() -> dict[str, int]:
        raise StoreError("no")

    with pytest.raises(StoreError):
        store.once("key", fail)
    assert store.once("key", lambda: {"a": 1}) == {"a": 1}

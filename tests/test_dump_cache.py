"""The cache of parsed metas gives what the files say now, whatever happened to them or to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_h2o.lossless import meta as meta_cache
from pytest_h2o.lossless import roots as folder_root
from pytest_h2o.lossless.index import DumpIndex, index_dump
from tests.dump_samples import write_entry

ENTRIES = 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for caches, which are worth it for any dump, and may hold files of this moment."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("PYTEST_H2O_CACHE_DIR", str(folder))
    monkeypatch.setattr(meta_cache, "_WORTH", 1)
    monkeypatch.setattr(meta_cache, "_YOUNG_NS", -(10**12))
    return folder / "dumps"


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    for start in range(ENTRIES):
        write_entry(tmp_path / "dump", start=start, tokens=1, run_id=f"run{start % 3}")
    return tmp_path / "dump"


def seen(index: DumpIndex) -> list[tuple[Any, ...]]:
    return [*(entry[:-1] for entry in index.entries), *index.skipped]


def count_parses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    parsed = []
    parse = folder_root.parse_meta

    def count(data: bytes) -> Any:
        parsed.append(len(data))
        return parse(data)

    monkeypatch.setattr(folder_root, "parse_meta", count)
    return parsed


def the_meta(dump: Path) -> Path:
    return dump / "run0" / "layer_0" / "meta_t0_1.json"


def test_a_second_index_parses_nothing_and_is_the_same(
    cache: Path, dump: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = count_parses(monkeypatch)
    first = seen(index_dump(dump))
    assert len(parsed) == ENTRIES
    assert seen(index_dump(dump)) == first
    assert len(parsed) == ENTRIES
    assert len(list(cache.iterdir())) == 1


def test_an_edit_that_keeps_size_and_time_is_seen(cache: Path, dump: Path) -> None:
    meta = the_meta(dump)
    before = index_dump(dump).entries[0]
    status = meta.stat()
    text = meta.read_text().replace('"stage": "decode"', '"stage": "decodX"')
    meta.write_text(text)
    os.utime(meta, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (meta.stat().st_size, meta.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    index = index_dump(dump)
    assert [skipped.path for skipped in index.skipped] == [before.meta]


def test_metas_that_are_replaced_added_and_taken_away_are_seen(cache: Path, dump: Path) -> None:
    index_dump(dump)
    meta = the_meta(dump)
    other = dump / "other"
    other.write_text(json.dumps({**json.loads(meta.read_text()), "run_id": "none"}))
    shutil.copystat(meta, other)
    other.replace(meta)
    (dump / "run1" / "layer_0" / "meta_t1_2.json").unlink()
    write_entry(dump, start=100, tokens=1)
    entries = index_dump(dump).entries
    assert len(entries) == ENTRIES
    assert seen(index_dump(dump)) == seen(index_without_cache(dump))
    assert "none" in {entry.run_id for entry in entries}
    assert not [entry for entry in entries if entry.meta.endswith("meta_t1_2.json")]


def index_without_cache(dump: Path) -> DumpIndex:
    kept = os.environ["PYTEST_H2O_CACHE_DIR"]
    os.environ["PYTEST_H2O_CACHE_DIR"] = ""
    try:
        return index_dump(dump)
    finally:
        os.environ["PYTEST_H2O_CACHE_DIR"] = kept


def test_data_files_are_looked_up_every_time(cache: Path, dump: Path) -> None:
    index_dump(dump)
    (dump / "run0" / "layer_0" / "k_t0_1.bin").unlink()
    (dump / "run0" / "layer_0" / "v_t3_4.bin").write_bytes(b"short")
    assert [skipped.reason for skipped in index_dump(dump).skipped] == ["missing_k_or_v_binary", "binary_read_error"]


def test_a_file_of_this_moment_is_not_kept(cache: Path, dump: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta_cache, "_YOUNG_NS", 2_000_000_000)
    parsed = count_parses(monkeypatch)
    index_dump(dump)
    index_dump(dump)
    assert len(parsed) == 2 * ENTRIES


def test_every_flipped_byte_and_every_cut_of_a_cache_is_no_cache(cache: Path, dump: Path) -> None:
    """Or, for the few bits of a frame that mean nothing, the whole truth. Of each byte one bit, then every 7th cut."""
    expected = seen(index_dump(dump))
    (file,) = cache.iterdir()
    data = file.read_bytes()
    head = meta_cache._describe(os.path.realpath(dump))
    whole = meta_cache._load(file, head)
    assert len(whole) == 3
    refused = 0
    for at in range(len(data)):
        file.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        left = meta_cache._load(file, head)
        assert left in ({}, whole)
        refused += not left
    assert refused > 0.95 * len(data)
    for length in range(0, len(data), 7):
        file.write_bytes(data[:length])
        assert meta_cache._load(file, head) == {}
    assert seen(index_dump(dump)) == expected


def test_another_root_in_the_same_place_has_none_of_it(
    cache: Path, dump: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index_dump(dump)
    dump.rename(dump.with_name("moved"))
    shutil.copytree(dump.with_name("moved"), dump)
    parsed = count_parses(monkeypatch)
    index_dump(dump)
    assert len(parsed) == ENTRIES


def test_no_cache_where_it_cannot_be_written_or_is_switched_off(
    cache: Path, dump: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.mkdir()
    cache.write_text("a file in the place of the folder")
    assert len(index_dump(dump).entries) == ENTRIES
    assert cache.is_file()
    assert len(index_without_cache(dump).entries) == ENTRIES


def test_few_metas_make_no_cache(cache: Path, dump: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta_cache, "_WORTH", ENTRIES + 1)
    index_dump(dump)
    assert not cache.exists()


def test_odd_names_of_folders_are_kept(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a\tb", "a,[b", 'q"uote', "new\nline", "üñ", os.fsdecode(b"\xff")]
    for name in names:
        write_entry(tmp_path / "odd" / name)
    for number, meta in enumerate(sorted((tmp_path / "odd").rglob("meta_*.json"))):
        meta.write_text(json.dumps({**json.loads(meta.read_text()), "run_id": str(number)}))
    first = seen(index_dump(tmp_path / "odd"))
    assert len(first) == len(names)
    parsed = count_parses(monkeypatch)
    assert seen(index_dump(tmp_path / "odd")) == first
    assert parsed == []


def test_the_oldest_caches_go(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta_cache, "_KEPT_ROOTS", 2)
    for number in range(4):
        write_entry(tmp_path / f"dump{number}")
        index_dump(tmp_path / f"dump{number}")
    assert len(list(cache.iterdir())) == 2


def test_processes_at_once_leave_one_cache_and_agree(cache: Path, dump: Path) -> None:
    code = (
        "import sys; from pytest_h2o.dumps import index_dump, meta_cache\n"
        "meta_cache._WORTH, meta_cache._YOUNG_NS = 1, -10**12\n"
        "for _ in range(5): print(len(index_dump(sys.argv[1]).entries))\n"
    )
    command = [sys.executable, "-c", code, str(dump)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert output.split() == [str(ENTRIES)] * 5
    (file,) = cache.iterdir()
    assert len(meta_cache._load(file, meta_cache._describe(os.path.realpath(dump)))) == 3


def test_a_meta_that_goes_after_it_was_listed_is_skipped_with_the_reason(
    cache: Path, dump: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = index_dump(dump)
    parsed = count_parses(monkeypatch)

    def gone(status: os.stat_result) -> None:
        raise FileNotFoundError(2, "it went just now")

    monkeypatch.setattr(folder_root, "stamp_of", gone)
    index = index_dump(dump)
    assert (len(index.entries), len(index.skipped), parsed) == (0, len(first.entries), [])
    assert {entry.detail for entry in index.skipped} == {"cannot be read: it went just now"}


def test_a_cache_that_would_unpack_to_too_much_is_no_cache(
    cache: Path, dump: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = index_dump(dump)
    parsed = count_parses(monkeypatch)
    monkeypatch.setattr(meta_cache, "_MOST_BYTES", 8)
    assert seen(index_dump(dump)) == seen(first)
    assert len(parsed) == ENTRIES

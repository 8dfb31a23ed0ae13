"""The index of a dump: what is found, in which order, and what an entry is skipped for."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_h2o.errors import DumpError
from pytest_h2o.lossless.index import DumpIndex, find_overlaps_and_gaps, index_dump
from pytest_h2o.lossless.result import Finding, SkippedEntry
from tests.lossless.samples import FP16, FP32, make_zip, the_skipped, write_entry


def test_real_dump_is_read_whole() -> None:
    index = index_dump(FP16)
    assert len(index.entries) == index.scanned_entries == 1080
    assert index.skipped == ()
    assert {entry.layer_id for entry in index.entries} == {0, 1, 2, 15, 29}
    assert {entry.run_id for entry in index.entries} == {"code", "log", "prose"}
    prompt = max(index.entries, key=lambda entry: entry.seq_len)
    assert (prompt.seq_len, prompt.kv_heads, prompt.head_dim, prompt.bytes_per_elem) == (1475, 3, 64, 2)
    assert prompt.stage == "prefill"
    assert {entry.bytes_per_elem for entry in index_dump(FP32).entries} == {4}


def test_order_is_by_path_component_as_plain_strings(tmp_path: Path) -> None:
    # "a-b" sorts before "a/…" as a whole string, after "a" as a component; 10 sorts before 9
    for run in ("a-b", "a", "a/deep", "b"):
        for start in (9, 10):
            write_entry(tmp_path, start=start, tokens=1, run_id=run)
    paths = [entry.meta for entry in index_dump(tmp_path).entries]
    assert paths == sorted(paths, key=lambda path: path.split("/"))
    assert paths == sorted((str(p.relative_to(tmp_path)) for p in tmp_path.rglob("meta_*.json")), key=lambda p: Path(p))
    assert paths[0] == "a/deep/layer_0/meta_t10_11.json"


def test_archive_holds_the_same_as_the_folder(fp32_folder: Path) -> None:
    folder, archive = index_dump(fp32_folder), index_dump(FP32)
    plain = [entry._replace(k_location="", v_location="", root=None) for entry in folder.entries]
    assert [entry._replace(k_location="", v_location="", root=None) for entry in archive.entries] == plain
    assert archive.skipped == ()


def test_packed_metas_and_other_files_are_not_read(tmp_path: Path) -> None:
    meta = write_entry(tmp_path)
    (meta.parent / "packed_meta_t0_4.json").write_text("not even JSON")
    (meta.parent / "meta_t0_4.json.bak").write_text("nor this")
    (tmp_path / "config.json").write_text("{")
    assert index_dump(tmp_path).scanned_entries == 1


def test_missing_run_id_is_none_and_null_is_missing(tmp_path: Path) -> None:
    write_entry(tmp_path / "a", run_id=...)
    write_entry(tmp_path / "b", start=50, run_id=None)
    assert [entry.run_id for entry in index_dump(tmp_path).entries] == [None, None]


@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize("name", ["k_t0_4.bin", "v_t0_4.bin"])
def test_data_file_one_byte_off_is_skipped(tmp_path: Path, name: str, change: int) -> None:
    path = write_entry(tmp_path).with_name(name)
    path.write_bytes(path.read_bytes().ljust(129, b"\0")[: 128 + change])
    skipped = the_skipped(tmp_path)
    assert skipped == SkippedEntry(
        path="run/layer_0/meta_t0_4.json",
        reason="binary_read_error",
        detail=f"{name!r} has {128 + change} bytes, expected 128 ([4, 2, 8] of 2 bytes)",
        layer_id=0,
        seq_len=4,
        stage="prefill",
    )


def test_folder_and_pipe_in_place_of_data_are_skipped_not_opened(tmp_path: Path) -> None:
    data = write_entry(tmp_path).with_name("k_t0_4.bin")
    data.unlink()
    os.mkfifo(data)
    assert the_skipped(tmp_path).detail == "'k_t0_4.bin' is no regular file"
    data.unlink()
    data.mkdir()
    assert index_dump(tmp_path).skipped[0].detail == "'k_t0_4.bin' is no regular file"


def test_pipe_in_place_of_a_meta_is_skipped_not_opened(tmp_path: Path) -> None:
    meta = write_entry(tmp_path)
    meta.unlink()
    os.mkfifo(meta)
    skipped = the_skipped(tmp_path)
    assert (skipped.reason, skipped.detail) == ("meta_parse_error", "not a regular file")


def test_pipe_in_place_of_an_archive_is_refused_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "dump.zip")
    with pytest.raises(DumpError) as caught:
        index_dump(tmp_path / "dump.zip")
    assert "a pipe, not a regular file" in str(caught.value)


def test_files_without_permission_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_entry(tmp_path).with_name("v_t0_4.bin")
    data.chmod(0o640)
    assert index_dump(tmp_path).skipped == ()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # tests may run as root, who reads everything
    assert the_skipped(tmp_path).detail == "'v_t0_4.bin': no permission to read it"
    assert index_dump(tmp_path).skipped[0].reason == "binary_read_error"


def test_meta_that_cannot_be_opened_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meta = write_entry(tmp_path)
    really_open = os.open

    def refuse(path: str, flags: int) -> int:
        if path == str(meta):
            raise PermissionError(13, "Permission denied")
        return really_open(path, flags)

    monkeypatch.setattr(os, "open", refuse)
    skipped = the_skipped(tmp_path)
    assert (skipped.reason, skipped.detail) == ("meta_parse_error", "cannot be read: Permission denied")


def test_folder_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_entry(tmp_path)
    really_scan = os.scandir

    def refuse(path: str) -> Any:
        if path.endswith("layer_0/"):
            raise PermissionError(13, "Permission denied")
        return really_scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DumpError) as caught:
        index_dump(tmp_path)
    assert str(caught.value) == (
        f"a folder of the dump cannot be listed\n  where: {tmp_path}/run/layer_0/\n  came: Permission denied\n"
        "  next: its entries would be missing from the result; mend its permissions or take it out"
    )


def test_sizes_can_be_left_to_the_reader(tmp_path: Path) -> None:
    write_entry(tmp_path).with_name("k_t0_4.bin").write_bytes(b"short")
    assert len(index_dump(tmp_path, sized=False).entries) == 1
    large = write_entry(tmp_path, start=10, tokens=600)
    large.with_name("k_t10_610.bin").write_bytes(b"short")
    assert [entry.path for entry in index_dump(tmp_path, sized=False).skipped] == ["run/layer_0/meta_t10_610.json"]


def test_duplicates_are_refused(tmp_path: Path) -> None:
    write_entry(tmp_path / "one")
    write_entry(tmp_path / "two")
    with pytest.raises(DumpError) as caught:
        index_dump(tmp_path)
    assert str(caught.value) == (
        "a dump holds the same tokens twice\n"
        f"  where: {tmp_path}: one/run/layer_0/meta_t0_4.json and two/run/layer_0/meta_t0_4.json\n"
        "  came: run run, layer 0, prefill, tokens 0 to 3\n"
        "  expected: each run, layer, stage and range of tokens once\n"
        "  next: give each run a run_id of its own, or take the copy out"
    )


@pytest.mark.parametrize("changes", [{"run_id": "other"}, {"layer_id": 1}, {"stage": "decode"}, {"start": 4}])
def test_entries_that_differ_in_one_thing_are_no_duplicates(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_entry(tmp_path / "one")
    write_entry(tmp_path / "two", **changes)
    assert len(index_dump(tmp_path).entries) == 2


def give(**changes: Any) -> Callable[[Path], object]:
    """One more entry beside that of tokens 0 to 3 of layer 0."""
    return lambda root: write_entry(root, **{"start": 4, **changes})


def take(*names: str) -> Callable[[Path], object]:
    return lambda root: [path.with_name(name).unlink() for path in [write_entry(root, start=4)] for name in names]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            give(kv_heads=1, head_dim=16),
            "entries of one layer are not of one shape*t0_4.json and *t4_8.json*2 heads of 8",
        ),
        (give(dtype="bf16"), "entries of one layer are not of one shape*2 heads of 8, fp16 and 2 heads of 8, bf16"),
        (give(bytes_per_elem=4, dtype="fp32", head_dim=4), "*not of one shape*fp16 and 2 heads of 4, fp32*"),
        (
            give(start=0, layer_id=1, kv_heads=8, head_dim=2),
            "layers of one run are not of one shape*_0/*_1/*8 heads of 2",
        ),
        (give(start=0, layer_id=1, dtype="bf16"), "layers of one run are not of one shape*bf16"),
        (give(start=1), "a dump holds the same tokens twice*t0_4.json and *t1_5.json*tokens 1 to 3"),
        (give(k_file="k_t0_4.bin"), "two tensors of a dump have one data file*t0_4.json and *t4_8.json*"),
        (give(v_file="k_t4_8.bin"), "two tensors of a dump have one data file*run/layer_0/meta_t4_8.json\n*"),
        (give(start=0, layer_id=1, v_file="../layer_0/v_t0_4.bin"), "two tensors of a dump have one data file*"),
        (
            lambda root: (write_entry(root, layer_id=1).parent).rename(root / "layer_7"),
            "an entry is in the folder of another*",
        ),
        (give(start=0, layer_id=1, kv_heads=1, data=bytes(range(64))), None),
        (give(start=0, run_id="other", kv_heads=1, head_dim=16, dtype="bf16"), None),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_metas_that_contradict_each_other_are_refused(
    tmp_path: Path, change: Callable[[Path], object], told: str | None, packed: bool
) -> None:
    root = tmp_path / "dump"
    write_entry(root)
    change(root)
    root = make_zip(root, tmp_path / "dump.zip") if packed else root
    if told is None:
        assert len(index_dump(root).entries) == 2
        return
    with pytest.raises(DumpError) as caught:
        index_dump(root)
    assert fnmatchcase(str(caught.value), told + "*"), str(caught.value)


@pytest.mark.parametrize(
    ("lost", "reason", "detail"),
    [
        (["meta_t4_8.json"], "missing_meta", "run/layer_0/k_t4_8.bin is there, and no meta"),
        (["meta_t4_8.json", "k_t4_8.bin"], "missing_meta", "run/layer_0/v_t4_8.bin is there, and no meta"),
        (["v_t4_8.bin"], "missing_k_or_v_binary", "'v_t4_8.bin' does not exist"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_metas_and_data_files_miss_each_other(
    tmp_path: Path, lost: list[str], reason: str, detail: str, packed: bool
) -> None:
    root = tmp_path / "dump"
    write_entry(root)
    take(*lost)(root)
    (root / "run" / "layer_0" / "packed_k_t4_8.bin").touch()
    index = index_dump(make_zip(root, tmp_path / "dump.zip") if packed else root)
    (skipped,) = index.skipped
    assert (skipped.path, skipped.reason, skipped.detail) == ("run/layer_0/meta_t4_8.json", reason, detail)
    assert (skipped.layer_id, skipped.seq_len, index.scanned_entries) == (0, 4, 2)


def test_root_that_does_not_exist_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "dumps").mkdir()
    with pytest.raises(DumpError) as caught:
        index_dump(tmp_path / "dump")
    assert str(caught.value) == (
        f"the dump root does not exist\n  where: {tmp_path / 'dump'}\n  came: there are: dumps\n"
        "  expected: a dump folder, or a .zip of one"
    )
    with pytest.raises(DumpError, match=r"no folder .*nowhere either"):
        index_dump(tmp_path / "nowhere" / "dump")


def test_root_without_metas_says_what_is_there(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"packed_meta_{number}.json").write_text("{}")
    with pytest.raises(DumpError) as caught:
        index_dump(tmp_path)
    assert caught.value.what == "no KV dump here"
    assert caught.value.came == "there are: " + ", ".join(f"packed_meta_{n}.json" for n in range(6)) + " and 2 more"
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DumpError, match="an empty folder"):
        index_dump(empty)
    (empty / "kv.zip").touch()
    with pytest.raises(DumpError, match=r"name the archive: .*empty/kv\.zip"):
        index_dump(empty)


def test_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dump.zip").write_bytes(b"PK no")
    with pytest.raises(DumpError, match="neither a folder nor a zip archive"):
        index_dump(tmp_path / "dump.zip")


def test_overlaps_and_gaps_are_told_by_run_and_layer(tmp_path: Path) -> None:
    write_entry(tmp_path, start=0, tokens=10)
    for token in (0, 1, 12, 15):
        write_entry(tmp_path, start=token, tokens=1)
    write_entry(tmp_path, start=3, tokens=4, layer_id=1)
    write_entry(tmp_path, start=7, tokens=1, layer_id=1)
    write_entry(tmp_path, start=9, tokens=1, layer_id=1, run_id=...)
    assert find_overlaps_and_gaps(index_dump(tmp_path).entries) == (
        Finding("overlap", "run", 0, tokens=2, first=0),
        Finding("gap", "run", 0, tokens=4, first=10),
    )
    assert find_overlaps_and_gaps(()) == ()


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 8)), min_size=1, unique=True))
@settings(max_examples=100, deadline=None)
def test_overlaps_and_gaps_agree_with_counting_each_position(spans: list[tuple[int, int]]) -> None:
    entry = index_dump(FP32).entries[0]
    entries = [entry._replace(seq_start=start, seq_len=length) for start, length in spans]
    counts = [sum(start <= position < start + length for start, length in spans) for position in range(40)]
    covered = [position for position, count in enumerate(counts) if count]
    told = {finding.kind: finding.tokens for finding in find_overlaps_and_gaps(entries)}
    assert told.get("overlap", 0) == sum(count - 1 for count in counts if count)
    assert told.get("gap", 0) == covered[-1] + 1 - covered[0] - len(covered)


def test_the_index_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_h2o.lossless.index._TELL_EVERY", 100)
    told: list[int] = []
    index = index_dump(FP16, on_entries=told.append)
    assert told == list(range(100, index.scanned_entries + 1, 100))


def test_deep_folders_are_no_recursion(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(400):
        deep = deep / "d"
    write_entry(deep)
    assert [entry.meta.count("/") for entry in index_dump(tmp_path).entries] == [402]


def test_index_does_not_depend_on_the_order_of_creation(tmp_path: Path) -> None:
    def index_of(root: Path, order: list[int]) -> list[str]:
        for start in order:
            write_entry(root, start=start, tokens=1)
        index: DumpIndex = index_dump(root)
        return [entry.meta for entry in index.entries]

    order = list(range(20))
    shuffled = random.Random(1).sample(order, len(order))
    assert index_of(tmp_path / "a", order) == index_of(tmp_path / "b", shuffled)

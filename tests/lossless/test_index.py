"""The index of a dump: what is found, in which order, and what an entry is skipped for."""

import json
import os
from collections.abc import Callable
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.errors import DumpError
from pytest_h2o.lossless import index as index_module
from pytest_h2o.lossless.index import check_dump, find_overlaps_and_gaps, index_dump
from pytest_h2o.lossless.result import Finding
from pytest_h2o.lossless.roots import Folder
from tests.lossless.samples import FP16, FP32, make_zip, the_skipped, write_entry
from tests.plugin.broken_off import wait_until
from tests.told import error_text


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


IN_PLACE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "K a byte short": ("k_t0_4.bin", lambda path: path.write_bytes(bytes(127))),
    "K a byte long": ("k_t0_4.bin", lambda path: path.write_bytes(bytes(129))),
    "V a byte short": ("v_t0_4.bin", lambda path: path.write_bytes(bytes(127))),
    "V a byte long": ("v_t0_4.bin", lambda path: path.write_bytes(bytes(129))),
    "a pipe": ("k_t0_4.bin", os.mkfifo),
    "a folder": ("k_t0_4.bin", os.mkdir),
    "a link to nothing": ("k_t0_4.bin", lambda path: path.symlink_to("nothing")),
    "a loop of links": ("k_t0_4.bin", lambda path: path.symlink_to(path)),
    "a pipe for a meta": ("meta_t0_4.json", os.mkfifo),
    "a link to a pipe for a meta": ("meta_t0_4.json", lambda path: path.symlink_to("pipe")),
}


@pytest.mark.parametrize("what", IN_PLACE)
def test_what_stands_in_place_of_a_file_is_skipped_not_opened(
    tmp_path: Path, what: str, snapshot: SnapshotAssertion
) -> None:
    name, put = IN_PLACE[what]
    path = write_entry(tmp_path).with_name(name)
    os.mkfifo(path.with_name("pipe"))
    path.unlink()
    put(path)
    assert the_skipped(tmp_path) == snapshot


def test_files_without_permission_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_entry(tmp_path).with_name("v_t0_4.bin")
    data.chmod(0o640)
    assert index_dump(tmp_path).skipped == ()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # tests may run as root, who reads everything
    assert the_skipped(tmp_path).detail == "'v_t0_4.bin': no permission to read it"
    assert index_dump(tmp_path).skipped[0].reason == "binary_read_error"


@pytest.mark.parametrize(("function", "place"), [("open", "meta_t0_4.json"), ("scandir", "layer_0/")])
def test_what_may_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, place: str, snapshot: SnapshotAssertion
) -> None:
    """A meta is skipped; the entries of a folder would be missing from the result."""
    write_entry(tmp_path)
    really = getattr(os, function)

    def refuse(path: str, *flags: int, **folder: Any) -> Any:
        if path.endswith(place):
            raise PermissionError(13, "Permission denied")
        return really(path, *flags, **folder)

    monkeypatch.setattr(os, function, refuse)
    if function == "open":
        assert the_skipped(tmp_path) == snapshot
    else:
        told = error_text(DumpError, index_dump, tmp_path)
        assert error_text(DumpError, lambda: index_dump(tmp_path, workers=2)) == told
        assert told.replace(str(tmp_path), "") == snapshot


def test_sizes_can_be_left_to_the_reader(tmp_path: Path) -> None:
    write_entry(tmp_path).with_name("k_t0_4.bin").write_bytes(b"short")
    assert len(index_dump(tmp_path, sized=False).entries) == 1
    large = write_entry(tmp_path, start=10, tokens=600)
    large.with_name("k_t10_610.bin").write_bytes(b"short")
    assert [entry.path for entry in index_dump(tmp_path, sized=False).skipped] == ["run/layer_0/meta_t10_610.json"]


def test_duplicates_are_refused(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    write_entry(tmp_path / "one")
    write_entry(tmp_path / "two")
    assert error_text(DumpError, index_dump, tmp_path).replace(str(tmp_path), "") == snapshot


def give(**changes: Any) -> Callable[[Path], object]:
    """One more entry beside that of tokens 0 to 3 of layer 0."""
    return lambda root: write_entry(root, **{"start": 4, **changes})


def take(*names: str) -> Callable[[Path], object]:
    return lambda root: [path.with_name(name).unlink() for path in [write_entry(root, start=4)] for name in names]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (give(kv_heads=1, head_dim=16), "entries of one layer are not of one shape*t0_4.json*t4_8.json*2 heads of 8"),
        (give(dtype="bf16"), "entries of one layer are not of one shape*2 heads of 8, fp16 and 2 heads of 8, bf16"),
        (give(bytes_per_elem=4, dtype="fp32", head_dim=4), "*not of one shape*fp16 and 2 heads of 4, fp32*"),
        (give(start=0, layer_id=1, kv_heads=8, head_dim=2), "layers of one run are not of*_0/*_1/*8 heads of 2"),
        (give(start=0, layer_id=1, dtype="bf16"), "layers of one run are not of one shape*bf16"),
        (give(start=1), "a dump holds the same tokens twice*t0_4.json and *t1_5.json*tokens 1 to 3"),
        (give(k_file="k_t0_4.bin"), "two tensors of a dump have one data file*t0_4.json and *t4_8.json*"),
        (give(v_file="k_t4_8.bin"), "two tensors of a dump have one data file*run/layer_0/meta_t4_8.json\n*"),
        (give(start=0, layer_id=1, v_file="../layer_0/v_t0_4.bin"), "two tensors of a dump have one data file*"),
        (lambda root: (write_entry(root, layer_id=1).parent).rename(root / "layer_7"), "an entry is in the folder of*"),
        (give(), None),
        (lambda root: write_entry(root / "again", stage="decode"), None),
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


def test_a_root_that_is_no_dump_says_what_is_there(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    for number in range(8):
        (tmp_path / f"packed_meta_{number}.json").write_text("{}")
    (tmp_path / "dump.zip").write_bytes(b"PK no")
    (tmp_path / "empty").mkdir()
    (tmp_path / "zipped").mkdir()
    (tmp_path / "zipped" / "kv.zip").touch()
    os.mkfifo(tmp_path / "pipe.zip")
    places = ("dump", "nowhere/dump", ".", "empty", "zipped", "dump.zip", "pipe.zip")
    told = {place: error_text(DumpError, index_dump, tmp_path / place).replace(str(tmp_path), "") for place in places}
    assert told == snapshot
    empty = error_text(DumpError, check_dump, tmp_path / "empty")
    assert empty.replace(str(tmp_path), "") == told["empty"]
    check_dump(FP32)


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
    monkeypatch.setattr("pytest_h2o.lossless.index._TELL_EVERY", 50)
    told: list[int] = []
    index = index_dump(FP16, on_entries=told.append)
    assert told == sorted(told)
    assert told[-1] == index.scanned_entries
    assert all(after - before <= 50 for before, after in pairwise([0, *told]))


@pytest.mark.parametrize("workers", [2, 5])
def test_several_processes_find_what_one_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    root, pids, listed = tmp_path / "dump", tmp_path / "pids", tmp_path / "listed"
    pids.mkdir()
    for layer in range(8):
        metas = [write_entry(root, layer_id=layer, start=start) for start in (0, 10, 20)]
        write_entry(metas[0].parent / "meta_t0_9", run_id="inner", layer_id=layer)  # between them, in path order
        metas[1].rename(metas[1].with_name("meta_odd.json")) if layer % 2 else metas[1].unlink()
        metas[2].with_name("k_t20_24.bin").write_bytes(b"short")
        metas[1].with_name("v_t10_14.bin").write_bytes(b"short")
    here, told, one = os.getpid(), [0], index_dump(root)
    assert (len(one.entries), len(one.skipped)) == (16, 16)

    def tell(count: int) -> None:
        assert os.getpid() == here
        told.append(count)

    def names(folder: Folder) -> list[str]:  # twice, and other ones could be found
        with listed.open("a") as file:
            file.write(f"{folder.prefix}\n")
        return list_names(folder)

    def noted(folder: Folder, *given: Any) -> Any:
        (pids / str(os.getpid())).touch()
        if "layer_0" not in folder.prefix:  # of what they share
            wait_until(lambda: len(list(pids.iterdir())) > 1, "no other process takes part")
        return really(folder, *given)

    really, list_names = index_module._fields, Folder.names
    monkeypatch.setattr(Folder, "names", names)
    monkeypatch.setattr(index_module, "_fields", noted)
    monkeypatch.setattr(index_module, "_MANY", 3)
    several = index_dump(root, workers=workers, on_entries=tell)
    assert [entry._replace(root=None) for entry in several.entries] == [e._replace(root=None) for e in one.entries]  # type: ignore[arg-type]
    assert several.skipped == one.skipped
    assert told == sorted(told)
    assert told[-1] == len(list(root.rglob("meta_*.json")))
    assert len(set(listed.read_text().split())) == len(listed.read_text().split()) == 32
    open_files = psutil.Process().num_fds()
    write_entry(root, layer_id=7, start=30, k_file="/etc/passwd")
    with pytest.raises(DumpError, match="leads outside its own root"):
        index_dump(root, workers=workers)
    assert psutil.Process().num_fds() == open_files


def test_a_folder_with_the_name_of_a_data_file_is_not_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_MANY", 0)
    write_entry(tmp_path / "k_t0_4.bin", run_id="inner")
    write_entry(tmp_path)
    for workers in (1, 2):
        assert [entry.run_id for entry in index_dump(tmp_path, workers=workers).entries] == ["run"]


def test_deep_folders_are_no_recursion(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(400):
        deep = deep / "d"
    write_entry(deep)
    assert [entry.meta.count("/") for entry in index_dump(tmp_path).entries] == [402]


UNSOUND: list[dict[str, Any]] = [
    {"seq_len": True},
    {"seq_len": 4.0},
    {"layer_id": "0"},
    {"head_dim": ..., "kv_heads": None},
    {"layer_id": -1},
    {"seq_start": -4},
    {"seq_start": 2**63},
    {"seq_start": 2**63 - 4, "seq_end_exclusive": 2**63},
    {"layer_id": 2**31},
    {"seq_end_exclusive": 5},
    {"seq_end_exclusive": 4.0},
    {"seq_len": 0, "seq_end_exclusive": 0},
    {"kv_heads": 2**31},
    {"seq_len": 2**31, "seq_end_exclusive": 2**31},
    {"kv_heads": 2**31 - 1, "head_dim": 2**31 - 1},  # the product is beyond 64 bits
    {"kv_heads": 2**32, "head_dim": 2**32},
    {"kv_heads": -2, "head_dim": -8},
    {"head_dim": 9},
    {"bytes_per_elem": 1},
    {"dtype": "bf8"},
    {"dtype": ["fp16"]},
    {"stage": ...},
    {"stage": "both"},
    {"run_id": 7},
    {"v_file": ...},
    {"k_file": 3, "v_file": None},
    {"k_file": ""},
    {"k_file": "gone.bin"},
    {"k_file": "sub/gone.bin"},
    {"k_file": "\ud800"},
    {"k_file": "k_t0_4.bin/x"},
    {"k_file": "."},
]


def test_an_unsound_meta_is_skipped_with_its_reason(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    told = []
    for number, changes in enumerate(UNSOUND):
        write_entry(tmp_path / str(number), **changes)
        skipped = the_skipped(tmp_path / str(number))
        told.append(f"{changes}: {skipped.reason}: {skipped.detail}")
    assert "\n".join(told) == snapshot


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        (b"", "no JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"{", "no JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (b"\xff{}", "no JSON: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (b"[1]", "no JSON object but list"),
        (b"{} {}", "no JSON: text behind the end, at character 2"),
        (b'{"a":' * 10_900 + b"1" + b"}" * 10_900, "no JSON: maximum recursion depth exceeded"),
        (b'{"layer_id": ' + b"9" * 20_000 + b"}", "no JSON: Exceeds the limit"),
        (b"[" * 60_000, "no JSON: maximum recursion depth exceeded"),
        (b'{"layer_id": 1e999}', "layer_id is inf, seq_start is missing"),
        ("\ufeff\ufeff{}".encode(), "no JSON: Expecting value"),
        (b"null", "no JSON object but NoneType"),
        (b" " * 65537, "larger than 65536 bytes"),
    ],
    ids=[
        "empty",
        "cut",
        "no_utf8",
        "list",
        "two",
        "deep",
        "long_integer",
        "deep_list",
        "infinite",
        "two_marks",
        "null",
        "large",
    ],
)
def test_a_meta_that_is_no_json_object_is_skipped(tmp_path: Path, text: bytes, detail: str) -> None:
    write_entry(tmp_path).write_bytes(text)
    skipped = the_skipped(tmp_path)
    assert skipped.reason == ("meta_invalid_numeric_fields" if "layer_id is" in detail else "meta_parse_error")
    assert skipped.detail.startswith(detail)
    assert len(skipped.detail) < 1000
    assert (skipped.layer_id, skipped.stage, skipped.seq_len) == (None, None, None)


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_a_meta(tmp_path: Path) -> None:
    meta = write_entry(tmp_path)
    meta.write_bytes(
        b"\xef\xbb\xbf" + json.dumps(json.loads(meta.read_text()), indent=1).replace("\n", "\r\n").encode()
    )
    index = index_dump(tmp_path)
    assert (len(index.entries), index.skipped) == (1, ())


def test_a_meta_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    meta = write_entry(tmp_path)
    meta.write_bytes(meta.read_bytes().ljust(65536))
    assert len(index_dump(tmp_path).entries) == 1

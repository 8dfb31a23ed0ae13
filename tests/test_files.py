"""New files are whole, and never written over others."""

import json
import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o import files
from pytest_h2o.errors import StoreError
from pytest_h2o.files import (
    TooLarge,
    append_line,
    digest_file,
    dump,
    load,
    open_regular,
    plain,
    read_regular,
    read_regular_text,
    synced_together,
    write_new_bytes,
    write_new_json,
    write_new_text,
)


def test_text_is_written_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.txt"
    write_new_text(path, "é ±\n\r\n")
    assert path.read_bytes() == "é ±\n\r\n".encode()
    assert os.listdir(path.parent) == ["x.txt"]  # noqa: PTH208


def test_json_has_one_space_of_indent(tmp_path: Path) -> None:
    write_new_json(tmp_path / "x.json", {"a": ["é", 1.0]})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == '{\n "a": [\n  "é",\n  1.0\n ]\n}\n'
    with pytest.raises(ValueError, match="Out of range"):
        write_new_json(tmp_path / "a.json", {"x": float("nan")})
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("precious")
    with pytest.raises(StoreError) as caught:
        write_new_text(path, "new")
    assert str(caught.value) == (
        "a file that exists would be overwritten\n"
        f"  where: {path}\n"
        "  next: choose another output, or move the old file away"
    )
    assert [file.read_text() for file in tmp_path.iterdir()] == ["precious"]
    write_new_text(path, "asked for\n", overwrite=True)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["asked for\n"]


def test_a_dangling_link_counts_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "x.txt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="would be overwritten"):
        write_new_text(tmp_path / "x.txt", "new")
    assert not (tmp_path / "elsewhere").exists()


def test_one_of_many_writers_wins(tmp_path: Path) -> None:
    path, refused = tmp_path / "x.txt", []

    def write(text: str) -> None:
        try:
            write_new_text(path, text)
        except StoreError as error:
            refused.append((text, error.what))

    threads = [threading.Thread(target=write, args=(str(n) * 1000,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 7
    assert path.read_text() not in [text for text, _ in refused]
    assert [file.name for file in tmp_path.iterdir()] == ["x.txt"]


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    write_new_text(tmp_path / "x.txt", "new")
    with pytest.raises(StoreError, match="would be overwritten"):
        write_new_text(tmp_path / "x.txt", "newer")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("x.txt", "new")]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError) as caught:
        write_new_text(tmp_path / "file" / "x.txt", "new")
    assert (caught.value.what, caught.value.where) == ("a file cannot be written", str(tmp_path / "file" / "x.txt"))


def test_text_that_utf8_cannot_carry(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        write_new_text(tmp_path / "x.txt", "a\udcff")
    assert (caught.value.what, caught.value.came) == (
        "text that UTF-8 cannot carry was to be written",
        "'\\udcff' at character 1",
    )
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
    many = [tmp_path / "run" / "logs" / name for name in ("b.log", "c.log")]
    with synced_together():
        for path in many:
            write_new_bytes(path, b"x")
        assert synced == []
    assert sorted(synced) == [f"{tmp_path}/run/logs", *map(str, many)]
    del synced[:]
    for _ in range(2):
        append_line(tmp_path / "run" / "journal.jsonl", {})
    journal = f"{tmp_path}/run/journal.jsonl"
    assert synced == [journal, f"{tmp_path}/run", journal]


@dataclass(frozen=True)
class Figures:
    """What a test keeps as JSON."""

    run: str
    values: dict[str, int | float]
    places: tuple[Path, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    elapsed_s: float | None = None


def test_what_is_dumped_is_loaded(tmp_path: Path) -> None:
    value = Figures("a", {"lossy": 3, "drop": 0.5}, (Path("/x"),), {"deep": [1, {"y": None}]}, 2.0)
    assert plain(value) == json.loads(dump(value))
    write_new_text(tmp_path / "a.json", dump(value))
    for source in (tmp_path / "a.json", dump(value), dump(value).encode(), plain(value)):
        assert load(Figures, source, "figures") == value
    assert load(Figures, {**plain(value), "later": 1}, "figures") == value
    assert [type(number) for number in load(Figures, dump(value), "figures").values.values()] == [int, float]


def test_what_cannot_be_loaded_is_told_with_its_place(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    sources = {
        **dict.fromkeys(('{"run"', "[]", "{}", '{"run": 1, "values": {}}', '{"run": "a", "values": {"lossy": "3"}}')),
        '{"run": "a", "values": {"lossy": true}, "places": [1]}': None,
        '{"run": "a", "values": {}, "places": ["x", null]}': None,
        '{"run": "a", "values": {"x": NaN}}': None,
        '{"run": "a", "values": {"x": 1, "x": 2}}': None,
        '{"run": "\\ud800", "values": {}}': None,
        "nested": "[" * 100_000,
        "not UTF-8": b"\xff",
    }
    told = {}
    for name, source in sources.items():
        with pytest.raises(StoreError) as caught:
            load(Figures, source or name, "figures", where="f.json", hint="write them again")
        told[name] = str(caught.value)
    (tmp_path / "large.json").write_text("[1, 2]")
    for path in (tmp_path / "large.json", tmp_path, tmp_path / "none"):
        with pytest.raises(StoreError) as caught:
            load(Figures, path, "figures", most_bytes=5)
        told[path.name if path != tmp_path else "folder"] = str(caught.value).replace(str(tmp_path), "DIR")
    assert told == snapshot
    with pytest.raises(StoreError, match="figures cannot be read"):
        load(Figures, '{"run": "a", "values": {"x": 1e999}}', "figures")


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a socket", "a folder"])
def test_only_regular_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    path = Path("x")
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "a folder":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    for read in (read_regular, open_regular):
        with pytest.raises(OSError, match=f"{kind}, not a regular file"):
            read(path)
    assert digest_file(path) == "unreadable"


def test_no_more_is_read_than_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(TooLarge, match="3,221,225,472 bytes, more than 67,108,864"):
        read_regular(path)
    path.write_bytes(b"12345")
    assert read_regular(path, 5) == b"12345"
    with pytest.raises(TooLarge):
        read_regular(path, 4)
    assert read_regular(Path("/proc/self/status")).startswith(b"Name:")  # a file of unknown size, read to its end
    with pytest.raises(OSError, match="NUL"):
        read_regular(tmp_path / "a\0b")


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'\xef\xbb\xbf{"run": "a",\r\n "values": {}}\r\n')
    assert read_regular_text(path) == '{"run": "a",\r\n "values": {}}\r\n'
    assert load(Figures, path, "figures") == Figures("a", {})


def test_the_digest_of_a_large_file_is_remembered_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "llm.mnn.weight"
    with path.open("wb") as file:
        file.truncate(16 << 20)
    digest = digest_file(path)
    assert not (tmp_path / "cache").exists()  # it changed a moment ago, and may again with the same times
    monkeypatch.setattr(files, "_SETTLED_NS", -(10**12))
    assert digest_file(path) == digest
    (memory,) = (tmp_path / "cache" / "pytest-h2o" / "digests").iterdir()
    memory.write_text(memory.read_text().replace(digest, "0" * 64))
    assert digest_file(path) == "0" * 64
    status = path.stat()
    with path.open("r+b") as file:
        file.write(b"1")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # only the time of change of the inode tells it
    assert digest_file(path) not in ("0" * 64, digest)
    for damage in ("", "[]", '{"marks": 1}', '{"sha256": 3}'):
        memory.write_text(damage)
        assert len(set(digest_file(path)) - {"0"}) > 1
    path.with_name("small").write_bytes(b"1")
    digest_file(path.with_name("small"))
    assert list(memory.parent.iterdir()) == [memory]


def test_where_nothing_can_be_kept_a_digest_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_WORTH_REMEMBERING", 0)
    monkeypatch.setattr(files, "_SETTLED_NS", -(10**12))
    path = tmp_path / "x"
    path.write_bytes(b"1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))  # no folder
    digest = digest_file(path)
    monkeypatch.setattr(Path, "expanduser", lambda _: (_ for _ in ()).throw(RuntimeError))
    assert digest_file(path) == digest == "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"

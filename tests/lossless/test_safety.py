"""A dump that leads outside its root is refused before anything outside is read."""

import os
import stat
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.errors import DumpError
from pytest_h2o.lossless import roots as zip_root
from pytest_h2o.lossless.index import index_dump
from pytest_h2o.lossless.roots import DumpRoot, join_inside
from tests.lossless.samples import make_zip, read_words, write_entry
from tests.told import error_text


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """A root whose neighbours hold a data file of the right size."""
    write_entry(tmp_path / "outside")
    root = tmp_path / "dump"
    write_entry(root)
    return root


OUTSIDE = "../../../outside/run/layer_0/k_t0_4.bin"


def test_data_file_outside_is_refused(dump: Path, snapshot: SnapshotAssertion) -> None:
    write_entry(dump, start=8, k_file=OUTSIDE)
    assert error_text(DumpError, index_dump, dump).replace(str(dump), "") == snapshot


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        OUTSIDE,
        "/etc/hostname",
        "\\\\server\\share\\k.bin",
        "C:\\k.bin",
        "C:k.bin",
        "..\\..\\..\\outside\\k.bin",
        "sub/../../../../outside",
        "k\0.bin",
    ],
)
def test_absolute_and_climbing_names_are_refused(dump: Path, name: str, packed: bool) -> None:
    write_entry(dump, start=8, v_file=name)
    with pytest.raises(DumpError, match="leads outside its own root"):
        index_dump(make_zip(dump, dump.with_suffix(".zip")) if packed else dump)


def test_name_that_turns_round_inside_is_read(dump: Path) -> None:
    write_entry(dump, start=8, k_file="../layer_0/./k_t8_12.bin", v_file="..\\layer_0\\v_t8_12.bin")
    index = index_dump(dump)
    assert index.skipped == ()
    assert read_words(index.entries[1], "k").shape == (4, 2, 8)


@pytest.mark.parametrize("kind", ["data", "meta", "folder"])
def test_link_that_leaves_the_root_is_refused(dump: Path, kind: str) -> None:
    outside = dump.parent / "outside" / "run"
    folder = dump / "run" / "layer_0"
    if kind == "data":
        (folder / "k_t0_4.bin").unlink()
        (folder / "k_t0_4.bin").symlink_to(outside / "layer_0" / "k_t0_4.bin")
    elif kind == "meta":
        (folder / "meta_t9_13.json").symlink_to(outside / "layer_0" / "meta_t0_4.json")
    else:
        (dump / "more").symlink_to(outside)
    with pytest.raises(DumpError, match="leads outside its own root") as caught:
        index_dump(dump)
    assert "is a link to" in str(caught.value.came)


def test_links_inside_the_root_are_followed_once(dump: Path) -> None:
    folder = dump / "run" / "layer_0"
    (folder / "k_t0_4.bin").rename(dump / "blob")
    (folder / "k_t0_4.bin").symlink_to(dump / "blob")
    (dump / "again").symlink_to(folder)
    (dump / "loop").symlink_to(dump)
    (entry,) = index_dump(dump).entries
    assert entry.k_location == str(dump.resolve() / "blob")
    assert read_words(entry, "k").size == 64


def test_root_may_itself_be_a_link(dump: Path) -> None:
    link = dump.parent / "link"
    link.symlink_to(dump)
    assert len(index_dump(link).entries) == 1


def test_file_swapped_for_a_link_after_the_index_is_not_followed(dump: Path) -> None:
    (entry,) = index_dump(dump).entries
    data = Path(entry.k_location)
    data.unlink()
    data.symlink_to(dump.parent / "outside" / "run" / "layer_0" / "k_t0_4.bin")
    with pytest.raises(DumpError, match="a data file cannot be read"):
        read_words(entry, "k")


def pack(dump: Path, archive: Path, method: int = zipfile.ZIP_STORED, other: str = "") -> Path:
    """An archive of a dump as it is; of one file, if it is named, by another method."""
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(dump.rglob("*.*")):
            file.write(path, path.relative_to(dump), method if path.name == other else zipfile.ZIP_STORED)
    return archive


def rewrite_zip(source: Path, target: Path, rename: dict[str, str]) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(rename.get(name, name), old.read(name))
    return target


@pytest.mark.parametrize("name", ["", "\0x"])
def test_an_archive_member_without_a_name_is_refused(name: str, tmp_path: Path) -> None:
    """Found by fuzzing: a name that begins with a zero byte is empty to the library."""
    archive = tmp_path / "dump.zip"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("xy", b"")
    padded = name.encode().ljust(2, b"\0")
    archive.write_bytes(archive.read_bytes().replace(b"xy", padded))
    with pytest.raises(DumpError, match="an archive holds a member without a name"):
        index_dump(archive)


@pytest.mark.parametrize("name", ["../k.bin", "/k.bin", "run/../../k.bin", "run/../k.bin", "..\\k.bin", "C:\\k.bin"])
def test_archive_members_that_climb_are_refused(dump: Path, tmp_path: Path, name: str) -> None:
    archive = rewrite_zip(make_zip(dump, tmp_path / "a.zip"), tmp_path / "b.zip", {"run/layer_0/k_t0_4.bin": name})
    with pytest.raises(DumpError, match="leads outside its own root"):
        index_dump(archive)


def test_archive_members_that_are_links_or_come_twice_are_refused(dump: Path, tmp_path: Path) -> None:
    archive = make_zip(dump, tmp_path / "a.zip")
    with zipfile.ZipFile(archive, "a") as file:
        link = zipfile.ZipInfo("run/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "/etc/passwd")
    with pytest.raises(DumpError, match="symbolic link"):
        index_dump(archive)
    archive = make_zip(dump, tmp_path / "b.zip")
    with zipfile.ZipFile(archive, "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("run/layer_0/k_t0_4.bin", b"other")
    with pytest.raises(DumpError, match="two members of one name"):
        index_dump(archive)


def test_large_meta_in_an_archive_is_not_unpacked_whole(dump: Path, tmp_path: Path) -> None:
    write_entry(dump, start=8).write_bytes(b" " * 50_000_000)
    index = index_dump(make_zip(dump, tmp_path / "a.zip"))
    assert [entry.detail for entry in index.skipped] == ["larger than 65536 bytes"]


def test_damaged_archive_member_is_one_error(dump: Path, tmp_path: Path) -> None:
    archive = pack(dump, tmp_path / "stored.zip")
    data = archive.read_bytes()
    k = (dump / "run" / "layer_0" / "k_t0_4.bin").read_bytes()
    at = data.index(k)
    archive.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    (entry,) = index_dump(archive).entries
    with pytest.raises(DumpError, match="an archive member is damaged"):
        read_words(entry, "k")


def flip(archive: Path, target: Path, old: bytes, new: bytes) -> Path:
    """The archive with each `old` replaced."""
    data = archive.read_bytes()
    assert old in data
    target.write_bytes(data.replace(old, new))
    return target


def test_archive_member_that_claims_more_than_there_can_be_is_skipped(dump: Path, tmp_path: Path) -> None:
    """Its shape agrees with the claim, so that only the size of the archive tells."""
    heads = 2**31 - 1
    write_entry(dump, start=8, kv_heads=heads)
    archive = make_zip(dump, tmp_path / "a.zip")
    with zipfile.ZipFile(archive, "a") as file:
        for info in file.filelist:
            if info.filename.endswith("t8_12.bin"):
                info.file_size = 4 * heads * 8 * 2
        file._didModify = True  # write the directory anew
    (skipped,) = index_dump(archive).skipped
    assert skipped.detail == f"'k_t8_12.bin' claims {4 * heads * 16} bytes, more than the archive holds"


def test_archive_member_that_is_not_there_or_cannot_be_unpacked_is_skipped(dump: Path, tmp_path: Path) -> None:
    write_entry(dump, start=8, k_file="gone.bin")
    archive = pack(dump, tmp_path / "a.zip", zipfile.ZIP_BZIP2, "v_t0_4.bin")
    assert [entry.detail for entry in index_dump(archive).skipped] == [
        "'v_t0_4.bin' is encrypted, or packed by a method that is not read",
        "'gone.bin' does not exist",
    ]


def test_damaged_meta_in_an_archive_is_skipped(dump: Path, tmp_path: Path) -> None:
    damaged = flip(pack(dump, tmp_path / "a.zip"), tmp_path / "b.zip", b'"head_dim": 8', b'"head_dim": 9')
    (skipped,) = index_dump(damaged).skipped
    assert skipped.reason == "meta_parse_error"
    assert skipped.detail.startswith("cannot be read: Bad CRC-32")


def test_archive_member_with_another_size_is_one_error(dump: Path, tmp_path: Path) -> None:
    archive = make_zip(dump, tmp_path / "a.zip")
    (entry,) = index_dump(archive).entries
    members = entry.root.members  # type: ignore[attr-defined]
    members[entry.k_location] = members[entry.k_location]._replace(bytes=200)
    with pytest.raises(DumpError, match="an archive member is damaged"):
        read_words(entry, "k")


@pytest.mark.parametrize(
    ("old", "new", "came"),
    [
        (b"PK\5\6" + bytes(4), b"PK\5\6" + b"\1" + bytes(3), None),
        (b"PK\1\2", b"PK\1\3", "Bad magic number for central directory"),
        (b"PK\1\2\x14\3\x14", b"PK\1\2\x14\3\x40", "zip file version 6.4"),
        (b"run/layer_0/k_t0_4.bin", b"run/layer_0/\x81_t0_4.bin", None),  # a letter of DOS
    ],
)
def test_archive_that_is_not_plain_is_read_as_the_library_reads_it(
    dump: Path, tmp_path: Path, old: bytes, new: bytes, came: str | None
) -> None:
    archive = flip(make_zip(dump, tmp_path / "a.zip"), tmp_path / "b.zip", old, new)
    if came is None:
        assert index_dump(archive).scanned_entries == 1
        return
    with pytest.raises(DumpError, match="neither a folder nor a zip archive") as caught:
        index_dump(archive)
    assert came in str(caught.value.came)


def test_archive_with_a_comment_is_read(dump: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(make_zip(dump, tmp_path / "a.zip"), "a") as file:
        file.comment = b"of the nightly run"
    (entry,) = index_dump(tmp_path / "a.zip").entries
    assert read_words(entry, "k").tobytes() == (dump / "run" / "layer_0" / "k_t0_4.bin").read_bytes()


def test_archive_without_metas_says_what_is_there(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("other/readme.txt", "no dump")
    with pytest.raises(DumpError, match="there are: other"):
        index_dump(tmp_path / "a.zip")


@given(prefix=st.sampled_from(["", "a/", "a/b/"]), name=st.text(st.sampled_from("ab./\\:C\0"), max_size=12))
@settings(max_examples=300, deadline=None)
def test_joined_names_stay_inside(prefix: str, name: str) -> None:
    inside = join_inside(prefix, name)
    if inside is not None:
        assert not inside.startswith("/")
        assert not {"..", "."} & set(inside.split("/"))
        assert "\0" not in inside
        assert os.path.normpath("/root/" + inside).startswith("/root")


def test_meta_of_a_gigabyte_is_refused_by_its_size(dump: Path) -> None:
    with write_entry(dump, start=8).open("r+b") as file:
        file.truncate(1 << 30)
    tracemalloc.start()
    try:
        index = index_dump(dump)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [entry.detail for entry in index.skipped] == ["larger than 65536 bytes"]
    assert peak_bytes < 1 << 20


def test_zip_bomb_of_data_is_skipped(dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shape and the archive agree: only that a member is unpacked whole speaks against it."""
    monkeypatch.setattr(zip_root, "_MOST_BYTES", 1 << 16)
    rows = (1 << 11) + 1
    write_entry(dump, start=8, seq_len=rows, seq_end_exclusive=8 + rows, data=bytes(rows * 32))
    (skipped,) = index_dump(make_zip(dump, tmp_path / "a.zip")).skipped
    assert skipped.detail == f"'k_t8_12.bin' has {rows * 32} bytes, more than 65536: unpack the archive into a folder"
    monkeypatch.setattr(zip_root, "_MOST_BYTES", rows * 32)
    assert index_dump(make_zip(dump, tmp_path / "b.zip")).skipped == ()


def test_members_of_an_archive_are_found_and_refused_by_their_own_headers(dump: Path, tmp_path: Path) -> None:
    """A header that is longer than the directory says is read again; one that is none, or a packed meta, is damage."""
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(dump.rglob("*.*")):
            info = zipfile.ZipInfo(path.relative_to(dump).as_posix())
            file.writestr(info, path.read_bytes())
            info.extra = b"\xfe\xca\4\0more"  # goes to the directory alone
    (entry,) = index_dump(archive).entries
    assert read_words(entry, "k").tobytes() == (dump / "run" / "layer_0" / "k_t0_4.bin").read_bytes()
    (skipped,) = index_dump(flip(archive, tmp_path / "b.zip", b"PK\3\4", b"PK\3\5")).skipped
    assert skipped.detail == "cannot be read: Bad magic number for file header"
    with zipfile.ZipFile(tmp_path / "c.zip", "w", zipfile.ZIP_BZIP2) as file:
        file.writestr("meta_t0_4.json", "{}")
    (skipped,) = index_dump(tmp_path / "c.zip").skipped
    assert skipped.detail == "cannot be read: encrypted, or packed by a method that is not read"


def test_entries_without_files_cannot_be_read(dump: Path) -> None:
    (entry,) = index_dump(dump).entries
    with pytest.raises(DumpError, match="are not where its streams are coded"):
        read_words(entry._replace(root=DumpRoot()), "k")

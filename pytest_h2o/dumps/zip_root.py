"""A dump in a .zip archive, read in place: nothing is unpacked to disk."""

from __future__ import annotations

import stat
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from pytest_h2o.dumps.meta import META_MAX_BYTES, Meta, MetaFault, parse_meta
from pytest_h2o.dumps.paths import is_meta_name, join_inside, refuse_outside
from pytest_h2o.errors import DumpError

_ENCRYPTED = 1
_MOST_TIMES = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032}
"""Methods that are read, and how many times as large as its packed bytes a member can become by each."""
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, OverflowError, RuntimeError)
"""What the library raises for damage, NotImplementedError (a RuntimeError) among it."""
_RECENT = 4
"""Unpacked members kept for reads of a part: two tensors for two threads."""
_MOST_BYTES = 1 << 28
"""A member is unpacked whole: a larger one is no affair of memory, but of a folder."""


class ZipRoot:
    """The archive at `path`; it stays open as long as this object lives.

    Raises
    ------
    DumpError
        It is no zip archive, or one of its names is empty, leads outside, comes twice, or is a link.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except _DAMAGE as error:
            raise DumpError(
                "this is neither a folder nor a zip archive that can be read",
                where=path,
                came=str(error),
                expected="a dump folder, or a .zip of one",
            ) from error
        self._bytes = Path(path).stat().st_size
        self._members = {}
        for info in self._archive.infolist():
            if not info.filename:  # is_dir() would fail on it
                where = f"{path}: {info.orig_filename!r}"
                raise DumpError("an archive holds a member without a name", where=where, expected="the name of a file")
            if not info.is_dir():
                self._members[self._checked_name(info)] = info
        self._recent: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def metas(self) -> Iterator[tuple[ZipFolder, str]]:
        """Every meta in path order: its folder, and its name there."""
        for *folder, name in sorted(member.split("/") for member in self._members):
            if is_meta_name(name):
                yield ZipFolder(self, "".join(f"{part}/" for part in folder)), name

    def read_into(self, location: str, offset: int, buffer: memoryview, *, is_end: bool) -> None:
        """See `DumpRoot`; `location` is the name of a member."""
        with self._lock:
            data = self._recent.get(location)
        if data is None:
            data = self._unpack(location)
            if len(buffer) < len(data):  # a part: others will follow
                with self._lock:
                    self._recent[location] = data
                    while len(self._recent) > _RECENT:
                        self._recent.pop(next(iter(self._recent)))
        buffer[:] = data[offset : offset + len(buffer)]

    def map_file(self, location: str, size: int, *, is_end: bool) -> None:
        """A member is not mapped: it may be packed."""

    def listing(self) -> list[str]:
        """Names at the top, for messages."""
        return sorted({name.split("/")[0] for name in self._members})

    def locate(self, name: str, prefix: str, where: str) -> tuple[str, int]:
        """Member name and size in bytes of the data file that the meta `where` calls `name`.

        Raises
        ------
        MetaFault, DumpError
            As `Folder.locate` does.
        """
        inside = join_inside(prefix, name)
        if inside is None:
            refuse_outside(f"{self.path}: {where}", f"data file {name!r}")
        info = self._members.get(inside)
        if info is None:
            raise MetaFault("missing_k_or_v_binary", f"{name!r} does not exist")
        if info.flag_bits & _ENCRYPTED or info.compress_type not in _MOST_TIMES:
            raise MetaFault("binary_read_error", f"{name!r} is encrypted, or packed by a method that is not read")
        if info.file_size > self._bytes * _MOST_TIMES[info.compress_type]:
            raise MetaFault("binary_read_error", f"{name!r} claims {info.file_size} bytes, more than the archive holds")
        if info.file_size > _MOST_BYTES:
            detail = f"{name!r} has {info.file_size} bytes, more than {_MOST_BYTES}: unpack the archive into a folder"
            raise MetaFault("binary_read_error", detail)
        return inside, info.file_size

    def _checked_name(self, info: zipfile.ZipInfo) -> str:
        where = f"{self.path}: {info.orig_filename!r}"
        inside = join_inside("", info.orig_filename)
        if inside is None or ".." in info.orig_filename.replace("\\", "/").split("/"):
            refuse_outside(where, "an archive member whose name is absolute or climbs")
        if stat.S_ISLNK(info.external_attr >> 16):
            refuse_outside(where, "an archive member that is a symbolic link")
        if inside in self._members:
            raise DumpError("an archive holds two members of one name", where=where, expected="each name once")
        return inside

    def read_meta(self, name: str) -> bytes:
        """Bytes of a meta member, at most one over `META_MAX_BYTES`; MetaFault if they cannot be had."""
        try:
            with self._archive.open(self._members[name]) as member:
                return member.read(META_MAX_BYTES + 1)
        except _DAMAGE as error:
            raise MetaFault("meta_parse_error", f"cannot be read: {error}") from error

    def _unpack(self, location: str) -> bytes:
        """The whole member; reading to its end also checks its CRC-32."""
        info = self._members[location]
        try:
            with self._archive.open(info) as member:
                data = member.read(info.file_size)
        except _DAMAGE as error:
            raise DumpError(
                "an archive member is damaged", where=f"{self.path}: {location}", came=str(error)
            ) from error
        if len(data) != info.file_size:
            raise DumpError(
                "an archive member has another size than the archive says",
                where=f"{self.path}: {location}",
                came=f"{len(data)} bytes",
                expected=f"{info.file_size} bytes",
            )
        return data


class ZipFolder:
    """One folder of the archive; as `Folder`."""

    def __init__(self, root: ZipRoot, prefix: str) -> None:
        self.prefix = prefix
        self._root = root

    def meta(self, name: str) -> Meta:
        return parse_meta(self._root.read_meta(self.prefix + name))

    def locate(self, name: str, meta: str, *, sized: bool) -> tuple[str, int]:
        return self._root.locate(name, self.prefix, self.prefix + meta)

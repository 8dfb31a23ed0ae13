"""Where a dump lies: in a folder, or in a .zip archive of one. Nothing outside of it is opened.

A dump can hold a hundred thousand tiny files, so that this module keeps to `os`: no path objects, one listing a
folder, and three system calls a file (two for a member of an archive).
"""

# ruff: noqa: PTH112, PTH113, PTH116, PTH208

from __future__ import annotations

import mmap
import os
import stat
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_h2o.errors import DumpError
from pytest_h2o.files import check_regular
from pytest_h2o.lossless.meta import META_MAX_BYTES, MetaFault, is_meta_name, join_inside, refuse_outside

if TYPE_CHECKING:
    import zipfile

_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
_WORLD_READABLE = 0o004
_FIRST_READ = 4096


class DumpRoot:
    """Where data files are. This one holds none: it is the root of entries that travel with their words."""

    def read_into(self, location: str, offset: int, buffer: memoryview, *, is_end: bool) -> None:
        """Fill `buffer` with the bytes of a data file from `offset` on; DumpError if `is_end` and it goes on."""
        raise DumpError("the files of a dump are not where its streams are coded", where=location)

    def map_file(self, location: str, size: int, *, is_end: bool) -> mmap.mmap | None:
        """The first `size` bytes of a data file as read-only memory; None if it cannot be mapped."""
        return None


class FolderRoot(DumpRoot):
    """The folder at `path`, made absolute and free of links once, here. A location is an absolute path without links.

    Nothing but regular files is opened.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(path)

    def metas(self) -> Iterator[tuple[Folder, str]]:
        """Every meta in path order: its folder, and its name there."""
        folder = Folder(self, "")
        pending = [(folder, iter(folder.names()))]
        while pending:  # a stack of our own: a dump may be nested deeper than Python recurses
            folder, names = pending[-1]
            for name in names:
                if folder.files[name].is_dir(follow_symlinks=False):
                    inner = Folder(self, f"{folder.prefix}{name}/")
                    pending.append((inner, iter(inner.names())))
                    break
                yield folder, name
            else:
                pending.pop()

    def follow(self, path: str, where: str) -> str:
        """`path` without links."""
        real = os.path.realpath(path)
        if not f"{real}{os.sep}".startswith(self.path.rstrip(os.sep) + os.sep):
            refuse_outside(f"{self.path}/{where}", f"{path} is a link to {real}")
        return real

    def read_into(self, location: str, offset: int, buffer: memoryview, *, is_end: bool) -> None:
        try:
            file = os.open(location, _FLAGS)
            try:
                if offset:
                    os.lseek(file, offset, os.SEEK_SET)
                surplus = bytearray(is_end)
                done = os.readv(file, [buffer, surplus])
                while done < len(buffer):
                    more = os.readv(file, [buffer[done:], surplus])
                    if not more:
                        break
                    done += more
            finally:
                os.close(file)
        except OSError as error:
            raise DumpError("a data file cannot be read", where=location, came=str(error.strerror)) from error
        if done != len(buffer):
            surplus_note = " or more" if done > len(buffer) else ""
            raise _other_size(location, f"{offset + done} bytes{surplus_note}", offset + len(buffer), is_end)

    def map_file(self, location: str, size: int, *, is_end: bool) -> mmap.mmap:
        try:
            file = os.open(location, _FLAGS)
            try:
                found = os.fstat(file).st_size
                if found < size or (is_end and found != size):
                    raise _other_size(location, f"{found} bytes", size, is_end)
                return mmap.mmap(file, size, access=mmap.ACCESS_READ)
            finally:
                os.close(file)
        except (OSError, ValueError) as error:  # ValueError: it became shorter since we looked
            raise DumpError(
                "a data file cannot be mapped", where=location, came=str(error), expected=f"{size} bytes"
            ) from error

    def listing(self) -> list[str]:
        """Names at the top, for messages."""
        return sorted(os.listdir(self.path))


def _other_size(location: str, came: str, size: int, is_end: bool) -> DumpError:
    return DumpError(
        "a data file has another size than its meta says",
        where=location,
        came=came,
        expected=f"{'' if is_end else 'at least '}{size} bytes",
        hint="is a run still writing it?",
    )


class Folder:
    """One folder of a dump; one listing serves for all of its metas.

    `prefix` is its path below the root, empty or with a ``/`` at its end; `files` is the listing, by name.
    """

    def __init__(self, root: FolderRoot, prefix: str) -> None:
        self.prefix = prefix
        self._root = root
        self._path = f"{root.path}/{prefix}"
        try:
            with os.scandir(self._path) as listing:
                self.files = {entry.name: entry for entry in listing}
        except OSError as error:
            raise DumpError(
                "a folder of the dump cannot be listed",
                where=self._path,
                came=str(error.strerror),
                hint="its entries would be missing from the result; mend its permissions or take it out",
            ) from error

    def names(self) -> list[str]:
        """Metas and folders here, sorted as plain strings; a folder that is a link is not entered."""
        chosen = []
        for name, entry in self.files.items():
            if is_meta_name(name) or entry.is_dir(follow_symlinks=False):
                chosen.append(name)
            elif entry.is_symlink() and os.path.isdir(entry.path):
                self._root.follow(entry.path, self.prefix + name)  # inside: it is indexed where it stands
        return sorted(chosen)

    def read_meta(self, name: str) -> bytes:
        """Bytes of a meta file, at most one over `META_MAX_BYTES`; MetaFault if they cannot be had."""
        path, entry = f"{self._path}{name}", self.files[name]
        try:
            if entry.is_symlink():
                path = self._root.follow(path, self.prefix + name)
                regular = os.path.isfile(path)
            else:
                regular = entry.is_file(follow_symlinks=False)
            if not regular:
                raise MetaFault("meta_parse_error", "not a regular file")
            return _read_up_to(path, META_MAX_BYTES + 1)
        except OSError as error:
            raise MetaFault("meta_parse_error", f"cannot be read: {error.strerror}") from error

    def locate(self, name: str, meta: str, *, sized: bool) -> tuple[str, int | None]:
        """Location and size in bytes of the data file that the meta file `meta` calls `name`.

        Unless `sized`, the size is None where looking it up would cost a system call.
        """
        path = f"{self._path}{name}"
        entry = self.files.get(name)
        try:
            if entry is not None and not entry.is_symlink():
                if not sized and entry.is_file(follow_symlinks=False):
                    return path, None
                status = entry.stat(follow_symlinks=False)
            else:
                inside = join_inside(self.prefix, name)
                if inside is None:
                    refuse_outside(f"{self._path}{meta}", f"data file {name!r}")
                path = self._root.follow(f"{self._root.path}/{inside}", self.prefix + meta)
                status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError, UnicodeEncodeError) as error:
            raise MetaFault("missing_k_or_v_binary", f"{name!r} does not exist") from error
        except OSError as error:
            raise MetaFault("binary_read_error", f"{name!r} cannot be read: {error.strerror}") from error
        if not stat.S_ISREG(status.st_mode):
            raise MetaFault("missing_k_or_v_binary", f"{name!r} is no regular file")
        if not status.st_mode & _WORLD_READABLE and not os.access(path, os.R_OK):
            raise MetaFault("binary_read_error", f"{name!r}: no permission to read it")
        return path, status.st_size


def _read_up_to(path: str, limit: int) -> bytes:
    file = os.open(path, _FLAGS)
    try:
        data = os.read(file, _FIRST_READ)
        if len(data) < _FIRST_READ:
            return data
        if os.fstat(file).st_size > limit:
            raise MetaFault("meta_parse_error", f"larger than {META_MAX_BYTES} bytes")
        while len(data) < limit and (more := os.read(file, limit - len(data))):
            data += more
        return data
    finally:
        os.close(file)


_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 1
_MOST_TIMES = {_STORED: 1, _DEFLATED: 1032}
"""Methods that are read, and how many times as large as its packed bytes a member can become by each."""

_LOCAL = struct.Struct("<26xHH")
"""Signature and what the directory says too, then the lengths of name and extra field, which follow."""

_DAMAGE = (OSError, ValueError, OverflowError, zlib.error)
"""What reading a member raises: OverflowError for a place beyond what a file can have."""

_RECENT = 4
"""Unpacked members kept for reads of a part: two tensors for two threads."""

_MOST_BYTES = 1 << 28
"""A member is unpacked whole: a larger one is no affair of memory, but of a folder."""


class ZipRoot(DumpRoot):
    """The archive at `path`; it stays open as long as this object lives. A location is the name of a member.

    The library reads the directory of the archive; members are read here, without a lock and six times as fast.
    """

    def __init__(self, path: str) -> None:
        from zipfile import BadZipFile, ZipFile  # it brings every decompressor along

        self.path = path
        try:
            check_regular(Path(path))
            self._archive = ZipFile(path)
        except (BadZipFile, struct.error, OSError, ValueError, OverflowError, RuntimeError) as error:
            raise DumpError(
                "this is neither a folder nor a zip archive that can be read",
                where=path,
                came=str(error),
                expected="a dump folder, or a .zip of one",
            ) from error
        assert self._archive.fp is not None
        self._file = self._archive.fp.fileno()
        self.bytes = os.fstat(self._file).st_size
        self.members: dict[str, zipfile.ZipInfo] = {}
        for info in self._archive.infolist():
            if not info.filename:  # is_dir() would fail on it
                where = f"{path}: {info.orig_filename!r}"
                raise DumpError("an archive holds a member without a name", where=where, expected="the name of a file")
            if not info.is_dir():
                self.members[self._checked_name(info)] = info
        self._recent: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def _checked_name(self, info: zipfile.ZipInfo) -> str:
        name = info.orig_filename
        inside = join_inside("", name)
        if inside is None or (inside != name and ".." in name.replace("\\", "/").split("/")):
            refuse_outside(f"{self.path}: {name!r}", "an archive member whose name is absolute or climbs")
        if stat.S_ISLNK(info.external_attr >> 16):
            refuse_outside(f"{self.path}: {name!r}", "an archive member that is a symbolic link")
        if inside in self.members:
            where = f"{self.path}: {name!r}"
            raise DumpError("an archive holds two members of one name", where=where, expected="each name once")
        return inside

    def metas(self) -> Iterator[tuple[ZipFolder, str]]:
        """Every meta in path order: its folder, and its name there."""
        for *folder, name in sorted(member.split("/") for member in self.members):
            if is_meta_name(name):
                yield ZipFolder(self, "".join(f"{part}/" for part in folder)), name

    def read_into(self, location: str, offset: int, buffer: memoryview, *, is_end: bool) -> None:
        data = self._recent.get(location)
        if data is None:
            try:
                data = self.unpack(self.members[location])
            except _DAMAGE as error:
                raise DumpError(
                    "an archive member is damaged", where=f"{self.path}: {location}", came=str(error)
                ) from error
            if len(buffer) < len(data):  # a part: others will follow
                with self._lock:
                    self._recent[location] = data
                    while len(self._recent) > _RECENT:
                        self._recent.pop(next(iter(self._recent)))
        buffer[:] = data[offset : offset + len(buffer)]

    def unpack(self, info: zipfile.ZipInfo) -> bytes:
        """The whole member, compared with its size and CRC-32; ValueError for damage."""
        if info.flag_bits & _ENCRYPTED or info.compress_type not in _MOST_TIMES:
            raise ValueError("encrypted, or packed by a method that is not read")
        begin = _LOCAL.size + len(info.orig_filename) + len(info.extra)  # as most writers have it
        size = min(info.compress_size, self.bytes)
        data = os.pread(self._file, begin + size, info.header_offset)
        if not data.startswith(b"PK\3\4") or len(data) < _LOCAL.size:
            raise ValueError("Bad magic number for file header")
        if begin != (really := _LOCAL.size + sum(_LOCAL.unpack_from(data))):
            data = os.pread(self._file, really + size, info.header_offset)
        data = data[really:]
        if info.compress_type == _DEFLATED:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, info.file_size + 1)
        if len(data) != info.file_size:
            raise ValueError(f"another size than the archive says: {len(data)} bytes, expected {info.file_size}")
        if zlib.crc32(data) != info.CRC:
            raise ValueError(f"Bad CRC-32 for file {info.filename!r}")
        return data

    def listing(self) -> list[str]:
        """Names at the top, for messages."""
        return sorted({name.split("/")[0] for name in self.members})


class ZipFolder:
    """One folder of the archive; as `Folder`."""

    def __init__(self, root: ZipRoot, prefix: str) -> None:
        self.prefix = prefix
        self._root = root

    def read_meta(self, name: str) -> bytes:
        info = self._root.members[self.prefix + name]
        try:
            if info.file_size > META_MAX_BYTES:
                raise MetaFault("meta_parse_error", f"larger than {META_MAX_BYTES} bytes")
            return self._root.unpack(info)
        except _DAMAGE as error:
            raise MetaFault("meta_parse_error", f"cannot be read: {error}") from error

    def locate(self, name: str, meta: str, *, sized: bool) -> tuple[str, int]:
        inside = join_inside(self.prefix, name)
        if inside is None:
            refuse_outside(f"{self._root.path}: {self.prefix}{meta}", f"data file {name!r}")
        info = self._root.members.get(inside)
        if info is None:
            raise MetaFault("missing_k_or_v_binary", f"{name!r} does not exist")
        most = self._root.bytes * _MOST_TIMES.get(info.compress_type, 0)
        if info.flag_bits & _ENCRYPTED or not most:
            raise MetaFault("binary_read_error", f"{name!r} is encrypted, or packed by a method that is not read")
        if info.file_size > most:
            raise MetaFault("binary_read_error", f"{name!r} claims {info.file_size} bytes, more than the archive holds")
        if info.file_size > _MOST_BYTES:
            detail = f"{name!r} has {info.file_size} bytes, more than {_MOST_BYTES}: unpack the archive into a folder"
            raise MetaFault("binary_read_error", detail)
        return inside, info.file_size

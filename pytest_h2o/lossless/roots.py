"""A dump in a folder: nothing outside it is opened, and nothing but regular files.

A dump can hold a hundred thousand tiny files, so that this module keeps to `os`: no path objects, one listing a
folder, and three system calls a file.
"""

# ruff: noqa: PTH112, PTH113, PTH116, PTH208

from __future__ import annotations

import mmap
import os
import stat
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from pytest_h2o.errors import DumpError
from pytest_h2o.lossless.meta import (
    META_MAX_BYTES,
    Known,
    Meta,
    MetaCache,
    MetaFault,
    Stamp,
    is_meta_name,
    join_inside,
    parse_meta,
    refuse_outside,
    stamp_of,
)

_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
_WORLD_READABLE = 0o004
_FIRST_READ = 4096


class FolderRoot:
    """The folder at `path`, made absolute and free of links once, here."""

    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(path)

    def metas(self) -> Iterator[tuple[Folder, str]]:
        """Every meta in path order: its folder, and its name there."""
        cache = MetaCache(self.path)
        folder = Folder(self, "", cache)
        pending = [(folder, iter(folder.names()))]
        while pending:  # a stack of our own: a dump may be nested deeper than Python recurses
            folder, names = pending[-1]
            for name in names:
                if folder.holds_folder(name):
                    inner = Folder(self, f"{folder.prefix}{name}/", cache)
                    pending.append((inner, iter(inner.names())))
                    break
                yield folder, name
            else:
                folder.remember()
                pending.pop()
        cache.save()

    def follow(self, path: str, where: str) -> str:
        """`path` without links."""
        real = os.path.realpath(path)
        if not f"{real}{os.sep}".startswith(self.path.rstrip(os.sep) + os.sep):
            refuse_outside(f"{self.path}/{where}", f"{path} is a link to {real}")
        return real

    def read_into(self, location: str, offset: int, buffer: memoryview, *, is_end: bool) -> None:
        """See `DumpRoot`; `location` is an absolute path without links."""
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
        """See `DumpRoot`."""
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

    Attributes
    ----------
    prefix : str
        Its path below the root, empty or with a ``/`` at its end.

    Raises
    ------
    DumpError
        It cannot be listed.
    """

    def __init__(self, root: FolderRoot, prefix: str, cache: MetaCache) -> None:
        self.prefix = prefix
        self._root = root
        self._cache = cache
        self._known = cache.known(prefix)
        self._seen: Known = {}
        self._fresh = 0
        self._path = f"{root.path}/{prefix}"
        try:
            with os.scandir(self._path) as listing:
                self._files = {entry.name: entry for entry in listing}
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
        for name, entry in self._files.items():
            if is_meta_name(name) or entry.is_dir(follow_symlinks=False):
                chosen.append(name)
            elif entry.is_symlink() and os.path.isdir(entry.path):
                self._root.follow(entry.path, self.prefix + name)  # inside: it is indexed where it stands
        return sorted(chosen)

    def holds_folder(self, name: str) -> bool:
        return self._files[name].is_dir(follow_symlinks=False)

    def meta(self, name: str) -> Meta:
        """The meta in a file, parsed now or by an earlier run."""
        entry = self._files[name]
        known = self._known.get(name)
        if known is not None and not entry.is_symlink():
            try:
                is_same = stamp_of(entry.stat(follow_symlinks=False)) == known[0]
            except OSError:
                is_same = False
            if is_same:
                self._seen[name] = known
                return known[1]
        data, stamp = self._read_meta(name, entry)
        meta = parse_meta(data)
        self._seen[name] = stamp, meta
        self._fresh += 1
        return meta

    def remember(self) -> None:
        """Keep what was read for later runs."""
        self._cache.keep(self.prefix, self._seen, self._fresh)

    def _read_meta(self, name: str, entry: os.DirEntry[str]) -> tuple[bytes, Stamp]:
        """Bytes of a meta file, at most one over `META_MAX_BYTES`, and the stamp of that file before they were read."""
        path = f"{self._path}{name}"
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
        """Absolute path and size in bytes of the data file that the meta file `meta` calls `name`.

        Unless `sized`, the size is None where looking it up would cost a system call.
        """
        path = f"{self._path}{name}"
        entry = self._files.get(name)
        try:
            if entry is not None and not entry.is_symlink():
                if not sized and entry.is_file(follow_symlinks=False):
                    return path, None
                status = entry.stat(follow_symlinks=False)
            else:
                path = self._locate_elsewhere(name, self.prefix + meta)
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

    def _locate_elsewhere(self, name: str, where: str) -> str:
        inside = join_inside(self.prefix, name)
        if inside is None:
            refuse_outside(f"{self._root.path}/{where}", f"data file {name!r}")
        return self._root.follow(f"{self._root.path}/{inside}", where)


def _read_up_to(path: str, limit: int) -> tuple[bytes, Stamp]:
    file = os.open(path, _FLAGS)
    try:
        stamp = stamp_of(os.fstat(file))
        if stamp[1] > limit:
            raise MetaFault("meta_parse_error", f"larger than {META_MAX_BYTES} bytes")
        data = os.read(file, _FIRST_READ)
        if len(data) < _FIRST_READ:
            return data, stamp
        while len(data) < limit:
            more = os.read(file, limit - len(data))
            if not more:
                break
            data += more
        return data, stamp
    finally:
        os.close(file)


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
        """Member name and size in bytes of the data file that the meta `where` calls `name`."""
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

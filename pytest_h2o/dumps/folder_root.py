"""A dump in a folder: nothing outside it is opened, and nothing but regular files.

A dump can hold a hundred thousand tiny files, so that this module keeps to `os`: no path objects, one listing a
folder, and three system calls a file.
"""

# ruff: noqa: PTH112, PTH113, PTH116, PTH208

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator

from pytest_h2o.dumps.meta import META_MAX_BYTES, MetaFault
from pytest_h2o.dumps.paths import is_meta_name, join_inside, refuse_outside
from pytest_h2o.errors import DumpError

_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
_WORLD_READABLE = 0o004
_FIRST_READ = 4096


class FolderRoot:
    """The folder at `path`, made absolute and free of links once, here."""

    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(path)

    def metas(self) -> Iterator[tuple[str, bytes | MetaFault, Folder]]:
        """Every meta file in path order: its path below the root, its bytes or why not, and its folder."""
        folder = Folder(self, "")
        pending = [(folder, iter(folder.names()))]
        while pending:  # a stack of our own: a dump may be nested deeper than Python recurses
            folder, names = pending[-1]
            name = next(names, None)
            if name is None:
                pending.pop()
            elif folder.files[name].is_dir(follow_symlinks=False):
                inner = Folder(self, f"{folder.prefix}{name}/")
                pending.append((inner, iter(inner.names())))
            else:
                yield folder.prefix + name, folder.read_meta(name), folder

    def read_into(self, location: str, offset: int, buffer: memoryview) -> None:
        """See `DumpRoot`; `location` is an absolute path without links."""
        try:
            file = os.open(location, _FLAGS)
            try:
                if offset:
                    os.lseek(file, offset, os.SEEK_SET)
                done = os.readv(file, [buffer])
                while done < len(buffer):
                    more = os.readv(file, [buffer[done:]])
                    if not more:
                        raise _shrunk(location, offset + done, offset + len(buffer))
                    done += more
            finally:
                os.close(file)
        except OSError as error:
            raise DumpError("a data file cannot be read", where=location, came=str(error.strerror)) from error

    def map_file(self, location: str, size: int) -> mmap.mmap:
        """See `DumpRoot`."""
        try:
            file = os.open(location, _FLAGS)
            try:
                return mmap.mmap(file, size, access=mmap.ACCESS_READ)
            finally:
                os.close(file)
        except (OSError, ValueError) as error:  # ValueError: the file is shorter than `size`
            raise DumpError(
                "a data file cannot be mapped", where=location, came=str(error), expected=f"{size} bytes"
            ) from error

    def listing(self) -> list[str]:
        """Names at the top, for messages."""
        return sorted(os.listdir(self.path))


class Folder:
    """One folder of a dump.

    Attributes
    ----------
    prefix : str
        Its path below the root, empty or with a ``/`` at its end.
    files : dict of str to os.DirEntry
        What is in it; one listing serves for all of its metas.
    """

    def __init__(self, root: FolderRoot, prefix: str) -> None:
        self._root = root
        self.prefix = prefix
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
        """Metas and folders here, sorted as plain strings; folders that are links are not entered."""
        chosen = []
        for name, entry in self.files.items():
            if is_meta_name(name) or entry.is_dir(follow_symlinks=False):
                chosen.append(name)
            elif entry.is_symlink() and os.path.isdir(entry.path):
                self._follow(name, f"{self._path}{name}")  # inside: it is indexed where it stands
        return sorted(chosen)

    def read_meta(self, name: str) -> bytes | MetaFault:
        """Bytes of a meta file, or why they cannot be had; at most one byte over `META_MAX_BYTES`."""
        path = f"{self._path}{name}"
        entry = self.files[name]
        try:
            if entry.is_symlink():
                path = self._follow(name, path)
                regular = os.path.isfile(path)
            else:
                regular = entry.is_file(follow_symlinks=False)
            if not regular:
                return MetaFault("meta_parse_error", "not a regular file")
            return _read_up_to(path, META_MAX_BYTES + 1)
        except OSError as error:
            return MetaFault("meta_parse_error", f"cannot be read: {error.strerror}")

    def locate(self, name: str, where: str) -> tuple[str, int]:
        """Absolute path and size in bytes of the data file that the meta `where` calls `name`.

        Raises
        ------
        MetaFault
            It is not there, or cannot be read.
        DumpError
            It lies outside the root.
        """
        path = f"{self._path}{name}"
        entry = self.files.get(name)
        try:
            if entry is not None and not entry.is_symlink():
                status = entry.stat(follow_symlinks=False)
            else:
                inside = join_inside(self.prefix, name)
                if inside is None:
                    refuse_outside(f"{self._root.path}/{where}", f"data file {name!r}")
                path = self._follow(where, f"{self._root.path}/{inside}")
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

    def _follow(self, where: str, path: str) -> str:
        """`path` without links; refused if that is outside the root."""
        real = os.path.realpath(path)
        if not real.startswith(self._root.path.rstrip(os.sep) + os.sep):
            refuse_outside(f"{self._root.path}/{self.prefix}{where}", f"{path} is a link to {real}")
        return real


def _read_up_to(path: str, limit: int) -> bytes:
    file = os.open(path, _FLAGS)
    try:
        data = os.read(file, _FIRST_READ)
        if len(data) < _FIRST_READ:
            return data
        while len(data) < limit:
            more = os.read(file, limit - len(data))
            if not more:
                break
            data += more
        return data
    finally:
        os.close(file)


def _shrunk(location: str, size: int, needed: int) -> DumpError:
    return DumpError(
        "a data file became shorter while the dump was read",
        where=location,
        came=f"{size} bytes",
        expected=f"at least {needed} bytes, as when it was indexed",
        hint="is a run still writing it?",
    )

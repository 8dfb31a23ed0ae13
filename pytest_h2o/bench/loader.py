"""The shared libraries that a program loads, as the dynamic loader resolves them (ld.so(8)); nothing is run.

Read are the dynamic sections of ELF files: DT_NEEDED, and the folders that DT_RPATH, LD_LIBRARY_PATH, DT_RUNPATH and
the loader's cache name, in this order. Libraries of the system, below /lib and /usr/lib, are those of the machine.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile
from pathlib import Path
from typing import BinaryIO

from pytest_h2o.files import open_regular, read_regular

_NEEDED, _STRTAB, _STRSZ, _RPATH, _RUNPATH = 1, 5, 10, 15, 29
_LOAD, _DYNAMIC = 1, 2
_MOST_BYTES = 16 * 1024 * 1024
_MOST_LIBRARIES = 512
_MOST_TEXT = 4096
_SYSTEM = ("/lib/", "/lib32/", "/lib64/", "/usr/lib/", "/usr/lib32/", "/usr/lib64/")
_ORIGIN = re.compile(r"\$(?:ORIGIN\b|\{ORIGIN\})")
_CACHE = Path("/etc/ld.so.cache")
_CACHE_MAGIC = b"glibc-ld.so.cache1.1"


@dataclass(frozen=True)
class _Object:
    """What the dynamic section of a program or library says."""

    path: Path
    kind: bytes
    """Class, byte order and machine: the loader passes over a library that differs in them."""
    needed: tuple[str, ...] = ()
    rpath: tuple[str, ...] = ()
    runpath: tuple[str, ...] = ()
    loaded_by: _Object | None = None

    def searched(self, environment: Mapping[str, str]) -> Iterator[str]:
        """The folders in which the libraries that it needs are looked for, before those of the cache."""
        this: _Object | None = None if self.runpath else self
        while this is not None:
            yield from this.rpath
            this = this.loaded_by
        if path := environment.get("LD_LIBRARY_PATH"):
            yield from (folder or "." for folder in re.split("[:;]", path))
        yield from self.runpath


def find_libraries(program: Path, environment: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """The libraries that a program loads from outside the system's folders, sorted; none of what is no ELF file."""
    found: dict[str, Path] = {}
    first = _read(Path(os.path.realpath(program)))
    waiting = [] if first is None else [first]
    cache = dict(_read_cache()) if waiting else {}
    for this in waiting:  # grows: the loader goes breadth first
        preloaded = re.split("[: ]", environment.get("LD_PRELOAD", "")) if this is first else []
        for name in filter(None, (*preloaded, *this.needed)):
            if name in found or len(found) >= _MOST_LIBRARIES:
                continue
            folders = [""] if "/" in name else this.searched(environment)
            places = [Path(folder, name) for folder in folders]
            places += [Path(path) for path in cache.get(name, ())]
            library = next((each for path in places if (each := _read(path, this)) and each.kind == this.kind), None)
            if library is not None:
                found[name] = library.path
                waiting.append(library)
    real = {Path(os.path.realpath(path)) for path in found.values()}
    home = Path(os.path.realpath(program)).parent
    return tuple(sorted(path for path in real if path.is_relative_to(home) or not str(path).startswith(_SYSTEM)))


def _read(path: Path, loaded_by: _Object | None = None) -> _Object | None:
    """The dynamic section of an ELF file; None of another file, or of one that is damaged."""
    try:
        with open_regular(path) as file:
            return _parse(file, path, loaded_by)
    except (OSError, ValueError, LookupError, ArithmeticError, struct.error):
        return None


def _parse(file: BinaryIO, path: Path, loaded_by: _Object | None) -> _Object | None:
    head = file.read(64)
    if head[:4] != b"\x7fELF":
        return None
    is_wide, order = head[4] == 2, "<" if head[5] == 1 else ">"
    place, (size, count) = (32, (54, 56)) if is_wide else (28, (42, 44))
    (start,) = struct.unpack_from(f"{order}{'Q' if is_wide else 'I'}", head, place)
    size, count = (struct.unpack_from(f"{order}H", head, at)[0] for at in (size, count))
    layout, offset, address, length = (f"{order}IIQQQQ", 2, 3, 5) if is_wide else (f"{order}IIIII", 1, 2, 4)
    table = _read_at(file, start, size * count)
    segments = [struct.unpack_from(layout, table, number * size) for number in range(count)]
    kind = head[4:6] + head[18:20]
    dynamic = [each for each in segments if each[0] == _DYNAMIC]
    if not dynamic:
        return _Object(path, kind, loaded_by=loaded_by)
    data = _read_at(file, dynamic[0][offset], dynamic[0][length])
    entries = list(takewhile(lambda entry: entry[0], struct.iter_unpack(f"{order}{'qQ' if is_wide else 'iI'}", data)))
    values = dict(entries)
    (home, *_) = (each for each in segments if each[0] == _LOAD and 0 <= values[_STRTAB] - each[address] < each[length])
    strings = _read_at(file, values[_STRTAB] - home[address] + home[offset], values[_STRSZ])

    def texts(tag: int) -> list[str]:
        starts = [value for each, value in entries if each == tag][:_MOST_LIBRARIES]
        return [os.fsdecode(strings[at : strings.index(b"\0", at, at + _MOST_TEXT)]) for at in starts]

    def folders(tag: int) -> tuple[str, ...]:
        home, named = str(path.absolute().parent), (text.split(":") for text in texts(tag))
        return tuple(_ORIGIN.sub(lambda _: home, folder) for folder in chain.from_iterable(named) if folder)

    runpath = folders(_RUNPATH)
    return _Object(path, kind, tuple(texts(_NEEDED)), () if runpath else folders(_RPATH), runpath, loaded_by)


def _read_at(file: BinaryIO, start: int, length: int) -> bytes:
    if length > _MOST_BYTES:
        raise ValueError("a section that is too long")
    file.seek(start)
    return file.read(length)


def _read_cache() -> Iterator[tuple[str, Sequence[str]]]:
    """Name -> paths of the loader's cache, as glibc writes it; nothing where there is none."""
    try:
        data = read_regular(_CACHE, _MOST_BYTES)
        data = data[max(0, data.find(_CACHE_MAGIC)) :]  # an older form may stand before it
        (count,) = struct.unpack_from("=I", data, len(_CACHE_MAGIC))
        found: dict[str, list[str]] = {}
        for number in range(count):
            key, value = struct.unpack_from("=II", data, 48 + 24 * number + 4)
            name, path = (os.fsdecode(data[at : data.index(b"\0", at)]) for at in (key, value))
            found.setdefault(name, []).append(path)
        yield from found.items()
    except (OSError, ValueError, struct.error):
        return

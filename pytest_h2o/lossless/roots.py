"""Where a dump lies: in a folder, or in a .zip archive of one. Nothing outside of it is opened.

And its meta files: their names, their text checked field by field, and the paths that they may name.

A dump can hold a hundred thousand tiny files, so that this module keeps to `os`: no path objects, one listing a
folder, and three system calls a file (two for a member of an archive).
"""

# ruff: noqa: PTH112, PTH113, PTH116, PTH208

from __future__ import annotations

import json
import mmap
import os
import re
import stat
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from weakref import finalize

from pytest_h2o.errors import DumpError
from pytest_h2o.files import check_regular, unique_keys

META_MAX_BYTES = 64 * 1024
"""A real meta has 400 bytes; a larger one than this is not read."""

_MOST_DETAIL = 500
"""Characters: names of files can have tens of thousands."""

_JSON_SPACE = " \t\n\r"
_decode = json.JSONDecoder().raw_decode
_decode_unique = json.JSONDecoder(object_pairs_hook=unique_keys).raw_decode
_COUNT_END = 2**31
_POSITION_END = 2**63
_NUMBERS = ("layer_id", "seq_start", "seq_len", "kv_heads", "head_dim", "bytes_per_elem")
_FIELDS = (*_NUMBERS, "stage", "run_id", "k_file", "v_file")
_TYPES = tuple((*(int,) * len(_NUMBERS), str, run_id, str, str) for run_id in (str, type(None)))

_REASONS = {
    **dict.fromkeys(_NUMBERS, "meta_invalid_numeric_fields"),
    **dict.fromkeys(("stage", "run_id"), "meta_invalid_text_fields"),
    **dict.fromkeys(("k_file", "v_file"), "missing_k_or_v_file"),
}

_take = itemgetter(*_FIELDS)
_STAGES = ("prefill", "decode")
_BF16 = ("bf16", "bfloat16")
_DTYPES = {2: ("fp16", "float16", "half", *_BF16), 4: ("fp32", "float32", "float")}
_DRIVE = re.compile(r"[A-Za-z]:")
_ODD = re.compile(r"[\\:\0]|^/|//|/$|(?:^|/)\.{1,2}(?:/|$)")
"""What a path without it needs no second look at."""


class MetaFault(Exception):
    """Why an entry cannot be read: a reason of `SkippedEntry`, the detail, and the fields as far as they are known."""

    def __init__(self, reason: str, detail: str, fields: Mapping[str, Any] | None = None) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail if len(detail) <= _MOST_DETAIL else f"{detail[: _MOST_DETAIL - 1]}…"
        self.fields = fields or {}


class Meta(NamedTuple):
    """The fields of a meta that matter here; see `DumpEntry`."""

    layer_id: int
    seq_start: int
    seq_len: int
    kv_heads: int
    head_dim: int
    bytes_per_elem: int
    stage: str
    run_id: str | None
    k_file: str
    v_file: str
    quantized: bool = False
    bf16: bool = False


def parse_meta(data: bytes) -> Meta:
    """Parse and check one meta."""
    fields = _parse_object(data)
    try:
        values = _take(fields)
    except KeyError:
        values = tuple(map(fields.get, _FIELDS))
    if tuple(map(type, values)) not in _TYPES:  # exactly int: to isinstance a bool is one
        raise _type_fault(values, fields)
    layer_id, seq_start, seq_len, kv_heads, head_dim, width, stage, _, k_file, v_file = values
    end = seq_start + seq_len
    if not (0 <= layer_id < _COUNT_END and seq_start >= 0 and end < _POSITION_END):
        detail = f"layer_id is {_shown(layer_id)}, seq_start {_shown(seq_start)}: negative, or absurdly large"
        raise MetaFault("meta_invalid_numeric_fields", detail, fields)
    if not (0 < seq_len < _COUNT_END and 0 < kv_heads < _COUNT_END and 0 < head_dim < _COUNT_END):
        shape = ", ".join(map(_shown, (seq_len, kv_heads, head_dim)))
        detail = f"[seq_len, kv_heads, head_dim] is [{shape}], each must be at least 1 and less than 2**31"
        raise MetaFault("invalid_shape", detail, fields)
    declared_end = fields.get("seq_end_exclusive", end)
    if declared_end != end or type(declared_end) is not int:
        detail = f"seq_end_exclusive is {_shown(declared_end)}, but seq_start + seq_len is {end}"
        raise MetaFault("meta_invalid_numeric_fields", detail, fields)
    if (names := _DTYPES.get(width)) is None:
        detail = f"bytes_per_elem is {_shown(width)}, only 2 (fp16, bf16) and 4 (fp32) are read"
        raise MetaFault(f"unsupported_bytes_per_elem_{_shown(width)}", detail, fields)
    if (dtype := fields.get("dtype", names[0])) not in names:
        expected = "fp16 or bf16" if width == 2 else names[0]
        detail = f"dtype is {_shown(dtype)}, expected {expected} for {width} bytes an element"
        raise MetaFault("unsupported_dtype", detail, fields)
    if stage not in _STAGES:
        detail = f"stage is {_shown(stage)}, expected prefill or decode"
        raise MetaFault("meta_invalid_text_fields", detail, fields)
    if not (k_file and v_file):
        raise MetaFault("missing_k_or_v_file", "k_file or v_file is empty", fields)
    quantized = bool(fields.get("quant_key") or fields.get("quant_value"))
    bf16 = dtype in _BF16
    return Meta(*values)._replace(quantized=quantized, bf16=bf16) if quantized or bf16 else Meta(*values)


def _parse_object(data: bytes) -> dict[str, Any]:
    if len(data) > META_MAX_BYTES:
        raise MetaFault("meta_parse_error", f"larger than {META_MAX_BYTES} bytes")
    try:
        text = data.decode().removeprefix("\ufeff").strip(_JSON_SPACE)
        fields, end = _decode(text)
        if type(fields) is not dict or text.count(":") != len(fields):  # as many colons as keys: none stands twice
            fields, end = _decode_unique(text)
    except (ValueError, RecursionError) as error:  # ValueError: no JSON, no UTF-8, or an integer of absurd length
        told = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise MetaFault("meta_parse_error", f"no JSON: {told}") from error
    if end != len(text):
        raise MetaFault("meta_parse_error", f"no JSON: text behind the end, at character {end}")
    if not isinstance(fields, dict):
        raise MetaFault("meta_parse_error", f"no JSON object but {type(fields).__name__}")
    return fields


def _type_fault(values: tuple[Any, ...], fields: Mapping[str, Any]) -> MetaFault:
    """Names the first field of a wrong type, and the others of its kind."""
    wrong = [
        name
        for name, value, fit in zip(_FIELDS, values, zip(*_TYPES, strict=True), strict=True)
        if type(value) not in fit
    ]
    reason = _REASONS[wrong[0]]
    alike = [name for name in wrong if _REASONS[name] == reason]
    told = (f"{name} is {_shown(fields[name])}" if name in fields else f"{name} is missing" for name in alike)
    expected = "whole numbers" if wrong[0] in _NUMBERS else "text"
    return MetaFault(reason, f"{', '.join(told)}; expected {expected}", fields)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def is_meta_name(name: str) -> bool:
    """Whether a file of this name describes an entry; ``packed_meta_*.json`` does not."""
    return name[:5].lower() == "meta_" and name[-5:].lower() == ".json"


def is_data_name(name: str) -> bool:
    """Whether a file has the name of K or V of an entry."""
    return name[1:3] == "_t" and name[:1] in "kv" and name[-4:] == ".bin"


def join_inside(prefix: str, name: str) -> str | None:
    """The path below the root that `name` means when it is written in a folder; None if it leads outside."""
    if not _ODD.search(path := prefix + name):
        return path
    plain = name.replace("\\", "/")
    if plain.startswith("/") or _DRIVE.match(plain) or "\0" in plain:
        return None
    parts: list[str] = []
    for part in f"{prefix}{plain}".split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def refuse_outside(where: str, came: str) -> NoReturn:
    """Refuse a dump that names a file outside its root."""
    raise DumpError(
        "a dump leads outside its own root",
        where=where,
        came=came,
        expected="files inside the dump, named relative to the meta file that names them",
        hint="nothing outside was read; copy the files into the dump, or do not trust it",
    )


_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
_FOLDER_FLAGS = _FLAGS | getattr(os, "O_DIRECTORY", 0)
_WORLD_READABLE = 0o004
_FIRST_READ = 4096


Span = tuple[str, int, memoryview, bool]
"""Bytes of a data file: its location, where they begin, the buffer that they fill, and whether the file ends there."""


class _Opener:
    """Opens files of one folder after the other, which stays open: to look up a whole path takes as long as to read."""

    def __init__(self) -> None:
        self._path = ""
        self._folder = -1

    def open(self, location: str) -> int:
        path, _, name = location.rpartition("/")
        if self._folder < 0 or path != self._path:
            self.close()
            self._folder = os.open(path or "/", _FOLDER_FLAGS)
            self._path = path
        return os.open(name, _FLAGS, dir_fd=self._folder)

    def close(self) -> None:
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1


class DumpRoot:
    """Where data files are. This one holds none: it is the root of entries that travel with their words."""

    def read(self, spans: Iterable[Span]) -> None:
        """Fill the buffers of spans; DumpError where a file is shorter, or longer than its span that ends it."""
        raise DumpError("the files of a dump are not where its streams are coded", where=next(iter(spans))[0])

    def map_file(self, location: str, size: int, *, is_end: bool) -> mmap.mmap | None:
        """The first `size` bytes of a data file as read-only memory; None if it cannot be mapped."""
        return None

    def close(self) -> None:
        """No more metas are read; data files can be."""


class FolderRoot(DumpRoot):
    """The folder at `path`, made absolute and free of links once, here. A location is an absolute path without links.

    Nothing but regular files is opened. `unclaimed` are the data files, paths below the root, that no meta beside
    them has named, of the folders whose `metas` were all located.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(path)
        self.opener = _Opener()
        self.unclaimed: set[str] = set()

    def close(self) -> None:
        self.opener.close()

    def subtrees(self, least: int) -> list[str]:
        """Paths of folders, in path order, below which all metas are: `least`, if those above hold only folders."""
        found = [""]
        while len(found) < least:
            inner = [below for prefix in found for below in self._only_folders(prefix) or [prefix]]
            if inner == found:
                break
            found = inner
        return found

    def _only_folders(self, prefix: str) -> list[str]:
        """Those in a folder that holds nothing else."""
        try:
            with os.scandir(self.location(prefix)) as listing:
                names = []
                for entry in listing:  # of the many files of a folder of metas the first says enough
                    if is_data_name(entry.name) or not entry.is_dir(follow_symlinks=False):
                        return []
                    names.append(entry.name)
        except OSError:  # which the one who reads it will tell
            return []
        return [f"{prefix}{name}/" for name in sorted(names)]

    def metas(self, prefix: str = "") -> Iterator[tuple[Folder, str]]:
        """Every meta of a folder and of those below, in path order: its folder, and its name there."""
        folder = Folder(self, prefix)
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
                self.unclaimed |= {folder.prefix + name for name in folder.data}
                pending.pop()

    def location(self, path: str) -> str:
        """Of the file at a path below the root."""
        return f"{self.path}/{path}"

    def has_file(self, path: str) -> bool:
        return os.path.lexists(self.location(path))

    def follow(self, path: str, where: str) -> str:
        """`path` without links."""
        real = os.path.realpath(path)
        if not f"{real}{os.sep}".startswith(self.path.rstrip(os.sep) + os.sep):
            refuse_outside(f"{self.path}/{where}", f"{path} is a link to {real}")
        return real

    def read(self, spans: Iterable[Span]) -> None:
        with closing(_Opener()) as opener:
            for location, offset, buffer, is_end in spans:
                try:
                    file = opener.open(location)
                    try:
                        if offset:
                            os.lseek(file, offset, os.SEEK_SET)
                        surplus = bytearray(is_end)
                        done = os.readv(file, [buffer, surplus])
                        while done < len(buffer) and (more := os.readv(file, [buffer[done:], surplus])):
                            done += more
                    finally:
                        os.close(file)
                except OSError as error:
                    raise DumpError("a data file cannot be read", where=location, came=str(error.strerror)) from error
                if done != len(buffer):
                    came = f"{offset + done} bytes{' or more' * (done > len(buffer))}"
                    raise _other_size(location, came, offset + len(buffer), is_end)

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

    `prefix` is its path below the root, empty or with a ``/`` at its end; `files` is the listing, by name, `data` the
    names of data files that no meta of it has named yet.
    """

    def __init__(self, root: FolderRoot, prefix: str) -> None:
        self.prefix = prefix
        self._root = root
        self._path = f"{root.path}/{prefix}"
        self.data: set[str] = set()
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
            if is_data_name(name):
                self.data.add(name)
            elif is_meta_name(name) or entry.is_dir(follow_symlinks=False):
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
            return _read_up_to(self._root.opener.open(path), META_MAX_BYTES + 1)
        except OSError as error:
            raise MetaFault("meta_parse_error", f"cannot be read: {error.strerror}") from error

    def locate(self, name: str, meta: str, *, sized: bool) -> tuple[str, int | None]:
        """Location and size in bytes of the data file that the meta file `meta` calls `name`.

        Unless `sized`, the size is None where looking it up would cost a system call.
        """
        path = f"{self._path}{name}"
        entry = self.files.get(name)
        self.data.discard(name)
        try:
            if not sized and entry is not None and entry.is_file(follow_symlinks=False):
                return path, None
            if entry is not None and not entry.is_symlink():
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


def _read_up_to(file: int, limit: int) -> bytes:
    """The first bytes of a file, which is closed then."""
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

_LISTED = struct.Struct("<4s2xH2H4x3L3H4x2L")
"""An entry of the directory; name, extra field and comment follow."""

_END = struct.Struct("<4s4H2LH")
"""What ends an archive without a comment: where its directory is, and of how many entries."""

_UTF8 = 0x800
_NEWEST = 63
_NOT_HERE = 0xFFFFFFFF
"""A size or place that stands elsewhere (zip64)."""

_DAMAGE = (OSError, ValueError, OverflowError, zlib.error)
"""What reading a member raises: OverflowError for a place beyond what a file can have."""

_RECENT = 4
"""Unpacked members kept for reads of a part: two tensors for two threads."""

_MOST_BYTES = 1 << 28
"""A member is unpacked whole: a larger one is no affair of memory, but of a folder."""


class Member(NamedTuple):
    """What the directory of an archive says of a member."""

    name: str
    place: int
    """Of its local header."""
    header_bytes: int
    """Of that header, as most writers have it."""
    packed_bytes: int
    bytes: int
    crc: int
    method: int
    flags: int
    attributes: int


def _read_directory(file: int, size: int) -> list[Member] | None:
    """The members of an archive; None where it is not of the plainest kind, which is for the library to judge."""
    end = _END.unpack(os.pread(file, _END.size, max(0, size - _END.size)).ljust(_END.size, b"\0"))
    signature, disk, first_disk, here, count, length, place, comment = end
    if signature != b"PK\5\6" or disk or first_disk or here != count or comment or place + length + _END.size != size:
        return None
    data = os.pread(file, length, place)
    members: list[Member] = []
    at = 0
    try:
        while at < length:
            signature, version, flags, method, crc, packed, full, *lengths, attributes, place = _LISTED.unpack_from(
                data, at
            )
            at += _LISTED.size
            name = data[at : at + lengths[0]].decode("utf-8" if flags & _UTF8 else "ascii")
            at += sum(lengths)
            if signature != b"PK\1\2" or version > _NEWEST or _NOT_HERE in (packed, full, place):
                return None
            header_bytes = _LOCAL.size + lengths[0] + lengths[1]
            members.append(Member(name, place, header_bytes, packed, full, crc, method, flags, attributes))
    except (struct.error, UnicodeDecodeError):
        return None
    return members if at == length and len(members) == count else None


def _ask_library(archive: int) -> Iterator[Member]:
    """The members of an archive with a comment, of more than 4 GB, or that is damaged, which it says."""
    from zipfile import BadZipFile, ZipFile  # it brings every decompressor along

    try:
        with open(archive, "rb", closefd=False) as file, ZipFile(file) as opened:
            listed = opened.infolist()
    except BadZipFile as error:
        raise ValueError(str(error)) from error
    for info in listed:
        header_bytes = _LOCAL.size + len(info.orig_filename) + len(info.extra)
        yield Member(
            *(info.orig_filename, info.header_offset, header_bytes, info.compress_size, info.file_size),
            *(info.CRC, info.compress_type, info.flag_bits, info.external_attr),
        )


class ZipRoot(DumpRoot):
    """The archive at `path`; it stays open as long as this object lives. A location is the name of a member.

    Members are read without a lock and six times as fast as by the library, which is asked for what is not plain.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            check_regular(Path(path))
            self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            finalize(self, os.close, self._file)
            self.bytes = os.fstat(self._file).st_size
            listed = _read_directory(self._file, self.bytes) or list(_ask_library(self._file))
        except (struct.error, OSError, ValueError, OverflowError, RuntimeError) as error:
            raise DumpError(
                "this is neither a folder nor a zip archive that can be read",
                where=path,
                came=str(error),
                expected="a dump folder, or a .zip of one",
            ) from error
        self.members: dict[str, Member] = {}
        self.unclaimed: set[str] = set()
        for member in listed:
            if not member.name.partition("\0")[0]:
                where = f"{path}: {member.name!r}"
                raise DumpError("an archive holds a member without a name", where=where, expected="the name of a file")
            if not member.name.endswith("/"):
                inside = self._checked_name(member)
                self.members[inside] = member
                if is_data_name(inside.rpartition("/")[2]):
                    self.unclaimed.add(inside)
        self._recent: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def _checked_name(self, member: Member) -> str:
        name = member.name
        inside = join_inside("", name)
        if inside is None or (inside != name and ".." in name.replace("\\", "/").split("/")):
            refuse_outside(f"{self.path}: {name!r}", "an archive member whose name is absolute or climbs")
        if stat.S_ISLNK(member.attributes >> 16):
            refuse_outside(f"{self.path}: {name!r}", "an archive member that is a symbolic link")
        if inside in self.members:
            where = f"{self.path}: {name!r}"
            raise DumpError("an archive holds two members of one name", where=where, expected="each name once")
        return inside

    def subtrees(self, least: int) -> list[str]:
        """The whole, which one process reads: see `FolderRoot`."""
        return [""]

    def metas(self, prefix: str = "") -> Iterator[tuple[ZipFolder, str]]:
        """Every meta of a folder and of those below, in path order: its folder, and its name there."""
        named = (member for member in self.members if member.startswith(prefix))
        metas = sorted(member.split("/") for member in named if is_meta_name(member.rpartition("/")[2]))
        for path, names in groupby(metas, lambda parts: parts[:-1]):
            folder = ZipFolder(self, "".join(f"{part}/" for part in path))
            for *_, name in names:
                yield folder, name

    def location(self, path: str) -> str:
        return path

    def has_file(self, path: str) -> bool:
        return path in self.members

    def read(self, spans: Iterable[Span]) -> None:
        for location, offset, buffer, _ in spans:
            self._read_into(location, offset, buffer)

    def _read_into(self, location: str, offset: int, buffer: memoryview) -> None:
        data = self._recent.get(location)
        if data is None:
            member = self.members[location]
            try:
                if len(buffer) == member.bytes and self._read_straight(member, buffer):
                    return
                data = self.unpack(member)
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

    def _read_straight(self, member: Member, buffer: memoryview) -> bool:
        """Read a whole sound member that is not packed into its place; False for any other."""
        if member.method != _STORED or member.flags & _ENCRYPTED:
            return False
        header = bytearray(member.header_bytes)
        done = os.preadv(self._file, [header, buffer], member.place)
        begin = _LOCAL.size + sum(_LOCAL.unpack_from(header))
        whole = header.startswith(b"PK\3\4") and begin == len(header) and done == begin + len(buffer)
        return whole and zlib.crc32(buffer) == member.crc

    def unpack(self, member: Member) -> bytes:
        """The whole member, compared with its size and CRC-32; ValueError for damage."""
        if member.flags & _ENCRYPTED or member.method not in _MOST_TIMES:
            raise ValueError("encrypted, or packed by a method that is not read")
        begin = member.header_bytes
        size = min(member.packed_bytes, self.bytes)
        data = os.pread(self._file, begin + size, member.place)
        if not data.startswith(b"PK\3\4") or len(data) < _LOCAL.size:
            raise ValueError("Bad magic number for file header")
        if begin != (really := _LOCAL.size + sum(_LOCAL.unpack_from(data))):
            data = os.pread(self._file, really + size, member.place)
        data = data[really:]
        if member.method == _DEFLATED:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, member.bytes + 1)
        if len(data) != member.bytes:
            raise ValueError(f"another size than the archive says: {len(data)} bytes, expected {member.bytes}")
        if zlib.crc32(data) != member.crc:
            raise ValueError(f"Bad CRC-32 for file {member.name!r}")
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
        member = self._root.members[self.prefix + name]
        try:
            if member.bytes > META_MAX_BYTES:
                raise MetaFault("meta_parse_error", f"larger than {META_MAX_BYTES} bytes")
            return self._root.unpack(member)
        except _DAMAGE as error:
            raise MetaFault("meta_parse_error", f"cannot be read: {error}") from error

    def locate(self, name: str, meta: str, *, sized: bool) -> tuple[str, int]:
        inside = join_inside(self.prefix, name)
        if inside is None:
            refuse_outside(f"{self._root.path}: {self.prefix}{meta}", f"data file {name!r}")
        member = self._root.members.get(inside)
        self._root.unclaimed.discard(inside)
        if member is None:
            raise MetaFault("missing_k_or_v_binary", f"{name!r} does not exist")
        most = self._root.bytes * _MOST_TIMES.get(member.method, 0)
        if member.flags & _ENCRYPTED or not most:
            raise MetaFault("binary_read_error", f"{name!r} is encrypted, or packed by a method that is not read")
        if member.bytes > most:
            raise MetaFault("binary_read_error", f"{name!r} claims {member.bytes} bytes, more than the archive holds")
        if member.bytes > _MOST_BYTES:
            detail = f"{name!r} has {member.bytes} bytes, more than {_MOST_BYTES}: unpack the archive into a folder"
            raise MetaFault("binary_read_error", detail)
        return inside, member.bytes

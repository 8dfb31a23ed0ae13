"""Files: written whole or not at all, appended durably, listed, read and digested; and values of ours as JSON and back.

What a user names is listed by `list_files`, which tells what it could not see, and read by `read_regular`, which waits
for no pipe and takes no memory without end; both raise or keep the `OSError` that says why.

`load` is the one place where JSON becomes a value, `dump` and `plain` where a value becomes JSON. The types are
dataclasses (or anything else that pydantic knows); pydantic is imported when the first value is read or written.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, NoReturn, TypeVar, cast

from pytest_h2o.errors import StoreError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")
MAX_JSON_BYTES = 64 * 1024 * 1024


def usable_cores() -> int:
    """Cores that this process may run on; where that cannot be told, those of the machine."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def write_new_bytes(path: Path, data: bytes, *, overwrite: bool = False) -> None:
    """Write a file, whole or not at all, and bring it down to the disk; missing folders are made."""
    temporary = path.parent / f".{path.name[:100]}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
    later = None if overwrite else _not_synced  # what replaces another is on the disk before that goes
    try:
        make_folder(path.parent)
        _write_fresh(temporary, data, durable=later is None)
        if overwrite:
            temporary.replace(path)
        else:
            _claim_name(temporary, path)
        if later is None:
            _sync_folder(path.parent)
        else:
            later.append(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> StoreError:
    came, expected = error.strerror or str(error), "a folder that can be written, with room on its disk"
    return StoreError("a file cannot be written", where=str(path), came=came, expected=expected)


def refuse_existing(*paths: Path, overwrite: bool = False) -> None:
    """Check before any work that nothing would be overwritten; StoreError naming the first file that is there."""
    for path in paths:
        if not overwrite and (path.exists() or path.is_symlink()):
            raise _exists(path)


def refuse_unwritable(path: Path) -> None:
    """Make the folder of an output, and check before any work that a file can be made there; StoreError if not."""
    import tempfile  # takes time, which those who only read do without

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        came, hint = error.strerror or str(error), "name a file in a folder that can be written"
        raise StoreError("an output cannot be written", where=str(path), came=came, hint=hint) from error


def _exists(path: Path) -> StoreError:
    return StoreError(
        "a file that exists would be overwritten",
        where=str(path),
        hint="choose another output, or move the old file away",
    )


_not_synced: list[Path] | None = None
"""Files of the block `synced_together` so far."""

_SYNCS_AT_ONCE = 8


@contextlib.contextmanager
def synced_together() -> Iterator[None]:
    """Bring new files down to the disk when the block ends, many at a time: one by one it takes ten times as long."""
    global _not_synced
    from concurrent.futures import ThreadPoolExecutor

    written: list[Path] = []
    _not_synced = written
    try:
        yield
    finally:
        _not_synced = None
    with ThreadPoolExecutor(_SYNCS_AT_ONCE) as pool:
        list(pool.map(_sync_file, written))
        list(pool.map(_sync_folder, dict.fromkeys(path.parent for path in written)))


def _sync_file(path: Path) -> None:
    """Bring a file that was written down to the disk, or take it away."""
    try:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def _write_fresh(path: Path, data: bytes, durable: bool) -> None:
    """Write bytes to a file that must be new."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, each with its name down to the disk; OSError if it cannot."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    """Bring the names in a folder down to the disk; without it a file may be durable and its name not."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # Some network shares refuse to sync a folder: then they give no more than they give.
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _claim_name(temporary: Path, path: Path) -> None:
    """Give a finished file its name; StoreError if the name is taken, by whoever came first."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise _exists(path) from None
    except OSError:
        # No hard links here (FAT, some network shares): take the name with an empty file, then replace our own.
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:
            raise _exists(path) from None
        temporary.replace(path)


def write_new_text(path: Path, text: str, *, overwrite: bool = False) -> None:
    """Write a text file as UTF-8, line ends as they stand; see `write_new_bytes`."""
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise StoreError(
            "text that UTF-8 cannot carry was to be written",
            where=str(path).encode("utf-8", "backslashreplace").decode("utf-8"),
            came=f"{text[error.start]!r} at character {error.start}",
            expected="valid Unicode; a file name that is not UTF-8 often brings such characters",
            hint="rename the file or folder that the text names",
        ) from None
    write_new_bytes(path, data, overwrite=overwrite)


def render_json(value: object) -> str:
    """The JSON text of every artifact: indented by one, UTF-8, no NaN."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_new_json(path: Path, value: object, *, overwrite: bool = False) -> None:
    """Write a value of built-in types as JSON; see `write_new_text`."""
    write_new_text(path, render_json(value), overwrite=overwrite)


class Listing(NamedTuple):
    """Files of a folder, by path, and what could not be seen of it: the path, and why."""

    files: list[Path]
    unseen: dict[Path, str]


def list_files(folder: Path, suffixes: tuple[str, ...] = ("",), *, deep: bool = False, hidden: bool = False) -> Listing:
    """Files of a folder by their ending (lower case; theirs may be any), of those below it too if `deep`.

    A folder that is a link is entered, each folder once; names with a leading dot are left out unless `hidden`.
    """
    found = Listing([], {})
    entered: set[str] = set()
    folders, links = [folder], list[Path]()
    while folders or links:  # links last: what is reached both ways has the path without a link
        place = folders.pop() if folders else links.pop()
        real = os.path.realpath(place)
        if real in entered:
            continue
        entered.add(real)
        try:
            with os.scandir(place) as listing:
                entries = [entry for entry in listing if hidden or not entry.name.startswith(".")]
        except (OSError, ValueError) as error:
            found.unseen[place] = getattr(error, "strerror", None) or str(error)
            continue
        for entry in entries:
            path = place / entry.name
            try:
                is_folder = entry.is_dir()
            except OSError as error:
                is_folder = False
                if deep:
                    found.unseen[path] = error.strerror or str(error)
            if is_folder and deep and Path(real).is_relative_to(os.path.realpath(path)):
                found.unseen[path] = "a link to a folder that holds it"
            elif is_folder and deep:
                (links if entry.is_symlink() else folders).append(path)
            elif not is_folder and deep and entry.is_symlink() and path not in found.unseen and not path.exists():
                found.unseen[path] = "a link that leads nowhere"
            elif not is_folder and entry.name.lower().endswith(suffixes):
                found.files.append(path)
    return Listing(sorted(found.files), dict(sorted(found.unseen.items())))


def is_folder(path: Path) -> bool:
    """Whether a path is a folder, as far as can be told: one in a folder that is closed to us is none."""
    try:
        return path.is_dir()
    except OSError:
        return False


class IrregularFile(OSError):
    """A pipe, a device, a socket or a folder where a file was to be read."""


class TooLarge(OSError):
    """A file that has more bytes than it may have."""


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; OSError if it is none: a pipe would let us wait, a device has no end."""
    check_regular(path)
    return path.open("rb")


def check_regular(path: Path) -> None:
    """OSError that says what is there, or that nothing is, unless it is a regular file."""
    try:
        mode = path.stat().st_mode
    except ValueError:
        raise OSError(errno.EINVAL, "a name with a NUL") from None
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise IrregularFile(errno.EINVAL, f"{kinds.get(stat.S_IFMT(mode), 'a device')}, not a regular file")


def read_regular(path: Path, most_bytes: int = MAX_JSON_BYTES) -> bytes:
    """All of a regular file; `TooLarge` or another OSError if that cannot be had."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = bytearray()
        while size <= most_bytes and len(data) <= most_bytes and (piece := file.read(1 << 20)):
            data += piece
    if (size := max(size, len(data))) > most_bytes:
        raise TooLarge(errno.EFBIG, f"{size:,} bytes, more than {most_bytes:,}")
    return bytes(data)


def read_regular_text(path: Path, most_bytes: int = MAX_JSON_BYTES) -> str:
    """`read_regular` of a text in UTF-8; a byte order mark at its start is left out."""
    return read_regular(path, most_bytes).decode("utf-8-sig")


def load(
    kind: type[T],
    source: object,
    what: str,
    *,
    where: str = "",
    hint: str | None = None,
    most_bytes: int = MAX_JSON_BYTES,
) -> T:
    """The value that JSON says: of a file (Path), of a text (str, bytes), or of JSON values that were parsed before.

    Strict: text is no number, a number no truth value, no number is infinite. Keys that `kind` does not know are left
    out, for a later version may have written them. StoreError names `what` it is (``a manifest``), the file or `where`,
    the place in it, what came and what was expected.
    """
    if isinstance(source, Path):
        where, source = str(source), _read_bounded(source, what, most_bytes)

    def unreadable(came: str, place: str = where) -> StoreError:
        return StoreError(f"{what} cannot be read", where=place or None, came=came, expected="JSON", hint=hint)

    try:
        if isinstance(source, bytes):
            source = source.decode("utf-8-sig")
        if isinstance(source, str):
            source = json.loads(source, parse_constant=_refuse_constant, object_pairs_hook=unique_keys)
        value = source
        text = json.dumps(value, allow_nan=False)
    except json.JSONDecodeError as error:
        raise unreadable(error.msg, f"{where or 'text'}:{error.lineno}:{error.colno}") from None
    except RecursionError:
        raise unreadable("values nested too deep") from None
    except (ValueError, TypeError) as error:
        raise unreadable(str(error)[:200]) from None
    from pydantic import ValidationError

    try:
        return cast(T, _adapter(cast(Any, kind)).validate_json(text, strict=True))
    except ValidationError as error:
        faults = error.errors(include_url=False)
        if faults[0]["type"] == "json_invalid":  # the one thing that Python's parser lets through
            raise unreadable("half of a surrogate pair") from None
        place, came, expected = _first_fault(value, faults)
        raise StoreError(
            f"{what} has another shape than this version reads",
            where=": ".join(part for part in (where, place) if part) or None,
            came=came,
            expected=expected,
            hint=hint,
        ) from None


def _read_bounded(path: Path, what: str, most_bytes: int) -> bytes:
    try:
        return read_regular(path, most_bytes)
    except TooLarge:
        raise StoreError(f"{what} is too large", where=str(path), expected=f"at most {most_bytes:,} bytes") from None
    except OSError as error:
        raise StoreError(f"{what} cannot be read", where=str(path), came=error.strerror or str(error)) from error


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a JSON text, for ``object_pairs_hook``: ValueError where a key stands twice.

    Which of its values holds would be one thing to us and another to whoever wrote it.
    """
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number that JSON has")


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


_EXPECTED = {
    "missing": "a value",
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "an object",
    "dataclass_type": "an object",
}


def _first_fault(value: Any, faults: list[Any]) -> tuple[str, str, str]:
    """Place of the first fault of a validation, what came there and what was expected, of each member of a union."""
    told = [(_place(value, fault), fault) for fault in faults]
    place, first = told[0]
    expected = [
        _EXPECTED.get(fault["type"]) or fault["msg"].removeprefix("Input should be ")
        for other, fault in told
        if other == place
    ]
    came = "nothing" if first["type"] == "missing" else f"{first['input']!r:.80}"
    return place, came, " or ".join(dict.fromkeys(expected))


def _place(value: Any, fault: Any) -> str:
    """``subjects[0].figures`` of the path of a fault."""
    place = ""
    for number, part in enumerate(fault["loc"], start=1):
        is_missing = fault["type"] == "missing" and number == len(fault["loc"])
        if isinstance(value, dict) and (part in value or is_missing):
            place, value = f"{place}.{part}" if place else str(part), value.get(part)
        elif isinstance(value, list | tuple) and isinstance(part, int):
            place, value = f"{place}[{part}]", value[part] if part < len(value) else None
    return place


def plain(value: Any) -> Any:
    """A value as built-in types that `load` reads back: dataclasses as dicts, tuples as lists, paths as text."""
    kind: Any = type(value)
    return _adapter(kind).dump_python(value, mode="json", by_alias=True, warnings=False, fallback=dict)


def dump(value: Any) -> str:
    """A value as the JSON text of an artifact; see `plain`."""
    return render_json(plain(value))


def append_line(path: Path, record: object) -> None:
    """Append one JSON line and flush it to disk: what was measured survives a kill."""
    line = json.dumps(record, allow_nan=False) + "\n"
    try:
        make_folder(path.parent)
        is_new = not path.exists()
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            _sync_folder(path.parent)
    except OSError as error:
        raise StoreError("the journal cannot be written", where=str(path), came=error.strerror or str(error)) from error


def cache_folder() -> Path:
    """Where what is found out once is kept for later runs of this user: in ``$XDG_CACHE_HOME``, or in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pytest-h2o"


_WORTH_REMEMBERING = 16 * 1024 * 1024
_SETTLED_NS = 2_000_000_000
"""A file that changed less long ago than its times are exact may change again and keep them."""


def digest_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; ``unreadable`` if it cannot be read.

    That of a large file is remembered with its size, times and inode, and not computed again while these last.
    """
    import hashlib

    try:
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            marks = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev]
            memory = _memory_of(path) if status.st_size >= _WORTH_REMEMBERING else None
            if memory is not None and (known := _recall(memory, marks)):
                return known
            digest = hashlib.sha256()
            while piece := file.read(1 << 20):
                digest.update(piece)
            after = os.fstat(file.fileno())
    except OSError:
        return "unreadable"
    is_settled = time.time_ns() - max(after.st_mtime_ns, after.st_ctime_ns) > _SETTLED_NS
    if memory is not None and is_settled and after.st_ctime_ns == status.st_ctime_ns:
        with contextlib.suppress(StoreError):
            write_new_json(memory, {"marks": marks, "sha256": digest.hexdigest()}, overwrite=True)
    return digest.hexdigest()


def _memory_of(path: Path) -> Path | None:
    """The file that remembers the digest of a file; None where this user has no place for it."""
    import hashlib

    with contextlib.suppress(RuntimeError):
        name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
        return cache_folder() / "digests" / f"{name}.json"
    return None


def _recall(memory: Path, marks: list[int]) -> str | None:
    with contextlib.suppress(OSError, ValueError, TypeError, LookupError):
        kept = json.loads(read_regular_text(memory))
        if kept["marks"] == marks and len(kept["sha256"]) == 64:
            return str(kept["sha256"])
    return None

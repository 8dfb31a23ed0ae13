"""Metas that were parsed before, kept from one run to the next: a dump can hold a hundred thousand of them.

A meta is taken from the cache only if its file is the one that was read: same inode, size, and times of modification
and of change to the nanosecond. The time of change cannot be set by hand, so that neither an edit that keeps the size
nor a copied time is overlooked. A file that was changed within `_YOUNG_NS` before it was read is not kept, because
another change could fall on the same tick of its file system's clock. Data files are looked up and sized every time.

The cache of a root is one file in the user's cache folder, ``$PYTEST_H2O_CACHE_DIR`` or ``~/.cache/pytest-h2o`` (an
empty variable switches it off): a zstd frame with a checksum, whose first line says what wrote it and of which root,
then a line a folder: its path, a tab, its metas. It is written beside its place and renamed, by whoever comes last.
One that is damaged, of another version, or of another root is as good as none, and one that cannot be written is done
without.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from functools import lru_cache
from pathlib import Path

import zstandard

from pytest_h2o import __version__
from pytest_h2o.dumps import meta as meta_module
from pytest_h2o.dumps.meta import Meta

Stamp = tuple[int, int, int, int]
Known = dict[str, tuple[Stamp, Meta]]

_WORTH = 1000
"""From this many metas on that had to be read a cache is written."""
_YOUNG_NS = 2_000_000_000
_KEPT_ROOTS = 32
_MOST_BYTES = 1 << 30


def stamp_of(status: os.stat_result) -> Stamp:
    """What tells a file from any other that stood, or will stand, in its place."""
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class MetaCache:
    """The metas of the dump at `root`, an absolute path without links; for one walk over it."""

    def __init__(self, root: str) -> None:
        self._started_ns = time.time_ns()
        self._file = _cache_file(root)
        self._head = _describe(root)
        self._lines = _load(self._file, self._head) if self._file else {}
        self._fresh = 0
        self._lines_now: list[bytes] = []

    def known(self, prefix: str) -> Known:
        """Name to stamp and meta of one folder."""
        line = self._lines.get(prefix)
        if line is None:
            return {}
        rows = json.loads(line)
        return {name: ((ino, size, mtime, ctime), Meta(*meta)) for name, ino, size, mtime, ctime, *meta in rows}

    def keep(self, prefix: str, found: Known, fresh: int) -> None:
        """Take what is true of a folder now; `fresh` of them had to be read."""
        if self._file is None or not found:
            return
        self._fresh += fresh
        latest = self._started_ns - _YOUNG_NS
        rows = [[name, *stamp, *meta] for name, (stamp, meta) in found.items() if max(stamp[2:]) < latest]
        self._lines_now.append(f"{json.dumps(prefix)}\t{json.dumps(rows, separators=(',', ':'))}".encode("ascii"))

    def save(self) -> None:
        """Write the cache, if that is worth it."""
        if self._file is None or self._fresh < _WORTH:
            return
        data = b"\n".join([self._head, *self._lines_now])
        temporary = self._file.with_name(f".{self._file.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.write_bytes(zstandard.ZstdCompressor(level=1, write_checksum=True).compress(data))
            temporary.replace(self._file)
            _forget_oldest(self._file.parent)
        except OSError:
            pass  # no room, or a folder that is read-only: the next run reads the metas again
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _cache_file(root: str) -> Path | None:
    folder = os.environ.get("PYTEST_H2O_CACHE_DIR")
    if folder == "":
        return None
    if folder is None:
        folder = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "pytest-h2o")  # noqa: PTH111, PTH118
    return Path(folder) / "dumps" / hashlib.sha256(os.fsencode(root)).hexdigest()[:32]


def _describe(root: str) -> bytes:
    """The first line: the root, and the code that parsed."""
    status = os.stat(root)  # noqa: PTH116
    return json.dumps([__version__, _parser_digest(), status.st_dev, status.st_ino, root]).encode("ascii")


@lru_cache(maxsize=1)
def _parser_digest() -> str:
    return hashlib.sha256(Path(meta_module.__file__).read_bytes()).hexdigest()[:16]


def _load(file: Path, head: bytes) -> dict[str, bytes]:
    """Folder to line; nothing if the file is not what `MetaCache.save` wrote for that head."""
    try:
        data = file.read_bytes()
        if zstandard.get_frame_parameters(data).content_size > _MOST_BYTES:
            return {}
        first, *lines = zstandard.ZstdDecompressor().decompress(data).split(b"\n")
        parts = (line.split(b"\t") for line in lines if first == head)
        return {json.loads(prefix): rows for prefix, rows in parts}
    except (OSError, ValueError, zstandard.ZstdError):
        return {}


def _forget_oldest(folder: Path) -> None:
    """Keep the caches of the last roots."""
    files = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for path in files[:-_KEPT_ROOTS]:
        path.unlink(missing_ok=True)

"""A task as it travels to a machine that has neither the dump nor this process: its numbers and its codec's name.

Nothing is shared but the network: a parcel holds the words of its streams, so a worker opens no file, and one that is
lost takes nothing with it that the sender does not have.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import zstandard

from pytest_h2o import __version__
from pytest_h2o.codecs.base import Rope, Words
from pytest_h2o.codecs.registry import codec_from_config
from pytest_h2o.errors import CodecError, DumpError, ExecutorError
from pytest_h2o.lossless.measure import Measured, Measurement, read_words
from pytest_h2o.lossless.plan import Task

_CODED_BY = ("codecs", "lossless")
"""Folders of this package whose code decides what bytes come out."""


@dataclass(frozen=True)
class Parcel:
    """One task with everything that measuring it needs.

    Attributes
    ----------
    task : Task
        Its entries without their files.
    words : uint16 ``[rows, kv_heads, head_dim]``
        Of all its streams.
    codec : mapping
        Configuration of the codec; the worker must have a codec of that name.
    versions : mapping of str to str
        What the sender codes with; a worker that codes with something else refuses.
    """

    task: Task
    words: Words
    codec: Mapping[str, Any]
    verify: bool
    rope: Rope | None
    versions: Mapping[str, str]

    def measure(self) -> Measured:
        """What a worker does.

        Raises
        ------
        ExecutorError
            This machine codes with other versions than the sender, or does not have the codec.
        CodecError, RoundTripError
            As `Measurement` does.
        """
        ours = coding_versions()
        unlike = [name for name, version in self.versions.items() if ours[name] != version]
        if unlike:
            raise ExecutorError(
                "a worker codes with other versions than this process, so that its sizes could be others",
                where=f"worker on {platform.node()}",
                came=", ".join(f"{name} {ours[name]}" for name in unlike),
                expected=", ".join(f"{name} {self.versions[name]}" for name in unlike),
                hint="install the same versions on the workers",
            )
        try:
            codec = codec_from_config(self.codec)
        except CodecError as error:
            raise ExecutorError(
                f"a worker cannot make the codec {self.codec.get('id')}",
                where=f"worker on {platform.node()}",
                came=error.what,
                hint="install the distribution that brings the codec on the workers; one of a conftest stays here",
            ) from error
        return Measurement(codec, self.verify, self.rope).measure(self.task, self.words)


class _Nowhere:
    """The root of entries whose words are at hand: it has no files."""

    def read_into(self, location: str, offset: int, buffer: memoryview, *, is_end: bool) -> NoReturn:
        raise self._error()

    def map_file(self, location: str, size: int, *, is_end: bool) -> NoReturn:
        raise self._error()

    def _error(self) -> DumpError:
        return DumpError("the files of a dump are not where its streams are coded")


_NOWHERE = _Nowhere()


def pack(measurement: Measurement, task: Task) -> Parcel:
    """Read the words of a task, and take its entries off their files."""
    chunks = tuple(
        chunk._replace(
            pieces=tuple(
                piece._replace(entry=piece.entry._replace(k_location="", v_location="", root=_NOWHERE))
                for piece in chunk.pieces
            )
        )
        for chunk in task.chunks
    )
    config = measurement.codec.config()
    return Parcel(
        replace(task, chunks=chunks), read_words(task), config, measurement.verify, measurement.rope, coding_versions()
    )


@lru_cache(maxsize=1)
def coding_versions() -> dict[str, str]:
    """What decides how many bytes come out: this package and its code, and the libraries."""
    return {
        "pytest_h2o": __version__,
        "code": _digest_code(),
        "numpy": np.__version__,
        "libzstd": ".".join(map(str, zstandard.ZSTD_VERSION)),
        "byteorder": sys.byteorder,
    }


def _digest_code() -> str:
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for folder in _CODED_BY:
        for path in sorted((package / folder).rglob("*.py")):
            digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]

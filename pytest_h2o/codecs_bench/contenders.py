"""What is measured side by side: our codecs, and other people's compressors as they are used in practice.

Every library is imported when it is asked for, and set to one thread. All of them see the words of one chunk and
are told its shape, as our codecs are.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

import numpy as np

from pytest_h2o.codecs.base import Codec, SideInfo, Stream, Words
from pytest_h2o.codecs.planes.byte_planes import from_bytes, to_bytes
from pytest_h2o.codecs.spec import render_codec
from pytest_h2o.errors import UsageError


@dataclass(frozen=True)
class Contender:
    """Something that encodes a stream and decodes it again.

    Attributes
    ----------
    name : str
        Unique in a comparison.
    kind : "codec" or "peer"
    settings : str
        What the reader should know of its configuration.
    version : str
        Of the library, for peers.
    encode, decode : callable
        Stream to bytes; bytes and side information to words.
    decode_many : callable
        Several at once, where the contender has a way; else one by one.
    """

    name: str
    kind: Literal["codec", "peer"]
    settings: str
    version: str
    encode: Callable[[Stream], bytes]
    decode: Callable[[bytes, SideInfo], Words]
    decode_many: Callable[[Sequence[bytes], Sequence[SideInfo]], list[Words]] | None = None

    def decode_all(self, payloads: Sequence[bytes], sides: Sequence[SideInfo]) -> list[Words]:
        """Decode several payloads, in the fastest way there is."""
        if self.decode_many is not None:
            return self.decode_many(payloads, sides)
        return [self.decode(payload, side) for payload, side in zip(payloads, sides, strict=True)]


def contend(codec: Codec) -> Contender:
    """`codec` as a contender, under the word that names it on a command line."""
    settings = ", ".join(f"{key}={value}" for key, value in codec.config().items() if key != "id")
    return Contender(render_codec(codec), "codec", settings, "", codec.encode, codec.decode, codec.decode_many)


def load_peer(name: str) -> Contender:
    """The peer `name`, its library imported.

    Raises
    ------
    UsageError
        There is no peer of that name, or its library is not installed.
    """
    if name not in _PEERS:
        raise UsageError(f"there is no peer {name!r}", expected=", ".join(_PEERS))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside libraries that are only compared here
            return _PEERS[name]()
    except ImportError as error:
        raise UsageError(
            f"the peer {name!r} is not installed", came=str(error), hint="pip install 'pytest-h2o[peers]'"
        ) from error


def peer_names() -> tuple[str, ...]:
    """Names that `load_peer` takes."""
    return tuple(_PEERS)


def _blosc2() -> Contender:
    blosc2 = importlib.import_module("blosc2")

    def encode(stream: Stream) -> bytes:
        encoded: bytes = blosc2.compress2(
            to_bytes(stream.words),
            typesize=2,
            clevel=5,
            codec=blosc2.Codec.ZSTD,
            filters=[blosc2.Filter.SHUFFLE],
            nthreads=1,
        )
        return encoded

    def decode(payload: bytes, side: SideInfo) -> Words:
        return from_bytes(blosc2.decompress2(payload, nthreads=1), side.shape)

    return Contender("blosc2", "peer", "shuffle, zstd, level 5", _version("blosc2"), encode, decode)


def _pcodec() -> Contender:
    pcodec = importlib.import_module("pcodec")
    standalone = importlib.import_module("pcodec.standalone")
    config = pcodec.ChunkConfig(compression_level=8)

    def encode(stream: Stream) -> bytes:
        flat = np.ascontiguousarray(stream.words).reshape(-1)
        encoded: bytes = standalone.simple_compress(flat.view(np.float16), config)
        return encoded

    def decode(payload: bytes, side: SideInfo) -> Words:
        if side.words == 0:
            return np.empty(side.shape, np.uint16)
        words: Words = standalone.simple_decompress(payload).view(np.uint16).reshape(side.shape)
        return words

    return Contender("pcodec", "peer", "float16, level 8", _version("pcodec"), encode, decode)


def _zipnn() -> Contender:
    zipnn = importlib.import_module("zipnn")
    coder = zipnn.ZipNN(input_format="byte", bytearray_dtype="float16", threads=1)

    def encode(stream: Stream) -> bytes:
        return bytes(coder.compress(to_bytes(stream.words)))

    def decode(payload: bytes, side: SideInfo) -> Words:
        return from_bytes(coder.decompress(bytearray(payload)), side.shape)

    return Contender("zipnn", "peer", "float16", _version("zipnn"), encode, decode)


def _lz4() -> Contender:
    block = importlib.import_module("lz4.block")

    def encode(stream: Stream) -> bytes:
        encoded: bytes = block.compress(to_bytes(stream.words))
        return encoded

    def decode(payload: bytes, side: SideInfo) -> Words:
        return from_bytes(block.decompress(payload), side.shape)

    return Contender("lz4", "peer", "block, default level", _version("lz4"), encode, decode)


def _version(distribution: str) -> str:
    return metadata.version(distribution)


_PEERS: dict[str, Callable[[], Contender]] = {"blosc2": _blosc2, "pcodec": _pcodec, "zipnn": _zipnn, "lz4": _lz4}

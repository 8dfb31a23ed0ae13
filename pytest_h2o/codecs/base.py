"""What a codec is.

A codec takes one `Stream` (the K or the V words of one chunk of tokens of one layer) and gives bytes; its
decoder takes those bytes, and the out-of-band facts that it declares, and gives the same bits back.

Promises, held by one battery of tests over every registered codec:

- ``decode(encode(stream), stream.side_info())`` equals ``stream.words`` bit for bit, for every bit pattern
  (NaN payloads, -0.0, subnormals) and every shape, an empty one included.
- ``len(encode(stream))`` is the size that is counted: nothing else is needed to decode than the payload and
  what `Codec.out_of_band` names.
- Damaged bytes give a `CodecError`, or other words of the same shape (no payload has a checksum: chunks are framed by
  `lossless.measure`); never another exception, and never an allocation that the shape does not bound.
- Neither side keeps a reference to its input; the result owns its memory.
- A codec is immutable and holds no state between calls: it may be used from several threads.
- A codec that sets `Codec.max_overhead_bytes` keeps to it for every stream, noise included.

Bytes that are written once must decode for ever: a format that changes gets a new `Codec.id`, and the default of
a setting that `Codec.decode` reads never changes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.errors import CodecError, blaming, did_you_mean

Words = NDArray[np.uint16]
Tensor = Literal["k", "v"]
Pairing = Literal["half", "interleaved"]
DType = Literal["fp16", "bf16"]
"""What the words of a stream are: 5 bits of exponent and 10 of mantissa (IEEE 754 binary16), or 8 and 7 (bfloat16)."""


@dataclass(frozen=True)
class Rope:
    """How K was rotated (RoPE, Su et al. 2021): angle = position * theta ** (-2 i / head_dim) for pair i.

    `pairing` is ``half`` (dimension i with i + head_dim / 2) or ``interleaved`` (2 i with 2 i + 1).
    """

    theta: float
    pairing: Pairing = "half"


@dataclass(frozen=True)
class SideInfo:
    """What the dump's own metadata says of a stream, whatever the codec."""

    tensor: Tensor
    shape: tuple[int, int, int]
    """``[seq_len, kv_heads, head_dim]``."""

    dtype: DType = "fp16"

    @property
    def words(self) -> int:
        """Number of 16-bit words."""
        return math.prod(self.shape)

    @property
    def raw_bytes(self) -> int:
        return self.words * 2


@dataclass(frozen=True)
class Stream:
    """The unit that is coded.

    Attributes
    ----------
    words : numpy.ndarray of uint16, ``[seq_len, kv_heads, head_dim]``
        Bit patterns; need not be contiguous, and are read-only where they are measured.
    tensor : "k" or "v"
    positions : numpy.ndarray of int64, ``[seq_len]``, or None
        Position of each token in its sequence; None where unknown.
    rope : Rope or None
        Rotation of K where known.
    dtype : "fp16" or "bf16"
        What the patterns stand for.

    Raises
    ------
    CodecError
        The words are not native uint16 with three axes, or the positions do not fit them.
    """

    words: Words
    tensor: Tensor
    positions: NDArray[np.int64] | None = None
    rope: Rope | None = None
    dtype: DType = "fp16"

    def __post_init__(self) -> None:
        words, positions = self.words, self.positions
        if words.dtype != np.uint16 or words.ndim != 3:
            raise CodecError(
                "these words are no stream",
                came=f"{words.dtype.str} {list(words.shape)}",
                expected="uint16 in native byte order, [seq_len, kv_heads, head_dim]",
                hint="view fp16 and bf16 data as uint16: array.view(numpy.uint16)",
            )
        if positions is not None and (positions.dtype != np.int64 or positions.shape != words.shape[:1]):
            raise CodecError(
                "positions do not fit their stream",
                came=f"{positions.dtype.str} {list(positions.shape)}",
                expected=f"int64 [{words.shape[0]}], one a token",
            )

    def side_info(self) -> SideInfo:
        seq_len, kv_heads, head_dim = self.words.shape
        return SideInfo(self.tensor, (seq_len, kv_heads, head_dim), self.dtype)

    @property
    def raw_bytes(self) -> int:
        return self.words.size * 2


@dataclass(frozen=True)
class Codec(ABC):
    """Base of all codecs; a subclass is a frozen dataclass whose fields are its configuration."""

    id: ClassVar[str]
    """Name in configurations and on the command line; never reused for another format."""

    out_of_band: ClassVar[tuple[str, ...]] = ()
    """Names of `SideInfo` fields that `decode` reads beside the payload; () = the payload alone decodes."""

    dtypes: ClassVar[tuple[DType, ...]] = ("fp16", "bf16")
    """What it codes; words of another kind are refused (see `check_dtype`)."""

    max_overhead_bytes: ClassVar[int | None] = None
    """Most bytes that a payload can have over the raw bytes, whatever the words; None = nothing is promised."""

    @abstractmethod
    def encode(self, stream: Stream) -> bytes:
        """Encode one stream; the length of the result is the counted size."""

    def encode_many(self, streams: Sequence[Stream]) -> list[bytes]:
        """Encode several streams, each to the bytes that `encode` gives; a codec may be faster so."""
        return [self.encode(stream) for stream in streams]

    @abstractmethod
    def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
        """Give back the words, ``[seq_len, kv_heads, head_dim]``, C order.

        Raises
        ------
        CodecError
            The payload is damaged or does not fit `side`.
        """

    def decode_many(self, payloads: Sequence[bytes | memoryview], sides: Sequence[SideInfo]) -> list[Words]:
        """Decode several payloads of this codec, each as `decode` does; a codec may be faster so.

        The words may be parts of one array that they share, none with another's words in it.

        Raises
        ------
        CodecError
            One of the payloads is damaged or does not fit its side: it is not said which.
        """
        return [self.decode(payload, side) for payload, side in zip(payloads, sides, strict=True)]

    def modes(self, payload: bytes | memoryview, side: SideInfo) -> Mapping[str, Mapping[str, int]]:
        """How often each mode or predictor was chosen, by plane (``hi``, ``lo``); empty if there is no choice."""
        return {}

    def plane_bytes(self, payload: bytes | memoryview, side: SideInfo) -> Mapping[str, int]:
        """Payload bytes by plane (``hi``, ``lo``), their headers included; empty if there are no such planes."""
        return {}

    def check_dtype(self, given: Stream | SideInfo) -> None:
        """CodecError where the words are of a kind that is not in `dtypes`."""
        if given.dtype not in self.dtypes:
            raise CodecError(
                f"codec {self.id} does not code {given.dtype}",
                came=given.dtype,
                expected=" or ".join(self.dtypes),
                hint="it is defined for these words only; expbias, rowref and rowref_max code fp16 and bf16",
            )

    def config(self) -> dict[str, Any]:
        """Configuration as built-in types; `from_config` takes it back."""
        return {"id": self.id, **{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Codec:
        """Build an instance from `config`; its ``id`` is not read.

        Lists become tuples, as `config` made lists of tuples.

        Raises
        ------
        CodecError
            A key is unknown, or a value has the wrong type or is out of range.
        """
        given = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items() if k != "id"}
        check_settings(cls, cls.id, given)
        return cls(**given)


def check_settings(cls: type, codec_id: str, given: Mapping[str, Any]) -> None:
    """Raise `CodecError` for the first setting that `cls`, a dataclass, does not take.

    Checked are names, and the types bool, int, float, str, None, Literal, and unions and tuples of these; a
    field of another type is left to the codec, as are ranges.
    """
    known = {f.name: f for f in fields(cls)}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise CodecError(
            f"codec {codec_id} has no setting {unknown[0]!r}",
            came=", ".join(unknown),
            expected=", ".join(known) or "no settings",
            hint=did_you_mean(unknown[0], known, quoted=True),
        )
    try:
        hints = get_type_hints(cls)
    except NameError:  # an annotation imported for type checkers only: nothing to check against
        return
    for name, value in given.items():
        if not _fits(value, hints[name]):
            raise CodecError(
                f"setting {name!r} of codec {codec_id} has the wrong type",
                came=f"{value!r} ({type(value).__name__})",
                expected=str(known[name].type),
            )


def _fits(value: Any, hint: Any) -> bool:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return any(type(value) is type(arg) and value == arg for arg in args)
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return isinstance(value, tuple) and all(_fits(v, args[0]) for v in value)
        return isinstance(value, tuple) and len(value) == len(args) and all(map(_fits, value, args))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint in (bool, int, str, NoneType):
        return type(value) is hint
    return True


def read_config(codec: Codec) -> dict[str, Any]:
    """Configuration of a codec, whoever wrote it; CodecError if its `config` raises or gives no mapping."""
    with blaming(f"the codec {codec.id} failed in config()", kind=CodecError, hint="mend the codec"):
        return dict(codec.config())

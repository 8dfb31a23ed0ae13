"""A GGUF file of a Llama-style model: its hyper-parameters, its tensors, its tokenizer metadata, all checked.

GGUF is the model format of llama.cpp; the ``gguf`` package reads it and turns quantised tensors into float32.
Every fault of a file is one `UsageError` that names it. A model that would be computed wrongly is refused: a wrong
figure is worse than none.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
from gguf.gguf_reader import READER_SUPPORTED_VERSIONS
from numpy.typing import NDArray

from pytest_h2o.errors import UsageError
from pytest_h2o.files import open_regular

Floats = NDArray[np.float32]
ARCHITECTURE = "llama"
_HINT = "name a GGUF file of a Llama-style model in `llm_model` of the config"


class HyperParameters(NamedTuple):
    """What the metadata of a model says of its shape."""

    layers: int
    embedding: int
    feed_forward: int
    heads: int
    """A whole multiple of `kv_heads`."""
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    """The longest sequence that the model was made for, in tokens."""
    rope_theta: float
    """Base of the rotation: pair i turns by position * theta ** (-2 i / head_dim)."""
    norm_epsilon: float
    """Added to the mean square in RMS norms."""

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name to shape, rows first, of every tensor that a model of this shape must have."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        of_layer = {
            "attn_norm": (self.embedding,),
            "attn_q": (query, self.embedding),
            "attn_k": (key, self.embedding),
            "attn_v": (key, self.embedding),
            "attn_output": (self.embedding, query),
            "ffn_norm": (self.embedding,),
            "ffn_gate": (self.feed_forward, self.embedding),
            "ffn_up": (self.feed_forward, self.embedding),
            "ffn_down": (self.embedding, self.feed_forward),
        }
        return {
            "token_embd.weight": (self.vocabulary, self.embedding),
            "output_norm.weight": (self.embedding,),
            **{f"blk.{i}.{name}.weight": shape for i in range(self.layers) for name, shape in of_layer.items()},
        }


_KINDS: Mapping[str, tuple[Callable[[Any], bool], str, str]] = {
    "text": (lambda value: isinstance(value, str), "no text", "text"),
    "number": (
        lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value),
        "no number",
        "a finite number",
    ),
    "array": (lambda value: isinstance(value, (list, tuple)), "no array", "an array"),
    "flag": (lambda value: isinstance(value, bool), "neither true nor false", "true or false"),
}
"""Kind of a metadata value: what is one, what another value is, and what was expected."""


class GgufFile:
    """An open model file; tensors stay on disk, memory-mapped, until they are asked for.

    `UsageError` is raised if the file is missing, is no GGUF file, is truncated, is of another architecture, or has
    hyper-parameters or tensors that are missing, left over, or do not fit each other.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        reader = _open(path)
        self._fields = reader.fields
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        architecture, key = self.metadata("general.architecture", "text"), "general.architecture"
        if architecture != ARCHITECTURE:
            what = "the model is of an architecture that the reference bench does not know"
            raise self.fault(what, key, architecture, ARCHITECTURE)
        self.size_bytes = path.stat().st_size
        self.hyper = self._read_hyper()
        self.tied_head = "output.weight" not in self._tensors
        self._check_tensors()

    def floats(self, name: str) -> Floats:
        """A tensor as float32, rows first, dequantised now; the result is new memory or a view of the file."""
        tensor = self._tensors[name]
        try:
            with np.errstate(all="ignore"):  # scales that are no numbers make weights that are none
                values = gguf.dequantize(tensor.data, tensor.tensor_type)
        except (NotImplementedError, ValueError) as error:
            what, hint = f"tensor {name} has a type that cannot be dequantised", "convert the model to Q8_0, F16 or F32"
            expected = "F32, F16, or a type that gguf dequantises"
            raise self.fault(what, None, tensor.tensor_type.name, expected, hint) from error
        return np.asarray(values, dtype=np.float32).reshape(_shape(tensor))

    def metadata(self, key: str, kind: str, default: Any = None) -> Any:
        """A metadata value of a kind of `_KINDS`; without a default it must be there."""
        value = default
        if key in self._fields:
            try:
                value = self._fields[key].contents()
            except (ValueError, IndexError) as error:
                raise self.fault("a metadata value of the model cannot be read", key, str(error)) from error
        elif default is None:
            raise self.fault("the model's metadata lacks a value", expected=key)
        is_one, otherwise, expected = _KINDS[kind]
        if not is_one(value):
            raise self.fault(f"a metadata value of the model is {otherwise}", key, repr(value)[:80], expected)
        return value

    def fault(
        self,
        what: str,
        key: str | None = None,
        came: str | None = None,
        expected: str | None = None,
        hint: str = _HINT,
    ) -> UsageError:
        """The error for something wrong in this file."""
        where = str(self.path) if key is None else f"{self.path}, {key}"
        return UsageError(what, where=where, came=came, expected=expected, hint=hint)

    def _size(self, key: str, default: int | None = None) -> int:
        key = f"{ARCHITECTURE}.{key}"
        value = self.metadata(key, "number", default)
        if value != int(value) or not 1 <= value <= 1 << 24:
            what = "a size in the model's metadata is impossible"
            raise self.fault(what, key, str(value), "a whole number from 1 to 16777216")
        return int(value)

    def _read_hyper(self) -> HyperParameters:
        embedding, heads = self._size("embedding_length"), self._size("attention.head_count")
        kv_heads = self._size("attention.head_count_kv", heads)
        head_dim = self._size("attention.key_length", max(1, embedding // heads))
        if heads % kv_heads or head_dim % 2:
            raise self.fault(
                "the attention heads of the model do not fit each other",
                came=f"{heads} heads, {kv_heads} KV heads, head size {head_dim}",
                expected="heads a whole multiple of KV heads, an even head size",
            )
        for key, kind, wanted in (
            ("llama.rope.dimension_count", "number", head_dim),
            ("llama.attention.value_length", "number", head_dim),
            ("llama.rope.scaling.type", "text", "none"),
            ("llama.expert_count", "number", 0),
        ):
            came = self.metadata(key, kind, wanted)
            if came != wanted:
                what = "the model is of a kind that the reference bench does not compute"
                raise self.fault(what, key, str(came), str(wanted))
        if "token_embd.weight" not in self._tensors:
            raise self.fault("the model lacks tensors", came="token_embd.weight is not there")
        return HyperParameters(
            layers=self._size("block_count"),
            embedding=embedding,
            feed_forward=self._size("feed_forward_length"),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            vocabulary=int(self._tensors["token_embd.weight"].shape[-1]),
            context=self._size("context_length"),
            rope_theta=self.metadata("llama.rope.freq_base", "number", 10000.0),
            norm_epsilon=self.metadata("llama.attention.layer_norm_rms_epsilon", "number"),
        )

    def _check_tensors(self) -> None:
        layers, lacks = self.hyper.layers, "the model lacks tensors"
        if layers > len(self._tensors):  # a damaged count may be of millions: do not name each that is missing
            raise self.fault(lacks, came=str(len(self._tensors)), expected=f"those of {layers} layers")
        shapes = self.hyper.tensor_shapes()
        if not self.tied_head:
            shapes["output.weight"] = shapes["token_embd.weight"]
        left_over, count = "the model has tensors that the reference bench does not compute with", len(shapes)
        for what, names, how, expected in (
            (lacks, shapes.keys() - self._tensors.keys(), "not there", f"{count} tensors for {layers} layers"),
            (left_over, self._tensors.keys() - shapes.keys(), "left over", f"{count} tensors"),
        ):
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                raise self.fault(what, came=f"{', '.join(sorted(names)[:3])}{more}: {how}", expected=expected)
        for name, shape in shapes.items():
            came = _shape(self._tensors[name])
            if came != shape:
                what = "the shape of a tensor disagrees with the model's metadata"
                raise self.fault(what, name, str(list(came)), str(list(shape)))


def _shape(tensor: gguf.ReaderTensor) -> tuple[int, ...]:
    """Rows first; the file has them the other way round."""
    return tuple(reversed(tensor.shape.tolist()))


_ARRAY, _TEXT = gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.STRING


class _Reader(gguf.GGUFReader):
    """The package's reader, which would walk on past the end of a file for as long as a damaged count says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(path)

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> NDArray[Any]:
        wanted = np.dtype(dtype).newbyteorder(override_order or self.byte_order)
        if offset + wanted.itemsize * int(count) > len(self.data):
            raise ValueError(f"the file ends before offset {offset} + {count} values")
        # A view of the plain buffer: slices of a memory map cost ten times as much.
        return np.frombuffer(self.data.data, wanted, int(count), int(offset))

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Any], list[int], list[Any]]:
        """As the package's, which makes arrays of numpy for each of the thousands of words of a vocabulary."""
        if raw_type != _ARRAY or (kind := self._get(orig_offs, np.uint32)[0]) not in (_TEXT, *self.gguf_scalar_to_np):
            return super()._get_field_parts(orig_offs, raw_type)
        parts: list[Any] = []
        at, data = int(orig_offs) + 12, self.data.data  # behind the type and the number
        count = int(self._get(at - 8, np.uint64)[0])
        if kind != _TEXT:
            parts.append(self._get(at, self.gguf_scalar_to_np[kind], count))
            return 12 + parts[0].nbytes, parts, [0], [_ARRAY, kind]
        for _ in range(count):
            start = at + 8
            at = start + int.from_bytes(data[at:start], sys.byteorder)
            if at > len(data):
                raise ValueError(f"the file ends before offset {at}, in an array of text")
            parts.append(data[start:at])
        return at - int(orig_offs), parts, list(range(count)), [_ARRAY, _TEXT]

    def _build_tensors(self, start_offs: int, fields: list[gguf.ReaderField]) -> None:
        for field in fields:
            number = int(field.parts[4][0])  # name length, name, dimensions, shape, type, offset
            if number not in set(gguf.GGMLQuantizationType):
                raise _unknown(self.path, "a tensor type", f"type {number} of {field.name}")
        super()._build_tensors(start_offs, fields)


def _open(path: Path) -> _Reader:
    try:
        with open_regular(path) as file:
            head = file.read(8)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        came = getattr(error, "strerror", None) or str(error)
        raise UsageError("the model cannot be read", where=str(path), came=came, hint=_HINT) from error
    if head[:4] != b"GGUF":
        what, came = "the model is no GGUF file", f"first bytes {head[:4]!r}"
        raise UsageError(what, where=str(path), came=came, expected="b'GGUF'", hint=_HINT)
    version = int.from_bytes(head[4:], sys.byteorder)
    if version and version % (1 << 16) == 0:  # gguf would take the numbers of the tensors for some of this machine
        raise UsageError(
            "the model is written in the byte order of another machine",
            where=str(path),
            expected=f"a {sys.byteorder}-endian GGUF file",
            hint=f"gguf-convert-endian MODEL {sys.byteorder}, on a copy of it",
        )
    if len(head) == 8 and version not in READER_SUPPORTED_VERSIONS:
        raise _unknown(path, "a file version", f"GGUF version {version}")
    try:
        return _Reader(path)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        # What the package raises for a damaged file depends on where the damage is.
        is_deep = isinstance(error, RecursionError)
        said = "arrays within arrays" if is_deep else f"{type(error).__name__}: {str(error)[:200]}"
        raise UsageError(
            "the metadata of the model is nested too deep" if is_deep else "the model is truncated or damaged",
            where=str(path),
            came=f"{path.stat().st_size} bytes; {said}",
            expected="a whole GGUF file",
            hint="fetch or convert the model again",
        ) from error


def _unknown(path: Path, thing: str, came: str) -> UsageError:
    from importlib import metadata

    return UsageError(
        f"the model has {thing} that the installed gguf does not know",
        where=str(path),
        came=came,
        expected=f"what gguf {metadata.version('gguf')} reads",
        hint="pip install --upgrade gguf, or convert the model to Q8_0, F16 or F32",
    )

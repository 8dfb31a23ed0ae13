"""A GGUF file of a Llama-style model: its hyper-parameters, its tensors, its tokenizer metadata, all checked.

GGUF is the model format of llama.cpp; the ``gguf`` package reads it and turns quantised tensors into float32.
Every fault of a file is one `UsageError` that names it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from pytest_h2o.errors import UsageError

Floats = NDArray[np.float32]
ARCHITECTURE = "llama"
_HINT = "name a GGUF file of a Llama-style model in `llm_model` of the config"


@dataclass(frozen=True)
class HyperParameters:
    """What the metadata of a model says of its shape.

    Attributes
    ----------
    layers, embedding, feed_forward, heads, kv_heads, head_dim, vocabulary : int
        Sizes; `heads` is a whole multiple of `kv_heads`.
    context : int
        The longest sequence that the model was made for, in tokens.
    rope_theta : float
        Base of the rotation: pair i turns by position * theta ** (-2 i / head_dim).
    norm_epsilon : float
        Added to the mean square in RMS norms.
    """

    layers: int
    embedding: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    rope_theta: float
    norm_epsilon: float

    def tensor_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Name to shape, rows first, of every tensor that a model of this shape must have."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        of_layer = {
            "attn_norm.weight": (self.embedding,),
            "attn_q.weight": (query, self.embedding),
            "attn_k.weight": (key, self.embedding),
            "attn_v.weight": (key, self.embedding),
            "attn_output.weight": (self.embedding, query),
            "ffn_norm.weight": (self.embedding,),
            "ffn_gate.weight": (self.feed_forward, self.embedding),
            "ffn_up.weight": (self.feed_forward, self.embedding),
            "ffn_down.weight": (self.embedding, self.feed_forward),
        }
        shapes: dict[str, tuple[int, ...]] = {
            "token_embd.weight": (self.vocabulary, self.embedding),
            "output_norm.weight": (self.embedding,),
        }
        for layer in range(self.layers):
            shapes.update({f"blk.{layer}.{name}": shape for name, shape in of_layer.items()})
        return shapes


class GgufFile:
    """An open model file; tensors stay on disk, memory-mapped, until they are asked for.

    Parameters
    ----------
    path : Path

    Raises
    ------
    UsageError
        The file is missing, is no GGUF file, is truncated, is of another architecture, or has hyper-parameters or
        tensors that are missing, left over, or do not fit each other.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        reader = _open(path)
        self._fields = reader.fields
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        architecture = self.text("general.architecture")
        if architecture != ARCHITECTURE:
            raise self.fault(
                "the model is of an architecture that the reference bench does not know",
                came=architecture,
                expected=ARCHITECTURE,
                key="general.architecture",
            )
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
            raise self.fault(
                f"tensor {name} has a type that cannot be dequantised",
                came=tensor.tensor_type.name,
                expected="F32, F16, or a type that gguf dequantises",
                hint="convert the model to Q8_0, F16 or F32",
            ) from error
        return np.asarray(values, dtype=np.float32).reshape(tuple(reversed(tensor.shape.tolist())))

    def text(self, key: str, default: str | None = None) -> str:
        """A metadata value that must be text."""
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self.fault(
                "a metadata value of the model is no text", came=repr(value)[:80], expected="text", key=key
            )
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A metadata value that must be a finite number."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.fault(
                "a metadata value of the model is no number", came=repr(value)[:80], expected="a finite number", key=key
            )
        return value

    def items(self, key: str, default: Sequence[Any] | None = None) -> list[Any]:
        """A metadata value that must be an array."""
        value = self._value(key, default)
        if not isinstance(value, (list, tuple)):
            raise self.fault(
                "a metadata value of the model is no array", came=repr(value)[:80], expected="an array", key=key
            )
        return list(value)

    def flag(self, key: str, default: bool) -> bool:
        """A metadata value that must be true or false."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.fault(
                "a metadata value of the model is neither true nor false",
                came=repr(value)[:80],
                expected="true or false",
                key=key,
            )
        return value

    def fault(
        self,
        what: str,
        *,
        came: str | None = None,
        expected: str | None = None,
        key: str | None = None,
        hint: str = _HINT,
    ) -> UsageError:
        """The error for something wrong in this file."""
        where = str(self.path) if key is None else f"{self.path}, {key}"
        return UsageError(what, where=where, came=came, expected=expected, hint=hint)

    def _value(self, key: str, default: Any) -> Any:
        field = self._fields.get(key)
        if field is None:
            if default is None:
                raise self.fault("the model's metadata lacks a value", expected=key)
            return default
        try:
            return field.contents()
        except (ValueError, IndexError) as error:
            raise self.fault("a metadata value of the model cannot be read", came=str(error), key=key) from error

    def _size(self, key: str, default: int | None = None) -> int:
        value = self.number(f"{ARCHITECTURE}.{key}", default)
        if value != int(value) or not 1 <= value <= 1 << 24:
            raise self.fault(
                "a size in the model's metadata is impossible",
                came=str(value),
                expected="a whole number from 1 to 16777216",
                key=f"{ARCHITECTURE}.{key}",
            )
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
        self._refuse_variants(head_dim)
        embedding_tensor = self._tensors.get("token_embd.weight")
        if embedding_tensor is None:
            raise self.fault("the model lacks tensors", came="token_embd.weight is not there")
        return HyperParameters(
            layers=self._size("block_count"), embedding=embedding, feed_forward=self._size("feed_forward_length"),
            heads=heads, kv_heads=kv_heads, head_dim=head_dim, vocabulary=int(embedding_tensor.shape[-1]),
            context=self._size("context_length"), rope_theta=self.number("llama.rope.freq_base", 10000.0),
            norm_epsilon=self.number("llama.attention.layer_norm_rms_epsilon"),
        )  # fmt: skip

    def _refuse_variants(self, head_dim: int) -> None:
        """Raise for members of the family that would be computed wrongly: a wrong figure is worse than none."""
        rotated = self.number("llama.rope.dimension_count", head_dim)
        values = self.number("llama.attention.value_length", head_dim)
        scaling = self.text("llama.rope.scaling.type", "none")
        experts = self.number("llama.expert_count", 0)
        for came, wanted, key in (
            (rotated, head_dim, "llama.rope.dimension_count"), (values, head_dim, "llama.attention.value_length"),
            (scaling, "none", "llama.rope.scaling.type"), (experts, 0, "llama.expert_count"),
        ):  # fmt: skip
            if came != wanted:
                raise self.fault(
                    "the model is of a kind that the reference bench does not compute",
                    came=str(came),
                    expected=str(wanted),
                    key=key,
                )

    def _check_tensors(self) -> None:
        shapes = dict(self.hyper.tensor_shapes())
        if not self.tied_head:
            shapes["output.weight"] = shapes["token_embd.weight"]
        missing = sorted(set(shapes) - set(self._tensors))
        if missing:
            raise self.fault(
                "the model lacks tensors",
                came=_some(missing, "not there"),
                expected=f"{len(shapes)} tensors for {self.hyper.layers} layers",
            )
        extra = sorted(set(self._tensors) - set(shapes))
        if extra:
            raise self.fault(
                "the model has tensors that the reference bench does not compute with",
                came=_some(extra, "left over"),
                expected=f"{len(shapes)} tensors",
            )
        for name, shape in shapes.items():
            came = tuple(reversed(self._tensors[name].shape.tolist()))
            if came != shape:
                raise self.fault(
                    "the shape of a tensor disagrees with the model's metadata",
                    came=str(list(came)),
                    expected=str(list(shape)),
                    key=name,
                )


def _some(names: list[str], what: str) -> str:
    shown = ", ".join(names[:3])
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{shown}{rest}: {what}"


class _Reader(gguf.GGUFReader):
    """The package's reader, which would walk on past the end of a file for as long as a damaged count says."""

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> NDArray[Any]:
        wanted = np.dtype(dtype).newbyteorder(override_order or self.byte_order)
        if offset + wanted.itemsize * int(count) > len(self.data):
            raise ValueError(f"the file ends before offset {offset} + {count} values")
        # A view of the plain buffer: slices of a memory map cost ten times as much, and a vocabulary has many strings.
        return np.frombuffer(self.data.data, wanted, int(count), int(offset))


def _open(path: Path) -> gguf.GGUFReader:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise UsageError("the model cannot be read", where=str(path), came=error.strerror, hint=_HINT) from error
    if magic != b"GGUF":
        raise UsageError(
            "the model is no GGUF file", where=str(path), came=f"first bytes {magic!r}", expected="b'GGUF'", hint=_HINT
        )
    try:
        return _Reader(path)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
        # What the package raises for a damaged file depends on where the damage is.
        raise UsageError(
            "the model is truncated or damaged",
            where=str(path),
            came=f"{path.stat().st_size} bytes; {type(error).__name__}: {str(error)[:200]}",
            expected="a whole GGUF file",
            hint="fetch or convert the model again",
        ) from error

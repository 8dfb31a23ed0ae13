"""One meta file: its name, its text checked field by field, and the paths that it may name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from operator import itemgetter
from typing import Any, NamedTuple, NoReturn

from pytest_h2o.errors import DumpError

META_MAX_BYTES = 64 * 1024
"""A real meta has 400 bytes; a larger one than this is not read."""

_MOST_DETAIL = 500
"""Characters: names of files can have tens of thousands."""

_JSON_SPACE = " \t\n\r"
_raw_decode = json.JSONDecoder().raw_decode
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
_DTYPES = {2: ("fp16", "float16", "half"), 4: ("fp32", "float32", "float")}
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


def parse_meta(data: bytes) -> Meta:
    """Parse and check one meta."""
    fields = _parse_object(data)
    try:
        values = _take(fields)
    except KeyError:
        values = tuple(map(fields.get, _FIELDS))
    meta = Meta(*values)
    if tuple(map(type, values)) not in _TYPES:  # exactly int: to isinstance a bool is one
        raise _type_fault(meta, fields)
    end = meta.seq_start + meta.seq_len
    if not (0 <= meta.layer_id < _COUNT_END and meta.seq_start >= 0 and end < _POSITION_END):
        detail = f"layer_id is {_shown(meta.layer_id)}, seq_start {_shown(meta.seq_start)}: negative, or absurdly large"
        raise MetaFault("meta_invalid_numeric_fields", detail, fields)
    if not (0 < meta.seq_len < _COUNT_END and 0 < meta.kv_heads < _COUNT_END and 0 < meta.head_dim < _COUNT_END):
        shape = ", ".join(map(_shown, (meta.seq_len, meta.kv_heads, meta.head_dim)))
        detail = f"[seq_len, kv_heads, head_dim] is [{shape}], each must be at least 1 and less than 2**31"
        raise MetaFault("invalid_shape", detail, fields)
    declared_end = fields.get("seq_end_exclusive", end)
    if declared_end != end or type(declared_end) is not int:
        detail = f"seq_end_exclusive is {_shown(declared_end)}, but seq_start + seq_len is {end}"
        raise MetaFault("meta_invalid_numeric_fields", detail, fields)
    if (names := _DTYPES.get(meta.bytes_per_elem)) is None:
        width = _shown(meta.bytes_per_elem)
        detail = f"bytes_per_elem is {width}, only 2 (fp16) and 4 (fp32) are read"
        raise MetaFault(f"unsupported_bytes_per_elem_{width}", detail, fields)
    if fields.get("dtype", names[0]) not in names:
        detail = f"dtype is {_shown(fields['dtype'])}, expected {names[0]} for {meta.bytes_per_elem} bytes an element"
        raise MetaFault("unsupported_dtype", detail, fields)
    if meta.stage not in _STAGES:
        detail = f"stage is {_shown(meta.stage)}, expected prefill or decode"
        raise MetaFault("meta_invalid_text_fields", detail, fields)
    if not (meta.k_file and meta.v_file):
        raise MetaFault("missing_k_or_v_file", "k_file or v_file is empty", fields)
    if fields.get("quant_key") or fields.get("quant_value"):
        return meta._replace(quantized=True)
    return meta


def _parse_object(data: bytes) -> dict[str, Any]:
    if len(data) > META_MAX_BYTES:
        raise MetaFault("meta_parse_error", f"larger than {META_MAX_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig").strip(_JSON_SPACE)
        fields, end = _raw_decode(text)
    except (ValueError, RecursionError) as error:  # ValueError: no JSON, no UTF-8, or an integer of absurd length
        told = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise MetaFault("meta_parse_error", f"no JSON: {told}") from error
    if end != len(text):
        raise MetaFault("meta_parse_error", f"no JSON: text behind the end, at character {end}")
    if not isinstance(fields, dict):
        raise MetaFault("meta_parse_error", f"no JSON object but {type(fields).__name__}")
    return fields


def _type_fault(meta: Meta, fields: Mapping[str, Any]) -> MetaFault:
    """Names the first field of a wrong type, and the others of its kind."""
    kinds = zip(*_TYPES, strict=True)
    wrong = [name for name, value, fit in zip(_FIELDS, meta[:-1], kinds, strict=True) if type(value) not in fit]
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
    return name.startswith("meta_") and name.endswith(".json")


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

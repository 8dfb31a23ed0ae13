"""``pytest-h2o import``: a KV dump of safetensors files that hold K and V by layer, as other runtimes save caches.

Which tensor is K or V of which layer is read from its name; which axis is which from names that tell it, from the
model's config.json beside the file, or from ``--axes``. Nothing is guessed: what cannot be told is asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_h2o.cli.main import path
from pytest_h2o.errors import DumpError, UsageError, can_name_file, make_printable
from pytest_h2o.files import check_regular, list_files, load

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DTYPES = {"F16": ("fp16", 2), "BF16": ("bf16", 2), "F32": ("fp32", 4)}
_ORDERS = {3: ("hsd", "shd"), 4: ("bhsd", "bshd")}
"""What the axes of a tensor can be: batch, head, sequence, dimension within a head."""


class Layout(NamedTuple):
    """Names of K and of V, regular expressions with a group `layer`, and the axes where the names tell them."""

    name: str
    key: str
    value: str
    axes: str = ""


_N = r"(?P<layer>\d+)"
_ONE_NUMBER = r"(?=\D*(?P<layer>\d+)\D*$)(?:.*[^a-z])?"
LAYOUTS = (
    Layout("layers.N.keys and .values, of transformers", rf"layers\.{_N}\.keys", rf"layers\.{_N}\.values", "bhsd"),
    Layout("key_cache.N and value_cache.N, of transformers", rf"key_cache\.{_N}", rf"value_cache\.{_N}", "bhsd"),
    Layout(
        "past_key_values.N.key and .value, of ONNX models",
        rf"(?:past_key_values|present)\.{_N}\.key",
        rf"(?:past_key_values|present)\.{_N}\.value",
        "bhsd",
    ),
    Layout(
        "names with one number, and k or v",
        rf"{_ONE_NUMBER}(?:k|keys?)(?:[^a-z].*)?",
        rf"{_ONE_NUMBER}(?:v|values?)(?:[^a-z].*)?",
    ),
)
"""In the order in which they are tried: the first that knows a name of a file is its layout."""


def add_arguments_import(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``import``; `run_import` takes what they parse to."""
    parser.add_argument("source", type=path, help="a .safetensors file, or a folder of them")
    parser.add_argument("out_dir", type=path, help="root of the dump")
    parser.add_argument(
        "--key", metavar="PATTERN", help="names of K, with {layer} for the number: block{layer}/cached_k"
    )
    parser.add_argument("--value", metavar="PATTERN", help="names of V, likewise")
    parser.add_argument("--axes", choices=[*_ORDERS[4], *_ORDERS[3]], help="b batch, h head, s token, d dimension")
    parser.add_argument("--run-id", metavar="NAME", help="name of the run (default: that of the file, or folder)")


def run_import(args: argparse.Namespace) -> int:
    """Write the dump, and say what was found; an error leaves nothing half written."""
    layouts = _layouts(args.key, args.value)
    config = _read_config(args.source)
    runs = _runs([_read_names(file, layouts) for file in _files(args.source)], args.source, args.run_id)
    _check_names(runs)
    try:
        args.out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what, expected = "the root of the dump cannot be made", "a folder that can be written"
        raise UsageError(what, where=str(args.out_dir), came=error.strerror, expected=expected) from error
    with tempfile.TemporaryDirectory(dir=args.out_dir, prefix=".import-") as place:
        told = [_write_run(Path(place), run_id, caches, args.axes, config) for run_id, caches in runs.items()]
        written = sorted(Path(place).iterdir())
        for folder in written:
            if (target := args.out_dir / folder.name).exists():
                raise UsageError(
                    "there is such a run already", where=str(target), hint="take another --run-id or folder"
                )
        for folder in written:
            folder.rename(args.out_dir / folder.name)
    print("\n".join(told))
    more = config.get("rope_parameters")
    rope = config.get("rope_theta") or (more.get("rope_theta") if isinstance(more, dict) else None)
    is_theta = isinstance(rope, int | float) and not isinstance(rope, bool) and 0 < rope < 1e12
    flag = f" --rope-theta {rope:g}" if is_theta else ""
    print(f"next: pytest-h2o codecs bench {args.out_dir}{flag}")
    return 0


@dataclass(frozen=True)
class Cache:
    """What one file holds: the names of K and V by layer, and how many tensors are something else."""

    file: Path
    layout: Layout
    names: Mapping[tuple[int, str], str]
    others: int


def _layouts(key: str | None, value: str | None) -> Sequence[Layout]:
    if key is None and value is None:
        return LAYOUTS
    for flag, pattern in (("--key", key), ("--value", value)):
        if pattern is None or pattern.count("{layer}") != 1:
            hint = "both patterns are needed, as in --key 'block{layer}/cached_k' --value 'block{layer}/cached_v'"
            raise UsageError(
                f"{flag} is no pattern", came=repr(pattern), expected="a name with {layer} in it", hint=hint
            )
    regular = [re.escape(pattern or "").replace(re.escape("{layer}"), _N) for pattern in (key, value)]
    return (Layout(f"{key} and {value}", *regular),)


def _files(source: Path) -> list[Path]:
    if source.is_dir():
        files, unseen = list_files(source, (".safetensors",))
        if unseen:
            raise UsageError("the folder cannot be listed", where=str(source), came=next(iter(unseen.values())))
        if files:
            return files
        there = ", ".join(sorted(file.name for file in source.iterdir())[:6]) or "nothing"
        raise UsageError(
            "there is no safetensors file in the folder", where=str(source), came=there, expected="*.safetensors"
        )
    if not source.is_file():
        raise UsageError(
            "there is no such file or folder", where=str(source), expected="a .safetensors file, or a folder"
        )
    with source.open("rb") as file:
        start = file.read(4)
    if start in (b"qsgg", b"nsgg", b"ggsq", b"ggsn"):
        raise UsageError(
            "this is a saved sequence or session of llama.cpp, which is not read",
            where=str(source),
            came="rows of K and V without the number of heads, in a layout that changes with llama.cpp",
            hint="record the cache with transformers instead, from the same weights: docs/importing.md",
        )
    return [source]


def _read_config(source: Path) -> dict[str, Any]:
    file = (source if source.is_dir() else source.parent) / "config.json"
    return load(dict[str, Any], file, "the model's config") if os.path.lexists(file) else {}


def _check_names(runs: Mapping[str, Sequence[Cache]]) -> None:
    """Refuse a run that no folder can be called by: it would lie outside of the dump, or in another run."""
    for name in runs:
        is_inside = name not in ("", ".", "..") and "/" not in name and can_name_file(f"{name}-9999")
        if not is_inside or name != make_printable(name, keep=""):
            expected = "the name of a folder: --run-id NAME, or other names of files"
            raise UsageError("a run cannot be called so", came=repr(name)[:100], expected=expected)


def _open(file: Path) -> Any:
    try:
        check_regular(file)
    except OSError as error:
        raise UsageError("a file cannot be read", where=str(file), came=error.strerror or str(error)) from error
    try:
        import ml_dtypes  # noqa: F401 - gives numpy a bfloat16, which safetensors asks for
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        hint = "pip install 'pytest-h2o[import]'"
        raise UsageError("import needs safetensors and ml_dtypes", came=str(error), hint=hint) from error
    try:
        return safe_open(file, framework="np")
    except (SafetensorError, OSError) as error:
        raise DumpError("this is no safetensors file", where=str(file), came=str(error)) from error


def _read_names(file: Path, layouts: Sequence[Layout]) -> Cache:
    with _open(file) as opened:
        there = list(opened.keys())
    for layout in layouts:
        names: dict[tuple[int, str], str] = {}
        for name in there:
            for tensor, pattern in (("k", layout.key), ("v", layout.value)):
                if found := re.fullmatch(rf"(?:.*\.)?{pattern}" if layout.axes else pattern, name, re.IGNORECASE):
                    place = int(found["layer"]), tensor
                    if place in names:
                        raise _ambiguous(file, place, names[place], name)
                    names[place] = name
        if names:
            for layer, tensor in names:
                if (layer, "v" if tensor == "k" else "k") not in names:
                    missing = f"{'V' if tensor == 'k' else 'K'} of layer {layer}"
                    came = f"{names[layer, tensor]!r}, and {missing} nowhere"
                    raise DumpError("K or V of a layer is missing", where=str(file), came=came, expected=layout.name)
            return Cache(file, layout, names, len(there) - len(names))
    raise DumpError(
        "no tensor of the file is K or V of a layer by its name",
        where=str(file),
        came=", ".join(map(repr, sorted(there)[:4])) or "no tensor at all",
        expected="; ".join(layout.name for layout in layouts),
        hint="say how they are called: --key 'block{layer}/cached_k' --value 'block{layer}/cached_v'",
    )


def _ambiguous(file: Path, place: tuple[int, str], one: str, other: str) -> DumpError:
    return DumpError(
        f"two tensors could be {place[1].upper()} of layer {place[0]}",
        where=str(file),
        came=f"{one!r} and {other!r}",
        hint="say which, with --key and --value",
    )


def _runs(caches: Sequence[Cache], source: Path, run_id: str | None) -> dict[str, list[Cache]]:
    """Files that hold the same layers are runs of their own; else they are parts of one."""
    places = [place for cache in caches for place in cache.names]
    if len(set(places)) == len(places):
        return {run_id or (caches[0].file.stem if len(caches) == 1 else source.resolve().name): [*caches]}
    if run_id is not None:
        raise UsageError("--run-id names one run", came=f"{len(caches)} files that hold the same layers, a run each")
    return {cache.file.stem: [cache] for cache in caches}


def _write_run(root: Path, run_id: str, caches: Sequence[Cache], axes: str | None, config: Mapping[str, Any]) -> str:
    """Write all layers of a run, a run for each of its batch; what was found, in words."""
    found: set[str] = set()
    layers: list[int] = []
    for cache in caches:
        with _open(cache.file) as opened:
            mask = opened.get_tensor("attention_mask") if "attention_mask" in opened.keys() else None  # noqa: SIM118
            for layer in sorted({layer for layer, _ in cache.names}):
                names = [cache.names[layer, tensor] for tensor in "kv"]
                read = [_read(opened, cache, name, axes, config) for name in names]
                (key, dtype, order), (value, value_dtype, _) = read
                if key.shape != value.shape or dtype != value_dtype:
                    came = f"{dtype} {list(key.shape)} and {value_dtype} {list(value.shape)}"
                    where = f"{cache.file}: {names[0]} and {names[1]}"
                    raise DumpError(
                        "K and V of a layer are unlike", where=where, came=came, expected="one shape and dtype"
                    )
                for one, (k, v) in enumerate(zip(key, value, strict=True)):
                    name = run_id if len(key) == 1 else f"{run_id}-{one}"
                    _write_entry(root / name / f"layer_{layer}", name, layer, *_unmasked(k, v, mask, one, cache), dtype)
                layers.append(layer)
                found.add(f"{dtype}, {order} {list(opened.get_slice(names[0]).get_shape())}")
    others = sum(cache.others for cache in caches)
    unused = f", {others} other tensors not used" if others else ""
    shown = ", ".join(map(str, layers[:6])) + (f" and {len(layers) - 6} more" if len(layers) > 6 else "")
    return f"{run_id}: {caches[0].layout.name}; layers {shown}; {'; '.join(sorted(found))}{unused}"


def _read(opened: Any, cache: Cache, name: str, axes: str | None, config: Mapping[str, Any]) -> Any:
    """The bits of a tensor, ``[batch, seq_len, kv_heads, head_dim]``, its dtype and the order of its axes."""
    import numpy as np

    where = f"{cache.file}: {name}"
    stored = opened.get_slice(name)
    if (kind := _DTYPES.get(stored.get_dtype())) is None:
        raise DumpError(
            "a tensor of this dtype is not imported", where=where, came=stored.get_dtype(), expected="F16, BF16 or F32"
        )
    shape = tuple(stored.get_shape())
    order = _order(shape, where, axes, cache.layout.axes, config)
    bits = opened.get_tensor(name).view(np.uint16 if kind[1] == 2 else np.uint32)
    if "b" not in order:
        bits = bits[None]
    if order.endswith("hsd"):
        bits = bits.transpose(0, 2, 1, 3)
    if 0 in bits.shape:
        raise DumpError("a tensor is empty", where=where, came=str(list(shape)), expected="at least one token")
    return bits, kind[0], order


def _order(shape: tuple[int, ...], where: str, told: str | None, by_names: str, config: Mapping[str, Any]) -> str:
    """What the axes are; DumpError where that cannot be told."""
    orders = _ORDERS.get(len(shape), ())
    if told is not None:
        if told not in orders:
            raise DumpError(
                "--axes does not fit a tensor",
                where=where,
                came=f"{told} for {list(shape)}",
                expected=" or ".join(orders) or "3 or 4 axes",
            )
        return told
    if by_names.endswith("hsd") and orders:
        return orders[0]
    known = {"h": config.get("num_key_value_heads") or config.get("num_attention_heads"), "d": config.get("head_dim")}
    fitting = [
        o for o in orders if known["h"] and all(size in (None, shape[o.index(axis)]) for axis, size in known.items())
    ]
    if len(fitting) == 1:
        return fitting[0]
    told_heads = f"; config.json says {known['h']} heads" if known["h"] else ""
    raise DumpError(
        "which axis is the heads and which the tokens cannot be told",
        where=where,
        came=f"{list(shape)}{told_heads}",
        expected="[heads, tokens, dimension] or [tokens, heads, dimension], with a batch before them or without",
        hint="say it with --axes, or put the model's config.json beside the file",
    )


def _unmasked(key: Any, value: Any, mask: Any, one: int, cache: Cache) -> tuple[Any, Any]:
    """K and V of the tokens that are no padding."""
    if mask is None:
        return key, value
    if mask.ndim != 2 or one >= len(mask) or mask.shape[1] != len(key):
        came, expected = str(list(mask.shape)), f"[batch, {len(key)}]"
        raise DumpError("attention_mask does not fit the tensors", where=str(cache.file), came=came, expected=expected)
    kept = mask[one] == 1
    if not kept.any() or not (kept | (mask[one] == 0)).all():
        raise DumpError(
            "attention_mask does not tell tokens from padding",
            where=f"{cache.file}, row {one}",
            came="no 1" if not kept.any() else "other values than 0 and 1",
            expected="1 for each token and 0 for padding",
        )
    return key[kept], value[kept]


def _write_entry(folder: Path, run_id: str, layer: int, key: NDArray[Any], value: NDArray[Any], dtype: str) -> None:
    """One entry: all tokens of a layer, ``[seq_len, kv_heads, head_dim]``."""
    tokens, heads, dim = key.shape
    span = f"t0_{tokens}"
    meta = {
        "layer_id": layer,
        "seq_start": 0,
        "seq_len": tokens,
        "seq_end_exclusive": tokens,
        "kv_heads": heads,
        "head_dim": dim,
        "bytes_per_elem": key.itemsize,
        "dtype": dtype,
        "stage": "prefill",
        "run_id": run_id,
        "k_file": f"k_{span}.bin",
        "v_file": f"v_{span}.bin",
    }
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        what, expected = f"two runs are called {run_id}", "other names of files: runs of a batch get a number"
        raise UsageError(what, came=folder.name, expected=expected) from error
    for name, bits in (("k", key), ("v", value)):
        (folder / f"{name}_{span}.bin").write_bytes(bits.astype(bits.dtype.newbyteorder("<")).tobytes())
    (folder / f"meta_{span}.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")

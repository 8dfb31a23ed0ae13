"""A lossless result for a person to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pytest_h2o.lossless.result import LosslessResult

_SHOWN = 20


def render_markdown(result: LosslessResult) -> str:
    """Summary, bytes by layer, chosen modes, and what was skipped or found."""
    return "\n".join([*_summary(result), *_layers(result), *_modes(result), *_troubles(result)]) + "\n"


def render_line(result: LosslessResult) -> str:
    """The result in one line."""
    proof = f"{result.verified_streams} of {result.encoded_streams} streams decoded and equal"
    skipped = f"; {result.skipped_entries} entries SKIPPED" if result.skipped_entries else ""
    ratios = f"{result.lossless_ratio:.4f} (K {result.k_lossless_ratio:.4f}, V {result.v_lossless_ratio:.4f})"
    size = f"{result.raw_bytes:,} -> {result.compressed_bytes:,} bytes, {result.selected_entries} entries"
    return f"lossless ratio {ratios}, {size}, {proof}{skipped}"


def _summary(result: LosslessResult) -> Iterator[str]:
    yield "# Lossless coding of a KV dump"
    yield ""
    yield render_line(result)
    yield ""
    yield "| what | value |"
    yield "| --- | --- |"
    facts = {
        "dump": _code(result.dump_dir or "unknown"),
        "selection": f"{result.scope}, stage {result.stage}, layers {_numbers(result.selected_layers)}",
        "entries": f"{result.selected_entries} of {result.scanned_entries}, from {result.selected_dumps} runs",
        "entry mode": _entry_mode(result),
        "codec": f"{_code(result.codec_mode)} (zstd {result.versions.get('libzstd', 'unknown')})",
        "framing, counted": f"{result.k_chunk_meta_bytes + result.v_chunk_meta_bytes:,} bytes",
        "encode": _speed(result.raw_bytes, result.encode_s),
        "decode": _speed(result.raw_bytes, result.decode_s),
    }
    for name, value in facts.items():
        yield f"| {name} | {value} |"
    yield ""


def _layers(result: LosslessResult) -> Iterator[str]:
    yield "| layer | ratio | K | V | raw bytes | coded bytes |"
    yield "| ---: | ---: | ---: | ---: | ---: | ---: |"
    for layer in result.by_layer:
        raw = layer.k_raw_bytes + layer.v_raw_bytes
        coded = layer.k_compressed_bytes + layer.v_compressed_bytes
        k, v = layer.k_raw_bytes / layer.k_compressed_bytes, layer.v_raw_bytes / layer.v_compressed_bytes
        yield f"| {layer.layer_id} | {raw / coded:.4f} | {k:.4f} | {v:.4f} | {raw:,} | {coded:,} |"
    yield ""


def _modes(result: LosslessResult) -> Iterator[str]:
    planes: dict[str, Mapping[str, int]] = {
        "K high": result.k_hi_mode_counts,
        "K low": result.k_lo_mode_counts,
        "V high": result.v_hi_mode_counts,
        "V low": result.v_lo_mode_counts,
    }
    for plane, counts in planes.items():
        if counts:
            yield f"- {plane} plane, blocks: " + ", ".join(f"{mode} {count}" for mode, count in counts.items())
    yield ""


def _troubles(result: LosslessResult) -> Iterator[str]:
    if result.skipped:
        yield f"## {len(result.skipped)} entries were skipped: the ratio is one over the rest"
        yield ""
        for entry in result.skipped[:_SHOWN]:
            yield f"- {_code(entry.path)}: {entry.reason}, {_code(entry.detail)}"
        if len(result.skipped) > _SHOWN:
            yield f"- and {len(result.skipped) - _SHOWN} more"
        yield ""
    for finding in result.findings[:_SHOWN]:
        where = f"run {_code(finding.run_id or 'without id')}, layer {finding.layer_id}"
        yield f"- {finding.kind} in {where}: {finding.tokens} tokens, the first is {finding.first}"
    if len(result.findings) > _SHOWN:
        yield f"- and {len(result.findings) - _SHOWN} more overlaps or gaps"


def _entry_mode(result: LosslessResult) -> str:
    if result.entry_mode in ("chunked", "chunked_grouped"):
        size = f"{result.online_chunk_seq} tokens" if result.online_chunk_seq else "whole"
        return f"{result.entry_mode}, chunks of {size} + {result.online_framing_bytes} bytes"
    return result.entry_mode


def _speed(raw_bytes: int, seconds: float | None) -> str:
    if not seconds:
        return "not measured"
    return f"{seconds:.3f} s of processor time, {raw_bytes / seconds / 1e6:.0f} MB/s a thread"


def _numbers(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))


def _code(text: str) -> str:
    """`text` as code: nothing in a path or a name can become markup or break a table."""
    plain = "".join(char if char.isprintable() else "?" for char in text).replace("`", "'").replace("|", "¦")
    return f"`{plain}`"

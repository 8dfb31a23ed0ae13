"""What an evaluation found, as a value, as JSON and as Markdown."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pytest_h2o.errors import DumpError, StoreError
from pytest_h2o.files import load
from pytest_h2o.inputs.keys import CHUNKED, FLAT_KEYS

SCHEMA_VERSION = 3


@dataclass(frozen=True)
class SkippedEntry:
    """An entry that cannot be read: its meta file below the root, why, and what exactly.

    Reasons are ``meta_parse_error``, ``meta_invalid_numeric_fields``, ``meta_invalid_text_fields``, ``invalid_shape``,
    ``missing_meta`` (its data is there), ``missing_k_or_v_file`` (the meta names none), ``missing_k_or_v_binary`` (it
    is not there), ``binary_read_error`` (size or permission), ``unsupported_bytes_per_elem_N``,
    ``unsupported_dtype`` or ``skip_fp32_strict``. Layer, length and stage are told where they are known, so that a
    selection can pass over it; None selects it.
    """

    path: str
    reason: str
    detail: str
    layer_id: int | None = None
    seq_len: int | None = None
    stage: str | None = None


@dataclass(frozen=True)
class Finding:
    """Positions of a run and layer that come more than once, or not at all between the first and the last.

    `tokens` is how many there are, `first` the first of them.
    """

    kind: Literal["overlap", "gap"]
    run_id: str | None
    layer_id: int
    tokens: int
    first: int


MISSING = MISSING_LAYER, MISSING_TOKENS = "missing_layer", "missing_tokens"


@dataclass(frozen=True)
class DumpFault:
    """Why the ratio says nothing about a codec, or is one over a part of what was asked for.

    Kinds are ``zero``, ``constant``, ``repeated`` (rows), ``flat``, ``subnormal`` or ``alike`` (KV heads),
    ``not_finite``, ``saturated``, ``quantized`` (as its meta or its bits say), ``missing_layer`` (that the
    scope names) and ``missing_tokens`` (that another run or layer has, or between others); `detail` is what was seen,
    and where. `allowed` by ``degenerate: allow``; what is missing is a matter of allowed skips.
    """

    kind: str
    detail: str
    allowed: bool = False


@dataclass(frozen=True)
class LayerBytes:
    """fp16 bytes of one layer over all runs, bytes written with all framing, and those of the coded byte planes.

    The planes are None where the codec does not tell.
    """

    layer_id: int
    k_raw_bytes: int
    k_compressed_bytes: int
    k_hi_bytes: int | None
    k_lo_bytes: int | None
    v_raw_bytes: int
    v_compressed_bytes: int
    v_hi_bytes: int | None
    v_lo_bytes: int | None


@dataclass(frozen=True)
class PartBytes:
    """Bytes of the words of a part, over all layers, and those written of them with all framing."""

    k_raw_bytes: int
    k_compressed_bytes: int
    v_raw_bytes: int
    v_compressed_bytes: int

    def ratios(self) -> tuple[float, float, float]:
        """Of K and V together, of K and of V."""
        raw, coded = self.k_raw_bytes + self.v_raw_bytes, self.k_compressed_bytes + self.v_compressed_bytes
        return raw / coded, self.k_raw_bytes / self.k_compressed_bytes, self.v_raw_bytes / self.v_compressed_bytes


@dataclass(frozen=True)
class RunBytes(PartBytes):
    """One run of the dump; `prompt_tokens` is where its prefill ends, None where it has none."""

    run_id: str | None
    prompt_tokens: int | None


@dataclass(frozen=True)
class PromptBytes(PartBytes):
    """The runs with prompts of up to so many tokens, and more than the class before; None is all longer ones."""

    up_to_tokens: int | None
    runs: int


@dataclass(frozen=True)
class HeadBytes(PartBytes):
    """One KV head of all layers, coded alone."""

    kv_head: int


_LONGEST = 2048
PROMPT_CLASS_NAMES: dict[int | None, str] = {
    **{tokens: f"up to {tokens} tokens" for tokens in (128, 512, _LONGEST)},
    None: f"over {_LONGEST} tokens",
}


def prompt_class(tokens: int) -> int | None:
    """The class of a prompt of so many tokens."""
    return next((most for most in PROMPT_CLASS_NAMES if most is not None and tokens <= most), None)


def by_prompt_length(runs: Iterable[RunBytes]) -> tuple[PromptBytes, ...]:
    """Runs by the length of their prompts, those without a prefill left out; no class is empty."""
    classes: dict[int | None, list[RunBytes]] = {}
    for run in runs:
        if run.prompt_tokens is not None:
            classes.setdefault(prompt_class(run.prompt_tokens), []).append(run)
    found = []
    for longest in PROMPT_CLASS_NAMES:
        if same := classes.get(longest):
            k, v = (
                [sum(getattr(run, f"{tensor}_{kind}_bytes") for run in same) for kind in ("raw", "compressed")]
                for tensor in "kv"
            )
            found.append(PromptBytes(k[0], k[1], v[0], v[1], longest, len(same)))
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class LosslessResult:
    """One evaluation. Ratios are raw over compressed bytes, framing counted; higher is better.

    The fields up to `skip_reasons` are those of the original evaluation script, schema 3, in its order; the others are
    this project's, and are missing in a file that the script wrote. Settings of the script's own codecs are None beside
    another one. docs/artifacts.md says what each field is.
    """

    schema_version: int
    stage: str
    scope: str
    front_n: int
    layer_start: int
    layer_end: int
    layer_ids: tuple[int, ...]
    selected_layers: tuple[int, ...]
    selected_entries: int
    selected_dumps: int
    entry_mode: str
    online_chunk_seq: int
    online_framing_bytes: int
    aggregate_by_stage: bool
    aggregate_groups: int
    online_chunks: int
    codec: str
    codec_mode: str
    bitshuffle: bool | None = None
    adaptive_block_seq: int | None = None
    k_hi_predictors: tuple[str, ...] | None = None
    k_lo_predictors: tuple[str, ...] | None = None
    v_hi_predictors: tuple[str, ...] | None = None
    v_lo_predictors: tuple[str, ...] | None = None
    zstd_level: int | None = None
    k_raw_bytes: int
    k_compressed_bytes: int
    v_raw_bytes: int
    v_compressed_bytes: int
    k_chunk_meta_bytes: int
    v_chunk_meta_bytes: int
    raw_bytes: int
    compressed_bytes: int
    k_lossless_ratio: float
    v_lossless_ratio: float
    lossless_ratio: float
    weighted_lossless_ratio: float
    k_hi_mode_counts: Mapping[str, int]
    k_lo_mode_counts: Mapping[str, int]
    v_hi_mode_counts: Mapping[str, int]
    v_lo_mode_counts: Mapping[str, int]
    scanned_entries: int
    converted_fp32_entries: int
    skipped_entries: int
    skip_reasons: Mapping[str, int]
    strict_fp16: bool = False
    min_seq_len: int = 0
    max_seq_len: int = 0
    dump_dir: str | None = None
    codec_config: Mapping[str, Any] = field(default_factory=dict)
    rope: Mapping[str, Any] | None = None
    bf16_entries: int = 0
    by_layer: tuple[LayerBytes, ...] = ()
    by_run: tuple[RunBytes, ...] = ()
    by_prompt_length: tuple[PromptBytes, ...] = ()
    measure_heads: bool = False
    by_head: tuple[HeadBytes, ...] = ()
    skipped: tuple[SkippedEntry, ...] = ()
    findings: tuple[Finding, ...] = ()
    faults: tuple[DumpFault, ...] = ()
    encoded_streams: int = 0
    verified_streams: int = 0
    workers: int | None = None
    encode_s: float | None = None
    decode_s: float | None = None
    elapsed_s: float | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Built-in types only, the original fields first and in their order."""
        values: dict[str, Any] = _plain(asdict(self))  # not by `files.plain`: the command does without pydantic
        own = FLAT_KEYS["adaptive_v22"]
        for name in ("faults", "bf16_entries", "measure_heads", "by_head"):
            if not values[name]:
                del values[name]
        return {key: value for key, value in values.items() if value is not None or key not in own}

    def counting_faults(self, *, allow_skips: bool) -> list[DumpFault]:
        """The faults for which the ratio counts for nothing."""
        return [fault for fault in self.faults if not (allow_skips if fault.kind in MISSING else fault.allowed)]

    def gaps(self) -> list[str]:
        """Tokens that are missing between entries, in words, a line for each run and layer."""
        return [_told(finding, finding.run_id or "without id") for finding in self.findings if finding.kind == "gap"]

    @classmethod
    def from_json(cls, values: Any, where: str = "a lossless result") -> LosslessResult:
        """Take back what `to_json` gave, or a file of the original script."""
        version = values.get("schema_version", "missing") if isinstance(values, Mapping) else type(values).__name__
        if version != SCHEMA_VERSION:
            raise StoreError(
                "this is no lossless result that can be read",
                where=where,
                came=f"schema_version {version!r}",
                expected=f"a JSON object with schema_version {SCHEMA_VERSION}",
            )
        result = load(cls, values, "a lossless result", where=where)
        for what, told, made in result._derived(values):
            if told != made and not (isinstance(made, float) and math.isclose(told, made, rel_tol=1e-6)):
                raise StoreError(
                    "a lossless result contradicts itself",
                    where=where,
                    came=f"{what} {told!s:.200}, and {made!s:.200} by what stands beside it",
                    expected="figures that follow from each other, as pytest-h2o lossless writes them",
                    hint="make the file again with: pytest-h2o lossless --dump-dir DIR --out-json FILE",
                )
        return result

    def _derived(self, given: Collection[str]) -> Iterator[tuple[str, Any, Any]]:
        """Each figure that follows from others: its name, its value, and what it has to be; `given` are in the file."""
        for name in ("raw", "compressed"):
            both = sum(getattr(self, f"{tensor}_{name}_bytes") for tensor in "kv")
            yield f"{name}_bytes", getattr(self, f"{name}_bytes"), both
        for name, prefix in (("lossless", ""), ("weighted_lossless", ""), ("k_lossless", "k_"), ("v_lossless", "v_")):
            raw, coded = (getattr(self, f"{prefix}{kind}_bytes") for kind in ("raw", "compressed"))
            yield f"{name}_ratio", getattr(self, f"{name}_ratio"), raw / coded if coded > 0 else math.inf
        for field_name in ("k_raw_bytes", "k_compressed_bytes", "v_raw_bytes", "v_compressed_bytes"):
            for parts in (self.by_layer, self.by_run):
                if parts:
                    yield field_name, getattr(self, field_name), sum(getattr(one, field_name) for one in parts)
        for name, least in _too_small(asdict(self)):
            yield name, f"below {least}", f"at least {least}"
        yield from self._derived_counts(given)

    def _derived_counts(self, given: Collection[str]) -> Iterator[tuple[str, Any, Any]]:
        """The same of numbers of entries and streams, and of the lists that they count."""
        yield "skip_reasons", sum(self.skip_reasons.values()), self.skipped_entries
        if "skipped" in given:
            yield "skip_reasons", dict(self.skip_reasons), dict(Counter(entry.reason for entry in self.skipped))
        read = self.selected_entries + self.skipped_entries
        yield "scanned_entries", self.scanned_entries, max(self.scanned_entries, read)
        for name in ("converted_fp32_entries", "bf16_entries"):
            yield name, getattr(self, name), min(getattr(self, name), self.selected_entries)
        if self.by_layer:
            yield "selected_layers", self.selected_layers, tuple(layer.layer_id for layer in self.by_layer)
        if self.by_run:
            yield "selected_dumps", self.selected_dumps, len({run.run_id for run in self.by_run})
            yield "by_prompt_length", self.by_prompt_length, by_prompt_length(self.by_run)
        for tensor in "kv" if self.by_head else "":
            name = f"{tensor}_raw_bytes"
            yield f"by_head, {name}", sum(getattr(head, name) for head in self.by_head), getattr(self, name)
        streams = 2 * (self.aggregate_groups if self.entry_mode == "aggregate" else self.selected_entries)
        framing = 4 * (self.aggregate_groups + self.selected_entries) if self.entry_mode == "aggregate" else 0
        if self.entry_mode in CHUNKED:
            streams, framing = self.online_chunks, self.online_chunks * self.online_framing_bytes // 2
        else:
            yield "online_chunks", self.online_chunks, 0
        for tensor in "kv":
            yield f"{tensor}_chunk_meta_bytes", getattr(self, f"{tensor}_chunk_meta_bytes"), framing
            if self.codec_mode in FLAT_KEYS:
                high, low = (sum(getattr(self, f"{tensor}_{plane}_mode_counts").values()) for plane in ("hi", "lo"))
                yield f"{tensor}_lo_mode_counts", low, high
                planes = (
                    getattr(layer, f"{tensor}_{plane}_bytes") for layer in self.by_layer for plane in ("hi", "lo")
                )
                if told := [size for size in planes if size is not None]:
                    yield f"{tensor}_compressed_bytes", getattr(self, f"{tensor}_compressed_bytes"), sum(told) + framing
        if "encoded_streams" in given:
            yield "encoded_streams", self.encoded_streams, streams
            yield "verified_streams", self.verified_streams, min(self.verified_streams, streams)


_SIGNED = ("layer_end", "codec_config", "rope", "versions", "faults")
_POSITIVE = re.compile(r"[kv]_(raw|compressed)_bytes|tokens|runs|prompt_tokens|up_to_tokens|selected_entries")


def _too_small(values: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Numbers at any depth that are negative, or 0 where there is something: their names, and the least they can be."""
    for name, value in values.items():
        for inner in value if isinstance(value, list | tuple) else (value,):
            if isinstance(inner, Mapping) and name not in _SIGNED:
                yield from _too_small(inner)
            elif isinstance(inner, int | float) and name not in _SIGNED:
                least = 1 if _POSITIVE.fullmatch(name) else 0
                if inner < least:
                    yield name, least


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


_FAULTS_SHOWN = 3


def refuse(result: LosslessResult, name: str, *, allow_skips: bool) -> None:
    """DumpError where the ratio is one over a part of what was asked for, or of a dump that says nothing of a codec."""
    if not allow_skips:
        _refuse_skips(result, name)
    counting = result.counting_faults(allow_skips=allow_skips)
    if not counting:
        return
    where, details = result.dump_dir, [fault.detail for fault in counting]
    came = "; ".join(details[:_FAULTS_SHOWN]) + (
        f"; {len(details) - _FAULTS_SHOWN} more" if len(details) > _FAULTS_SHOWN else ""
    )
    if counting[0].kind in MISSING:
        raise DumpError(
            f"layers or tokens of {name} are missing in the dump",
            where=where,
            came=came,
            expected="every layer that the scope names, in every run, with all tokens: the rest has another ratio",
            hint="mend the dump or the layers of the scope; allow_skips takes the ratio over the rest on purpose",
        )
    raise DumpError(
        f"the dump of {name} says nothing about a codec",
        where=where,
        came=came,
        expected="finite K and V of a real text, which vary from token to token",
        hint="make a dump with llm_demo on a real prompt; degenerate: allow in the scope takes the ratio on purpose",
    )


def _refuse_skips(result: LosslessResult, name: str) -> None:
    if not result.skipped_entries:
        return
    first = result.skipped[0]
    raise DumpError(
        f"{result.skipped_entries} of {result.skipped_entries + result.selected_entries} entries of {name} "
        "cannot be read",
        where=f"{first.path}: {first.detail}",
        came=", ".join(f"{count} {reason}" for reason, count in result.skip_reasons.items()),
        expected="every selected entry: a ratio over the rest would be one of another dump",
        hint="mend or remove the entries; --h2o-allow-skips takes the ratio over the rest on purpose",
    )


_SHOWN = 20


def render_markdown(result: LosslessResult) -> str:
    """Summary, bytes by layer, chosen modes, and what was skipped or found."""
    return "\n".join([*_summary(result), *_layers(result), *_parts(result), *_modes(result), *_troubles(result)]) + "\n"


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
        "selection": f"{result.scope}, stage {result.stage}, layers {', '.join(map(str, result.selected_layers))}",
        "entries": f"{result.selected_entries} of {result.scanned_entries}, from {result.selected_dumps} runs"
        + (f", {result.bf16_entries} of them bf16" if result.bf16_entries else ""),
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


def name_part(part: RunBytes | PromptBytes | HeadBytes) -> str:
    """What a part is, in words."""
    if isinstance(part, RunBytes):
        return f"{part.run_id or 'without id'}{'' if part.prompt_tokens is None else f', {part.prompt_tokens} tokens'}"
    if isinstance(part, HeadBytes):
        return f"KV head {part.kv_head}"
    return f"{PROMPT_CLASS_NAMES[part.up_to_tokens]}, {part.runs} run{'s' * (part.runs > 1)}"


def parts_of(result: LosslessResult) -> dict[str, Sequence[RunBytes | PromptBytes | HeadBytes]]:
    """The parts that can be told, by what they are parts by; heads are coded alone, one after the other."""
    parts: dict[str, Sequence[RunBytes | PromptBytes | HeadBytes]] = {
        "run and prompt": result.by_run,
        "prompt length": result.by_prompt_length,
        "KV head, coded alone": result.by_head,
    }
    return {name: of for name, of in parts.items() if of}


def _parts(result: LosslessResult) -> Iterator[str]:
    for name, parts in parts_of(result).items():
        yield f"| {name} | ratio | K | V |"
        yield "| --- | ---: | ---: | ---: |"
        for part in parts[:_SHOWN]:
            shown = _code(name_part(part)) if isinstance(part, RunBytes) else name_part(part)
            yield f"| {shown} | {' | '.join(f'{ratio:.4f}' for ratio in part.ratios())} |"
        if len(parts) > _SHOWN:
            yield f"| and {len(parts) - _SHOWN} more | | | |"
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
    if result.faults:
        yield "## The ratio says little"
        yield ""
        yield from (f"- {_code(fault.detail)}{', allowed' * fault.allowed}" for fault in result.faults[:_SHOWN])
        if len(result.faults) > _SHOWN:
            yield f"- and {len(result.faults) - _SHOWN} more"
        yield ""
    if result.skipped:
        yield f"## {len(result.skipped)} entries were skipped: the ratio is one over the rest"
        yield ""
        for entry in result.skipped[:_SHOWN]:
            yield f"- {_code(entry.path)}: {entry.reason}, {_code(entry.detail)}"
        if len(result.skipped) > _SHOWN:
            yield f"- and {len(result.skipped) - _SHOWN} more"
        yield ""
    for finding in result.findings[:_SHOWN]:
        yield f"- {_told(finding, _code(finding.run_id or 'without id'))}"
    if len(result.findings) > _SHOWN:
        yield f"- and {len(result.findings) - _SHOWN} more overlaps or gaps"


def _told(finding: Finding, run: str) -> str:
    return (
        f"{finding.kind} in run {run}, layer {finding.layer_id}: {finding.tokens} tokens, the first is {finding.first}"
    )


def _entry_mode(result: LosslessResult) -> str:
    if result.entry_mode in CHUNKED:
        size = f"{result.online_chunk_seq} tokens" if result.online_chunk_seq else "whole"
        return f"{result.entry_mode}, chunks of {size} + {result.online_framing_bytes} bytes"
    return result.entry_mode


def _speed(raw_bytes: int, seconds: float | None) -> str:
    if not seconds:
        return "not measured"
    return f"{seconds:.3f} s of processor time, {raw_bytes / seconds / 1e6:.0f} MB/s a thread"


def _code(text: str) -> str:
    """`text` as code: nothing in a path or a name can become markup or break a table."""
    plain = "".join(char if char.isprintable() else "?" for char in text).replace("`", "'").replace("|", "¦")
    return f"`{plain}`"

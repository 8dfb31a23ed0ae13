"""Preset files, YAML or JSON, to checked presets.

A fault names file, line, column and key, what came, what was expected and, for an unknown key, the nearest known
one; all faults of all files come in one `PresetError`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice, product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator, model_validator
from pydantic_core.core_schema import ValidationInfo

from pytest_h2o.errors import Fault, PresetError
from pytest_h2o.files import is_folder, list_files
from pytest_h2o.inputs.checking import (
    LLM_BENCH,
    MAX_FAULTS,
    MAX_POINTS,
    Above0,
    AllowedSigns,
    BenchOptions,
    Count,
    FilePath,
    Flag,
    Fraction,
    KeepRatio,
    LaunchCount,
    LayerEnd,
    LossyRatio,
    Maybe,
    NamedNumbers,
    OneLine,
    OneOrMore,
    PairCount,
    PlainName,
    PlainNames,
    Positive,
    Swept,
    Trouble,
    check_name,
    check_source,
    describe,
    fault_error,
    hint_key,
    merge_settings,
    name_option,
    parse_assignments,
    parse_setting,
)
from pytest_h2o.inputs.options import ANY_NUMBER, LABEL, Range
from pytest_h2o.inputs.signs import SIGNS
from pytest_h2o.inputs.yaml import REFUSED, Source, read_source


def _check_baseline(value: Any) -> Any:
    if isinstance(value, str) and value in ("paired", "none"):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e300:
        return float(value)
    raise fault_error(Trouble("not a decode baseline", _BASELINE_TEXT))


_BASELINE_TEXT = "paired, none, or decode speed in tok/s, a number above 0"
_BASELINE_SCHEMA = {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"enum": ["paired", "none"]}]}

Baseline = Annotated[
    float | Literal["paired", "none"], BeforeValidator(_check_baseline), WithJsonSchema(_BASELINE_SCHEMA)
]


Metrics = Mapping[str, Range]
"""Ranges of the targets that a preset may set, by the keys that name them. The gate knows them; where nothing is gated
any name will do."""


class Targets(BaseModel):
    """What a preset asks for; a key that is left out is left to the options.

    Beside the keys below every metric is one, with its target: `of` gives it.
    """

    model_config = ConfigDict(
        frozen=True, extra="allow", json_schema_extra={"additionalProperties": {"type": "number"}}
    )

    decode_baseline: Maybe[Baseline] = Field(
        default=None, description="paired (H2O off, measured beside), a speed in tok/s, or none (decode is not judged)"
    )
    decode_pairs: Maybe[PairCount] = Field(
        default=None, description="most pairs of launches for the paired decode verdict; alone it sets no time limit"
    )
    decode_time_s: Maybe[Above0] = Field(
        default=None, description="longest time of all launches for the paired decode verdict, seconds"
    )
    metrics: NamedNumbers = Field(
        default={}, validate_default=True, description="targets by name, of metrics that may be called like another key"
    )

    def of(self, *names: str) -> float | None:
        """The target that stands under the first of these names; None under none of them."""
        given = {**self.metrics, **(self.model_extra or {})}
        return next((given[name] for name in names if name in given), None)

    def names_of(self, *names: str) -> list[str]:
        """Every place in which one of these names stands."""
        places = ((self.model_extra or {}, ""), (self.metrics, "metrics."))
        return [f"{below}{name}" for given, below in places for name in dict.fromkeys(names) if name in given]


def _target_faults(source: Source, metrics: Metrics | None) -> Iterator[Fault]:
    """What is wrong with the targets of metrics: the model above does not know their names."""
    given = source.data.get("targets") if isinstance(source.data, Mapping) else None
    for key, value in given.items() if isinstance(given, Mapping) else ():
        path = ("targets", key)
        asked = ANY_NUMBER if metrics is None else metrics.get(key)
        if key == "metrics" and isinstance(value, Mapping):
            for name, number in value.items():
                if metrics and name in metrics and isinstance(number, int | float) and not metrics[name].holds(number):
                    yield _out_of_range(source, (*path, name), number, metrics[name])
        if key in Targets.model_fields or value is REFUSED:
            continue
        if asked is None:
            known = [*Targets.model_fields, *(metrics or ())]
            yield source.fault("unknown key", path, at_key=True, hint=hint_key(str(key), known))
        elif value is None:
            yield source.fault("no value", path, came=describe(value), expected="a value, or the key left out")
        elif isinstance(value, bool) or not isinstance(value, int | float):
            yield source.fault("wrong type", path, came=describe(value), expected=asked.text)
        elif not asked.holds(value):
            yield _out_of_range(source, path, value, asked)


def _out_of_range(source: Source, path: tuple[str, ...], value: float, asked: Range) -> Fault:
    return source.fault("out of range", path, came=describe(value), expected=asked.text)


def plain_setting(value: object) -> object:
    """A value of a setting as we write it: the engine takes one scope by another name too."""
    return "front_n_and_h2o_kept" if value == "front_n+h2o_kept" else value


class PresetKeys(BaseModel):
    """The keys of a preset file. Ten of them, the swept ones, take one value or a list; the rest one value."""

    # pydantic keeps names that begin with model_ for itself, which model_layers does.
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), defer_build=True)

    description: Maybe[OneLine] = Field(default=None, description="one line for reports")
    prompts: Swept[Positive] = Field(default=(512,), description="prompt lengths, tokens")
    gens: Swept[Positive] = Field(default=(128,), description="tokens to generate")
    repeat: Positive = Field(default=3, description="measured repeats a launch; one more is thrown away")
    sweep_repeat: Maybe[Positive] = Field(
        default=None,
        description="repeats of launches for exact columns alone, if fewer than repeat and a check shows they stay",
    )
    h2o_keep_ratios: Swept[KeepRatio] = Field(default=(0.5,), description="fraction kept; read in static mode only")
    h2o_block_tokens: Swept[Positive] = Field(default=(64,), description="tokens that are kept or evicted together")
    h2o_sink_tokens: Swept[Count] = Field(default=(32,), description="first tokens, always kept")
    h2o_recent_tokens: Swept[Count] = Field(default=(256,), description="last tokens, always kept")
    h2o_ema_alphas: Swept[Fraction] = Field(default=(0.9,), description="weight of the past in the attention score")
    h2o_update_intervals: Swept[Positive] = Field(default=(16,), description="attention-layer calls between two plans")
    h2o_trigger_min_tokens: Swept[Count] = Field(default=(512,), description="no eviction in a shorter cache")
    h2o_layer_start: Count = Field(default=2, description="first layer with eviction")
    h2o_layer_end: LayerEnd = Field(default=-1, description="last layer with eviction; -1: the last of the model")
    h2o_target_mode: Literal["adaptive", "static"] = Field(
        default="adaptive", description="adaptive aims at the target lossy ratio, static at the keep ratio"
    )
    h2o_target_lossy_ratio: Maybe[LossyRatio] = Field(
        default=None, description="one target, for presets without h2o_target_lossy_ratios"
    )
    h2o_target_lossy_ratios: Swept[LossyRatio] = Field(
        default=(3.0,), validate_default=True, description="raw over kept bytes to aim at; read in adaptive mode only"
    )
    h2o_log_stats: Flag = Field(default=False, description="print one line a plan and layer")

    kv_lossless_enable: Flag = Field(default=False, description="lossless coding of cold tokens in the engine")
    kv_lossless_scope: Annotated[
        Literal["none", "front_n", "h2o_kept", "front_n_and_h2o_kept"],
        BeforeValidator(plain_setting),
        WithJsonSchema({"enum": ["none", "front_n", "h2o_kept", "front_n_and_h2o_kept", "front_n+h2o_kept"]}),
    ] = Field(default="front_n", description="layers that are coded")
    kv_lossless_front_n: Count = Field(default=2, description="first layers, for the scopes of front_n")
    kv_lossless_codec: Literal["none", "gear_delta"] = "none"
    kv_lossless_runtime_enable: Flag = Field(default=False, description="measure ratios while running")
    kv_lossless_block_tokens: Positive = Field(default=128, description="tokens that are coded together")
    kv_lossless_hot_recent_tokens: Count = Field(default=256, description="last tokens, not coded")
    kv_lossless_hot_sink_tokens: Count = Field(default=16, description="first tokens, not coded")
    kv_lossless_codec_runtime: PlainName = "fp16_gear_predictive_v3"
    kv_lossless_predictors_k: PlainNames = Field(
        default="raw,delta_seq,xor_seq,pair_delta",
        description="names; the engine skips unknown ones",
    )
    kv_lossless_predictors_v: PlainNames = "raw,delta_seq,xor_seq"
    kv_lossless_async_threads: Count = 1
    kv_lossless_max_queue: Count = 256
    kv_lossless_decode_cache_blocks: Count = 64
    kv_lossless_strict_roundtrip_check: Flag = False

    kv_lossless_runtime_mode: Maybe[Literal["probe", "full", "store"]] = Field(
        default=None, description="written to the config only if named, as are the keys below"
    )
    kv_lossless_kept_sample_layers: Maybe[Count] = None
    kv_lossless_kept_sample_token_interval: Maybe[Count] = None
    kv_lossless_front_sample_token_interval: Maybe[Count] = None
    kv_lossless_store_disable_front: Maybe[Flag] = None
    kv_lossless_store_bootstrap_tokens: Maybe[Count] = None
    kv_lossless_store_grouped_step_tokens: Maybe[Count] = None

    default_on: Literal["any_bench", "own_bench", "embedded", "none"] = Field(
        default="any_bench", description="the benches on which it is run without being named by -k"
    )
    bench: PlainName = Field(default=LLM_BENCH, description="the bench of this preset, by the name of its adapter")
    bench_options: BenchOptions = Field(
        default={}, validate_default=True, description="settings of a bench other than llm_bench, one value each"
    )
    targets: Targets = Targets()
    allow_signs: AllowedSigns = Field(
        default={}, validate_default=True, description="how often a launch may print a sign of a broken cache, by name"
    )
    base_config: Maybe[FilePath] = Field(
        default=None, description="the model's llm_bench config, relative to this file"
    )
    launcher: Maybe[OneLine] = Field(
        default=None, description="command that runs the bench on another machine, such as ssh HOST or adb shell"
    )
    prompt_file: Maybe[FilePath] = Field(default=None, description="text of the prompt, relative to this file")
    model_layers: Maybe[Positive] = Field(
        default=None,
        description="layers of the model: for the whole-cache ratio, and layer_nums of a config without",
    )
    launches: Maybe[LaunchCount] = Field(
        default=None, description="how often each point is launched; every launch must be sound and hold its targets"
    )
    timeout_s: Maybe[Above0] = Field(default=None, description="longest time of one launch, seconds")

    @field_validator("h2o_target_lossy_ratios", mode="before")
    @classmethod
    def _take_single_ratio(cls, value: Any, info: ValidationInfo) -> Any:
        single = info.data.get("h2o_target_lossy_ratio")
        is_default = value is cls.model_fields["h2o_target_lossy_ratios"].default
        return (single,) if is_default and single is not None else value

    @model_validator(mode="after")
    def _check_together(self) -> PresetKeys:
        if troubles := tuple(self._troubles()):
            raise fault_error(*troubles)
        return self

    def _troubles(self) -> Iterator[Trouble]:
        start, end, layers = self.h2o_layer_start, self.h2o_layer_end, self.model_layers
        if -1 < end < start:
            yield Trouble("empty range of layers", f"-1, or at least h2o_layer_start ({start})", ("h2o_layer_end",))
        if layers is not None and start >= layers:
            expected = f"below model_layers ({layers})"
            yield Trouble(f"layer {start} is not in the model", expected, ("h2o_layer_start",))
        if layers is not None and end >= layers:
            yield Trouble(f"layer {end} is not in the model", f"below model_layers ({layers})", ("h2o_layer_end",))
        single = self.h2o_target_lossy_ratio
        if single is not None and single not in self.h2o_target_lossy_ratios:
            expected = "only h2o_target_lossy_ratios, which is what is run where both are given"
            yield Trouble(f"{single} is not among h2o_target_lossy_ratios", expected, ("h2o_target_lossy_ratio",))
        if self.bench == LLM_BENCH and self.bench_options:
            yield Trouble("settings of another bench", f"no bench_options for {LLM_BENCH}", ("bench_options",))
        names = [sign.name for sign in SIGNS if sign.severity != "harmless"]
        for name in sorted(set(self.allow_signs).difference(names)):
            yield Trouble("no such sign of a broken cache", f"one of {', '.join(names)}", ("allow_signs", name))
        for key in sorted(self.model_fields_set) if self.bench != LLM_BENCH else ():
            if key.startswith(("h2o_", "kv_lossless_", "sweep_repeat")):
                yield Trouble(f"a key of {LLM_BENCH}", f"only settings under bench_options for {self.bench}", (key,))
        if (count := self.count_points()) > MAX_POINTS:
            sizes = " x ".join(f"{key} {len(getattr(self, key))}" for key in SWEPT_KEYS if len(getattr(self, key)) > 1)
            longest = max(SWEPT_KEYS, key=lambda key: len(getattr(self, key)))
            yield Trouble(f"a grid of {count:,} points ({sizes})", f"at most {MAX_POINTS:,} points", (longest,))

    def count_points(self) -> int:
        """Number of points of the grid."""
        return math.prod(len(getattr(self, key)) for key in SWEPT_KEYS)

    def workloads(self, rule: str) -> tuple[str, ...]:
        """What targets are asked of apart: lengths of prompt and generation, ``p512-g128``, where there are several.

        The rule best-of knows none: the best row of all lengths speaks for all.
        """
        names = tuple(name_workload(prompt, gen) for prompt, gen in product(self.prompts, self.gens))
        return names if rule == "joint" and len(set(names)) > 1 else ()

    def lossless_settings(self) -> dict[str, Any]:
        """The ``kv_lossless_*`` keys of a run: the usual ones always, those of later engines if named."""
        keys = {key: getattr(self, key) for key in PresetKeys.model_fields if key.startswith("kv_lossless_")}
        return {key: value for key, value in keys.items() if value is not None}


def name_workload(prompt_len: int, gen_len: int) -> str:
    """Lengths that are asked of the engine, as item ids have them."""
    return f"p{prompt_len}-g{gen_len}"


def configuration(fields: Mapping[str, Any]) -> str:
    """What is tuned in a point, by its manifest fields: equal text for points that differ in their lengths alone."""
    told = {name: value for name, value in fields.items() if name not in ("run_id", "prompt_len", "gen_len")}
    return json.dumps(told, sort_keys=True, default=str)


SWEPT_KEYS = tuple(
    key for key, info in PresetKeys.model_fields.items() if any(isinstance(mark, OneOrMore) for mark in info.metadata)
)
"""The dimensions of the grid, the first one varying slowest."""

SUFFIXES = (".yaml", ".yml", ".json")


class Preset(PresetKeys):
    """A checked preset: the keys of its file, its name and where it came from.

    Attributes
    ----------
    name : str
        Stem of the file; ``adhoc`` for a grid given on the command line.
    path : Path or None
        The file as it was named.
    """

    name: str
    path: Path | None = None

    def override(self, *assignments: str, metrics: Metrics | None = None) -> Preset:
        """A copy with ``KEY=VALUE`` settings, checked like a file.

        KEY may be dotted (``targets.lossy=3.1``), a swept key takes values separated by commas. Paths are relative
        to the working directory.
        """
        settings = parse_assignments(PresetKeys, assignments)
        data = self.model_dump(exclude_unset=True, exclude={"name", "path"})
        single, many = ("h2o_target_lossy_ratio",), ("h2o_target_lossy_ratios",)
        if single in settings and many not in settings and many[0] in data:
            what, hint = f"has no effect: the preset has {many[0]}", f"set {many[0]}={settings[single]}"
            error = PresetError.from_faults([Fault(what, "", single[0], hint=hint)])
            raise name_option(error, assignments, f"preset {self.name}")
        if many in settings and single not in settings:
            data.pop(single[0], None)
        try:
            checked = _check(Source("", merge_settings(data, settings)), None, metrics)
        except PresetError as error:
            raise name_option(error, assignments, f"preset {self.name}") from None
        return _preset(checked, self.name, self.path)


def _preset(keys: PresetKeys, name: str, path: Path | None) -> Preset:
    # The keys are checked already, and a file must not be able to set name and path.
    values: Mapping[str, Any] = dict(keys)
    return Preset.model_construct(keys.model_fields_set | {"name", "path"}, **values, name=name, path=path)


def _check(source: Source, folder: Path | None = None, metrics: Metrics | None = None) -> PresetKeys:
    faults = islice(_target_faults(source, metrics), MAX_FAULTS)
    return check_source(PresetKeys, replace(source, faults=(*source.faults, *faults)), folder)


def load_preset(path: str | Path, metrics: Metrics | None = None, label: str = "") -> Preset:
    """Read and check one preset file; its name is that of the file, behind the label if there is one."""
    path = Path(path)
    source, name = read_source(path), f"{label}-{path.stem}" if label else path.stem
    if expected := check_name(name):
        fault = Fault("the file name cannot name a test item", str(path), came=path.stem, expected=expected)
        source = replace(source, faults=(*source.faults, fault))
    return _preset(_check(source, path.parent, metrics), name, path)


def load_presets(paths: Iterable[str | Path], metrics: Metrics | None = None) -> tuple[Preset, ...]:
    """Read and check preset files, and all those in folders and their subfolders."""
    presets: dict[str, Preset] = {}
    faults: list[Fault] = []
    for path, label in find_preset_files(paths):
        try:
            preset = load_preset(path, metrics, label)
        except PresetError as error:
            faults += error.faults
            continue
        if other := presets.get(preset.name):
            what, came = f"a second preset named {preset.name}", f"the first one is {other.path}"
            hint = "a word before a folder names its presets apart: v3=DIR"
            faults.append(Fault(what, str(path), came=came, expected="one preset a name", hint=hint))
        presets.setdefault(preset.name, preset)
    if faults:
        raise PresetError.from_faults(faults)
    return tuple(presets.values())


def find_preset_files(paths: Iterable[str | Path]) -> list[tuple[Path, str]]:
    """Preset files that `paths` name, ordered by path; in folders by suffix, see `list_files`.

    Beside each the label that stands before its path (``v3=/a/folder``), or nothing.
    """
    found: dict[Path, tuple[Path, str]] = {}
    faults: list[Fault] = []
    for text in map(str, paths):
        labelled = LABEL.match(text)
        label, path = (labelled[1], Path(labelled[2])) if labelled else ("", Path(text))
        files, unseen = list_files(path, SUFFIXES, deep=True) if is_folder(path) else ([path], {})
        what, expected = "presets cannot be looked for here", "a folder that can be listed"
        hint = "mend its permissions or the link, or take it out: its presets would not be run"
        faults += [Fault(what, str(place), came=why, expected=expected, hint=hint) for place, why in unseen.items()]
        if not files and not unseen:
            faults.append(Fault("no preset in this folder", str(path), expected=f"a file {', '.join(SUFFIXES)}"))
        for file in files:
            found.setdefault(file.resolve(), (file, label))
    if faults:
        raise PresetError.from_faults(faults)
    return sorted(found.values(), key=lambda pair: pair[0].parts)


def preset_from_flags(**values: Any) -> Preset:
    """A preset of a grid given on a command line, named ``adhoc``."""
    given = {key: value for key, value in values.items() if value is not None}
    data = {key: parse_setting(PresetKeys, (key,), v) if isinstance(v, str) else v for key, v in given.items()}
    return _preset(_check(Source("command line", data)), "adhoc", None)


_DIMENSIONS = (
    *("prompt_len", "gen_len", "keep_ratio", "block_tokens", "sink_tokens", "recent_tokens"),
    *("ema_alpha", "update_interval", "trigger_min_tokens", "h2o_target_lossy_ratio"),
)
"""What a point calls the values of `SWEPT_KEYS`, in their order."""

_SHARED = ("h2o_layer_start", "h2o_layer_end", "h2o_target_mode")


@dataclass(frozen=True)
class Point:
    """One configuration of a sweep: every swept dimension at one value.

    Field names are those of the sweep manifest; `index` counts from 1 in product order. Token counts are in
    tokens, ratios are fractions (keep ratio) or raw over kept (lossy ratio).
    """

    preset: str
    index: int
    run_id: str
    repeat: int
    prompt_len: int
    gen_len: int
    keep_ratio: float
    block_tokens: int
    sink_tokens: int
    recent_tokens: int
    ema_alpha: float
    update_interval: int
    trigger_min_tokens: int
    h2o_target_lossy_ratio: float
    h2o_target_mode: str
    h2o_layer_start: int
    h2o_layer_end: int
    h2o_log_stats: bool
    lossless: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """The ``kv_lossless_*`` keys with their values, in the order of the manifest."""
    bench: str = LLM_BENCH
    """Name of the adapter of its bench."""
    bench_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Settings of a bench other than llm_bench, as the preset has them; what H2O is told then means nothing."""
    allow_signs: Mapping[str, int] = field(default_factory=dict, hash=False)
    """Sign of a broken cache -> how often a launch may print it, as the preset says."""
    compressed: bool = True
    """False: the same run with nothing compressed, which is a baseline."""

    @property
    def workload(self) -> str:
        return name_workload(self.prompt_len, self.gen_len)

    def manifest_fields(self) -> dict[str, Any]:
        """What ``manifest.json`` of a run folder says of this point, keys in the order of the original scripts.

        Files and outcome (``config``, ``log``, ``return_code``) come after these and are not known here. Of a bench
        other than llm_bench: the run id, the lengths, the bench and its own settings.
        """
        if self.bench != LLM_BENCH:
            named = {name: getattr(self, name) for name in ("run_id", "prompt_len", "gen_len", "bench")}
            return named | dict(self.bench_options)
        names = ("run_id", *_DIMENSIONS[:-1], *_SHARED, _DIMENSIONS[-1])
        switch = {} if self.compressed else {"kv_h2o_enable": False}
        return {name: getattr(self, name) for name in names} | dict(self.lossless) | switch


def expand_points(preset: Preset) -> tuple[Point, ...]:
    """Give every point of the grid of `preset`, in the order of the original scripts: the first key varies slowest.

    The run id is ``run_{index:04d}_p{prompt}_g{gen}_k{keep}_b{block}_lr{lossy}`` with floats as Python prints them
    (``k1.0``, ``lr3.0``); of a bench other than llm_bench it ends with the lengths. All points of a preset share one
    mapping of ``kv_lossless_*`` values; it is not to be changed.
    """
    shared: dict[str, Any] = {name: getattr(preset, name) for name in (*_SHARED, "repeat", "h2o_log_stats", "bench")}
    shared |= {"allow_signs": preset.allow_signs}
    shared |= {"preset": preset.name, "lossless": preset.lossless_settings(), "bench_options": preset.bench_options}
    points = []
    for index, values in enumerate(product(*(getattr(preset, key) for key in SWEPT_KEYS)), start=1):
        prompt, gen, keep, block, *_, lossy = values
        run_id = f"run_{index:04d}_p{prompt}_g{gen}" + f"_k{keep}_b{block}_lr{lossy}" * (preset.bench == LLM_BENCH)
        points.append(Point(index=index, run_id=run_id, **dict(zip(_DIMENSIONS, values, strict=True)), **shared))
    return tuple(points)


def point_of(fields: Mapping[str, Any]) -> Point | None:
    """The point that a manifest describes by its `Point.manifest_fields`; None if that is none of a preset."""
    named = {key: fields[name] for key, name in zip(SWEPT_KEYS, _DIMENSIONS, strict=True) if name in fields}
    named |= {key: value for key, value in fields.items() if key in PresetKeys.model_fields and key not in named}
    if not {"prompts", "gens"} <= named.keys():
        return None
    try:
        preset = preset_from_flags(**named)
    except PresetError:
        return None
    run_id = str(fields.get("run_id", ""))
    return replace(expand_points(preset)[0], run_id=run_id) if preset.count_points() == 1 else None

"""What the options and a preset say of launching: the bench, how it is called, and the model's config."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_h2o.bench.embedded import embedded_base_config, is_embedded
from pytest_h2o.codecs.base import Rope
from pytest_h2o.errors import StoreError, UsageError
from pytest_h2o.files import digest_file
from pytest_h2o.inputs.options import Given, Settings, parse_budget

if TYPE_CHECKING:
    from pytest_h2o.bench.command import BenchSettings
    from pytest_h2o.bench.config import BaseConfig
    from pytest_h2o.bench.rows import Row
    from pytest_h2o.gate.decode import Budget, PairedComparison
    from pytest_h2o.gate.noise import Noise
    from pytest_h2o.inputs.presets import Preset
    from pytest_h2o.inputs.scope import Scope


def check_bench(bench: Path, origin: str) -> Path:
    """A program of the engine, if there is such a file; UsageError that says what is there instead."""
    if bench.is_file():
        return bench
    came = "no such folder"
    if bench.parent.is_dir():
        came = "that folder has " + (", ".join(sorted(p.name for p in bench.parent.iterdir())[:8]) or "nothing")
    raise UsageError("the bench is not there", where=f"{origin} {bench}", came=came, expected="the llm_bench binary")


def bench_settings(settings: Settings, preset: Preset, option: str = "bench") -> BenchSettings:
    """How the options launch the bench for a preset, or the one that `option` names; UsageError if it is not there.

    The time limit of a run: the command line's, else the preset's, else the ini file's, else the default.
    """
    from pytest_h2o.bench.command import BenchSettings

    given = settings.given["bench-timeout"]
    return BenchSettings.for_program(
        check_bench(settings[option], settings.origin(option)),
        backend=settings["backend"],
        threads=settings["threads"],
        attention_option=settings["attention-option"],
        timeout_s=given.value if given.on_command_line else preset.timeout_s or given.value,
    )


def other_build(settings: Settings, preset: Preset) -> BenchSettings | None:
    """The build that the bench is paired with; None where that is H2O off; UsageError if it is not there."""
    return None if settings["baseline-bench"] is None else bench_settings(settings, preset, "baseline-bench")


def choose_base_config(preset: Preset, given: Given, *, embedded: bool = False) -> BaseConfig:
    """The model's config of a preset: the command line's, else the preset's, else the ini file's.

    For the embedded bench the last choice is the embedded model, and it takes the preset's `prompt_file`.
    """
    from pytest_h2o.bench.config import read_base_config

    own = (preset.base_config, f"base_config of preset {preset.name}")
    choices = [(given.value, given.origin), own] if given.on_command_line else [own, (given.value, given.origin)]
    if embedded:
        choices.append((embedded_base_config(), "the embedded model"))
    for path, source in choices:
        if path is not None:
            base = read_base_config(path, source)
            if embedded and preset.prompt_file is not None:
                return replace(base, values={**base.values, "prompt_file": str(preset.prompt_file)})
            return base
    raise UsageError(
        "a bench was given, and no base config: the bench needs the model's config.json",
        where=f"preset {preset.name}",
        expected="one of: --h2o-base-config FILE; the ini key h2o_base_config; base_config: in the preset",
        hint="pytest gates/ --h2o-bench PATH --h2o-base-config path/to/model/config.json",
    )


@dataclass(frozen=True)
class Baseline:
    """Decode tok/s with H2O off, where it comes from, and what speaks against the comparison."""

    tok_per_s: float
    origin: str
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    """What it was read from."""


def paired_baseline(comparison: PairedComparison | None) -> Baseline | None:
    """The median speed of a comparison's baseline, for figures that want one number; the verdict rests on the pairs."""
    speed = None if comparison is None else comparison.baseline_tok_per_s()
    if comparison is None or speed is None:
        return None
    return Baseline(speed, f"median of its launches in {len(comparison.pairs)} pairs: {comparison.baseline}")


def pick_recorded(rows: Sequence[Row], results: Sequence[Row], uncompressed: str = "H2O off") -> Baseline | None:
    """The recorded row with nothing compressed that the given runs may be compared with; None if there is none.

    It must have the prompt, gen, model (with its size), backend, threads, precision, mmap and further conditions of
    every run. Of several the fastest is taken: the one that is hardest to hold. `uncompressed` is how the bench calls
    such a row.
    """
    wanted = {_identity(result) for result in results}
    fitting = [
        (row.decode_tok_per_s.mean, row)
        for row in rows
        if wanted == {_identity(row)} and row.decode_tok_per_s is not None
    ]
    if not fitting:
        return None
    speed, best = max(fitting, key=lambda pair: pair[0])
    others = f" (the fastest of {len(fitting)})" if len(fitting) > 1 else ""
    return Baseline(
        speed,
        f"recorded row with {uncompressed}, {best.log_file}{others}",
        unlike_contexts(results),
        tuple(path for path in (best.log_path, best.config_path, best.stdout_path) if path is not None),
    )


def describe_unfit(rows: Sequence[Row], results: Sequence[Row]) -> list[str]:
    """Say of each recorded row with H2O off why `pick_recorded` could not take it: what differs from which run."""
    lines = []
    for row in rows:
        other = next((r for r in results if _identity(r) != _identity(row)), None)
        if other is None:
            lines.append(f"{row.log_file} has no decode speed")
            continue
        pairs = zip(_IDENTITY, _identity(row), _identity(other), strict=True)
        differs = ", ".join(f"{name} {came}, not {asked}" for name, came, asked in pairs if came != asked)
        lines.append(f"{row.log_file} has {differs} as {other.run_id} has")
    return lines


_FIELDS = ("prompt_len", "gen_len", "model", "backend", "threads")
_CELLS = ("modelSize", "precision", "mmap", "conditions")
_IDENTITY = (*_FIELDS, *_CELLS)


def _identity(row: Row) -> tuple[object, ...]:
    """What two rows must have alike; a cell that both lack is alike, one that one of them lacks is not."""
    return (*(getattr(row, name) for name in _FIELDS), *(row.cells.get(name) for name in _CELLS))


def unlike_contexts(results: Sequence[Row]) -> tuple[str, ...]:
    """Say where the binary's own warnings show that H2O on and off decoded different contexts."""
    for row in results:
        seen = row.output.max_kv_len if row.output else None
        if seen is None or row.prompt_len is None or row.gen_len is None:
            continue
        if seen > row.prompt_len + row.gen_len:
            return (
                f"decode speeds are not comparable: warnings of {row.run_id} show a kv_len of {seen}, above prompt "
                f"+ gen = {row.prompt_len + row.gen_len}, so H2O on decoded a longer context than H2O off",
            )
    return ()


DEFAULT_BUDGET = "20"
EMBEDDED_BUDGET = "20,60s"
"""The embedded bench is for a look of a few minutes. A bench of one's own is judged, however long its launches take."""


@dataclass(frozen=True)
class PairPlan:
    """What is fixed before the first pair of a comparison."""

    budget: Budget
    target: float
    """The largest allowed drop, a fraction."""
    relaunch: bool = True
    """Whether a disturbed launch is made again."""
    notes: tuple[str, ...] = ()


def choose_baseline(settings: Settings, preset: Preset) -> Given:
    """What decode speed is held against: ``paired``, ``none``, a speed in tok/s, or None where nothing says it.

    The command line stands over the preset, that over the ini file. Where none of them says it, it is ``paired`` if a
    bench runs, and None (the pairs or the row that were recorded) if logs are read. Another build to compare with means
    ``paired``.
    """
    given, other = settings.given["decode-baseline"], settings.given["baseline-bench"]
    if given.on_command_line:
        return given
    if other.value is not None:
        return Given("paired", other.origin)
    for choice in (Given(preset.targets.decode_baseline, f"targets of preset {preset.name}"), given):
        if choice.value is not None:
            return choice
    return Given("paired", "default where a bench runs") if settings["bench"] is not None else Given(None, "default")


def decode_budget(settings: Settings, preset: Preset) -> Budget:
    """Pairs and seconds for the verdict of a preset: command line before preset before ini file before default.

    What is said in one place stands as a whole: pairs alone set no limit of time, seconds alone leave 20 pairs.
    """
    from pytest_h2o.gate.decode import DEFAULT_PAIRS, Budget

    given, own = settings.given["decode-budget"], preset.targets
    if not given.on_command_line and (own.decode_pairs is not None or own.decode_time_s is not None):
        return Budget(own.decode_pairs or DEFAULT_PAIRS, own.decode_time_s)
    usual = EMBEDDED_BUDGET if is_embedded(settings["bench"]) else DEFAULT_BUDGET
    pairs, elapsed_s = parse_budget(given.value or usual, given.origin)
    return Budget(pairs or DEFAULT_PAIRS, elapsed_s)


def describe_decode(settings: Settings, presets: Sequence[Preset]) -> list[str]:
    """Lines for the header: what decode speed is held against, and with what budget; alike presets share a line."""
    found: dict[str, list[str]] = {}
    for preset in presets:
        chosen = choose_baseline(settings, preset)
        if chosen.value == "paired" and settings["bench"] is not None:
            budget = decode_budget(settings, preset)
            other = settings["baseline-bench"]
            against = "H2O off in the same bench" if other is None else f"the build {other}"
            limit = "" if budget.elapsed_s is None else f" or {budget.elapsed_s:g} s"
            text = f"paired with {against}, at most {budget.pairs} pairs{limit} a preset ({chosen.origin})"
        elif chosen.value is None:
            text = "held against the recorded pairs or row with H2O off"
        else:
            text = f"held against {chosen.value} ({chosen.origin})"
        found.setdefault(text, []).append(preset.name)
    if len(found) == 1:
        return [f"decode {text}" for text in found]
    return [f"decode of {', '.join(names)}: {text}" for text, names in found.items()]


def flag_targets(settings: Settings, wanted: Sequence[tuple[Preset, float | None]]) -> list[str]:
    """Lines for the header: presets whose decode target is finer than a calibration of this machine allows."""
    found: dict[str, list[str]] = {}
    for preset, target in wanted:
        for text in _flag(settings, preset, decode_budget(settings, preset), target):
            found.setdefault(text, []).append(preset.name)
    return [f"{', '.join(names)}: {text}" for text, names in found.items()]


def _flag(settings: Settings, preset: Preset, budget: Budget, target: float | None) -> tuple[str, ...]:
    if settings["bench"] is None or choose_baseline(settings, preset).value != "paired":
        return ()

    base = choose_base_config(preset, settings.given["base-config"], embedded=is_embedded(settings["bench"]))
    return flag_target(calibration_path(bench_settings(settings, preset), base), budget, target)


def plan_pairs(settings: Settings, preset: Preset, target: float) -> PairPlan:
    """What is fixed before the first pair; its notes say so if the target is below the noise floor."""
    budget = decode_budget(settings, preset)
    return PairPlan(budget, target, settings["disturbed"] == "again", _flag(settings, preset, budget, target))


def find_rope(scope: Scope, base_config: Given) -> Rope | None:
    """The rotation that the scope names, or the model's own config; None where codecs have to find out."""
    if scope.rope is not None:
        return Rope(scope.rope.theta, scope.rope.pairing)
    if base_config.value is None:
        return None
    from pytest_h2o.bench.config import read_base_config, rope_theta

    theta = rope_theta(read_base_config(base_config.value, base_config.origin))
    return None if theta is None else Rope(theta)


def calibration_path(bench: BenchSettings, base: BaseConfig) -> Path:
    """Where the calibration of a bench and model on this machine is kept; it need not be there.

    The folder is ``pytest-h2o/noise`` in ``$XDG_CACHE_HOME``, or in ``~/.cache``. The name is a digest of machine,
    binary, model config and its place, backend and threads: change one of them, and no old calibration is taken for it.
    """
    marks = (
        platform.node(),
        bench.digest,
        digest_file(base.path),
        str(base.base_dir),
        bench.backend,
        str(bench.threads),
    )
    name = hashlib.sha256("\0".join(marks).encode("utf-8", "surrogateescape")).hexdigest()[:24]
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "pytest-h2o" / "noise" / f"{name}.json"


def read_noise(path: Path) -> Noise | None:
    """The noise that a calibration recorded; None if there is none."""
    if not path.exists():
        return None
    from pytest_h2o.gate.noise import Noise

    return Noise.from_json(path)


def flag_target(path: Path, budget: Budget, target: float | None) -> tuple[str, ...]:
    """Say that a target is finer than this machine's noise allows; nothing where it is not, or where no one knows.

    A calibration that cannot be read is said and not used: it is advice, and no verdict rests on it.
    """
    try:
        noise = read_noise(path)
    except StoreError as error:
        return (f"the calibration {path} is not used: {error.what} ({error.came})",)
    if noise is None or target is None:
        return ()
    floor = noise.floor(budget.pairs)
    if floor is None or target >= floor:
        return ()
    return (
        f"the decode target of {target:.1%} is below the noise floor of this machine, {floor:.1%} with {budget.pairs} "
        f"pairs (a launch spreads by {noise.launch_spread:.1%}): expect an inconclusive verdict; more pairs lower the "
        "floor",
    )

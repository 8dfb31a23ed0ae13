"""How the decode speed of a preset is judged: against what, and with what budget of launches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_h2o.decode_options import parse_budget
from pytest_h2o.embedded import is_embedded
from pytest_h2o.options import Given, Settings

if TYPE_CHECKING:
    from pytest_h2o.gate.decode import Budget
    from pytest_h2o.presets import Preset

DEFAULT_BUDGET = "20"
EMBEDDED_BUDGET = "20,60s"
"""The embedded bench is for a look of a few minutes. A bench of one's own is judged, however long its launches take."""


@dataclass(frozen=True)
class PairPlan:
    """What is fixed before the first pair of a comparison.

    Attributes
    ----------
    budget : Budget
        Pairs and seconds.
    target : float
        The largest allowed drop, a fraction.
    relaunch : bool
        Whether a disturbed launch is made again.
    notes : tuple of str
        What a reader should know of the plan.
    """

    budget: Budget
    target: float
    relaunch: bool = True
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
    from pytest_h2o.calibrations import calibration_path, flag_target
    from pytest_h2o.launch_settings import bench_settings, choose_base_config

    base = choose_base_config(preset, settings.given["base-config"], embedded=is_embedded(settings["bench"]))
    return flag_target(calibration_path(bench_settings(settings, preset), base), budget, target)


def plan_pairs(settings: Settings, preset: Preset, target: float) -> PairPlan:
    """What is fixed before the first pair; its notes say so if the target is below the noise floor."""
    budget = decode_budget(settings, preset)
    return PairPlan(budget, target, settings["disturbed"] == "again", _flag(settings, preset, budget, target))

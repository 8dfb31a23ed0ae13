"""What the options and a preset say of launching: the bench, how it is called, and the model's config."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_h2o.embedded import embedded_base_config
from pytest_h2o.errors import UsageError
from pytest_h2o.options import Given, Settings

if TYPE_CHECKING:
    from pytest_h2o.bench.command import BenchSettings
    from pytest_h2o.bench.config import BaseConfig
    from pytest_h2o.presets import Preset


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

    Raises
    ------
    UsageError
        Nothing names one; or it cannot be read.
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

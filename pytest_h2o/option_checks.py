"""What option values must hold, each alone and together. Only the standard library is imported."""

from __future__ import annotations

from pytest_h2o.decode_options import check_baseline_bench, parse_baseline, parse_budget
from pytest_h2o.errors import UsageError
from pytest_h2o.executor_name import dask_address
from pytest_h2o.options import EMBEDDED_BENCH, Given, Settings


def check_ranges(settings: Settings) -> None:
    """Check that every value lies in its range; UsageError naming where it was said and what is expected."""
    floors = {
        "threads": (1, "at least 1"),
        "lossy-target": (1.0, "a ratio of at least 1"),
        "lossless-target": (0.0, "a ratio of at least 0"),
    }
    for name, (floor, expected) in floors.items():
        value = settings[name]
        if value is not None and value < floor:
            raise UsageError(f"{settings.origin(name)} is out of range", came=str(value), expected=expected)
    if settings["bench-timeout"] <= 0:
        raise UsageError(
            f"{settings.origin('bench-timeout')} is out of range",
            came=str(settings["bench-timeout"]),
            expected="seconds above 0",
        )
    drop = settings["decode-drop-target"]
    if drop is not None and not 0 <= drop < 1:
        raise UsageError(
            f"{settings.origin('decode-drop-target')} is out of range",
            came=str(drop),
            expected="a fraction from 0 to below 1, 0.05 for 5 %",
        )
    dask_address(settings["executor"], settings.origin("executor"))
    baseline = settings["decode-baseline"]
    quality = settings["quality-target"]
    if quality is not None and quality < 0:
        raise UsageError(
            f"{settings.origin('quality-target')} is out of range",
            came=str(quality),
            expected="a fraction of at least 0, 0.1 for 10 %",
        )
    if baseline is not None and baseline not in ("none", "paired"):
        parse_baseline(baseline, settings.origin("decode-baseline"))
    if settings["decode-budget"] is not None:
        parse_budget(settings["decode-budget"], settings.origin("decode-budget"))


def _refuse_launch_options(settings: Settings) -> None:
    """Where logs are read an option about launching would do nothing, and the user believe that it did."""
    launching = ("base-config", "backend", "threads", "attention-option", "bench-timeout", "no-fold")
    names = (*launching, "disturbed", "baseline-bench", "decode-budget", "demo")
    given = [settings.origin(name) for name in names if settings.given[name].on_command_line]
    if given:
        raise UsageError(
            f"{', '.join(given)} says how to run a bench, and recorded logs are read",
            where=settings.origin("logs"),
            expected="--h2o-bench PATH beside it",
            hint="leave the option out to gate on the logs",
        )


def _refuse_base_config_alone(settings: Settings) -> None:
    """A model of one's own for the embedded bench is asked for by name: else a forgotten bench would run another."""
    base = settings.given["base-config"]
    if base.on_command_line:
        raise UsageError(
            f"{base.origin} names a model, and nothing names the bench that runs it",
            expected="--h2o-bench PATH beside it, or --h2o-bench reference for the embedded bench",
        )


def check_sources(settings: Settings) -> Settings:
    """A bench on the command line stands over logs from the ini file; both on one level exclude each other.

    Where neither is named the embedded bench runs.
    """
    bench, logs = settings.given["bench"], settings.given["logs"]
    if settings["baseline-bench"] is not None:
        check_baseline_bench(settings)
    if bench.value is None and logs.value is None:
        _refuse_base_config_alone(settings)
        bench = Given(EMBEDDED_BENCH, "default")
    if bench.value == EMBEDDED_BENCH and settings["demo"] is not None:
        raise UsageError(
            "llm_demo says nothing about the embedded bench",
            came=f"{settings.origin('demo')} {settings['demo']}",
            expected="--h2o-bench PATH of the same build beside it",
            hint="leave it out: the embedded bench measures perplexity itself",
        )
    if bench.value is None:
        _refuse_launch_options(settings)
        return settings
    if logs.value is None:
        return Settings({**settings.given, "bench": bench})
    if bench.on_command_line == logs.on_command_line:
        raise UsageError(
            "a bench to run and logs to read were both given",
            came=f"{bench.origin} {bench.value} and {logs.origin} {logs.value}",
            expected="one of the two",
            hint="leave out --h2o-logs to run the bench, or --h2o-bench to gate on the logs",
        )
    loser = "logs" if bench.on_command_line else "bench"
    winner = "bench" if loser == "logs" else "logs"
    return Settings({**settings.given, loser: Given(None, f"left out for {settings.origin(winner)}")})

"""What a pytest config says of a gate run: its settings, its run folder, and in a worker what the controller told it.

Standard library and pytest only, like the plugin that asks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_h2o.errors import H2OError, UsageError
from pytest_h2o.gate.metrics import GATE_OPTIONS, Metric, register_metric
from pytest_h2o.inputs.options import Settings, refuse_unknown_keys, resolve_settings

if TYPE_CHECKING:
    from pytest_h2o.plugin.workers import Told
    from pytest_h2o.run.journal import ReportSection


_settings = pytest.StashKey[Settings]()
_run_name = pytest.StashKey[str]()
_from_controller: pytest.StashKey[Told] = pytest.StashKey()


def is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


@contextlib.contextmanager
def bad_usage() -> Iterator[None]:
    """Make an error of ours a usage error of pytest."""
    try:
        yield
    except H2OError as error:
        raise pytest.UsageError(str(error)) from error


def settings_of(config: pytest.Config) -> Settings:
    """Resolve the options once, on the controller; a fault among them is a usage error of pytest."""
    if is_worker(config):
        return told_to(config).settings
    if _settings not in config.stash:
        try:
            with bad_usage():
                refuse_unknown_keys(config, GATE_OPTIONS)
                settings = resolve_settings(
                    GATE_OPTIONS,
                    command_line=config.getoption,
                    ini=config.getini,
                    invocation_dir=config.invocation_params.dir,
                    ini_dir=config.inipath.parent if config.inipath else config.rootpath,
                )
                from pytest_h2o.run.history import read_request

                if settings.given["compare-fail"].on_command_line:  # it may name a metric that a plugin adds
                    register_extensions(config.hook, config)
                if any(settings.given[name].on_command_line for name in ("save", "compare", "compare-fail")):
                    read_request(settings)
            config.stash[_settings] = settings
        except (TypeError, ValueError) as error:  # pytest's own check of a value in a TOML file
            raise pytest.UsageError(f"an ini key of the gate has a value of another type: {error}") from error
    return config.stash[_settings]


def run_dir_of(config: pytest.Config) -> Path:
    """The run folder: named by the controller, made by whoever writes first; H2OError if it cannot go on with one."""
    if is_worker(config):
        return told_to(config).run_dir
    if _run_name not in config.stash:
        from pytest_h2o.run.store import choose_run

        config.stash[_run_name] = choose_run(settings_of(config))
    return Path(settings_of(config)["out-dir"], config.stash[_run_name])


def told_to(config: Any) -> Told:
    """What the controller told this worker; UsageError of pytest if it cannot work with it."""
    if _from_controller not in config.stash:
        from pytest_h2o.plugin.workers import hear_controller

        with bad_usage():
            config.stash[_from_controller] = hear_controller(config.workerinput["h2o"], config.rootpath)
    return cast("Told", config.stash[_from_controller])


def register_extensions(hook: Any, config: Any) -> None:
    """Make the codecs, bench adapters and metrics of all plugins known in this process."""
    from pytest_h2o.bench.adapter import register_adapter
    from pytest_h2o.codecs.registry import register

    for codecs in hook.pytest_h2o_codecs(config=config):
        for codec in codecs:
            register(codec)
    for adapter in _given("pytest_h2o_benches", hook.pytest_h2o_benches(config=config)):
        if isinstance(adapter, type) or not hasattr(adapter, "parse"):
            raise _other("pytest_h2o_benches", adapter, "bench adapters, each an object with a name and parse()")
        register_adapter(adapter)
    for metric in _given("pytest_h2o_metrics", hook.pytest_h2o_metrics(config=config)):
        if not isinstance(metric, Metric):
            raise _other("pytest_h2o_metrics", metric, "Metric objects")
        register_metric(metric)


def added_sections(hook: Any, config: Any) -> tuple[ReportSection, ...]:
    """The report sections of all plugins. UsageError if a hook gave something else."""
    from pytest_h2o.run.journal import ReportSection

    name = "pytest_h2o_report_sections"
    sections = tuple(_given(name, hook.pytest_h2o_report_sections(config=config)))
    for section in sections:
        if not isinstance(section, ReportSection):
            raise _other(name, section, "ReportSection objects")
    return sections


def _given(name: str, groups: Iterable[Any]) -> list[Any]:
    """What all implementations of a hook gave, in the order in which pytest asked them."""
    found: list[Any] = []
    for group in groups:
        if not isinstance(group, list | tuple):
            raise _other(name, group, "a list")
        found += group
    return found


def _other(name: str, came: object, expected: str) -> UsageError:
    what = f"an implementation of {name} gave something else than it should"
    return UsageError(what, came=f"{came!r:.100} ({type(came).__name__})", expected=expected)

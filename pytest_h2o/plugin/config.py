"""What a pytest config says of a gate run: its settings, its run folder, and in a worker what the controller told it.

Standard library and pytest only, like the plugin that asks.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_h2o.errors import H2OError, UsageError, blaming
from pytest_h2o.gate.metrics import GATE_OPTIONS, Metric, register_metric
from pytest_h2o.inputs.options import EMBEDDED_BENCH, Settings, refuse_unknown_keys, resolve_settings

if TYPE_CHECKING:
    from pytest_h2o.plugin.workers import Told
    from pytest_h2o.run.journal import ReportSection


_settings = pytest.StashKey[Settings]()
_run_name = pytest.StashKey[str]()
_registered = pytest.StashKey[bool]()
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


_INI_FILES = {
    **dict.fromkeys(("pytest.toml", ".pytest.toml", "pytest.ini", ".pytest.ini"), ""),
    "pyproject.toml": "[tool.pytest",
    "tox.ini": "[pytest]",
    "setup.cfg": "[tool:pytest]",
}
"""What pytest reads, in its order, and the section that makes it one of pytest."""


def refuse_hidden_ini(config: pytest.Config, words: Sequence[str]) -> None:
    """Refuse an option in two words that made pytest pass over the ini file, and what that asks, without a word.

    It looks for the file before it knows our options: an existing path behind one is a test to it, to look beside.
    """
    takes = {option.flag for option in GATE_OPTIONS if option.kind != "flag"}
    here, known = config.invocation_params.dir, config.known_args_namespace
    paths = [pair for pair in pairwise(words) if pair[0] in takes and os.path.lexists(here / pair[1])]
    if not paths or known.inifilename:
        return
    start = here / str((known.file_or_dir or ["."])[0]).split("::")[0]
    places = (place / name for place in (start, *start.parents) for name in _INI_FILES)
    own = next((path for path in places if path.is_file() and _INI_FILES[path.name] in path.read_text("utf-8")), None)
    if own is not None and own.resolve() != (config.inipath and config.inipath.resolve()):
        flag, value = paths[0]
        raise UsageError(
            "pytest looked for its ini file beside the value of an option, and passed over the one of these tests",
            where=f"{flag} {value}",
            came=str(config.inipath or "no ini file"),
            expected=str(own),
            hint=f"write the option as one word: {flag}={value}",
        )


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
                naming = [settings.given[name] for name in ("compare-fail", "target")]
                if any(given.on_command_line for given in naming):  # they may name a metric that a plugin adds
                    register_extensions(config)
                    from pytest_h2o.gate.values import given_targets

                    given_targets(settings)
                if any(settings.given[name].on_command_line for name in ("save", "compare", "compare-fail")):
                    from pytest_h2o.run.history import read_request

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
        config.stash[_run_name] = _choose_run(settings_of(config))
    return Path(settings_of(config)["out-dir"], config.stash[_run_name])


def _choose_run(settings: Settings) -> str:
    """Local time, the part of the second in six hex digits: names sort by start; or that of the run to go on with."""
    if settings["resume"] is not None:
        from pytest_h2o.run.store import reopen_run

        return reopen_run(settings)
    seconds, part_ns = divmod(time.time_ns(), 10**9)
    return f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(seconds))}-{(part_ns << 24) // 10**9:06x}"


def tell_worker(settings: Settings, run_dir: Path, root: Path, *, away: bool) -> dict[str, Any]:
    """What the controller sends to a worker; built-in types only."""
    digests: dict[str, str] = {}
    if away:
        from pytest_h2o.plugin.workers import look_away

        digests = look_away(settings)
    told = {"settings": settings.to_json(), "run_dir": str(run_dir), "root": str(root)}
    return {**told, "away": away, "digests": digests, "embedded": str(EMBEDDED_BENCH), "pid": os.getpid()}


def told_to(config: Any) -> Told:
    """What the controller told this worker; UsageError of pytest if it cannot work with it."""
    if _from_controller not in config.stash:
        from pytest_h2o.plugin.workers import hear_controller

        with bad_usage():
            config.stash[_from_controller] = hear_controller(config.workerinput["h2o"], config.rootpath)
    return cast("Told", config.stash[_from_controller])


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """What is here and what the block loads stays to the end: to look for garbage in it takes a sixth of a gate.

    If it loads numpy, idle threads of OpenBLAS sleep at once: a gate has no work for them, and they would spin first.
    """
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:  # not for the processes that are started later
        if _SPIN not in os.environ:
            patch.setenv(_SPIN, "4")
        yield
    gc.freeze()
    atexit.register(gc.freeze)


_SPIN = "OPENBLAS_THREAD_TIMEOUT"
"""Base-2 logarithm of the cycles for which an idle thread spins; it would be 26."""


def register_extensions(config: Any) -> None:
    """Make the codecs, bench adapters and metrics of all plugins known in this process, once."""
    if _registered in config.stash:
        return
    from pytest_h2o.bench.adapter import register_adapter
    from pytest_h2o.codecs.registry import register

    for codec in _given(config, "pytest_h2o_codecs", "codec classes", lambda one: isinstance(one, type)):
        register(codec)

    def is_adapter(one: Any) -> bool:
        return not isinstance(one, type) and hasattr(one, "parse")

    what = "bench adapters, each an object with a name and parse()"
    for adapter in _given(config, "pytest_h2o_benches", what, is_adapter):
        register_adapter(adapter)
    for metric in _given(config, "pytest_h2o_metrics", "Metric objects", lambda m: isinstance(m, Metric)):
        register_metric(metric)
    config.stash[_registered] = True


def added_sections(config: Any) -> tuple[ReportSection, ...]:
    """The report sections of all plugins."""
    from pytest_h2o.run.journal import ReportSection

    name = "pytest_h2o_report_sections"
    return tuple(_given(config, name, "ReportSection objects", lambda s: isinstance(s, ReportSection)))


def _given(config: Any, name: str, what: str, fits: Callable[[Any], bool]) -> Iterator[Any]:
    """What all implementations of a hook gave, in the order in which pytest asked them."""
    with blaming(f"an implementation of {name} failed", kind=UsageError, hint="mend the plugin or conftest"):
        groups = [
            list(group) if isinstance(group, Iterable) and not isinstance(group, str | bytes | Mapping) else group
            for group in getattr(config.hook, name)(config=config)
        ]
    for group in groups:
        if not isinstance(group, list):
            raise _other(name, group, "a list")
        for one in group:
            if not fits(one):
                raise _other(name, one, what)
            yield one


def _other(name: str, came: object, expected: str) -> UsageError:
    what = f"an implementation of {name} gave something else than it should"
    return UsageError(what, came=f"{came!r:.100} ({type(came).__name__})", expected=expected)

"""What a pytest config says of a gate run: its settings, its run folder, and in a worker what the controller told it.

Standard library and pytest only, like the plugin that asks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_h2o.errors import H2OError
from pytest_h2o.inputs.options import Settings, refuse_unknown_keys, resolve_settings

if TYPE_CHECKING:
    from pytest_h2o.plugin.workers import Told


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
                refuse_unknown_keys(config)
                settings = resolve_settings(
                    command_line=config.getoption,
                    ini=config.getini,
                    invocation_dir=config.invocation_params.dir,
                    ini_dir=config.inipath.parent if config.inipath else config.rootpath,
                )
                from pytest_h2o.run.history import check_command_line

                if settings.given["compare-fail"].on_command_line:  # it may name a metric that a plugin adds
                    from pytest_h2o.plugin.hooks import register_extensions

                    register_extensions(config.hook, config)
                check_command_line(settings)
            config.stash[_settings] = settings
        except (TypeError, ValueError) as error:  # pytest's own check of a value in a TOML file
            raise pytest.UsageError(f"an ini key of the gate has a value of another type: {error}") from error
    return config.stash[_settings]


def run_dir_of(config: pytest.Config) -> Path:
    """The run folder: named by the controller, made by whoever writes first; H2OError if it cannot go on with one."""
    if is_worker(config):
        return told_to(config).run_dir
    if _run_name not in config.stash:
        from pytest_h2o.run.resume import choose_run

        config.stash[_run_name] = choose_run(settings_of(config))
    return Path(settings_of(config)["out-dir"], config.stash[_run_name])


def told_to(config: Any) -> Told:
    """What the controller told this worker; UsageError of pytest if it cannot work with it."""
    if _from_controller not in config.stash:
        from pytest_h2o.plugin.workers import hear_controller

        with bad_usage():
            config.stash[_from_controller] = hear_controller(config.workerinput["h2o"], config.rootpath)
    return cast("Told", config.stash[_from_controller])

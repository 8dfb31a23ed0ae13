"""What a sweep would run: every config, the manifest and the command lines, with nothing launched."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from pytest_h2o.bench.adapter import get_adapter
from pytest_h2o.bench.command import BenchSettings, RunFiles
from pytest_h2o.bench.config import BaseConfig
from pytest_h2o.bench.manifest import MANIFEST_NAME, manifest_entry, write_manifest
from pytest_h2o.points import SweepPoint
from pytest_h2o.store import write_new_json, write_new_text

COMMANDS_NAME = "commands.sh"


def write_dry_run(
    points: Sequence[SweepPoint], base: BaseConfig, settings: BenchSettings, directory: Path
) -> tuple[str, ...]:
    """Write the configs of all points, a manifest whose return codes are null, and a shell script of the runs.

    Parameters
    ----------
    points : sequence of SweepPoint
        The points; folding is left aside.
    base : BaseConfig
        The model.
    settings : BenchSettings
        The bench, which need not exist.
    directory : Path
        Folder of the sweep.

    Returns
    -------
    tuple of str
        The command line of each point, quoted for a shell.

    Raises
    ------
    StoreError, BenchError
        A file exists or cannot be written, or the bench could not be given its path.
    """
    commands, configs = [], []
    for point in points:
        files = RunFiles(directory, point.run_id)
        files.refuse_existing()
        adapter = get_adapter(point.bench)
        configs.append((files.config, adapter.run_config(base, point)))
        command = shlex.join(adapter.argv(settings, files, point, configs[-1][1]))
        commands.append(f"{command} > {shlex.quote(str(files.log))}" if adapter.rows_on_stdout else command)
    for path, config in configs:
        write_new_json(path, config)
    write_manifest(directory / MANIFEST_NAME, [manifest_entry(point, None) for point in points])
    lines = ["#!/bin/sh", "set -e", "mkdir -p " + shlex.quote(str((directory / "logs").absolute())), *commands]
    write_new_text(directory / COMMANDS_NAME, "\n".join(lines) + "\n")
    return tuple(commands)

"""What a run is asked: written down before anything is measured, and held against what is asked when it goes on.

What was measured under one bench, config, preset, scope or dump must never be joined with what is measured under
another.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_h2o.embedded import digest_program
from pytest_h2o.errors import UsageError
from pytest_h2o.history.machine import describe_machine
from pytest_h2o.options import Given, Settings
from pytest_h2o.store import digest_file

if TYPE_CHECKING:
    from pytest_h2o.presets import Preset
    from pytest_h2o.scopes import Scope

_FREE = frozenset({"resume", "out-dir", "save", "overwrite", "html"})
"""Options that may change when a run goes on: they say what is kept of it, not what is measured or asked."""
_PACKAGES = ("pytest-h2o", "numpy", "zstandard")
"""What figures depend on besides."""


def describe_asked(
    settings: Settings,
    nodeids: Sequence[str],
    presets: Sequence[tuple[Preset, Path | None]],
    scopes: Sequence[tuple[Scope, Path]],
) -> dict[str, str]:
    """Describe what a run is asked, part by part, contents by their digest.

    Parameters
    ----------
    settings : Settings
    nodeids : sequence of str
        The gate items that will run.
    presets : sequence of (Preset, Path or None)
        Those that they are about, each with its base config where a bench runs.
    scopes : sequence of (Scope, Path)
        Those that they are about, each with the root of its dump.
    """
    asked = {
        f"--h2o-{name}": json.dumps(given["value"], ensure_ascii=False)
        for name, given in settings.to_json().items()
        if name not in _FREE
    }
    asked["items"] = f"{len(nodeids)} ({_digest(sorted(nodeids))})"
    for name in ("bench", "baseline-bench", "demo"):
        if settings[name] is not None:
            asked[name.replace("-", " ")] = digest_program(settings[name])[:16]
    for preset, base_config in presets:
        asked[f"preset {preset.name}"] = _digest(preset.model_dump(mode="json", exclude={"path"}))
        if base_config is not None:
            asked[f"base config of preset {preset.name}"] = digest_file(base_config)[:16]
    for scope, root in scopes:
        asked[f"scope {scope.name}"] = _digest(scope.model_dump(mode="json", exclude={"path"}))
        asked[f"dump of scope {scope.name}"] = _digest_listing(root)
    asked |= {f"version of {name}": version(name) for name in _PACKAGES}
    return {**asked, "machine": describe_machine()}


def refuse_changes(then: Mapping[str, str], now: Mapping[str, str], run_dir: Path, resume: Given) -> None:
    """Hold what a process is asked against what its run was asked first; UsageError with each part that differs."""
    parts = sorted({*then, *now}, key=lambda part: (part not in now, part))
    changes = [f"{p}: {then.get(p, 'none')} then, {now.get(p, 'none')} now" for p in parts if then.get(p) != now.get(p)]
    if not changes:
        return
    if resume.value is None:
        raise UsageError(
            "the processes of this run are not asked the same",
            where=str(run_dir),
            came="; ".join(changes),
            expected="one bench, config, preset, scope and dump for all of them, unchanged while the run lasts",
        )
    raise UsageError(
        f"{resume.origin}: what is asked has changed since the run was broken off",
        where=str(run_dir),
        came="; ".join(changes),
        expected="the same bench, config, presets, scopes, dumps, options and items",
        hint="give what the run was given, or leave the option out to start a new run",
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _digest_listing(root: Path) -> str:
    """Names, sizes and times of change of the files of a dump: reading a dump of gigabytes to tell would cost a run."""
    if not root.is_dir():
        return _digest(_facts(root))
    names = [Path(folder, file) for folder, _, files in os.walk(root) for file in files]
    return _digest(sorted([str(path.relative_to(root)), *_facts(path)] for path in names))


def _facts(path: Path) -> list[int | str]:
    try:
        status = path.stat()
    except OSError as error:
        return [error.strerror or str(error)]
    return [status.st_size, status.st_mtime_ns]

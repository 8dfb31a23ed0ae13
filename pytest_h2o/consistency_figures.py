"""Do a run's own lossless statistics and its dumps tell the same sizes: one launch a preset, with both switched on."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_h2o.embedded import is_embedded
from pytest_h2o.errors import DumpError, NotMeasured, OptedOut
from pytest_h2o.launch_settings import bench_settings
from pytest_h2o.options import Settings
from pytest_h2o.points import LLM_BENCH
from pytest_h2o.store import OnceStore, keep_error, kept_value

if TYPE_CHECKING:
    from pytest_h2o.bench.config import BaseConfig
    from pytest_h2o.points import SweepPoint
    from pytest_h2o.presets import Preset
    from pytest_h2o.reference.consistency import Consistency

FOLDER = "consistency"
"""In the folder of a preset: config, log and output of that launch."""

_RUN_ID = "consistency"
_MAX_OUTPUT_BYTES = 64 * 1024 * 1024


class ConsistencyFigures:
    """Answers for the difference of the two, launched once for all processes of the run."""

    def __init__(
        self, settings: Settings, *, run_dir: Path, store: OnceStore, base: Callable[[Preset], BaseConfig]
    ) -> None:
        self._settings = settings
        self._run_dir = run_dir
        self._store = store
        self._base = base

    @property
    def is_exact(self) -> bool:
        """Whether the two must agree to the byte: on the bench that comes with the plugin."""
        return is_embedded(self._settings["bench"])

    def compare(self, preset: Preset, point: SweepPoint) -> tuple[int, str]:
        """Bytes by which the two differ over all samples, without sign, and what was compared, in words.

        Raises
        ------
        OptedOut
            Nothing is run, or the preset does not code at runtime: there is no such statistic. Or another build than
            the embedded bench writes no dumps at all.
        NotMeasured
            The bench printed no sample, or wrote no dump, or dumps that lack its tokens.
        """
        if self._settings["bench"] is None:
            raise OptedOut("the runtime's own lossless sizes are not checked: recorded logs hold no dumps")
        if preset.bench != LLM_BENCH or not (preset.kv_lossless_enable and preset.kv_lossless_runtime_enable):
            raise OptedOut(f"{preset.name} codes nothing at runtime, so there are no sizes to check")
        kept = self._store.once(f"consistency/{preset.name}", keep_error(lambda: self._launch(preset, point)))
        found = kept_value(kept)
        if "left_out" in found:
            raise OptedOut(f"the runtime's own lossless sizes are not checked: {found['left_out']}")
        return int(found["difference_bytes"]), str(found["text"])

    def _launch(self, preset: Preset, point: SweepPoint) -> dict[str, Any]:
        """Launch with a dump that goes again: its thousands of files say nothing that the comparison does not."""
        with tempfile.TemporaryDirectory(prefix="pytest-h2o-dump-") as dump_dir:
            return self._launch_and_dump(preset, point, Path(dump_dir))

    def _launch_and_dump(self, preset: Preset, point: SweepPoint, dump_dir: Path) -> dict[str, Any]:
        from pytest_h2o.bench.config import without_quality
        from pytest_h2o.bench.launch import JsonSupport, Launcher
        from pytest_h2o.reference.consistency import CONFIG_KEYS, compare_run

        folder = self._run_dir / preset.name / FOLDER
        asked = {
            "MNN_KV_DUMP_DIR": str(dump_dir),
            "MNN_KV_DUMP_RUN_ID": _RUN_ID,
            "MNN_KV_DUMP_STAGE": "both",
            "MNN_KV_DUMP_MAX_TOKENS": str(point.prompt_len + point.gen_len),
        }
        lossless = {**point.lossless, **{k: v for k, v in CONFIG_KEYS.items() if k.startswith("kv_lossless_")}}
        checked = replace(point, run_id=_RUN_ID, repeat=1, h2o_log_stats=True, lossless=lossless)
        base = without_quality(self._base(preset))
        bench, env = bench_settings(self._settings, preset), {**os.environ, **asked}
        launcher = Launcher(base, bench, folder, JsonSupport(), env=env, keeps_outcomes=True)
        result = launcher.launch_point(checked)
        output = _read_output(result.stdout_path)
        config = json.loads((folder / "configs" / f"{_RUN_ID}.json").read_text(encoding="utf-8"))
        try:
            found = compare_run(output, dump_dir, run_id=_RUN_ID, config=config)
        except DumpError as error:
            if not self.is_exact and not any(dump_dir.iterdir()):
                # Only a build made for it writes dumps, and what is reported of others never gates.
                return {"left_out": "this build wrote no dump (one with MNN_KV_DUMP_DIR does)"}
            raise NotMeasured(
                "the bench wrote no dump to hold its own lossless sizes against",
                where=str(folder),
                came=error.what,
                expected="a build with MNN_KV_DUMP_DIR",
            ) from error
        return _describe(found, folder)


def _describe(found: Consistency, folder: Path) -> dict[str, Any]:
    if found.offline_bytes is None or not found.compared:
        raise NotMeasured(
            "the bench's own lossless sizes cannot be held against its dump",
            where=str(folder),
            came=found.render(),
            expected="samples in its output, and their tokens in the dump",
        )
    return {"difference_bytes": abs(found.runtime_bytes - found.offline_bytes), "text": found.render()}


def _read_output(path: Path | None) -> str:
    if path is None:
        return ""
    with path.open("rb") as file:
        return file.read(_MAX_OUTPUT_BYTES).decode("utf-8", "replace")

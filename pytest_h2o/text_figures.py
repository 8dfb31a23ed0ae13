"""The texts of a gate session: what llm_demo says with H2O on and off, once for all processes of the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_h2o.embedded import shipped
from pytest_h2o.errors import NotMeasured
from pytest_h2o.gate.text_similarity import TextComparison, compare_texts
from pytest_h2o.launch_settings import bench_settings
from pytest_h2o.options import Settings
from pytest_h2o.store import OnceStore, keep_error, kept_value, unused_folder

if TYPE_CHECKING:
    from pytest_h2o.bench.config import BaseConfig
    from pytest_h2o.points import SweepPoint
    from pytest_h2o.presets import Preset

FOLDER = "demo"
"""In the folder of a preset: configs and outputs of llm_demo."""


class TextFigures:
    """Answers for the texts of presets."""

    def __init__(
        self, settings: Settings, *, run_dir: Path, store: OnceStore, base: Callable[[Preset], BaseConfig]
    ) -> None:
        self._settings = settings
        self._run_dir = run_dir
        self._store = store
        self._base = base

    @property
    def are_compared(self) -> bool:
        """Whether there is an llm_demo to say them."""
        return self._settings["demo"] is not None

    def compare(self, preset: Preset, point: SweepPoint) -> TextComparison:
        """The texts of one point; BenchError where llm_demo gives none, NotMeasured where there is no llm_demo."""
        if not self.are_compared:
            raise NotMeasured("no llm_demo is given", expected="--h2o-demo PATH")
        kept = self._store.once(f"demo/{preset.name}", keep_error(lambda: self._say(preset, point).to_json()))
        return TextComparison.from_json(kept_value(kept))

    def _say(self, preset: Preset, point: SweepPoint) -> TextComparison:
        from pytest_h2o.bench.config import baseline_run_config, build_run_config
        from pytest_h2o.bench.demo import Demo, find_prompts
        from pytest_h2o.bench.machine_lock import heavy_work

        base = self._base(preset)
        folder = unused_folder(self._run_dir / preset.name, FOLDER)
        timeout_s = bench_settings(self._settings, preset).timeout_s
        demo = Demo(self._settings["demo"], folder, point.gen_len, timeout_s)
        pairs = []
        with heavy_work():
            for prompt in find_prompts(preset.prompt_file, shipped("prompts")):
                off = demo.say(f"{prompt.stem}_h2o_off", baseline_run_config(base), prompt)
                on = demo.say(f"{prompt.stem}_h2o_on", build_run_config(base, point), prompt)
                pairs.append(compare_texts(prompt.stem, off, on))
        return TextComparison(point.run_id, tuple(pairs))

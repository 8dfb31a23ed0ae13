"""What a bench is to the gate: how a point is launched on it, and how its output becomes rows.

llm_bench is one (`pytest_h2o.bench.llm_bench`). Plugins add others by the hook ``pytest_h2o_benches``, and a preset
names its own: ``bench: NAME``, with ``bench_options:`` for settings that only this bench knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from pytest_h2o.bench.command import BenchSettings, RunFiles
from pytest_h2o.bench.config import BaseConfig
from pytest_h2o.bench.rows import Row
from pytest_h2o.inputs.presets import Point


class BenchAdapter(Protocol):
    """A kind of bench. An adapter keeps nothing between calls, and may be used in several processes."""

    @property
    def name(self) -> str:
        """How presets name it: letters, digits, ``_``, ``.`` and ``-``."""
        ...

    @property
    def uncompressed(self) -> str:
        """What a baseline of it is called, such as ``H2O off``: the same run with nothing compressed."""
        ...

    @property
    def rows_on_stdout(self) -> bool:
        """Whether it prints its rows on standard output; False: it writes `RunFiles.log` itself."""
        ...

    def check_options(self, options: Mapping[str, Any]) -> str | None:
        """Say what is wrong with the ``bench_options`` of a preset, and what would be right; None if nothing is."""
        ...

    def run_config(self, base: BaseConfig, point: Point) -> dict[str, Any]:
        """Give the config of one run, built-in values that are written to `RunFiles.config` and kept with the row.

        Where ``point.compressed`` is False it is that of the baseline.
        """
        ...

    def argv(
        self, settings: BenchSettings, files: RunFiles, point: Point, config: Mapping[str, Any]
    ) -> tuple[str, ...]:
        """Give the command of one run, beginning with ``settings.command``; `config` is what `run_config` gave."""
        ...

    def recognises(self, text: str) -> bool:
        """Tell whether a recorded file looks like output of this bench, damaged or not."""
        ...

    def parse(self, text: str, *, log_file: str, repeat: int | None = None) -> tuple[Row, ...]:
        """Read every row of an output; a `TableError` that says where it is damaged.

        Rows are made by `Row.from_cells`. The gate reads the columns ``model``, ``modelSize``, ``backend``,
        ``threads``, ``llm_demo`` (lengths), ``speed(tok/s)`` and ``h2o_lossy`` (raw over kept bytes, higher is better),
        and ``conditions``: text for all else in which two rows must be alike to compare their speeds. Further
        columns are kept, and may be metrics.
        """
        ...

    def is_row_of(self, row: Row, point: Point) -> bool:
        """Tell whether a row is of the configuration of a point, or of its baseline if it is not ``compressed``."""
        ...

    def check(self, row: Row, point: Point, settings: BenchSettings | None = None) -> None:
        """Refuse a row that no verdict may rest on, by a `TableError`.

        Parameters
        ----------
        row : Row
        point : Point
            What was asked for.
        settings : BenchSettings, optional
            What the bench was told besides; None of a recorded row, of which that is not known.
        """
        ...

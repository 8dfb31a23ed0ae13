"""What a bench is to the gate: how a point is launched on it, and how its output becomes rows.

llm_bench is one (`pytest_h2o.bench.llm_bench`). Plugins add others by the hook ``pytest_h2o_benches``, and a preset
names its own: ``bench: NAME``, with ``bench_options:`` for settings that only this bench knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Protocol

from pytest_h2o.errors import UsageError
from pytest_h2o.points import LLM_BENCH

if TYPE_CHECKING:
    from pytest_h2o.bench.command import BenchSettings, RunFiles
    from pytest_h2o.bench.config import BaseConfig
    from pytest_h2o.bench.row import BenchRow
    from pytest_h2o.points import SweepPoint


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

    def run_config(self, base: BaseConfig, point: SweepPoint) -> dict[str, Any]:
        """Give the config of one run, built-in values that are written to `RunFiles.config` and kept with the row.

        Where ``point.compressed`` is False it is that of the baseline.
        """
        ...

    def argv(
        self, settings: BenchSettings, files: RunFiles, point: SweepPoint, config: Mapping[str, Any]
    ) -> tuple[str, ...]:
        """Give the command of one run, beginning with ``settings.command``; `config` is what `run_config` gave."""
        ...

    def recognises(self, text: str) -> bool:
        """Tell whether a recorded file looks like output of this bench, damaged or not."""
        ...

    def parse(self, text: str, *, log_file: str, repeat: int | None = None) -> tuple[BenchRow, ...]:
        """Read every row of an output; a `TableError` that says where it is damaged.

        Rows are made by `BenchRow.from_cells`. The gate reads the columns ``model``, ``modelSize``, ``backend``,
        ``threads``, ``llm_demo`` (lengths), ``speed(tok/s)`` and ``h2o_lossy`` (raw over kept bytes, higher is better),
        and ``conditions``: text for all else in which two rows must be alike to compare their speeds. Further
        columns are kept, and may be metrics.
        """
        ...

    def is_row_of(self, row: BenchRow, point: SweepPoint) -> bool:
        """Tell whether a row is of the configuration of a point, or of its baseline if it is not ``compressed``."""
        ...

    def check(self, row: BenchRow, point: SweepPoint, settings: BenchSettings | None = None) -> None:
        """Refuse a row that no verdict may rest on, by a `TableError`.

        Parameters
        ----------
        row : BenchRow
        point : SweepPoint
            What was asked for.
        settings : BenchSettings, optional
            What the bench was told besides; None of a recorded row, of which that is not known.
        """
        ...


_adapters: dict[str, BenchAdapter] = {}


def _known() -> dict[str, BenchAdapter]:
    """Every adapter by its name; the built-in one is there from the first call on."""
    if not _adapters:
        from pytest_h2o.bench.llm_bench import LlmBench

        _adapters[LLM_BENCH] = LlmBench()
    return _adapters


def register_adapter(adapter: BenchAdapter) -> None:
    """Make an adapter known by its name; one of the same class takes its place.

    Raises
    ------
    UsageError
        Another class has that name.
    """
    known = _known().setdefault(adapter.name, adapter)
    _adapters[adapter.name] = adapter if _place(known) == _place(adapter) else known
    if _adapters[adapter.name] is not adapter:
        raise UsageError(
            f"two bench adapters are called {adapter.name!r}",
            came=f"{_place(known)} and {_place(adapter)}",
            expected="one adapter a name",
        )


def get_adapter(name: str, where: str | None = None) -> BenchAdapter:
    """Return the adapter of a name.

    Raises
    ------
    UsageError
        There is none; with the nearest names.
    """
    if name not in _known():
        near = get_close_matches(name, _adapters, n=1)
        raise UsageError(
            "no such bench adapter",
            where=where,
            came=name,
            expected=f"one of {', '.join(sorted(_adapters))}",
            hint=f"did you mean {near[0]}?" if near else "a plugin adds adapters by the hook pytest_h2o_benches",
        )
    return _adapters[name]


def name_bench_of(text: str) -> str | None:
    """Name the bench that an output looks like; None if it looks like none that is known."""
    return next((name for name, adapter in _known().items() if adapter.recognises(text)), None)


def _place(adapter: BenchAdapter) -> str:
    return f"{type(adapter).__module__}.{type(adapter).__qualname__}"

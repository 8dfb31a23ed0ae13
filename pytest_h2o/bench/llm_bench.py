"""llm_bench of MNN as an adapter. Its rows stand in a table, and in newer ones in a JSON file beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_h2o.bench.check import check_baseline_row, check_row, is_idle
from pytest_h2o.bench.command import BenchSettings, RunFiles, bench_argv
from pytest_h2o.bench.config import BaseConfig, baseline_run_config, build_run_config
from pytest_h2o.bench.row import BenchRow
from pytest_h2o.bench.table import parse_table
from pytest_h2o.points import LLM_BENCH, SweepPoint

_TABLE = re.compile(r"\s*\|\s*model\s*\|", re.ASCII)


@dataclass(frozen=True)
class LlmBench:
    """The adapter of llm_bench. Its settings are the keys of a preset, so it has no ``bench_options``."""

    name: str = LLM_BENCH
    uncompressed: str = "H2O off"
    rows_on_stdout: bool = False

    def check_options(self, options: Mapping[str, Any]) -> str | None:
        return f"{LLM_BENCH} has none: its settings are keys of the preset" if options else None

    def run_config(self, base: BaseConfig, point: SweepPoint) -> dict[str, Any]:
        return build_run_config(base, point) if point.compressed else baseline_run_config(base)

    def argv(
        self, settings: BenchSettings, files: RunFiles, point: SweepPoint, config: Mapping[str, Any]
    ) -> tuple[str, ...]:
        return bench_argv(settings, files, point, with_json=settings.with_json)

    def recognises(self, text: str) -> bool:
        return _TABLE.match(text) is not None

    def parse(self, text: str, *, log_file: str, repeat: int | None = None) -> tuple[BenchRow, ...]:
        return parse_table(text, log_file=log_file, repeat=repeat)

    def is_row_of(self, row: BenchRow, point: SweepPoint) -> bool:
        """Its row does not show what it was told: lengths, and whether H2O was at work, are all that can be seen."""
        lengths = (row.prompt_len, row.gen_len) == (point.prompt_len, point.gen_len)
        return lengths and is_idle(row) != point.compressed

    def check(self, row: BenchRow, point: SweepPoint, settings: BenchSettings | None = None) -> None:
        backend, threads = (None, None) if settings is None else (settings.backend, settings.threads)
        if not point.compressed:
            check_baseline_row(row, point, backend=backend, threads=threads)
            return
        option = None if settings is None else settings.attention_option
        check_row(row, point, backend=backend, threads=threads, attention_option=option)

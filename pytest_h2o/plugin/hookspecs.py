"""Hooks that the gate calls, for a conftest or a plugin to implement. docs/writing-a-plugin.md has an example of each.

The first three are called once in each process of a run, when the first gate item is collected or, in the controller of
pytest-xdist, when the first result arrives; not at all in a run without gate items. What was given before may be given
again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_h2o.bench.adapter import BenchAdapter
    from pytest_h2o.codecs.base import Codec
    from pytest_h2o.gate.metrics import Metric
    from pytest_h2o.run.journal import ReportSection


@pytest.hookspec
def pytest_h2o_codecs(config: pytest.Config) -> Iterable[type[Codec]]:
    """Give codec classes that scopes can name, besides those of the package and of entry points.

    Example: docs/examples/my_codec.py.
    """
    return ()  # never called


@pytest.hookspec
def pytest_h2o_benches(config: pytest.Config) -> Sequence[BenchAdapter]:
    """Give adapters of benches other than llm_bench, which presets name by ``bench:``.

    Example: docs/examples/llama_bench.py, which reads and runs llama-bench of llama.cpp.
    """
    return ()  # never called


@pytest.hookspec
def pytest_h2o_metrics(config: pytest.Config) -> Sequence[Metric]:
    """Give metrics of the rows of a sweep, each with unit, direction and target.

    ``h2o_sweep.best(name)`` measures it and ``h2o_targets.metric(name)`` is its target, which a preset can change under
    ``targets: metrics:``. Example: docs/examples/my_metric.py.
    """
    return ()  # never called


@pytest.hookspec
def pytest_h2o_report_sections(config: pytest.Config) -> Sequence[ReportSection]:
    """Give sections of report.html and summary.md. Called in the controller alone, once a run with gate items.

    Example: docs/examples/my_section.py.
    """
    return ()  # never called

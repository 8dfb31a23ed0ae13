"""What plugins and conftests add by the hooks of `pytest_h2o.hookspecs`: taken in, checked, and made known."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pytest_h2o.errors import UsageError

if TYPE_CHECKING:
    from pytest_h2o.report.sections import ReportSection


def register_extensions(hook: Any, config: Any) -> None:
    """Make the codecs, bench adapters and metrics of all plugins known in this process.

    Parameters
    ----------
    hook : pluggy.HookRelay
    config : pytest.Config

    Raises
    ------
    UsageError, CodecError
        A hook gave something else than it should, or a name that is taken.
    """
    from pytest_h2o.bench.adapter import register_adapter
    from pytest_h2o.codecs.registry import register_all
    from pytest_h2o.gate.row_metrics import RowMetric, register_metric

    register_all(hook.pytest_h2o_codecs(config=config))
    for adapter in _given("pytest_h2o_benches", hook.pytest_h2o_benches(config=config)):
        if isinstance(adapter, type) or not hasattr(adapter, "parse"):
            raise _other("pytest_h2o_benches", adapter, "bench adapters, each an object with a name and parse()")
        register_adapter(adapter)
    for metric in _given("pytest_h2o_metrics", hook.pytest_h2o_metrics(config=config)):
        if not isinstance(metric, RowMetric):
            raise _other("pytest_h2o_metrics", metric, "RowMetric objects")
        register_metric(metric)


def added_sections(hook: Any, config: Any) -> tuple[ReportSection, ...]:
    """The report sections of all plugins. UsageError if a hook gave something else."""
    from pytest_h2o.report.sections import ReportSection

    name = "pytest_h2o_report_sections"
    sections = tuple(_given(name, hook.pytest_h2o_report_sections(config=config)))
    for section in sections:
        if not isinstance(section, ReportSection):
            raise _other(name, section, "ReportSection objects")
    return sections


def _given(name: str, groups: Iterable[Any]) -> list[Any]:
    """What all implementations of a hook gave, in the order in which pytest asked them."""
    found: list[Any] = []
    for group in groups:
        if not isinstance(group, list | tuple):
            raise _other(name, group, "a list")
        found += group
    return found


def _other(name: str, came: object, expected: str) -> UsageError:
    what = f"an implementation of {name} gave something else than it should"
    return UsageError(what, came=f"{came!r:.100} ({type(came).__name__})", expected=expected)

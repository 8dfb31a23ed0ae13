"""The pytest hooks, and nothing else: options in, items parametrized, reports out.

Only the standard library and pytest are imported here; everything else arrives when a gate item is collected.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_h2o.errors import H2OError, InconclusiveDecode, OptedOut, UsageError
from pytest_h2o.inputs.options import OPTIONS
from pytest_h2o.plugin.config import bad_usage, is_worker, run_dir_of, settings_of, told_to
from pytest_h2o.plugin.controller import PROPERTY, REFUSED, Controller

if TYPE_CHECKING:
    from pytest_h2o.gate.targets import Targets
    from pytest_h2o.run.items import ComparisonItem, GateItem, LosslessItem, PointItem, SweepItem
    from pytest_h2o.run.journal import ReportSection
    from pytest_h2o.run.session import GateSession


ITEM_FIXTURES = ("h2o_point", "h2o_sweep", "h2o_lossless", "h2o_upper_bound", "h2o_scope", "h2o_comparison")
_session: pytest.StashKey[GateSession] = pytest.StashKey()
_faults = pytest.StashKey[list[tuple[str, str]]]()
"""Gate file and text of what is wrong with presets, scopes or settings."""

_head = pytest.StashKey[list[str]]()
"""Lines for the head of the run, where this process has gate items."""


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    from pytest_h2o.plugin import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("h2o", "KV-cache compression gate (pytest-h2o)")
    for option in OPTIONS:
        group.addoption(option.flag, **option.argparse_keywords())
        if option.is_list:
            parser.addini(option.key, option.full_help, type="linelist")
        else:
            parser.addini(option.key, option.full_help, type="string")


def _session_of(config: pytest.Config) -> GateSession:
    if _session not in config.stash:
        from pytest_h2o.run.session import GateSession, names_asked_for

        register_extensions(config.hook, config)
        asked_for = names_asked_for(config.getoption("keyword"), config.args)
        config.stash[_session] = GateSession(settings_of(config), run_dir=run_dir_of(config), asked_for=asked_for)
    return config.stash[_session]


def _sections_of(config: pytest.Config) -> tuple[ReportSection, ...]:
    """The report sections that plugins add, and all else that they add made known in this process."""

    if _session not in config.stash:  # workers have collected, and what plugins add is not known here yet
        register_extensions(config.hook, config)
    return added_sections(config.hook, config)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell the workers of pytest-xdist what they work with."""
    from pytest_h2o.plugin.workers import tell_worker

    config, away = node.config, not node.gateway.spec.popen or bool(node.gateway.spec.chdir)
    with bad_usage():
        node.workerinput["h2o"] = tell_worker(settings_of(config), run_dir_of(config), config.rootpath, away=away)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "h2o: an item of the KV-cache compression gate (set by pytest-h2o)")
    given = (config.getoption(f"h2o_{option.attribute}") is not None for option in OPTIONS)
    if any(given) or config.getini("h2o_resume"):
        settings_of(config)  # a fault among the options is told before anything is collected
        if settings_of(config)["resume"] is not None:
            with bad_usage():
                run_dir_of(config)
    if not is_worker(config):
        config.pluginmanager.register(Controller(config, _sections_of), "h2o-controller")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    wanted = [name for name in ITEM_FIXTURES if name in metafunc.fixturenames]
    if not wanted:
        return
    nodeid = metafunc.definition.nodeid
    try:
        if len(wanted) > 1:
            came, expected = ", ".join(wanted), f"one of {', '.join(ITEM_FIXTURES)}"
            raise UsageError("a gate test measures one thing", where=nodeid, came=came, expected=expected)
        params = _session_of(metafunc.config).parameters(wanted[0], Path(metafunc.definition.path).parent)
    except (H2OError, pytest.UsageError) as error:
        # Raised from here it would be the error of one file; at the end of collection it ends the run as bad usage.
        known: list[tuple[str, str]] = metafunc.config.stash.get(_faults, [])
        metafunc.config.stash[_faults] = [*known, (nodeid.split("::")[0], str(error))]
        params = []
    metafunc.parametrize(wanted[0], [key for key, _ in params], ids=[name for _, name in params], indirect=True)


def _is_gate_item(item: pytest.Item) -> bool:
    return hasattr(item, "callspec") and any(name in getattr(item, "fixturenames", ()) for name in ITEM_FIXTURES)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, None, None]:
    """Mark the gate's items; then, of those selected, leave out presets that nothing can measure and nobody named."""
    for item in items:
        if _is_gate_item(item):
            item.add_marker("h2o")
    yield
    faults: list[tuple[str, str]] = config.stash.get(_faults, [])
    gate: list[Any] = [item for item in items if _is_gate_item(item)]
    if gate and not faults:
        from pytest_h2o.run.session import measures_nothing, preset_of

        about = [item.callspec.params for item in gate]
        try:
            presets = {preset_of(params) for params in about if not measures_nothing(params)} - {None}
            left_out = _session_of(config).leave_out(cast("set[str]", presets))
            pairs = zip(gate, about, strict=True)
            gone = {item: None for item, params in pairs if measures_nothing(params) or preset_of(params) in left_out}
            kept = [item for item in gate if item not in gone]
            if kept and not config.option.collectonly:
                _session_of(config).begin([i.nodeid for i in kept], [i.callspec.params for i in kept])
        except H2OError as error:
            config.stash[_faults] = faults = [(gate[0].nodeid.split("::")[0], str(error))]
        else:
            if gone:
                config.hook.pytest_deselected(items=list(gone))
                items[:] = [item for item in items if item not in gone]
    if faults:
        _refuse(config, items, faults)


def _refuse(config: pytest.Config, items: list[pytest.Item], faults: list[tuple[str, str]]) -> None:
    """End the run before anything is measured, as bad usage; a worker hands the text to the controller for that."""
    text = "\n\n".join(dict.fromkeys(text for _, text in faults))
    if not is_worker(config):
        raise pytest.UsageError(text)
    items.clear()
    report = pytest.CollectReport(nodeid=faults[0][0], outcome="failed", longrepr=text, result=[])
    setattr(report, REFUSED, True)
    config.hook.pytest_collectreport(report=report)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Learn which items will run, now that every plugin has had its say; before the terminal's own, for the header."""
    config = session.config
    if _session in config.stash and _faults not in config.stash:
        items: list[Any] = [item for item in session.items if _is_gate_item(item)]
        gate = config.stash[_session]
        gate.note_selected([item.callspec.params for item in items])
        if items:
            from pytest_h2o.plugin.header import describe_run

            config.stash[_head] = describe_run(gate) if config.option.collectonly else gate.announce(describe_run)
            controller = config.pluginmanager.get_plugin("h2o-controller")
            if controller is not None and not config.option.collectonly:
                controller.show_progress()


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    return config.stash.get(_head, [])


@pytest.fixture
def h2o_point(request: pytest.FixtureRequest) -> PointItem:
    """One point of a sweep preset: its sound `row`."""
    return _session_of(request.config).point_item(request.param)


@pytest.fixture
def h2o_sweep(request: pytest.FixtureRequest) -> SweepItem:
    """All rows of one sweep preset: `best`, `decode_drop`, `joint_margin`."""
    return _session_of(request.config).sweep_item(request.param)


@pytest.fixture
def h2o_lossless(request: pytest.FixtureRequest) -> LosslessItem:
    """One dump scope as the runtime would code it: `ratio`."""
    return _session_of(request.config).lossless_item(request.param)


@pytest.fixture
def h2o_upper_bound(request: pytest.FixtureRequest) -> LosslessItem:
    """One dump scope coded as a whole (entry mode aggregate): `ratio`."""
    return _session_of(request.config).lossless_item(request.param)


@pytest.fixture
def h2o_scope(request: pytest.FixtureRequest) -> LosslessItem:
    """Any dump scope: `streams`, `decoded_streams`."""
    return _session_of(request.config).lossless_item(request.param)


@pytest.fixture
def h2o_comparison(request: pytest.FixtureRequest) -> ComparisonItem:
    """One preset or scope of this run against an earlier run: `regressions`, `comparison`."""
    return _session_of(request.config).comparison_item(request.param)


@pytest.fixture
def h2o_targets(request: pytest.FixtureRequest) -> Targets:
    """The targets of this item's preset or scope, each with where it was said."""
    for name in set(ITEM_FIXTURES).intersection(request.fixturenames):
        return cast("GateItem", request.getfixturevalue(name)).targets
    pytest.fail("h2o_targets needs one of h2o_sweep, h2o_lossless, h2o_upper_bound, h2o_scope beside it", pytrace=False)


def _gate_item_of(item: pytest.Item) -> GateItem | None:
    """What the item's fixture gave; of an item that ended before its fixtures were made, what it would have given."""
    made = next((given for name, given in getattr(item, "funcargs", {}).items() if name in ITEM_FIXTURES), None)
    if made is None and _is_gate_item(item):
        made = _session_of(item.config).make_item(item.callspec.params)  # type: ignore[attr-defined]
    return made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    gate_item = _gate_item_of(item)
    if gate_item is None:
        return (yield)
    if gate_item.session.settings["dry-run"]:
        raise pytest.skip.Exception(gate_item.write_dry_run(), _use_item_location=True)
    try:
        result = yield
    except OptedOut as reason:
        raise pytest.skip.Exception(str(reason), _use_item_location=True) from reason  # at the gate file
    gate_item.refuse_idle()
    for text in gate_item.inconclusive_texts():
        item.warn(InconclusiveDecode(f"{item.nodeid}: {text}"))
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    gate_item = _gate_item_of(item) if _is_gate_item(item) else None
    if gate_item is None or (call.when != "call" and not (report.failed or report.skipped)):
        return report
    from pytest_h2o.report.diagnosis import report_item

    here = os.path.relpath(item.path, item.config.invocation_params.dir)  # node ids are relative to the root
    error = None if call.excinfo is None else call.excinfo.value
    if report.skipped and hasattr(report, "wasxfail"):
        error = OptedOut(f"excused by an xfail mark: {report.wasxfail or 'no reason given'}")
    told = report_item(gate_item, item.nodeid, here, report.outcome, error, item.location[:2])
    if is_worker(item.config) and (shipping := told_to(item.config).shipping):
        told = shipping.send(told)
    report.longrepr = told.text or report.longrepr
    if told.diagnosis is not None:
        report.sections.append(("h2o diagnosis", told.diagnosis))
    item.user_properties.extend(told.figures)
    report.user_properties.append((PROPERTY, told.record))
    return report


def pytest_assertrepr_compare(config: pytest.Config, op: str, left: object, right: object) -> list[str] | None:
    if _session not in config.stash:
        return None
    from pytest_h2o.gate.values import Measured
    from pytest_h2o.report.diagnosis import explain_comparison

    return explain_comparison(left, op, right) if isinstance(left, Measured) else None


def register_extensions(hook: Any, config: Any) -> None:
    """Make the codecs, bench adapters and metrics of all plugins known in this process."""
    from pytest_h2o.bench.llm_bench import register_adapter
    from pytest_h2o.codecs.registry import register_all
    from pytest_h2o.gate.metrics import RowMetric, register_metric

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
    from pytest_h2o.run.journal import ReportSection

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

"""The pytest hooks, and nothing else: options in, items parametrized, reports out.

Only the standard library and pytest are imported here; everything else arrives when a gate item is collected.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_h2o.errors import H2OError, InconclusiveDecode, OptedOut, UsageError, as_ours
from pytest_h2o.gate.metrics import GATE_OPTIONS
from pytest_h2o.inputs.options import ini_keys
from pytest_h2o.plugin.config import (
    bad_usage,
    is_worker,
    lasting,
    refuse_hidden_ini,
    register_extensions,
    run_dir_of,
    settings_of,
    tell_worker,
    told_to,
)
from pytest_h2o.plugin.controller import PROPERTY, REFUSED, Controller, may_vanish, refuse_to_vanish, seal

if TYPE_CHECKING:
    from pytest_h2o.gate.values import Targets
    from pytest_h2o.run.items import GateItem
    from pytest_h2o.run.session import GateSession, Subject


ITEM_FIXTURES = {
    "h2o_point": "One point of a sweep preset: its sound `row`.",
    "h2o_sweep": "All rows of one sweep preset, or of one of its workloads: `best`, `decode_drop`, `quality_rise`.",
    "h2o_preset": "All rows of one sweep preset, of every workload: `joint_margin`.",
    "h2o_health": "All rows of one sweep preset that has targets which every row must hold: `missed`, `worst`.",
    "h2o_demo": "One sweep preset, where there is an llm_demo: `demo_drop` and `prompt_buckets` of real prompts.",
    "h2o_lossless": "One dump scope as the runtime would code it: `ratio`.",
    "h2o_upper_bound": "One dump scope coded as a whole (entry mode aggregate): `ratio`.",
    "h2o_scope": "Any dump scope: `streams`, `decoded_streams`.",
    "h2o_comparison": "One preset or scope of this run against an earlier run: `regressions`, `comparison`.",
}
"""The fixtures that make a test an item of the gate, and what each gives."""

_session: pytest.StashKey[GateSession] = pytest.StashKey()
_faults = pytest.StashKey[list[tuple[str, str]]]()
"""Gate file and text of what is wrong with presets, scopes or settings."""

_offered = pytest.StashKey[list[tuple[str, "Subject"]]]()
"""Every item that gate files make, selected or not: the node id of its function, and what it is about."""

_told_figures = pytest.StashKey[tuple[tuple[str, str], ...]]()
"""Properties that the last report of an item had from us."""

_controller = pytest.StashKey[Controller]()

_head = pytest.StashKey[list[str]]()
"""Lines for the head of the run, where this process has gate items."""


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    from pytest_h2o.plugin import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("h2o", "KV-cache compression gate (pytest-h2o)")
    for option in GATE_OPTIONS:
        group.addoption(option.flag, **option.argparse_keywords())
        if option.is_list:
            parser.addini(option.key, option.full_help, type="linelist")
        else:
            parser.addini(option.key, option.full_help, type="string")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> Generator[None, object, object]:
    """Let no conftest of a gate end the process as if all were well."""
    is_gate = any(word.startswith("--h2o-") for word in args) or any(
        key.startswith("h2o_") for key in ini_keys(early_config)
    )
    if not is_gate or "PYTEST_XDIST_WORKER" in os.environ:
        return (yield)
    with bad_usage():
        refuse_hidden_ini(early_config, args)
    refuse_to_vanish()
    try:
        return (yield)
    except SystemExit as error:
        what = f"a conftest or plugin ended the run while it was loaded: SystemExit({error.code!r})"
        raise pytest.UsageError(what) from error


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, object, object]:
    """Let a failed gate not end well, whatever other plugins make of the exit status."""
    held = 0
    try:
        status = yield
        controller = config.stash.get(_controller, None)  # another plugin may have unregistered it
        held = 0 if controller is None else controller.last_word(status)
    finally:
        if not held:
            may_vanish()
    return status or held


def _session_of(config: pytest.Config) -> GateSession:
    if _session not in config.stash:
        with lasting():
            from pytest_h2o.run.session import GateSession, names_asked_for

            register_extensions(config)
        asked_for = names_asked_for(config.getoption("keyword"), config.args)
        config.stash[_session] = GateSession(settings_of(config), run_dir=run_dir_of(config), asked_for=asked_for)
    return config.stash[_session]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell the workers of pytest-xdist what they work with."""
    config, away = node.config, not node.gateway.spec.popen or bool(node.gateway.spec.chdir)
    with bad_usage():
        node.workerinput["h2o"] = tell_worker(settings_of(config), run_dir_of(config), config.rootpath, away=away)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "h2o: an item of the KV-cache compression gate (set by pytest-h2o)")
    given = (config.getoption(option.key) is not None for option in GATE_OPTIONS)
    if any(given) or config.getini("h2o_resume"):
        settings_of(config)  # a fault among the options is told before anything is collected
        if settings_of(config)["resume"] is not None:
            with bad_usage():
                run_dir_of(config)
    if is_worker(config):
        return
    config.stash[_controller] = Controller(config)
    if config.pluginmanager.register(config.stash[_controller], "h2o-controller") is None:
        raise pytest.UsageError("-p no:h2o-controller leaves nobody to give a verdict: -p no:h2o leaves out all of it")


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
    except Exception as error:
        # Raised from here it would be the error of one file; at the end of collection it ends the run as bad usage.
        known: list[tuple[str, str]] = metafunc.config.stash.get(_faults, [])
        metafunc.config.stash[_faults] = [*known, (nodeid.split("::")[0], _fault_text(error))]
        params = []
    metafunc.config.stash.setdefault(_offered, []).extend((nodeid, subject) for subject, _ in params)
    metafunc.parametrize(wanted[0], [key for key, _ in params], ids=[name for _, name in params], indirect=True)


def _fault_text(error: Exception) -> str:
    """What a usage error says of an error among presets, scopes, settings and what plugins give."""
    usage = isinstance(error, pytest.UsageError)
    return str(
        error if usage else as_ours(error, "the items of the gate cannot be collected", expected=_EXPECTED, hint=_TO_DO)
    )


_EXPECTED = "code that ends well or raises an H2OError"
_TO_DO = "mend the line that is named; if it is that of a plugin, -p no:NAME runs without it"


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
        from pytest_h2o.run.session import subject_of

        about = {item: subject_of(item.callspec.params) for item in gate}
        try:
            presets = {subject.name for subject in about.values() if subject and subject.kind == "preset"}
            left_out = _session_of(config).leave_out(presets)
            kept = {
                item: subject
                for item, subject in about.items()
                if subject and not (subject.kind == "preset" and subject.name in left_out)
            }
            if kept and not config.option.collectonly:
                code = {Path(item.path) for item in kept} | _conftests(config)
                _session_of(config).begin([item.nodeid for item in kept], list(kept.values()), code)
        except Exception as error:
            config.stash[_faults] = faults = [(gate[0].nodeid.split("::")[0], _fault_text(error))]
        else:
            if gone := {item: None for item in gate if item not in kept}:
                config.hook.pytest_deselected(items=list(gone))
                items[:] = [item for item in items if item not in gone]
    if faults:
        _refuse(config, items, faults)


def _conftests(config: pytest.Config) -> set[Path]:
    files = (getattr(plugin, "__file__", None) for plugin in config.pluginmanager.get_plugins())
    return {path for path in map(Path, filter(None, files)) if path.name == "conftest.py"}


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
    items: list[Any] = [item for item in session.items if _is_gate_item(item)]
    if items and _session in config.stash and _faults not in config.stash:
        try:
            _begin(config, items)
        except Exception as error:
            config.stash[_faults] = [(items[0].nodeid.split("::")[0], _fault_text(error))]
            _refuse(config, session.items, config.stash[_faults])


_TIMES, _SAYS = ("decode_drop", "joint_margin"), ("demo_drop", "prompt_buckets", "demo_missed", "text_similarity")
"""What a test function asks for the decode verdict, and what for launches of llm_demo."""


def _may_ask(item: Any, names: Sequence[str]) -> bool:
    """Whether the test function of an item asks for one of these, as far as its code tells."""
    code = getattr(item.function, "__code__", None)
    return code is None or not set(names).isdisjoint(code.co_names)


def _begin(config: pytest.Config, items: list[Any]) -> None:
    from pytest_h2o.run.session import subject_of

    gate = config.stash[_session]
    asked = {
        (item.nodeid.removesuffix(f"[{item.callspec.id}]"), subject)
        for item in items
        if (subject := subject_of(item.callspec.params))
    }
    timed, said = (
        {subject.name for item in items if _may_ask(item, names) and (subject := subject_of(item.callspec.params))}
        for names in (_TIMES, _SAYS)
    )
    gate.note_selected((subject for _, subject in asked), timed, said)
    gate.note_not_asked([one for one in config.stash.get(_offered, []) if one not in asked])
    if not config.option.collectonly:
        gate.note_items({item.nodeid: subject for item in items if (subject := subject_of(item.callspec.params))})
    config.stash[_head] = gate.describe() if config.option.collectonly else gate.announce()
    controller = config.pluginmanager.get_plugin("h2o-controller")
    if controller is not None and not config.option.collectonly:
        controller.show_progress()


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    return config.stash.get(_head, [])


def _item_fixture(name: str, what: str) -> Any:
    def make(request: pytest.FixtureRequest) -> GateItem:
        return _make_item(request.config, name, request.param)

    make.__doc__ = what
    return pytest.fixture(name=name)(make)


# pytest finds fixtures among the attributes of a plugin.
globals().update({name: _item_fixture(name, what) for name, what in ITEM_FIXTURES.items()})


@pytest.fixture
def h2o_targets(request: pytest.FixtureRequest) -> Targets:
    """The targets of this item's preset or scope, each with where it was said."""
    for name in ITEM_FIXTURES.keys() & request.fixturenames:
        return cast("GateItem", request.getfixturevalue(name)).targets
    pytest.fail("h2o_targets needs one of h2o_sweep, h2o_lossless, h2o_upper_bound, h2o_scope beside it", pytrace=False)


def _make_item(config: pytest.Config, fixture: str, subject: Subject) -> GateItem:
    from pytest_h2o.run.items import make_item

    return make_item(_session_of(config), subject, compared=fixture == "h2o_comparison")


def _gate_item_of(item: Any) -> GateItem | None:
    """What the item's fixture gave; of an item that ended before its fixtures were made, what it would have given."""
    made = next((given for name, given in getattr(item, "funcargs", {}).items() if name in ITEM_FIXTURES), None)
    if made is None and _is_gate_item(item):
        params = item.callspec.params
        fixture = next(name for name in ITEM_FIXTURES if name in params)
        made = _make_item(item.config, fixture, params[fixture])
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
    is_ours = _is_gate_item(item)
    if is_ours and call.excinfo is not None and isinstance(call.excinfo.value, H2OError):
        # Our text stands in place of a traceback, on which pytest spends longer than the item took.
        item.repr_failure = lambda excinfo, style=None: str(excinfo.value)  # type: ignore[method-assign]
    try:
        report = yield
    finally:
        vars(item).pop("repr_failure", None)
    if is_ours:
        try:
            _record(item, call, report)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # without a record the controller makes one of the report
            report.outcome = "failed"
            report.longrepr = str(as_ours(error, f"{item.nodeid} cannot be recorded", expected=_EXPECTED, hint=_TO_DO))
    return report


def _record(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    """Add to a report what the item's record holds: the journal's text, figures, and a diagnosis if it failed."""
    if call.when == "setup":
        _tell_figures(item, report, ())  # a new try
    if call.when != "call" and not (report.failed or report.skipped):
        return
    gate_item = _gate_item_of(item)
    if gate_item is None:
        return
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
    _tell_figures(item, report, told.figures)
    report.user_properties.append((PROPERTY, seal(item.nodeid, told.record)))


def _tell_figures(item: pytest.Item, report: pytest.TestReport, figures: tuple[tuple[str, str], ...]) -> None:
    """Make the figures properties of the test case, in place of those that an earlier try or subtest left."""
    old = item.stash.get(_told_figures, ())
    for properties in (item.user_properties, report.user_properties):
        properties[:] = [one for one in properties if one not in old] + list(figures)
    item.stash[_told_figures] = figures


def pytest_assertrepr_compare(config: pytest.Config, op: str, left: object, right: object) -> list[str] | None:
    if _session not in config.stash:
        return None
    from pytest_h2o.gate.values import Measured
    from pytest_h2o.report.diagnosis import explain_comparison

    return explain_comparison(left, op, right) if isinstance(left, Measured) else None

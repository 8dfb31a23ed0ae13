"""The pytest hooks, and nothing else: options in, items parametrized, reports out.

Only the standard library and pytest are imported here; everything else arrives when a gate item is collected.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_h2o.errors import H2OError, InconclusiveDecode, OptedOut
from pytest_h2o.options import OPTIONS, Settings, resolve_settings

if TYPE_CHECKING:
    from pytest_h2o.gate.item import GateItem, Targets
    from pytest_h2o.gate.scope_item import LosslessItem
    from pytest_h2o.gate.sweep_items import PointItem, SweepItem
    from pytest_h2o.report.collector import Collector
    from pytest_h2o.session import GateSession

PRESET_FIXTURES = ("h2o_point", "h2o_sweep")
SCOPE_FIXTURES = ("h2o_lossless", "h2o_upper_bound", "h2o_scope")
ITEM_FIXTURES = (*PRESET_FIXTURES, *SCOPE_FIXTURES)

_settings = pytest.StashKey[Settings]()
_session: pytest.StashKey[GateSession] = pytest.StashKey()
_collector: pytest.StashKey[Collector] = pytest.StashKey()
_run_name = pytest.StashKey[str]()
_faults = pytest.StashKey[list[str]]()

PROPERTY = "h2o"
"""Name of the user property in which an item's record travels from a worker to the controller, as JSON text."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("h2o", "KV-cache compression gate (pytest-h2o)")
    for option in OPTIONS:
        help_text = option.help if option.default in (None, False) else f"{option.help} (default: {option.default})"
        keywords: dict[str, Any] = {"dest": f"h2o_{option.attribute}", "default": None, "help": help_text}
        if option.kind == "flag":
            keywords["action"] = "store_true"
        else:
            keywords["metavar"] = option.metavar or option.name.upper()
            if option.kind in ("paths", "texts"):
                keywords["action"] = "append"
        group.addoption(option.flag, **keywords)
        if option.kind in ("paths", "texts"):
            parser.addini(option.key, help_text, type="linelist")
        else:
            parser.addini(option.key, help_text, type="string")


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _settings_of(config: pytest.Config) -> Settings:
    """Resolve the options once; a fault among them is a usage error of pytest."""
    if _settings not in config.stash:
        try:
            config.stash[_settings] = resolve_settings(
                command_line=config.getoption,
                ini=config.getini,
                invocation_dir=config.invocation_params.dir,
                ini_dir=config.inipath.parent if config.inipath else config.rootpath,
            )
        except H2OError as error:
            raise pytest.UsageError(str(error)) from error
    return config.stash[_settings]


def _run_dir(config: pytest.Config) -> Path:
    """The run folder: named by the controller, made by whoever writes first."""
    if _run_name not in config.stash:
        if _is_worker(config):
            config.stash[_run_name] = config.workerinput["h2o_run_name"]  # type: ignore[attr-defined]
        else:
            from pytest_h2o.store import name_run

            config.stash[_run_name] = name_run()
    folder: Path = _settings_of(config)["out-dir"] / config.stash[_run_name]
    return folder


def _session_of(config: pytest.Config) -> GateSession:
    if _session not in config.stash:
        from pytest_h2o.session import GateSession

        config.stash[_session] = GateSession(
            _settings_of(config),
            run_dir=_run_dir(config),
            asked_for=_names_asked_for(config),
        )
    return config.stash[_session]


def _names_asked_for(config: pytest.Config) -> tuple[str, ...]:
    """Words of ``-k`` that are not negated, and parameter ids of node ids: what the user asked for by name."""
    words: list[str] = []
    previous = ""
    for word in config.getoption("keyword").replace("(", " ").replace(")", " ").split():
        if word not in ("and", "or", "not") and previous != "not":
            words.append(word)
        previous = word
    words += [arg.split("[", 1)[1].rstrip("]") for arg in config.args if "::" in arg and "[" in arg]
    return tuple(words)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give the workers of pytest-xdist the name of the run folder."""
    _run_dir(node.config)
    node.workerinput["h2o_run_name"] = node.config.stash[_run_name]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "h2o: an item of the KV-cache compression gate (set by pytest-h2o)")
    if any(config.getoption(f"h2o_{option.attribute}") is not None for option in OPTIONS):
        _settings_of(config)  # a fault among the options is told before anything is collected
    if not _is_worker(config):
        config.pluginmanager.register(_Controller(config), "h2o-controller")


# -- collection ---------------------------------------------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    wanted = [name for name in ITEM_FIXTURES if name in metafunc.fixturenames]
    if not wanted:
        return
    if len(wanted) > 1:
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid}: a gate test takes one of {', '.join(ITEM_FIXTURES)}; "
            f"this one takes {', '.join(wanted)}"
        )
    try:
        params = _session_of(metafunc.config).parameters(wanted[0], Path(metafunc.definition.path).parent)
    except H2OError as error:
        if _is_worker(metafunc.config):
            raise pytest.Collector.CollectError(str(error)) from error
        # Raised from here it would be the error of one file; at the end of collection it ends the run as bad usage.
        known: list[str] = metafunc.config.stash.get(_faults, [])
        metafunc.config.stash[_faults] = [*known, str(error)]
        params = []
    metafunc.parametrize(wanted[0], [key for key, _ in params], ids=[name for _, name in params], indirect=True)


def _is_gate_item(item: pytest.Item) -> bool:
    names = getattr(item, "fixturenames", ())
    return any(name in names for name in ITEM_FIXTURES)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the gate's items, and leave out the presets that nothing can measure unless they are asked for by name."""
    faults: list[str] = config.stash.get(_faults, [])
    if faults:
        raise pytest.UsageError("\n\n".join(dict.fromkeys(faults)))
    gate = [item for item in items if _is_gate_item(item)]
    if not gate:
        return
    session = _session_of(config)
    left_out: list[pytest.Item] = []
    for item in gate:
        item.add_marker("h2o")
        callspec = getattr(item, "callspec", None)
        if callspec is None:
            continue
        names = [name for name in PRESET_FIXTURES if name in callspec.params]
        try:
            if names and session.is_left_out(callspec.params[names[0]]):
                left_out.append(item)
        except H2OError as error:
            raise pytest.UsageError(str(error)) from error
    if left_out:
        gone = set(map(id, left_out))
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if id(item) not in gone]
    session.note_selected([item.callspec.params for item in items if hasattr(item, "callspec") and _is_gate_item(item)])


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    if _session not in config.stash or not any(_is_gate_item(item) for item in items):
        return []
    return config.stash[_session].describe()


# -- fixtures of the gate files ----------------------------------------------------------------------------------


@pytest.fixture
def h2o_point(request: pytest.FixtureRequest) -> PointItem:
    """One point of a sweep preset: `problems` of its row, and the row."""
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
def h2o_targets(request: pytest.FixtureRequest) -> Targets:
    """The targets of this item's preset or scope, each with where it was said."""
    for name in ("h2o_sweep", "h2o_lossless", "h2o_upper_bound", "h2o_scope"):
        if name in request.fixturenames:
            item: GateItem = request.getfixturevalue(name)
            return item.targets
    raise pytest.UsageError(f"{request.node.nodeid}: h2o_targets needs one of h2o_sweep, h2o_lossless, h2o_upper_bound")


# -- running ------------------------------------------------------------------------------------------------------


def _gate_item_of(item: pytest.Item) -> GateItem | None:
    funcargs = getattr(item, "funcargs", {})
    return next((funcargs[name] for name in ITEM_FIXTURES if name in funcargs), None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    gate_item = _gate_item_of(item)
    if gate_item is None:
        return (yield)
    if gate_item.session.settings["dry-run"]:
        gate_item.write_dry_run()
        pytest.skip("dry run: configs and run list written, nothing was run")
    try:
        result = yield
    except OptedOut as reason:
        pytest.skip(str(reason))
    for comparison in gate_item.comparisons:
        if comparison.outcome == "inconclusive":
            text = f"inconclusive, which is no pass: {comparison.measured!r}, target {comparison.target!r}"
            item.warn(InconclusiveDecode(f"{item.nodeid}: {text}"))
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    gate_item = _gate_item_of(item) if _is_gate_item(item) else None
    if gate_item is None or (call.when != "call" and not report.failed):
        return report
    import json

    from pytest_h2o.report.diagnosis import render_diagnosis

    error = call.excinfo.value if call.excinfo is not None else None
    reason = error.what if isinstance(error, H2OError) else getattr(error, "msg", None)
    if report.failed and isinstance(error, H2OError):
        report.longrepr = str(error)
    if report.failed:
        diagnosis = render_diagnosis(gate_item, item.nodeid, error if isinstance(error, H2OError) else None)
        report.sections.append(("h2o diagnosis", diagnosis))
    record = gate_item.record(item.nodeid, report.outcome, reason)
    report.user_properties.append((PROPERTY, json.dumps(record, allow_nan=False)))
    return report


def pytest_assertrepr_compare(config: pytest.Config, op: str, left: object, right: object) -> list[str] | None:
    if _session not in config.stash:
        return None
    from pytest_h2o.gate.measured import Measured
    from pytest_h2o.report.diagnosis import explain_comparison

    return explain_comparison(left, op, right) if isinstance(left, Measured) else None


# -- reporting (controller only) ---------------------------------------------------------------------------------


class _Controller:
    """What only the controller does: journal after each item, artifacts and the last lines at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._started = time.time()
        self._summary: dict[str, Any] | None = None
        self._trouble: str | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        texts = [value for name, value in report.user_properties if name == PROPERTY]
        if texts and (report.when == "call" or report.failed):
            self._collector().add(str(texts[-1]), duration_s=report.duration)

    def _collector(self) -> Collector:
        if _collector not in self._config.stash:
            from pytest_h2o.report.collector import Collector

            self._config.stash[_collector] = Collector(_run_dir(self._config), _settings_of(self._config))
        return self._config.stash[_collector]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the artifacts; if that fails the run fails, whatever the items said."""
        if _collector not in self._config.stash:
            return
        from pytest_h2o.report.artifacts import write_artifacts

        try:
            self._summary = write_artifacts(
                self._collector(), started=self._started, ended=time.time(), exit_status=int(exitstatus)
            )
        except H2OError as error:
            self._trouble = str(error)
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._trouble is not None:
            terminalreporter.section("h2o: artifacts could not be written", red=True)
            terminalreporter.write_line(self._trouble)
        elif self._summary is not None:
            from pytest_h2o.report.terminal import render_terminal

            terminalreporter.section("h2o")
            for line in render_terminal(self._summary, _run_dir(self._config)):
                terminalreporter.write_line(line)

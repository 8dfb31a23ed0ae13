"""Items of the shipped gates in this very process, and what they say when they fail."""

import importlib.util
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from pytest_h2o.gate.metrics import GATE_OPTIONS
from pytest_h2o.inputs.options import resolve_settings
from pytest_h2o.report.diagnosis import explain_comparison, report_item
from pytest_h2o.run.history import save_baseline
from pytest_h2o.run.items import GateItem, make_item
from pytest_h2o.run.session import GateSession, Subject
from tests.plugin.project import RECORDINGS, ROOT
from tests.records import make_record

GATES = ROOT / "gates"


def make_session(folder: Path, gates: Path = GATES, **options: str) -> GateSession:
    """A session on the recordings, or on what `options` say; every shipped preset and scope is loaded."""
    given: dict[str, Any] = {f"h2o_{name}": value for name, value in options.items()}
    if "bench" not in options and "logs" not in options:
        given["h2o_logs"] = str(RECORDINGS)
    settings = resolve_settings(
        GATE_OPTIONS,
        command_line=given.get,
        ini={"h2o_set": ["model_layers=30"]}.get,
        invocation_dir=folder,
        ini_dir=folder,
    )
    session = GateSession(settings, run_dir=folder / "run")
    names = [name for _, name in session.parameters("h2o_sweep", gates)]
    session.leave_out([name for name in names if name == "target_ratio_v3"])
    return session


def preset_item(session: GateSession, name: str, point: int | None = None) -> Any:
    """The item of a preset, or of the point at a place in it."""
    return make_item(session, Subject("preset", name, point))


def scope_item(session: GateSession, name: str, *, compared: bool = False) -> Any:
    return make_item(session, Subject("scope", name), compared=compared)


def make_comparison(folder: Path, name: str = "front2_grouped_192_8") -> Any:
    """A scope held against a baseline that was better, and that had a layer more."""
    measured = scope_item(make_session(folder), name, compared=True).now()
    better = {**measured.figures["all"], "lossless_ratio": 1.5, "compressed_bytes": 2_600_000.0}
    subject = replace(measured, figures={**measured.figures, "all": better, "layer 9": {"lossless_ratio": 1.2}})
    save_baseline(folder / "h2o-runs", "main", make_record("20260101-000000-aaaaaa", subject))
    item = scope_item(make_session(folder, compare="main"), name, compared=True)
    assert item.regressions
    return item


def load_gate_file(name: str) -> ModuleType:
    """A gate file as a module, its assertions not rewritten."""
    spec = importlib.util.spec_from_file_location(f"shipped_{name}", GATES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tell_failure(item: GateItem, function: str, gate: Callable[[], object]) -> str:
    """Everything that is said of an item whose gate function fails: the error or the comparison, and the diagnosis."""
    try:
        gate()
    except Exception as error:
        caught = error
    else:
        raise AssertionError(f"{function} did not fail")
    file = {"scope": "test_dumps", "comparison": "test_regression"}.get(item.kind, "test_sweep")
    place = item.name if item.kind != "point" else f"{item.name}-{item.point.run_id}"
    told = report_item(item, f"gates/{file}.py::{function}[{place}]", f"gates/{file}.py", "failed", caught)
    assert told.diagnosis is not None
    if told.text is not None:
        return f"{told.text}\n---\n{told.diagnosis}\n"
    if not item.comparisons:
        return f"{told.diagnosis}\n"
    failed = item.comparisons[-1]
    lines = explain_comparison(failed.measured, failed.relation, failed.target)
    assert lines is not None
    return "\n".join([*lines, "---", told.diagnosis]) + "\n"


def fix_places(text: str, **places: Path) -> str:
    """The text with what differs from machine to machine by name: folders, seconds, threads."""
    for name, place in {**places, "ROOT": ROOT}.items():
        text = text.replace(str(place), name)
    return re.sub(r"after \d+\.\d s", "after S s", text)

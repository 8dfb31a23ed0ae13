"""Records of runs, made by hand for the tests of history and comparison."""

from collections.abc import Mapping
from typing import Any

from pytest_h2o.gate.compare import SubjectRecord, metric_facts
from pytest_h2o.run.history import RunRecord

ON_THIS_MACHINE: Mapping[str, str | None] = {
    "model": "smol, 144.60 MiB",
    "binary": "0123456789abcdef",
    "machine": "Linux x86_64, a processor, 2 cores",
    "threads": "2",
}


def make_subject(
    figures: Mapping[str, Mapping[str, float]] | None = None,
    *,
    kind: Any = "scope",
    name: str = "front2",
    held: bool = True,
    fingerprint: Mapping[str, str | None] = ON_THIS_MACHINE,
) -> SubjectRecord:
    """A preset or scope with few figures."""
    return SubjectRecord(kind, name, held, fingerprint, figures or {"all": {"lossless_ratio": 1.4676}})


def make_record(run: str = "20260101-000000-aaaaaa", *subjects: SubjectRecord, **fields: Any) -> RunRecord:
    """The record of a run."""
    values: dict[str, Any] = {
        "started": "2026-01-01T00:00:00+00:00",
        "ended": "2026-01-01T00:00:09+00:00",
        "overall_pass": True,
        "rule": "joint",
        "settings": {"rule": {"value": "joint", "origin": "default"}},
        "versions": {"numpy": "2.0"},
        "metrics": metric_facts(),
    }
    return RunRecord(run=run, subjects=subjects or (make_subject(),), **{**values, **fields})

"""What the end of one item means to the terminal and to the journal. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass

from pytest_h2o.bench.printable import make_printable
from pytest_h2o.errors import H2OError
from pytest_h2o.gate.item import GateItem
from pytest_h2o.report.diagnosis import render_diagnosis
from pytest_h2o.report.properties import main_figures


@dataclass(frozen=True)
class ItemReport:
    """The end of one item.

    Attributes
    ----------
    text : str or None
        What stands in place of a traceback, where the failure is an error of ours.
    diagnosis : str or None
        Of a failure.
    record : str
        For the journal: one JSON object.
    figures : tuple of (str, str)
        Properties of its test case.
    """

    text: str | None
    diagnosis: str | None
    record: str
    figures: tuple[tuple[str, str], ...] = ()


def report_item(
    item: GateItem,
    nodeid: str,
    path: str,
    outcome: str,
    error: BaseException | None,
    location: tuple[str, int | None] | None = None,
) -> ItemReport:
    """Describe how an item ended.

    Parameters
    ----------
    item : GateItem
    nodeid : str
        Its name.
    path : str
        Its gate file, as it is named from where the user is.
    outcome : str
        ``passed``, ``failed`` or ``skipped``.
    error : BaseException or None
        What ended it: an error of ours, a failed assertion, a skip.
    location : (str, int or None), optional
        File of its test, relative to the root of pytest, and line from 0.
    """
    ours = error if isinstance(error, H2OError) else None
    failed = outcome == "failed"
    shown = path + nodeid[nodeid.find("::") :]
    diagnosis = make_printable(render_diagnosis(item, shown, ours)) if failed else None
    record = item.record(nodeid, outcome, ours.what if ours else getattr(error, "msg", None))
    record["location"] = location
    if diagnosis is not None:
        record["diagnosis"] = f"{ours}\n\n{diagnosis}" if ours else diagnosis
    text = str(ours) if failed and ours else None
    return ItemReport(text, diagnosis, json.dumps(record, allow_nan=False), tuple(main_figures(record)))

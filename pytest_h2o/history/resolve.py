"""Which record a command line means."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pytest_h2o.errors import UsageError
from pytest_h2o.history.baselines import LAST, list_baselines, read_baseline, read_record_file
from pytest_h2o.history.lines import HISTORY_NAME, read_history
from pytest_h2o.history.record import RunRecord

FIGURES_NAME = "figures.json"
"""The record of a run in its own folder."""


def resolve_record(text: str, out_dir: Path) -> tuple[str, RunRecord]:
    """The record that a command line names: a run folder, a file, a baseline, ``last``, or a run of the history.

    Returns
    -------
    tuple of str and RunRecord
        What it is, for messages, and the record.

    Raises
    ------
    UsageError
        Nothing has that name, or several runs begin with it.
    StoreError
        It is there and cannot be read.
    """
    path = Path(text)
    if path.is_dir():
        file = path / FIGURES_NAME
        if not file.is_file():
            raise UsageError(
                "the folder holds no figures of a run",
                where=str(path),
                expected="figures.json, as every complete run writes it",
            )
        return f"run folder {path}", read_record_file(file)
    if path.is_file():
        return f"file {path}", read_record_file(path)
    names = list_baselines(out_dir)
    if text in names:
        return f"baseline {text}", read_baseline(out_dir, text)
    runs = list(_good_records(out_dir))
    found = runs[-1:] if text == LAST else [r for r in runs if r.run == text] or [r for r in runs if text in r.run]
    if len({record.run for record in found}) == 1:
        return "the history", found[-1]
    raise UsageError(
        f"{len(found)} runs have {text} in their name" if found else f"nothing is called {text}",
        where=str(out_dir),
        came=f"baselines: {', '.join(names) or 'none'}; newest runs: "
        + (", ".join(record.run for record in (found or runs)[-5:]) or "none"),
        expected="a run folder, the name of a baseline, last, or a run of the history (or a part of its name)",
        hint="pytest-h2o history lists the runs; --out-dir says where they are kept",
    )


def _good_records(out_dir: Path) -> Iterator[RunRecord]:
    return (record for record in read_history(out_dir / HISTORY_NAME) if isinstance(record, RunRecord))

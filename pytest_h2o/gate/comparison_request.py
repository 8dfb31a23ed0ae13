"""What was asked about earlier runs: with which to compare, what may worsen, under which name to save this one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pytest_h2o.errors import UsageError
from pytest_h2o.gate.compare import Allowances, parse_allowances
from pytest_h2o.history.baselines import (
    LAST,
    baseline_path,
    check_baseline_name,
    list_baselines,
    missing_baseline,
    read_baseline,
)
from pytest_h2o.options import Settings


@dataclass(frozen=True)
class ComparisonRequest:
    """The options about earlier runs, checked.

    Attributes
    ----------
    compare : str or None
        Name of a baseline, ``last``, or None: nothing is compared.
    save : str or None
        Name under which this run is saved at its end.
    saves : bool
        Whether it will be: not where the baseline is there already and is only compared with.
    """

    out_dir: Path
    compare: str | None
    save: str | None
    saves: bool
    overwrite: bool
    allowances: Allowances


def check_command_line(settings: Settings) -> None:
    """Check the options about earlier runs if the command line has any; errors as in `read_request`."""
    if any(settings.given[name].on_command_line for name in ("save", "compare", "compare-fail")):
        read_request(settings)


def read_request(settings: Settings) -> ComparisonRequest:
    """Check the options about earlier runs before anything is measured.

    Raises
    ------
    UsageError
        A name that no file can have, an unknown metric, a baseline that is not there, or one that would be replaced.
    StoreError
        The baseline cannot be read, or is of another schema.
    """
    out_dir: Path = settings["out-dir"]
    compare, save, overwrite = settings["compare"], settings["save"], settings["overwrite"]
    fail = settings.given["compare-fail"]
    allowances = parse_allowances(fail.value or (), fail.origin)
    if fail.value and fail.on_command_line and compare is None:
        raise UsageError(
            f"{fail.origin} was given, and nothing to compare with",
            came=", ".join(fail.value),
            expected="--h2o-compare NAME or --h2o-compare last beside it",
        )
    if save is not None:
        check_baseline_name(save, settings.origin("save"))
    if compare is not None and compare != LAST:
        check_baseline_name(compare, settings.origin("compare"))
        if baseline_path(out_dir, compare).is_file():
            read_baseline(out_dir, compare)
        elif save != compare:
            raise missing_baseline(out_dir, compare)
    return ComparisonRequest(
        out_dir, compare, save, _will_save(out_dir, compare, save, overwrite, settings), overwrite, allowances
    )


def _will_save(out_dir: Path, compare: str | None, save: str | None, overwrite: bool, settings: Settings) -> bool:
    """Whether a baseline is written at the end; UsageError if one would be replaced that nobody said to replace."""
    if save is None:
        return False
    path = baseline_path(out_dir, save)
    if overwrite or not path.exists():
        return True
    if save == compare:
        return False
    raise UsageError(
        f"{settings.origin('save')}: there is a baseline called {save} already",
        where=str(path),
        came=f"baselines there: {', '.join(list_baselines(out_dir))}",
        expected="a new name",
        hint="--h2o-overwrite replaces it; --h2o-compare with the same name compares with it and keeps it",
    )

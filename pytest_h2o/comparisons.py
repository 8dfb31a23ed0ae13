"""The earlier figures that a run is held against, found once for all processes of the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_h2o.embedded import digest_program
from pytest_h2o.errors import OptedOut, StoreError
from pytest_h2o.gate.compare import Allowances, refuse_other_model
from pytest_h2o.gate.comparison_item import Earlier
from pytest_h2o.gate.comparison_request import read_request
from pytest_h2o.gate.run_figures import preset_fingerprint
from pytest_h2o.history.baselines import LAST, baseline_path, read_baseline
from pytest_h2o.history.lines import HISTORY_NAME, Damage, read_history
from pytest_h2o.history.machine import describe_machine
from pytest_h2o.history.record import (
    RunRecord,
    SubjectRecord,
    metrics_from_json,
    metrics_to_json,
    subject_from_json,
    subject_to_json,
)
from pytest_h2o.options import Settings
from pytest_h2o.store import OnceStore, digest_file, keep_error, kept_value

if TYPE_CHECKING:
    from pytest_h2o.bench.config import BaseConfig
    from pytest_h2o.bench.result import PointResult
    from pytest_h2o.presets import Preset
    from pytest_h2o.session import GateSession, Key

_SHOWN_DAMAGE = 3


class Comparer:
    """Finds the earlier figures that this run is held against, the same ones for every process of the run."""

    def __init__(self, settings: Settings, store: OnceStore) -> None:
        self.request = read_request(settings)
        self._settings = settings
        self._store = store

    def parameters(self, session: GateSession, gate_dir: Path) -> list[tuple[Key, str]]:
        """Every preset and scope that the folder of a gate file has; nothing where no comparison was asked for."""
        if self.request.compare is None:
            return []
        names: list[tuple[Key, str]] = []
        for kind, fixture, own in (("preset", "h2o_sweep", "presets"), ("scope", "h2o_scope", "scopes.yaml")):
            if self._settings[own.partition(".")[0]] or (gate_dir / own).exists():
                names += [(f"{kind} {name}", name) for _, name in session.parameters(fixture, gate_dir)]
        return names

    def describe(self) -> list[str]:
        """Lines for the header: what is compared with and saved."""
        request, lines = self.request, []
        if request.compare is not None:
            lines.append(f"h2o: compared with {request.compare} ({self._settings.origin('compare')})")
        if request.saves:
            lines.append(f"h2o: to be saved as baseline {request.save} ({self._settings.origin('save')})")
        elif request.save is not None:
            lines.append(f"h2o: baseline {request.save} is there already and stays as it is")
        return lines

    @property
    def allowances(self) -> Allowances:
        """By how much a metric may be worse."""
        return self.request.allowances

    def fingerprint(
        self, preset: Preset, results: Sequence[PointResult], base: BaseConfig | None
    ) -> dict[str, str | None]:
        """What the figures of a preset were measured with. Where recorded logs are read, the machine is not known."""
        bench = self._settings["bench"]
        return preset_fingerprint(
            preset,
            results,
            machine=None if bench is None else describe_machine(),
            binary=None if bench is None else digest_program(bench)[:16],
            base_config=None if base is None else digest_file(base.path)[:16],
        )

    def find_earlier(self, now: SubjectRecord) -> Earlier:
        """The earlier figures of a preset or scope.

        Raises
        ------
        OptedOut
            There are none yet.
        StoreError
            They cannot be read, or are of another model.
        """
        key = f"earlier/{now.kind}-{now.name}"
        kept = kept_value(self._store.once(key, keep_error(lambda: self._find(now))))
        if "absent" in kept:
            raise OptedOut(kept["absent"])
        where = f"{self.request.compare} as it was read for this run"
        return Earlier(
            asked=kept["asked"],
            run=kept["run"],
            ended=kept["ended"],
            subject=subject_from_json(kept["subject"], where),
            metrics=metrics_from_json(kept["metrics"], where),
            beside=tuple(kept["beside"]),
            notes=tuple(kept["notes"]),
        )

    def _find(self, now: SubjectRecord) -> dict[str, Any]:
        if self.request.compare is None:
            return {"absent": "nothing to compare with was asked for (--h2o-compare NAME or last)"}
        if self.request.compare == LAST:
            return self._find_last(now)
        name, out_dir = self.request.compare, self.request.out_dir
        if not baseline_path(out_dir, name).is_file():
            return {"absent": f"no baseline yet: this run is saved as {name}"}
        record = read_baseline(out_dir, name)
        subject = record.subject(now.kind, now.name)
        if subject is None:
            held = ", ".join(s.title for s in record.subjects) or "nothing"
            return {"absent": f"baseline {name} has no figures of it, only of {held}"}
        refuse_other_model(subject, now, f"baseline {name} ({baseline_path(out_dir, name)})")
        return _found(name, record, subject, ())

    def _find_last(self, now: SubjectRecord) -> dict[str, Any]:
        """The newest run in the history that has this preset or scope of the same model, and in which it held."""
        path = self.request.out_dir / HISTORY_NAME
        newest: tuple[RunRecord, SubjectRecord] | None = None
        damage: list[Damage] = []
        passed_over: dict[str, int] = {}
        for record in read_history(path):
            if isinstance(record, Damage):
                damage.append(record)
                continue
            subject = record.subject(now.kind, now.name)
            why = _why_not(subject, now)
            if why:
                passed_over[why] = passed_over.get(why, 0) + 1
            elif subject is not None:
                newest = (record, subject)
        notes = tuple(f"the history is damaged: {line}" for line in damage[:_SHOWN_DAMAGE])
        if len(damage) > _SHOWN_DAMAGE:
            notes += (f"the history is damaged in {len(damage) - _SHOWN_DAMAGE} more lines",)
        if newest is not None:
            return _found(LAST, *newest, notes)
        others = "".join(f", {number} {why}" for why, number in passed_over.items())
        damaged = "".join(f"; {note}" for note in notes)
        return {
            "absent": f"no baseline yet: {path} has no earlier run to compare with{others}{damaged}; "
            "this run is recorded as the last"
        }


def _why_not(subject: SubjectRecord | None, now: SubjectRecord) -> str | None:
    """Why the newest run cannot be this one; None if it can."""
    if subject is None:
        return "without it"
    if not subject.held:
        return "in which items of it failed"
    try:
        refuse_other_model(subject, now, "the last run")
    except StoreError:
        return "of another model"
    return None


def _found(asked: str, record: RunRecord, subject: SubjectRecord, notes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "asked": asked,
        "run": record.run,
        "ended": record.ended,
        "subject": subject_to_json(subject),
        "metrics": metrics_to_json(record.metrics),
        "beside": [] if asked == LAST else [held.title for held in record.subjects],
        "notes": list(notes),
    }

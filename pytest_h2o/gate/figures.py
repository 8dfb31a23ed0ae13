"""What an item asks for its figures: the protocol between the items of a gate and the session that measures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pytest_h2o.bench.result import PointResult
    from pytest_h2o.gate.baseline import Baseline
    from pytest_h2o.gate.compare import Allowances
    from pytest_h2o.gate.comparison_item import Earlier
    from pytest_h2o.gate.paired import PairedComparison
    from pytest_h2o.gate.text_similarity import TextComparison
    from pytest_h2o.history.record import SubjectRecord
    from pytest_h2o.lossless import LosslessResult
    from pytest_h2o.options import Settings
    from pytest_h2o.points import SweepPoint
    from pytest_h2o.presets import Preset
    from pytest_h2o.scopes import Scope


class Comparing(Protocol):
    """What a comparison asks of earlier runs."""

    @property
    def allowances(self) -> Allowances:
        """By how much a metric may be worse than in an earlier run."""
        ...

    def find_earlier(self, now: SubjectRecord) -> Earlier:
        """The earlier figures to compare with. OptedOut if there are none yet."""
        ...


class Decoding(Protocol):
    """What an item asks about decode speed."""

    def baseline(self, preset: Preset, results: Sequence[PointResult]) -> Baseline | None:
        """Decode speed with H2O off, None if nothing says it. OptedOut if it is left out on purpose."""
        ...

    def unfit_baselines(self, preset: Preset, results: Sequence[PointResult]) -> list[str]:
        """What lies beside the runs and gave no baseline, and why: a line each."""
        ...

    def is_paired(self, preset: Preset) -> bool:
        """Whether the decode verdict of a preset rests on pairs of launches, and not on `baseline`."""
        ...

    def compare(self, preset: Preset, result: PointResult, target: float) -> PairedComparison:
        """The pairs of a row against its baseline, launched if they have not been. NotMeasured if there are none."""
        ...

    def known_comparison(self, preset: Preset) -> PairedComparison | None:
        """The pairs of a preset if they are there already; launches nothing."""
        ...


class Dumping(Protocol):
    """What an item asks about the scopes of dumps."""

    def evaluate(self, scope: Scope) -> LosslessResult:
        """Encode, decode and compare a scope. DumpError if entries cannot be read and skips are not allowed."""
        ...

    def deciding_ratio(self) -> float:
        """Lossless ratio of the scope that decides. NotMeasured if there is none."""
        ...

    def root(self, scope: Scope) -> Path:
        """Folder or archive that the scope reads."""
        ...


class Texts(Protocol):
    """What an item asks about generated text."""

    @property
    def are_compared(self) -> bool:
        """Whether there is an llm_demo to say it."""
        ...

    def compare(self, preset: Preset, point: SweepPoint) -> TextComparison:
        """What llm_demo says with H2O off and on, for one point. BenchError if it says nothing."""
        ...


class Checking(Protocol):
    """What an item asks about the bench's own lossless sizes."""

    @property
    def is_exact(self) -> bool:
        """Whether they must agree to the byte with the dumps of the same run."""
        ...

    def compare(self, preset: Preset, point: SweepPoint) -> tuple[int, str]:
        """Bytes by which they differ, without sign, and what was compared. OptedOut, NotMeasured if they cannot be."""
        ...


class Figures(Protocol):
    """Everything an item can ask of the run it is part of."""

    @property
    def settings(self) -> Settings: ...

    @property
    def rule(self) -> str:
        """``joint`` or ``best-of``."""
        ...

    def points(self, preset: Preset) -> tuple[SweepPoint, ...]:
        """All points of a preset, in their order."""
        ...

    def result(self, preset: Preset, point: SweepPoint) -> PointResult:
        """The sound result of one point; an H2OError that says why there is none."""
        ...

    def notes(self, preset: Preset) -> tuple[str, ...]:
        """What there is to say of all rows of a preset, for example that nothing was folded and why."""
        ...

    def model_layers(self, preset: Preset) -> int | None:
        """Number of layers of the model, where it is known."""
        ...

    @property
    def decode(self) -> Decoding:
        """What answers for decode speed."""
        ...

    @property
    def dumps(self) -> Dumping:
        """What answers for the scopes of dumps."""
        ...

    @property
    def consistency(self) -> Checking:
        """What answers for the bench's own lossless sizes."""
        ...

    @property
    def texts(self) -> Texts:
        """What answers for generated text."""
        ...

    def rows_folder(self, preset: Preset) -> Path | None:
        """Folder that holds configs and logs of the preset's runs; None where there is none."""
        ...

    def bench_command(self, preset: Preset, point: SweepPoint) -> str | None:
        """The command line that launches this point; None where nothing is launched."""
        ...

    def fingerprint(self, preset: Preset, results: Sequence[PointResult]) -> dict[str, str | None]:
        """What the figures of a preset were measured with, part by part; None for what is not known."""
        ...

    @property
    def comparer(self) -> Comparing:
        """What knows of earlier runs."""
        ...

    def take_new_data(self) -> dict[str, Any]:
        """Results that this process has read or made since it was last asked, for the journal."""
        ...

    def remember_preset(self, preset: Preset, facts: dict[str, Any]) -> None:
        """Keep what the summary needs of a preset for the journal."""
        ...

    def write_dry_run(self, preset: Preset) -> str:
        """Write configs and the list of runs of a preset, run nothing, and say where they are."""
        ...

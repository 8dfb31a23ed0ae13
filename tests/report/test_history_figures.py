"""Figures of earlier runs beside those of this one: which runs, which baseline, which band."""

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_h2o.errors import StoreError
from pytest_h2o.gate.compare import SubjectRecord, metric_facts
from pytest_h2o.inputs.options import Given, Settings
from pytest_h2o.report import changes as history_figures
from pytest_h2o.report.changes import collect_history
from pytest_h2o.report.summary import HistoryBaseline, HistoryFigure
from pytest_h2o.run.history import HISTORY_NAME, RunRecord, append_record, save_baseline

FINGERPRINT = {"model": "m", "machine": "here"}


def record(number: int, lossy: float, decode: float, *, held: bool = True, **fingerprint: str | None) -> RunRecord:
    rows = {"a": {"h2o_lossy": lossy, "decode_tok_per_s": decode}, "b": {"h2o_lossy": 1.0, "decode_tok_per_s": 1.0}}
    subject = SubjectRecord("preset", "p", held, {**FINGERPRINT, **fingerprint}, rows)
    return RunRecord(f"r{number}", "t", f"e{number}", held, "joint", {}, {}, metric_facts(), (subject,))


def settings(compare: str | None = None, *fail: str) -> Settings:
    given = {
        "compare": Given(compare, "--h2o-compare"),
        "compare-fail": Given(list(fail) or None, "--h2o-compare-fail"),
    }
    return Settings(given)


def collect(
    folder: Path, now: RunRecord, *earlier: RunRecord, asked: Settings | None = None
) -> dict[str, HistoryFigure]:
    for one in earlier:
        append_record(folder / HISTORY_NAME, one)
    return {figure.metric: figure for figure in collect_history(now, folder, asked or settings())}


def test_the_best_row_of_every_run_oldest_first(tmp_path: Path) -> None:
    figures = collect(tmp_path, record(3, 3.3, 60.0), record(1, 3.1, 50.0), record(2, 3.2, 55.0, held=False))
    assert list(figures) == ["h2o_lossy", "decode_tok_per_s"]
    lossy = figures["h2o_lossy"]
    assert [(r.run, r.ended, r.value, r.held) for r in lossy.runs] == [
        ("r1", "e1", 3.1, True),
        ("r2", "e2", 3.2, False),
        ("r3", "e3", 3.3, True),
    ]
    assert (lossy.subject, lossy.baseline, lossy.low, lossy.high) == ("preset p", None, None, None)


def test_what_every_row_must_hold_is_told_by_the_worst_row_where_it_moved(tmp_path: Path) -> None:
    """Of lossless coding at run time, and only where something is coded."""

    def coded(number: int, *peaks: float) -> RunRecord:
        rows = {
            name: {"h2o_lossless_queue_peak": peak, "h2o_lossless": 1.4} for name, peak in zip("ab", peaks, strict=True)
        }
        now = record(number, 3.0, 50.0)
        return replace(now, subjects=(replace(now.subjects[0], figures=rows),))

    figures = collect(tmp_path, coded(2, 8.0, 2.0), coded(1, 1.0, 4.0))
    assert [(name, [run.value for run in figure.runs]) for name, figure in figures.items()] == [
        ("h2o_lossless_queue_peak", [4.0, 8.0])
    ]


def test_workloads_have_a_history_each(tmp_path: Path) -> None:
    def long(number: int, *ratios: float) -> RunRecord:
        rows = {f"p{512 * n}_g128_k0.3-{n}": {"h2o_lossy": ratio} for n, ratio in enumerate(ratios, start=1)}
        now = record(number, 3.0, 50.0)
        return replace(now, subjects=(replace(now.subjects[0], figures=rows),))

    append_record(tmp_path / HISTORY_NAME, long(1, 3.5, 3.1))
    figures = collect_history(long(2, 3.4, 3.2), tmp_path, settings())
    assert [(figure.subject, [run.value for run in figure.runs]) for figure in figures] == [
        ("preset p at p512_g128", [3.5, 3.4]),
        ("preset p at p1024_g128", [3.1, 3.2]),
    ]


def test_without_earlier_runs_of_the_model_there_is_nothing(tmp_path: Path) -> None:
    assert collect(tmp_path, record(1, 3.1, 50.0)) == {}
    assert collect(tmp_path, record(2, 3.1, 50.0), record(1, 3.1, 50.0, model="another")) == {}
    assert collect_history(None, tmp_path, settings()) == []


def test_the_band_of_an_exact_figure_is_what_may_be_worse_than_the_baseline(tmp_path: Path) -> None:
    save_baseline(tmp_path, "main", record(0, 3.0, 40.0))
    now, before = record(2, 3.1, 50.0), record(1, 3.2, 50.0)
    figures = collect(tmp_path, now, before, asked=settings("main", "h2o_lossy:1"))
    lossy = figures["h2o_lossy"]
    assert lossy.baseline == HistoryBaseline("baseline main", 3.0)
    assert (lossy.low, lossy.high) == (pytest.approx(2.97), 3.0)
    assert lossy.band == "allowed against baseline main: 1 %"
    assert figures["decode_tok_per_s"].baseline == HistoryBaseline("baseline main", 40.0)


def test_the_last_run_that_held_is_the_baseline_of_last(tmp_path: Path) -> None:
    runs = (record(1, 3.1, 50.0), record(2, 3.2, 50.0, held=False))
    lossy = collect(tmp_path, record(3, 3.3, 50.0), *runs, asked=settings("last"))["h2o_lossy"]
    assert lossy.baseline == HistoryBaseline("run r1", 3.1)
    assert lossy.band is None


def test_the_band_of_a_timing_is_that_of_runs_measured_alike(tmp_path: Path) -> None:
    alike = [record(n, 3.0, 50.0 + n) for n in (1, 2, 3)]
    others = [record(4, 3.0, 99.0, machine="there"), record(5, 3.0, 10.0, held=False)]
    decode = collect(tmp_path, record(6, 3.0, 50.0), *alike, *others)["decode_tok_per_s"]
    assert (decode.low, decode.high, decode.band) == (51.0, 53.0, "3 earlier runs, measured alike")
    assert len(decode.runs) == 6
    (tmp_path / "unknown").mkdir()
    unknown = [record(n, 3.0, 50.0 + n, machine=None) for n in (1, 2)]
    decode = collect(tmp_path / "unknown", record(3, 3.0, 50.0, machine=None), *unknown)["decode_tok_per_s"]
    assert decode.band is None


def test_the_newest_runs_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_figures, "MAX_RUNS", 3)
    figures = collect(tmp_path, record(6, 3.0, 50.0), *(record(n, 3.0, 50.0) for n in range(6)))
    assert [run.run for run in figures["h2o_lossy"].runs] == ["r4", "r5", "r6"]


def test_damaged_lines_are_passed_over_and_a_damaged_baseline_is_told(tmp_path: Path) -> None:
    append_record(tmp_path / HISTORY_NAME, record(1, 3.1, 50.0))
    with (tmp_path / HISTORY_NAME).open("a") as file:
        file.write("torn")
    assert len(collect(tmp_path, record(2, 3.2, 50.0))["h2o_lossy"].runs) == 2
    path = save_baseline(tmp_path, "main", record(0, 3.0, 40.0))
    path.write_text(path.read_text().replace("3.0", "3.5"))
    with pytest.raises(StoreError, match="changed after it was written"):
        collect_history(record(3, 3.0, 50.0), tmp_path, settings("main"))

"""A gate against an earlier run: a regression is a failing item, in every way of running pytest."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pytest_h2o.cli.main import main
from pytest_h2o.report.changes import escape
from pytest_h2o.run.history import (
    RunRecord,
    append_record,
    baseline_path,
    read_baseline,
    read_history,
    record_to_json,
    save_baseline,
)
from tests.plugin.project import RECORDINGS, Project, log_of, replace_in, unwrapped
from tests.records import make_record, make_subject

SCOPE = ("-k", "front2_grouped")
"""One scope with its three items: what runs fastest."""

BOTH = "target_ratio_v3 and not bench or front2_grouped"
WORSE = ("--h2o-set", "adaptive_block_seq=16")
"""The codec in a setting that costs 1 % of the ratio, far above the target of 1.3."""


def out_dir(project: Project) -> Path:
    return project.path / "h2o-runs"


def history(project: Project) -> list[Any]:
    return list(read_history(out_dir(project) / "history.jsonl"))


def last_summary(project: Project) -> dict[str, Any]:
    """The summary of the newest run folder."""
    newest = max(project.runs(), key=lambda folder: (folder / "run.json").stat().st_mtime_ns)
    value: dict[str, Any] = json.loads((newest / "summary.json").read_text())
    return value


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with one run of a preset and a scope, saved as `all`; in the history and in main, the scope alone."""
    project = Project(tmp_path_factory.mktemp("saved"))
    result = project.run("-k", BOTH, "--h2o-compare", "last", "--h2o-save", "all")
    assert result.ret == 0
    assert result.parseoutcomes()["passed"] == 5
    assert result.parseoutcomes()["skipped"] == 2 + 2  # of recorded logs neither quality nor consistency is known
    assert "target_ratio_v3 not compared: no baseline yet: " in unwrapped(result)
    assert "history.jsonl has no earlier run to compare with; this run is recorded as the last" in unwrapped(result)
    assert last_summary(project)["overall_pass"] == "incomplete"
    (first,) = history(project)
    assert first.overall_pass == "incomplete"
    assert len(first.subject("preset", "target_ratio_v3").figures) == 27
    alone = dataclasses.replace(first, subjects=(first.subject("scope", "front2_grouped_192_8"),))
    save_baseline(out_dir(project), "main", alone)
    (out_dir(project) / "history.jsonl").unlink()
    append_record(out_dir(project) / "history.jsonl", alone)
    return project


@pytest.fixture
def after_one(saved: Project, project: Project) -> Project:
    """A project of its own with what that run left."""
    shutil.copytree(out_dir(saved), out_dir(project))
    return project


def changed(record: RunRecord, run: str, factor: float, *, held: bool) -> RunRecord:
    """A record in which the ratio of the one scope is better by a factor."""
    (subject,) = record.subjects
    better = {"lossless_ratio": 1.4676 * factor, "compressed_bytes": 2_704_497 / factor}
    figures = {**subject.figures, "all": {**subject.figures["all"], **better}}
    return dataclasses.replace(record, run=run, subjects=(dataclasses.replace(subject, figures=figures, held=held),))


def test_a_regression_is_a_failing_item(after_one: Project) -> None:
    """Under xdist, where every process must be held against the same run."""
    project = after_one
    (first,) = history(project)
    # One column of one row is worse in its last digit; every threshold still holds.
    replace_in(log_of(project.copy_recordings(), 12), "| 3.380 ± 0.019 |", "| 3.379 ± 0.019 |")
    result = project.run("-n2", "-k", BOTH, "--h2o-compare", "all")
    assert result.ret == 1
    assert result.parseoutcomes()["passed"] == 6
    assert result.parseoutcomes()["failed"] == 1
    result.stdout.fnmatch_lines(
        [
            "*test_no_regression[[]target_ratio_v3[]]*",
            "*h2o diagnosis*",
            "preset target_ratio_v3: worse than an earlier run",
            f"compared   with all (run {first.run}), ended {first.ended}",
            "figures    1 worse, 242 equal",
            "  WORSE    p512_g128_k0.3_b8_lr3.4-*: lossy ratio 3.380 -> 3.379 (-0.03 %)",
            "allow      --h2o-compare-fail=h2o_lossy:PERCENT lets it be worse by that much",
            "accept     run with --h2o-save=all --h2o-overwrite alone: *",
            "note       timings are not compared; preset: * then, * now; not known:*",
            "repeat     pytest 'gates/test_regression.py::test_no_regression[[]target_ratio_v3[]]' --h2o-compare=all",
            "target_ratio_v3 * FAIL * 1 worse",
            "* 1.4676 * PASS * equal",
            "    change against all: 1 worse, 242 equal",
            "      lossy ratio 3.380 -> 3.379 (-0.03 %)",
            "    change against all: 20 equal",
            "gate FAIL*",
        ]
    )
    failed = history(project)[-1]
    assert [subject.held for subject in failed.subjects] == [False, True]


def test_a_fall_of_half_a_percent_is_seen_and_can_be_allowed(after_one: Project) -> None:
    """Also against a run that had itself failed, which is told."""
    project = after_one
    best = changed(read_baseline(out_dir(project), "main"), "20990101-000000-ffffff", 1.005, held=False)
    save_baseline(out_dir(project), "best", best)
    result = project.run(*SCOPE, "--h2o-compare", "best")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "figures    2 worse, 18 equal",
            "  WORSE    all: lossless ratio 1.4749 -> 1.4676 (-0.50 %)",
        ]
    )
    assert "had itself failed items of scope front2_grouped_192_8" in unwrapped(result)
    result = project.run(*SCOPE, "--h2o-compare", "best", "--h2o-compare-fail", "lossless_ratio:0.6")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["    change against best: 2 worse, allowed, 18 equal"])


def test_a_run_that_failed_is_not_what_the_next_one_is_held_against(after_one: Project) -> None:
    """But one that held is, with lower figures too: what is better now is reported and does not fail."""
    project = after_one
    (first,) = history(project)
    append_record(out_dir(project) / "history.jsonl", changed(first, "20990101-000000-aaaaaa", 0.99, held=True))
    append_record(out_dir(project) / "history.jsonl", changed(first, "20990101-000000-bbbbbb", 1.01, held=False))
    project.write_ini(h2o_logs=str(RECORDINGS), h2o_compare="last")
    result = project.run(*SCOPE)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["h2o: compared with last (ini key h2o_compare)", "    change against last: 2 better, 18 equal"]
    )
    comparison = last_summary(project)["scopes"]["front2_grouped_192_8"]["comparison"]
    assert comparison["run"] == "20990101-000000-aaaaaa"


def test_a_comparison_that_did_not_take_place_is_told(after_one: Project) -> None:
    project = after_one
    result = project.run("-k", "front2_grouped and lossless", "--h2o-compare", "main")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["incomplete: nothing was compared with main: no item of test_no_regression ran", "gate INCOMPLETE*"]
    )
    result = project.run(*SCOPE, "--h2o-compare", "all")
    result.stdout.fnmatch_lines(["incomplete: baseline all holds figures of preset target_ratio_v3, and this run*"])


def test_a_baseline_is_made_by_the_first_run_and_kept(project: Project) -> None:
    """The comparison is made once however often the item asks for it."""
    asked = "    assert not h2o_comparison.regressions\n"
    twice = f"{asked}    assert h2o_comparison.comparison is h2o_comparison.comparison\n"
    replace_in(project.path / "gates" / "test_regression.py", asked, twice)
    both = (*SCOPE, "--h2o-compare", "main", "--h2o-save", "main")
    result = project.run(*both)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "incomplete: front2_grouped_192_8 not compared: no baseline yet: this run is*",
            "figures saved as baseline main",
        ]
    )
    first = baseline_path(out_dir(project), "main").read_bytes()
    result = project.run(*both)
    assert (result.ret, result.parseoutcomes()["passed"]) == (0, 3)
    result.stdout.fnmatch_lines(
        [
            "h2o: baseline main is there already and stays as it is",
            "    change against main: 20 equal",
            "baseline main was there already and stays as it is (--h2o-overwrite replaces it)",
        ]
    )
    assert baseline_path(out_dir(project), "main").read_bytes() == first
    assert project.run(*SCOPE, *WORSE, "--h2o-save", "main", "--h2o-overwrite").ret == 0
    assert baseline_path(out_dir(project), "main").read_bytes() != first


def test_a_run_without_whole_figures_is_not_saved_and_fails(project: Project) -> None:
    result = project.run("-k", "run_0003", "--h2o-save", "main")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "ERROR baseline main was not saved: no preset and no scope was measured as a whole",
            "ERROR   next: run all items of a preset or scope, to the end",
        ]
    )
    assert not baseline_path(out_dir(project), "main").exists()
    assert history(project) == []


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--h2o-save", "last"), "--h2o-save: no baseline can be called last"),
        (
            ("--h2o-save", "main"),
            "--h2o-save: there is a baseline called main already\n"
            "  where: PROJECT/h2o-runs/baselines/main.json\n"
            "  came: baselines there: main, old\n"
            "  expected: a new name\n"
            "  next: --h2o-overwrite replaces it; --h2o-compare with the same name compares with it and keeps it",
        ),
        (
            ("--h2o-compare", "old"),
            "a record of a run has another schema than this version reads\n"
            "  where: PROJECT/h2o-runs/baselines/old.json\n"
            "  came: schema 0\n",
        ),
        (
            ("--h2o-compare-fail", "lossless_ratio:1"),
            "--h2o-compare-fail was given, and nothing to compare with\n"
            "  came: lossless_ratio:1\n"
            "  expected: --h2o-compare NAME, --h2o-compare last or --h2o-compare rolling:N beside it",
        ),
        *(
            (
                ("--h2o-compare", f"rolling:{number}"),
                "--h2o-compare takes a number of earlier runs behind rolling:\n"
                f"  came: 'rolling:{number}'\n"
                "  expected: a whole number from 3 to 100, for example rolling:10",
            )
            for number in ("0", "2", "101", "1000", "-5", "5.0", "five", "")
        ),
    ],
)
def test_bad_input_is_told_before_anything_is_measured(
    arguments: tuple[str, ...], message: str, project: Project
) -> None:
    folder = out_dir(project) / "baselines"
    save_baseline(out_dir(project), "main", make_record())
    (folder / "old.json").write_text(json.dumps({**record_to_json(make_record()), "schema": 0}))
    result = project.run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message.replace("PROJECT", str(project.path)) in str(result.stdout)
    assert project.runs() == []


def test_the_ini_file_is_named_when_it_is_at_fault(project: Project) -> None:
    project.write_ini(h2o_logs=str(RECORDINGS), h2o_compare="main", h2o_compare_fail="lossles:1")
    result = project.run("-k", "lossy")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: ini key h2o_compare_fail" in str(result.stdout)
    assert project.runs() == []


def test_figures_of_another_model_are_never_compared(after_one: Project) -> None:
    project = after_one
    preset = ("-k", "target_ratio_v3 and not bench")
    first = read_baseline(out_dir(project), "all")
    subjects = tuple(
        dataclasses.replace(subject, fingerprint={**subject.fingerprint, "model": "large, 2.00 GiB"})
        for subject in first.subjects
    )
    other = dataclasses.replace(first, run="20990101-000000-ffffff", subjects=subjects)
    save_baseline(out_dir(project), "large", other)
    result = project.run(*preset, "--h2o-compare", "large")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "*test_no_regression[[]target_ratio_v3[]]*",
            f"baseline large ({baseline_path(out_dir(project), 'large')}) is of another model",
            "  where: preset target_ratio_v3",
            "  came: large, 2.00 GiB",
            "  expected: smol_mnn, 144.60 MiB",
        ]
    )
    # The last run of this model stands before it in the history, and a damaged line after it.
    for record in (first, other):
        append_record(out_dir(project) / "history.jsonl", record)
    with (out_dir(project) / "history.jsonl").open("a") as file:
        file.write("damaged\n")
    result = project.run(*preset, "--h2o-compare", "last")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "    change against last: 243 equal",
            "    note: the history is damaged:",
            "      *history.jsonl:5:",
            "      a record of a run cannot be read: *",
        ]
    )


# -- timings ---------------------------------------------------------------------------------------------------------


def launch_one(project: Project) -> tuple[Path, tuple[str, ...]]:
    """The log that a fake bench gives for the one point of a preset, and the options that ask for it."""
    recorded = project.copy_recordings()
    bench = project.make_bench()
    project.env["FAKE_RECORDINGS"] = str(recorded)
    settings = "h2o_keep_ratios: [0.3]\nh2o_block_tokens: [8]\nh2o_target_lossy_ratios: [3.4]\n"
    (project.path / "one.yaml").write_text(settings)
    flags = (*bench, "--h2o-presets=one.yaml", "--h2o-decode-baseline=none", "-k", "one and not joint")
    return log_of(recorded, 12), flags


def test_timings_are_held_only_against_the_same_machine_binary_and_threads(project: Project) -> None:
    log, flags = launch_one(project)
    assert project.run(*flags, "--h2o-save", "main").ret == 0
    replace_in(log, "<br>57.97 ± 20.00", "<br>47.97 ± 20.00")
    flags = (*flags, "--h2o-compare", "main", "--h2o-compare-fail", "decode_tok_per_s:10")
    result = project.run(*flags)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["  WORSE    p512_*: decode speed 57.97 tok/s -> 47.97 tok/s (-17.25 %), allowed 10 %"])
    result = project.run(*flags, "--h2o-threads", "1")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "      decode speed 57.97 tok/s -> 47.97 tok/s (-17.25 %), not comparable",
            "    note: timings are not compared (decode_tok_per_s should have been);*",
            "*2 then, 1 now",
            "incomplete: decode_tok_per_s of one was to be compared with main and cannot be",
        ]
    )


def test_timings_are_held_against_the_median_of_several_runs(project: Project) -> None:
    """A run that failed, and one with another binary, do not count."""
    log, flags = launch_one(project)
    assert project.run(*flags).ret == 0
    (first,) = history(project)

    def remember(name: str, factor: float, **fields: Any) -> None:
        (subject,) = first.subjects
        figures = {
            row: {m: v if first.metrics[m].exact else v * factor for m, v in of.items()}
            for row, of in subject.figures.items()
        }
        changed = dataclasses.replace(subject, figures=figures, **fields)
        append_record(out_dir(project) / "history.jsonl", dataclasses.replace(first, run=name, subjects=(changed,)))

    (subject,) = first.subjects
    rolling = (*flags, "--h2o-compare", "rolling:5")
    for number in range(3):
        remember(f"failed {number}", 0.5, held=False)
        remember(f"rebuilt {number}", 0.5, fingerprint={**subject.fingerprint, "binary": "another"})
    result = project.run(*rolling)
    assert result.ret == 0
    told = unwrapped(result)
    assert "; earlier runs that held and were measured alike: 1, and a spread takes 3; binary: another then, " in told
    assert "of one was to be compared with rolling:5 and cannot be" in told
    assert last_summary(project)["overall_pass"] == "incomplete"

    for number, factor in enumerate((0.99, 1.01, 1.0)):
        remember(f"held {number}", factor)
    remember("failed last", 0.5, held=False)
    remember("rebuilt last", 0.5, fingerprint={**subject.fingerprint, "binary": "another"})
    replace_in(log, "<br>57.97 ± 20.00", "<br>57.40 ± 20.00")
    result = project.run(*rolling)
    assert result.ret == 0
    assert "note: timings are held against the median of the last 5 runs, and may be worse by " in unwrapped(result)
    assert "was to be compared" not in unwrapped(result)

    replace_in(log, "<br>57.40 ± 20.00", "<br>53.97 ± 20.00")
    result = project.run(*rolling)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "compared   with rolling:5 (run *",
            "  WORSE    p512_*: decode speed 57.97 tok/s -> 53.97 tok/s (-6.90 %), allowed *",
            "accept     run without --h2o-compare: once for figures that are exact, for timings until half of *",
            "repeat     pytest *--h2o-compare=rolling:5*",
        ]
    )
    chart = [figure for figure in last_summary(project)["history"] if figure["metric"] == "decode_tok_per_s"]
    assert [figure["baseline"] for figure in chart] == [{"name": "median of 5 runs", "value": 57.97}]


# -- artifacts and commands ------------------------------------------------------------------------------------------


def test_reports_and_commands_say_what_changed(
    after_one: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = after_one
    monkeypatch.chdir(project.path)
    result = project.run(*SCOPE, *WORSE, "--h2o-compare", "main", "--h2o-save", "main", "--h2o-overwrite")
    assert result.ret == 1
    # A run that fails against its baseline does not become the baseline, whatever was asked.
    result.stdout.fnmatch_lines(["baseline main stays as it is: scope front2_grouped_192_8 failed in this run"])
    good, bad = (record.run for record in history(project))
    folder = out_dir(project) / bad
    summary = (folder / "summary.md").read_text()
    why = f"worse than main (run {good}): all: lossless ratio 1.4676 -> 1.4520 (-1.06 %), and 9 more figures"
    assert escape(f"test_no_regression[front2_grouped_192_8]: {why}") in summary
    assert escape(f"front2_grouped_192_8 against main (run {good}): 10 worse, 10 equal") in summary
    cells = ("front2_grouped_192_8", "all", "lossless_ratio", "1.4676", "1.4520", "-1.06 %", "WORSE")
    assert " | ".join(map(escape, cells)) in summary
    records = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    (compared,) = [record for record in records if record["kind"] == "comparison"]
    assert compared["comparison"]["counts"] == {"worse": 10, "equal": 10, "not comparable": 2}
    assert len(json.loads((folder / "figures.json").read_text())["record"]["metrics"]) > 30

    capsys.readouterr()
    assert main(["compare", "main", str(folder)]) == 1
    shown = capsys.readouterr().out
    assert shown.startswith(f"then run {good} of baseline main, ended ")
    assert (
        "\nscope front2_grouped_192_8  all      lossless_ratio      1.4676           1.4520           -1.06 %" in shown
    )
    assert shown.endswith("\nWORSE: 10 worse, 10 equal\n")
    assert main(["compare", "main", "last", "--compare-fail", "lossless_ratio:5"]) == 0
    assert capsys.readouterr().out.endswith("\nnot worse: 10 worse, allowed, 10 equal\n")
    assert main(["compare", good[-6:], good, "--all"]) == 0
    shown = capsys.readouterr().out
    assert "  raw_bytes           3,969,024 bytes  3,969,024 bytes  +0.00 %  equal\n" in shown
    assert "20 of 22 figures are equal, 2 are " in shown
    assert main(["compare", "main", "nothing"]) == 2
    assert capsys.readouterr().err.startswith("pytest-h2o compare: nothing is called nothing\n")

    assert main(["history"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["run", good, bad]
    assert lines[1].endswith("  held        lossless_ratio  1.4676")
    assert lines[2].endswith("  run FAILED  lossless_ratio  1.4520  -1.06 %")
    assert main(["history", "--last", "1", "--metric", "compressed_bytes"]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("  compressed_bytes  2,733,394 bytes")
    with (out_dir(project) / "history.jsonl").open("a") as file:
        file.write("{")
    assert main(["history"]) == 0
    assert "history.jsonl:3: a torn last line: whoever wrote it was stopped; left out" in capsys.readouterr().err
    for arguments, message in (
        (["--last", "0"], "--last is out of range"),
        (["--metric", "speed"], "--metric names no metric that is recorded"),
        (["--out-dir", "nowhere"], "there is no history"),
    ):
        assert main(["history", *arguments]) == 2
        # A metric may be known from the records alone, so that damage among them is told before.
        assert f"pytest-h2o history: {message}\n" in capsys.readouterr().err


def test_two_runs_with_nothing_in_common(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    save_baseline(out_dir(project), "one", make_record("r1", make_subject(name="a")))
    save_baseline(out_dir(project), "two", make_record("r2", make_subject(name="b"), make_subject(name="\x1b[31m")))
    out = ["--out-dir", str(out_dir(project))]
    assert main(["compare", "one", "two", *out]) == 2
    assert "the two runs have no preset and no scope in common" in capsys.readouterr().err
    save_baseline(out_dir(project), "three", make_record("r3", make_subject(name="b")))
    assert main(["compare", "two", "three", *out]) == 1
    shown = capsys.readouterr().out
    assert "scope \\x1b[31m was measured then, and not now" in shown
    assert shown.endswith("not worse: 1 equal\n") is False
    assert shown.endswith("WORSE: 1 equal, 1 presets or scopes missing\n")


def test_a_dry_run_compares_nothing(after_one: Project) -> None:
    project = after_one
    result = project.run("-k", "front2_grouped and regression", "--h2o-compare", "last", "--h2o-dry-run")
    assert result.ret == 0
    assert "worse" not in unwrapped(result)
    assert len(history(project)) == 1

"""A gate against an earlier run (docs/baselines.md): a regression is a failing item, in every way of running pytest."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.cli.main import main
from pytest_h2o.report.changes import escape
from pytest_h2o.run.history import RunRecord, append_record, baseline_path, read_baseline, read_history, save_baseline
from tests.plugin.project import RECORDINGS, Project, log_of, plain, replace_in, unwrapped, verdict
from tests.records import make_record, make_subject

SCOPE = ("-k", "front2_grouped")
"""One scope with its three items: what runs fastest."""

BOTH = "target_ratio_v3 and not bench or front2_grouped"
REGRESSION = "test_no_regression[front2_grouped_192_8]"
WORSE = ("--h2o-set", "adaptive_block_seq=16")
"""The codec in a setting that costs 1 % of the ratio, far above the target of 1.3."""


def out_dir(project: Project) -> Path:
    return project.path / "h2o-runs"


def history(project: Project) -> list[Any]:
    return list(read_history(out_dir(project) / "history.jsonl"))


def last_summary(project: Project) -> dict[str, Any]:
    return project.summary(max(project.runs(), key=lambda folder: (folder / "run.json").stat().st_mtime_ns))


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


def test_a_regression_is_a_failing_item(after_one: Project, snapshot: SnapshotAssertion) -> None:
    """Under xdist, where every process must be held against the same run."""
    project = after_one
    # One column of one row is worse in its last digit; every threshold still holds.
    replace_in(log_of(project.copy_recordings(), 12), "| 3.380 ± 0.019 |", "| 3.379 ± 0.019 |")
    result = project.run("-n2", "-k", BOTH, "--h2o-compare", "all")
    assert verdict(project, result, "test_no_regression[target_ratio_v3]") == snapshot
    failed = history(project)[-1]
    assert [subject.held for subject in failed.subjects] == [False, True]


def test_a_fall_of_half_a_percent_is_seen_and_can_be_allowed(after_one: Project, snapshot: SnapshotAssertion) -> None:
    """Also against a run that had itself failed, which is told."""
    project = after_one
    best = changed(read_baseline(out_dir(project), "main"), "20990101-000000-ffffff", 1.005, held=False)
    save_baseline(out_dir(project), "best", best)
    refused = project.run(*SCOPE, "--h2o-compare", "best")
    assert verdict(project, refused, REGRESSION) == snapshot(name="refused")
    allowed = project.run(*SCOPE, "--h2o-compare", "best", "--h2o-compare-fail", "lossless_ratio:0.6")
    assert verdict(project, allowed) == snapshot(name="allowed")


def test_a_run_that_failed_is_not_what_the_next_one_is_held_against(
    after_one: Project, snapshot: SnapshotAssertion
) -> None:
    """But one that held is, with lower figures too: what is better now is reported and does not fail."""
    project = after_one
    (first,) = history(project)
    append_record(out_dir(project) / "history.jsonl", changed(first, "20990101-000000-aaaaaa", 0.99, held=True))
    append_record(out_dir(project) / "history.jsonl", changed(first, "20990101-000000-bbbbbb", 1.01, held=False))
    project.write_ini(h2o_logs=str(RECORDINGS), h2o_compare="last")
    result = project.run(*SCOPE)
    assert "h2o: compared with last (ini key h2o_compare)" in result.outlines
    assert verdict(project, result) == snapshot
    comparison = last_summary(project)["scopes"]["front2_grouped_192_8"]["comparison"]
    assert comparison["run"] == "20990101-000000-aaaaaa"


def test_a_comparison_that_did_not_take_place_is_told(after_one: Project, snapshot: SnapshotAssertion) -> None:
    project = after_one
    alone = project.run("-k", "front2_grouped and lossless", "--h2o-compare", "main")
    assert verdict(project, alone) == snapshot(name="no item")
    assert verdict(project, project.run(*SCOPE, "--h2o-compare", "all")) == snapshot(name="no preset")


def test_a_dry_run_compares_nothing(after_one: Project) -> None:
    result = after_one.run("-k", "front2_grouped and regression", "--h2o-compare", "last", "--h2o-dry-run")
    assert (result.ret, len(history(after_one))) == (0, 1)
    assert "worse" not in unwrapped(result)


def test_a_baseline_is_made_by_the_first_run_and_kept(project: Project, snapshot: SnapshotAssertion) -> None:
    """The comparison is made once however often the item asks for it."""
    asked = "    assert not h2o_comparison.regressions\n"
    twice = f"{asked}    assert h2o_comparison.comparison is h2o_comparison.comparison\n"
    replace_in(project.path / "gates" / "test_regression.py", asked, twice)
    both = (*SCOPE, "--h2o-compare", "main", "--h2o-save", "main")
    assert verdict(project, project.run(*both)) == snapshot(name="first")
    first = baseline_path(out_dir(project), "main").read_bytes()
    result = project.run(*both)
    assert "h2o: baseline main is there already and stays as it is" in result.outlines
    assert verdict(project, result) == snapshot(name="second")
    assert baseline_path(out_dir(project), "main").read_bytes() == first
    assert project.run(*SCOPE, *WORSE, "--h2o-save", "main", "--h2o-overwrite").ret == 0
    assert baseline_path(out_dir(project), "main").read_bytes() != first


def test_a_run_without_whole_figures_is_not_saved_and_fails(project: Project, snapshot: SnapshotAssertion) -> None:
    result = project.run("-k", "run_0003", "--h2o-save", "main")
    assert result.ret == 1
    errors = [line for line in result.outlines if line.startswith("ERROR ")]
    assert errors == snapshot
    assert not baseline_path(out_dir(project), "main").exists()
    assert history(project) == []


def test_figures_of_another_model_are_never_compared(after_one: Project, snapshot: SnapshotAssertion) -> None:
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
    assert verdict(project, result, "test_no_regression[target_ratio_v3]") == snapshot(name="large")
    # The last run of this model stands before it in the history, and a damaged line after it.
    for record in (first, other):
        append_record(out_dir(project) / "history.jsonl", record)
    with (out_dir(project) / "history.jsonl").open("a") as file:
        file.write("damaged\n")
    assert verdict(project, project.run(*preset, "--h2o-compare", "last")) == snapshot(name="last")


def launch_one(project: Project) -> tuple[Path, tuple[str, ...]]:
    """The log that a fake bench gives for the one point of a preset, and the options that ask for it."""
    recorded = project.copy_recordings()
    bench = project.make_bench()
    project.launch_here()
    project.env["FAKE_RECORDINGS"] = str(recorded)
    settings = "h2o_keep_ratios: [0.3]\nh2o_block_tokens: [8]\nh2o_target_lossy_ratios: [3.4]\n"
    (project.path / "one.yaml").write_text(settings)
    flags = (*bench, "--h2o-presets=one.yaml", "--h2o-decode-baseline=none", "-k", "one and not joint")
    return log_of(recorded, 12), flags


def test_timings_are_held_only_against_the_same_machine_binary_and_threads(
    project: Project, snapshot: SnapshotAssertion
) -> None:
    log, flags = launch_one(project)
    assert project.run(*flags, "--h2o-save", "main").ret == 0
    replace_in(log, "<br>57.97 ± 20.00", "<br>47.97 ± 20.00")
    flags = (*flags, "--h2o-compare", "main", "--h2o-compare-fail", "decode_tok_per_s:10")
    worse = project.run(*flags)
    assert verdict(project, worse, "test_no_regression[one]") == snapshot(name="worse")
    assert verdict(project, project.run(*flags, "--h2o-threads", "1")) == snapshot(name="other threads")


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


def test_reports_and_commands_say_what_changed(
    after_one: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
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

    with (out_dir(project) / "history.jsonl").open("a") as file:
        file.write("{")
    capsys.readouterr()

    def said(*command: str) -> str:
        code, told = main([*command]), capsys.readouterr()
        return plain(f"exit {code}\n{told.out}{told.err}".replace(good, "GOOD").replace(bad, "BAD"), project)

    commands = (
        ("compare", "main", str(folder)),
        ("compare", "main", "last", "--compare-fail", "lossless_ratio:5"),
        ("compare", "main", "nothing"),
        ("history",),
        ("history", "--last", "1", "--metric", "compressed_bytes"),
        ("history", "--last", "0"),
        ("history", "--out-dir", "nowhere"),
    )
    assert [said(*command) for command in commands] == snapshot
    assert "history: --metric names no metric that is recorded\n" in said("history", "--metric", "speed")
    every = said("compare", good[-6:], good, "--all")
    assert "  raw_bytes           3,969,024 bytes  3,969,024 bytes  +0.00 %  equal\n" in every
    assert "20 of 22 figures are equal, 2 are " in every


def test_two_runs_with_nothing_in_common(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    save_baseline(out_dir(project), "one", make_record("r1", make_subject(name="a")))
    save_baseline(out_dir(project), "two", make_record("r2", make_subject(name="b"), make_subject(name="\x1b[31m")))
    out = ["--out-dir", str(out_dir(project))]
    assert main(["compare", "one", "two", *out]) == 2
    assert "the two runs have no figure of a preset or scope in common" in capsys.readouterr().err
    save_baseline(out_dir(project), "three", make_record("r3", make_subject(name="b")))
    assert main(["compare", "two", "three", *out]) == 1
    shown = capsys.readouterr().out
    assert "scope \\x1b[31m was measured then, and not now" in shown
    assert shown.endswith("not worse: 1 equal\n") is False
    assert shown.endswith("WORSE: 1 equal, 1 presets or scopes missing\n")

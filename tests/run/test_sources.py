"""Settings of a launch from options and presets, and which folder is whose recording."""

import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.bench.recorded import find_recordings
from pytest_h2o.bench.rows import NO_OUTPUT, read_table
from pytest_h2o.bench.sweep import ColumnDifference, FoldCheck
from pytest_h2o.cli.sweep import WaitNotice
from pytest_h2o.errors import H2OError, StoreError, UsageError
from pytest_h2o.gate.decode import plan_order
from pytest_h2o.inputs.options import Given, Settings
from pytest_h2o.inputs.presets import Preset, expand_points, load_presets
from pytest_h2o.run.sources import Launched, Recorded, Run, _describe_fold, bench_settings, points_out_of_reach
from pytest_h2o.run.store import PROGRESS, read_board
from tests.plugin.project import RECORDINGS, ROOT, SWEEP
from tests.report.gate_items import make_session
from tests.sweeps import record_pairs

PRESETS = {preset.name: preset for preset in load_presets([ROOT / "gates" / "presets"])}
V3 = PRESETS["target_ratio_v3"]


@pytest.mark.parametrize(
    ("origin", "of_preset", "timeout_s"),
    [
        ("--h2o-bench-timeout", 900.0, 60.0),
        ("--h2o-bench-timeout", None, 60.0),
        ("ini h2o_bench_timeout", 900.0, 900.0),
        ("ini h2o_bench_timeout", None, 60.0),
        ("default", 900.0, 900.0),
    ],
)
def test_the_command_line_decides_the_time_limit(origin: str, of_preset: float | None, timeout_s: float) -> None:
    given = {"bench-timeout": Given(60.0, origin), "bench": Given(Path(sys.executable), "--h2o-bench")}
    for name, value in (("backend", "cpu"), ("threads", 2), ("attention-option", 0), ("launcher", None)):
        given[name] = Given(value, "default")
    preset = V3.model_copy(update={"timeout_s": of_preset})
    assert bench_settings(Settings(given), preset).timeout_s == timeout_s


AIMS = {"h2o_target_lossy_ratios": [3.2]}


@pytest.mark.parametrize(
    ("preset", "changes", "target", "count", "why"),
    [
        ("target_ratio_v3", {}, 3.0, 0, ""),  # what aims at 3.0 ends just below it, which arithmetic does not tell
        ("target_ratio_v3", {}, 3.3, 18, "at most 3.200 by the ratio that it aims at"),
        ("target_ratio_v3", {"h2o_target_lossy_ratios": [3.0]}, 3.03, 0, ""),
        ("target_ratio_v3", {"h2o_target_lossy_ratios": [3.0]}, 3.031, 9, "at most 3.000 by the ratio that it aims at"),
        ("target_ratio", {}, 3.0, 0, ""),
        ("target_speed", {}, 3.0, 3, "at most 2.857 by the ratio that it aims at"),
        (
            "smoke",
            {"h2o_block_tokens": [300], "h2o_trigger_min_tokens": [2300], **AIMS},
            3.0,
            1,
            "2.875 by block quantis",
        ),
        ("smoke", {"h2o_recent_tokens": [1200]}, 3.0, 2, "by sink and recent tokens"),
        ("smoke", {"h2o_trigger_min_tokens": [5000]}, 3.0, 2, "at most 1.000 by a trigger of 5,000 tokens"),
        ("smoke", {"prompts": [64, 4096], "h2o_trigger_min_tokens": [2000]}, 3.0, 0, ""),
        ("smoke", {"prompts": [2**31 - 1], "h2o_recent_tokens": [2**30]}, 3.0, 0, ""),
    ],
)
def test_what_cannot_meet_its_target_by_arithmetic(
    tmp_path: Path, preset: str, changes: dict[str, Any], target: float, count: int, why: str
) -> None:
    settings = make_session(tmp_path, lossy_target=str(target)).settings
    asked = PRESETS[preset].model_copy(update=changes)
    far = points_out_of_reach(settings, asked, expand_points(asked))
    assert len(far) == count
    told = [reach.render(target) for reach in sorted(far.values(), key=lambda reach: reach.lossy)]
    assert why in (told[-1] if told else "")


def test_no_recorded_row_is_above_what_arithmetic_allows(tmp_path: Path) -> None:
    """Those were made by an engine that keeps its cache over the repeats."""
    points = expand_points(V3)
    far = points_out_of_reach(make_session(tmp_path, lossy_target="100").settings, V3, points)
    recorded = Recorded(Run(make_session(tmp_path).settings, tmp_path / "run"), V3, points, SWEEP)
    for point in points:
        lossy = recorded.result(point).get("h2o_lossy")
        assert lossy.mean <= far[point.run_id].lossy * 1.001
        assert lossy.mean > far[point.run_id].lossy * 0.95


def find(folder: Path, *selected: Preset) -> dict[str, Path]:
    return find_recordings(folder, list(PRESETS.values()), selected)


def test_a_half_recorded_preset_is_a_recording_that_fails(tmp_path: Path) -> None:
    """Beside a whole recording, too: it is not left out as not recorded."""
    shutil.copytree(SWEEP, tmp_path / "target_ratio_v3")
    (tmp_path / "target_speed_v3" / "configs").mkdir(parents=True)
    found = find(tmp_path, V3)
    assert found == {name: tmp_path / name for name in ("target_ratio_v3", "target_speed_v3")}
    preset = PRESETS["target_speed_v3"]
    points = expand_points(preset)
    run = Run(make_session(tmp_path).settings, tmp_path / "run")
    with pytest.raises(H2OError, match="is not in the recording"):
        Recorded(run, preset, points, found["target_speed_v3"]).result(points[0])


def test_a_folder_of_run_folders_or_of_one_run(tmp_path: Path) -> None:
    assert find(RECORDINGS) == {"target_ratio_v3": SWEEP}
    assert find(SWEEP) == {"target_ratio_v3": SWEEP}
    shutil.copytree(SWEEP / "logs", tmp_path / "logs")
    assert find(tmp_path, V3) == {"target_ratio_v3": tmp_path}
    with pytest.raises(UsageError, match="bare logs can be those of one preset only"):
        find(tmp_path)


def test_a_folder_of_something_else(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    (tmp_path / "readme.txt").touch()
    with pytest.raises(UsageError) as caught:
        find(tmp_path, V3)
    assert str(caught.value).replace(str(tmp_path), "HERE") == snapshot


def test_a_manifest_of_another_setting_is_taken_for_the_one_preset_that_is_selected(tmp_path: Path) -> None:
    """Its rows then say in what they differ; that is more than to say that there is no recording."""
    entries = json.loads((SWEEP / "manifest.json").read_text())
    for entry in entries:
        entry["recent_tokens"] = 96
    (tmp_path / "manifest.json").write_text(json.dumps(entries))
    assert find(tmp_path, V3) == {"target_ratio_v3": tmp_path}
    assert find(tmp_path, V3, PRESETS["smoke"]) == {}


def test_a_sweep_that_waits_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", stderr)
    notice = WaitNotice()
    for waited_s in (1.0, 4.9):
        notice(waited_s)
    assert stderr.getvalue() == ""
    for waited_s in (5.2, 6.2, 60.0):
        notice(waited_s)
    assert stderr.getvalue() == "h2o: waiting for another timed run on this machine since 5 s (one runs at a time)\n"
    stderr.close()
    WaitNotice()(9.0)


def test_a_launch_that_waits_shows_it(tmp_path: Path) -> None:
    base = ROOT / "fixtures" / "recordings" / "base_config.json"
    settings = make_session(tmp_path, bench=sys.executable, base_config=str(base)).settings
    told: list[float] = []
    run = Run(settings, tmp_path / "waits", on_wait=told.append)
    launcher = Launched(run, V3, (), tmp_path)._launcher
    assert launcher.on_wait is not None
    with run.progress.step("preset", "run_0001", unit="run", total=3):
        launcher.on_wait(2.0)
        (activity,) = read_board(tmp_path / "waits" / PROGRESS).activities
    assert (activity.what, activity.label, activity.waits) == ("preset", "run_0001", True)
    assert told == [2.0]


def test_the_note_of_a_fold_names_its_preset(snapshot: SnapshotAssertion) -> None:
    folds = (
        FoldCheck("adaptive", "mine", "run_1", "run_2"),
        FoldCheck("static", "mine", "run_1", "run_2", problem="a crash"),
        FoldCheck("adaptive", "mine", "run_1", "run_2", (ColumnDifference("h2o_keep", "0.3 ± 0.0", "0.4 ± 0.0"),)),
    )
    assert [_describe_fold(fold) for fold in folds] == snapshot


@pytest.mark.parametrize("kind", ["damaged", "pipe", "device"])
def test_recorded_pairs_that_cannot_be_read_fail_what_needs_them(tmp_path: Path, kind: str) -> None:
    """They are no reason to take another baseline, nor to end the session."""
    points = expand_points(V3)
    path = tmp_path / "decode" / "pairs.json"
    path.parent.mkdir()
    if kind == "damaged":
        path.write_text('{"a": 1')
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    source = Recorded(make_session(tmp_path).run, V3, points, tmp_path)
    assert source.has_pairs()
    assert source.is_paired
    assert source.known_pairs() is None
    with pytest.raises(StoreError, match="recorded pairs cannot be read"):
        source.pairs(points[0], 0.05)


def _edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads((folder / "pairs.json").read_text())
    change(value)
    (folder / "pairs.json").write_text(json.dumps(value))


def _of_pair(number: int, side: str, **fields: Any) -> Callable[[Path], None]:
    return lambda folder: _edit(folder, lambda value: value["pairs"][number - 1][side].update(fields))


def _swap(folder: Path) -> None:
    """The logs and configs of the two sides of the first pair are exchanged, and their speeds with them."""
    for name in ("logs/pair_01_{}.log", "configs/pair_01_{}.json"):
        a, b = (folder / name.format(side) for side in ("baseline", "candidate"))
        kept = a.read_bytes()
        a.write_bytes(b.read_bytes())
        b.write_bytes(kept)

    def speeds(value: dict[str, Any]) -> None:
        a, b = (value["pairs"][0][side] for side in ("baseline", "candidate"))
        a["decode_tok_per_s"], b["decode_tok_per_s"] = b["decode_tok_per_s"], a["decode_tok_per_s"]

    _edit(folder, speeds)


def _copy_pair(folder: Path) -> None:
    for side in ("baseline", "candidate"):
        shutil.copy(folder / f"logs/pair_01_{side}.log", folder / f"logs/pair_02_{side}.log")
    _edit(folder, lambda v: v["pairs"].__setitem__(1, json.loads(json.dumps(v["pairs"][0]).replace("r_01", "r_02"))))
    _edit(folder, lambda value: value["pairs"][1].update(order=plan_order(2, value["seed"])[1]))


def _switch(state: bool) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "configs" / f"pair_01_{'baseline' if state else 'candidate'}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "kv_h2o_enable": state}))

    return change


def _other_config(folder: Path) -> None:
    path = folder / "configs" / "pair_01_candidate.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "kv_h2o_block_tokens": 64}))


def _other_figures(folder: Path) -> None:
    """Beside the row that was timed, pairs that evicted otherwise."""
    run_id = expand_points(V3)[5].run_id
    (folder.parent / "logs").mkdir()
    shutil.copy(SWEEP / "logs" / f"{run_id}.log", folder.parent / "logs")
    log = folder / "logs" / "pair_02_candidate.log"
    (row,) = read_table(log)
    log.write_text(log.read_text().replace(f"| {row.cells['h2o_lossy']} |", "| 3.001 ± 0.004 |"))


def _set_threads(folder: Path) -> None:
    """All pairs ran on more threads than the row."""
    _other_figures(folder)
    for log in (folder / "logs").glob("pair_*.log"):
        log.write_text(re.sub(r"\| +CPU +\| +\d+ ", "| CPU | 8 ", log.read_text()))


def _measure_again(folder: Path) -> None:
    """A first launch, which was disturbed, in the place of the one that counts."""
    shutil.copy(folder / "logs/pair_01_candidate.log", folder / "logs/pair_01_candidate_again1.log")


def _short(folder: Path) -> None:
    (folder / "logs" / "pair_02_baseline.stdout.txt").write_text("decode tokens num = 40\n")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: None, None),
        (_other_figures, "not of the row that it times: it has other figures: h2o_lossy 3.001 ± 0.004, not "),
        (_short, "fewer tokens were decoded than asked"),
        (lambda folder: (folder / "logs" / "pair_03_baseline.log").unlink(), "the log of this run is missing"),
        (lambda folder: shutil.rmtree(folder / "logs"), "the log of this run is missing"),
        (_of_pair(2, "candidate", decode_tok_per_s=61.0), "another decode speed than its log"),
        (_of_pair(2, "candidate", run_id="pair_02_baseline"), "the candidate is not the launch of this pair"),
        (_of_pair(2, "candidate", run_id="pair_02_candidate/../x"), "the candidate is not the launch of this pair"),
        (lambda folder: _edit(folder, lambda value: value["pairs"].reverse()), "is not the launch of this pair"),
        (_swap, "gives no sound row"),
        (_copy_pair, "its logs are those of pair 1 to the last digit"),
        (_switch(True), "a baseline was recorded with H2O on"),
        (_set_threads, "another threads than the row that it times: 8"),
        (lambda folder: _edit(folder, lambda value: value["pairs"].pop()), "some that were launched are not among"),
        (_measure_again, "the candidate was measured again, and another launch counts"),
        (_other_config, "was recorded with another configuration"),
        (lambda folder: _edit(folder, lambda value: value["pairs"][0].update(order="ZZ")), "another shape"),
        (lambda folder: _edit(folder, lambda value: value["pairs"][0].update(order="BA")), "another order than was"),
        (lambda folder: _edit(folder, lambda value: value.update(seed=3, plan="")), "another order than was drawn"),
        (lambda folder: _edit(folder, lambda value: value.update(seed=3)), "another plan than it was launched with"),
        (lambda folder: _edit(folder, lambda value: value.update(planned_pairs=8)), "another plan than it was"),
        (lambda folder: _edit(folder, lambda value: value["pairs"][1].update(excluded="slow")), "whether it counts"),
        (_of_pair(1, "baseline", decode_tok_per_s="60.1"), "another shape"),
        (_of_pair(1, "baseline", decode_tok_per_s=-60.1), "cannot be judged"),
    ],
)
def test_recorded_pairs_are_held_against_their_logs(
    tmp_path: Path, damage: Callable[[Path], object], told: str | None
) -> None:
    """A verdict rests on launches that are there, each once, on its own side; not on what a file says of them."""
    points = expand_points(V3)
    point = points[5]
    record_pairs(tmp_path / "decode", point.run_id, [0.01, 0.02, 0.0, 0.01, 0.02, 0.01, 0.0, 0.01])
    damage(tmp_path / "decode")
    source = Recorded(make_session(tmp_path).run, V3, points, tmp_path)
    assert source.is_paired
    if told is None:
        found = source.pairs(point, 0.05)
        assert found.judge(0.05).outcome == "pass"
        assert found.notes == (f"8 of 8 launches of pairs with H2O on: {NO_OUTPUT}",)
        return
    with pytest.raises(StoreError, match=told) as caught:
        source.pairs(point, 0.05)
    assert "pairs.json" in str(caught.value)
    assert source.known_pairs() is None


def test_a_pair_whose_output_shows_unlike_contexts_is_excluded_or_refused(tmp_path: Path) -> None:
    points = expand_points(V3)
    record_pairs(tmp_path / "decode", points[5].run_id, [0.01, 0.02], kv_len=2566)
    session = make_session(tmp_path)
    assert not Recorded(session.run, V3, points, tmp_path).pairs(points[5], 0.05).is_comparable
    _edit(tmp_path / "decode", lambda value: [pair.update(excluded=None) for pair in value["pairs"]])
    with pytest.raises(StoreError, match="whether it counts is not what its logs say"):
        Recorded(session.run, V3, points, tmp_path).pairs(points[5], 0.05)

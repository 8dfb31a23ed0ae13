"""Recorded logs as results: the real recording, and recordings that lack something."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.bench.command import read_base_config
from pytest_h2o.bench.demo import read_demo_text
from pytest_h2o.bench.output import OutputSummary
from pytest_h2o.bench.recorded import (
    Recording,
    _read_config,
    find_recordings,
    read_recording,
    recorded_logs,
    recording_folder,
)
from pytest_h2o.bench.rows import NO_OUTPUT, read_metrics_csv, read_table, render_metrics_csv
from pytest_h2o.bench.sweep import manifest_entry, read_manifest
from pytest_h2o.errors import H2OError, StoreError, UsageError
from pytest_h2o.files import load, write_new_json, write_new_text
from pytest_h2o.inputs.presets import Point, expand_points, load_preset
from tests.told import error_text

from .samples import OTHER, SWEEP, preset_of, recorded_points

POINTS = recorded_points()
FIRST, SECOND = (point.run_id for point in POINTS[:2])


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A copy of the recording that a test may damage."""
    return Path(shutil.copytree(SWEEP, tmp_path / "sweep"))


def edit_manifest(folder: Path, run_id: str, **changes: object) -> None:
    path = folder / "manifest.json"
    entries = json.loads(path.read_text())
    next(entry for entry in entries if entry["run_id"] == run_id).update(changes)
    path.write_text(json.dumps(entries))


def one_failure(recording: Recording) -> str:
    """Every point but one is sound, and that one says why."""
    ((run_id, failure),) = recording.failures.items()
    assert len(recording.results) == 26
    depths = set()
    for _ in range(2):
        with pytest.raises(type(failure)) as raised:
            recording.get(run_id)
        depths.add(len(raised.traceback))
    assert len(depths) == 1, "the traceback grows by each that asks"
    return str(failure).replace(str(recording.folder), "SWEEP")


def test_the_recorded_sweep() -> None:
    recording = read_recording(SWEEP, POINTS)
    assert list(recording.results) == [point.run_id for point in POINTS]
    assert (recording.failures, recording.unused) == ({}, {})
    first = recording.get(FIRST)
    assert first.output == OutputSummary(
        {"Drop stale per-layer pending plan": 917, "Clamp invalid meta remove": 3}, 2566, None
    )
    assert recording.get(SECOND).output is None
    assert (first.returncode, first.log_file, first.repeat) == (0, f"logs/{FIRST}.log", 3)
    assert first.config_path == SWEEP / "configs" / f"{FIRST}.json"
    lossy = recording.get(POINTS[2].run_id).get("h2o_lossy")
    assert lossy.mean == 3.38
    (baseline,) = recording.baselines
    assert (baseline.run_id, baseline.output) == (
        "baseline_h2o_off", OutputSummary({"Clamp invalid meta remove": 3}, 640, None),
    )  # fmt: skip
    assert baseline.decode_tok_per_s.mean == 56.02


@pytest.mark.parametrize("inner", ["", "logs"])
def test_bare_logs_are_matched_by_their_names(tmp_path: Path, inner: str) -> None:
    target = tmp_path / inner
    target.mkdir(exist_ok=True)
    for log in (SWEEP / "logs").glob("*.log"):
        shutil.copy(log, target / (f"today-{log.name}" if log.name.startswith("run_0003") else log.name))
    shutil.copytree(SWEEP / "configs", tmp_path / "configs")
    if not inner:
        (tmp_path / "configs" / f"{SECOND}.json").rename(target / f"{SECOND}.json")
    recording = read_recording(tmp_path, POINTS)
    assert list(recording.results) == [point.run_id for point in POINTS]
    assert recording.get(FIRST).returncode is None
    assert [baseline.run_id for baseline in recording.baselines] == ["baseline_h2o_off"]
    assert list(read_recording(tmp_path).results) == [point.run_id for point in POINTS]


def test_bare_logs_of_some_points(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    """One is missing, one is there twice, and a longer number is another run."""
    logs = {"baseline_h2o_off": "baseline_h2o_off", FIRST: FIRST, f"{FIRST}5": FIRST}
    logs |= dict.fromkeys((POINTS[2].run_id, f"{POINTS[2].run_id}-again"), POINTS[2].run_id)
    for name, log in logs.items():
        shutil.copy(SWEEP / "logs" / f"{log}.log", tmp_path / f"{name}.log")
    recording = read_recording(tmp_path, POINTS[:3])
    assert list(recording.results) == [FIRST]
    assert {
        run_id: str(failure).replace(str(tmp_path), "") for run_id, failure in recording.failures.items()
    } == snapshot
    assert recording.unused == {f"{FIRST}5.log": "its run id is none of the preset's"}
    for point in (POINTS[0], replace(POINTS[0], recent_tokens=128)):
        assert read_recording(tmp_path, [point]).get(FIRST).notes == (
            "configuration not verified: neither config nor manifest: keep_ratio, block_tokens, sink_tokens, "
            "recent_tokens and 22 more",
            NO_OUTPUT,
        )


def test_points_that_the_manifest_does_not_list() -> None:
    stranger = replace(POINTS[0], run_id="run_0099_p512_g128_k0.28_b8_lr3.0")
    recording = read_recording(SWEEP, [stranger])
    assert list(recording.failures) == [stranger.run_id]
    assert recording.results == {}
    with pytest.raises(Exception, match="run_0042 is not in the recording"):
        recording.get("run_0042")


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


Damage = Callable[[Path, Path, Path], object]
OTHER_NAME = SECOND.replace("0002", "0042")


def manifest(**changes: object) -> Damage:
    return lambda sweep, log, config: edit_manifest(sweep, SECOND, **changes)


def crash(sweep: Path, log: Path, config: Path) -> None:
    edit_manifest(sweep, SECOND, return_code=-11)
    log.write_text("")
    shutil.copy(OTHER / "missing_model.stdout.txt", log.with_suffix(".stdout.txt"))


def rename_log(sweep: Path, log: Path, config: Path) -> None:
    edit_manifest(sweep, SECOND, log=f"logs/{OTHER_NAME}.log")
    log.rename(log.with_name(f"{OTHER_NAME}.log"))


def link_out(sweep: Path, log: Path, config: Path) -> None:
    log.unlink()
    log.symlink_to(SWEEP / "logs" / log.name)


SINK = '"kv_h2o_sink_tokens": '
DAMAGE: dict[str, Damage] = {
    "crashed": crash,
    "exit code": manifest(return_code=3),
    "never run": manifest(return_code=None),
    "other manifest": manifest(recent_tokens=128),
    "other config": lambda sweep, log, config: replace_in(config, f"{SINK}16", f"{SINK}8"),
    "config says it twice": lambda sweep, log, config: replace_in(config, "{", f"{{{SINK}8,"),
    "contradiction": manifest(precision="no"),
    "log of another name": rename_log,
    "output is a pipe": lambda sweep, log, config: os.mkfifo(log.with_suffix(".stdout.txt")),
    "sign beside it": lambda sweep, log, config: log.with_suffix(".stderr.txt").write_text(
        "double free or corruption (out)\n"
    ),
    "no log": lambda sweep, log, config: log.unlink(),
    "link": link_out,
    "two rows": lambda sweep, log, config: shutil.copy(OTHER / "appended.log", log),
    "other prompt": lambda sweep, log, config: replace_in(log, "prompt=512", "prompt=256"),
    "no column": lambda sweep, log, config: replace_in(log, "h2o_lossy", "h2o_other"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_run_fails_alone(sweep: Path, damage: str, snapshot: SnapshotAssertion) -> None:
    DAMAGE[damage](sweep, sweep / "logs" / f"{SECOND}.log", sweep / "configs" / f"{SECOND}.json")
    assert one_failure(read_recording(sweep, POINTS)) == snapshot


def test_rows_that_are_one_to_the_last_digit_are_none(sweep: Path) -> None:
    shutil.copy(sweep / "logs" / f"{FIRST}.log", sweep / "logs" / f"{SECOND}.log")
    failures = read_recording(sweep, POINTS).failures
    assert {run_id: error.what for run_id, error in failures.items()} == {
        run_id: f"the row of {run_id} is that of another point to the last digit" for run_id in (FIRST, SECOND)
    }
    (sweep / "configs" / f"{SECOND}.json").unlink()  # whether it is another point nothing says then, and that is told
    recording = read_recording(sweep, POINTS)
    assert not recording.failures
    assert any(note.startswith("configuration not verified") for note in recording.get(SECOND).notes)


UNREADABLE = "its config cannot be read, and the manifest alone says how it ran"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (Path.unlink, "its config is missing, and the manifest alone says how it ran"),
        (lambda path: path.write_text("{"), UNREADABLE),
        (lambda path: path.write_text("[]"), UNREADABLE),
        (
            lambda path: replace_in(path, "kv_h2o_sink_tokens", "kv_h2o_sink_token"),
            "the manifest says it, and its config does not: sink_tokens",
        ),
    ],
    ids=["gone", "cut", "list", "misspelt"],
)
def test_what_a_config_does_not_say_is_told(sweep: Path, change: Callable[[Path], object], told: str) -> None:
    change(sweep / "configs" / f"{SECOND}.json")
    recording = read_recording(sweep, POINTS)
    assert recording.get(FIRST).notes == ()
    assert recording.get(SECOND).notes == (f"configuration not verified: {told}", NO_OUTPUT)


def test_baselines_by_config_and_by_row(sweep: Path, snapshot: SnapshotAssertion) -> None:
    logs = sweep / "logs"
    shutil.copy(OTHER / "baseline_h2o_off_after.log", logs / "after.log")
    shutil.copy(OTHER / "baseline_h2o_off_after.log", logs / "idle.log")
    shutil.copy(logs / f"{FIRST}.log", logs / "stray.log")
    shutil.copy(OTHER / "appended.log", logs / "twice.log")
    (logs / "notes.log").write_text("remember the milk\n")
    (sweep / "configs" / "after.json").write_text('{"kv_h2o_enable": false}')
    (sweep / "configs" / "idle.json").write_text('{"kv_h2o_enable": true}')
    recording = read_recording(sweep, POINTS)
    assert [baseline.run_id for baseline in recording.baselines] == ["after", "baseline_h2o_off"]
    assert recording.unused == snapshot


def test_a_listed_run_with_h2o_off_is_a_baseline(sweep: Path) -> None:
    shutil.copy(OTHER / "baseline_h2o_off.log", sweep / "logs" / f"{SECOND}.log")
    (sweep / "configs" / f"{SECOND}.json").write_text('{"kv_h2o_enable": false}')
    recording = read_recording(sweep, POINTS)
    assert [baseline.run_id for baseline in recording.baselines] == [SECOND, "baseline_h2o_off"]
    assert (recording.failures[SECOND].what, recording.failures[SECOND].came) == (
        f"{SECOND} is not in the recording", "H2O was off in its config",
    )  # fmt: skip


def test_a_shared_run_is_read_from_its_log(sweep: Path) -> None:
    edit_manifest(sweep, POINTS[9].run_id, log=f"logs/{FIRST}.log", shares_run_with=FIRST)
    (sweep / "logs" / f"{POINTS[9].run_id}.log").unlink()
    recording = read_recording(sweep, POINTS)
    assert recording.failures == {}
    shared = recording.get(POINTS[9].run_id)
    assert (shared.shares_run_with, shared.cells) == (FIRST, recording.get(FIRST).cells)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    assert error_text(StoreError, read_recording, tmp_path / "missing", POINTS) == (
        "there is no folder of recorded logs\n"
        f"  where: {tmp_path}/missing\n"
        "  expected: a folder with manifest.json or *.log"
    )


def test_the_folder_of_a_preset(tmp_path: Path) -> None:
    """One that is broken is its recording all the same: its points then fail; they are not left out."""
    assert recording_folder(SWEEP.parent, "target_ratio_v3") == SWEEP
    assert {recording_folder(SWEEP, name) for name in ("target_ratio_v3", "..", "", "logs")} == {SWEEP}
    (tmp_path / "target_ratio_v3" / "configs").mkdir(parents=True)
    folder = recording_folder(tmp_path, "target_ratio_v3")
    assert folder == tmp_path / "target_ratio_v3"
    assert read_recording(folder, POINTS).failures.keys() == {point.run_id for point in POINTS}


def test_configs_without_a_manifest_are_compared(sweep: Path, snapshot: SnapshotAssertion) -> None:
    (sweep / "manifest.json").unlink()
    assert all(result.notes in ((), (NO_OUTPUT,)) for result in read_recording(sweep, POINTS).results.values())
    config = sweep / "configs" / f"{SECOND}.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "kv_h2o_recent_tokens": 128, "kv_lossless_front_n": 3, "precision": "x"}))
    assert one_failure(read_recording(sweep, POINTS)) == snapshot


def test_fields_that_manifest_and_config_lack_are_told(sweep: Path, snapshot: SnapshotAssertion) -> None:
    entries = json.loads((sweep / "manifest.json").read_text())
    for entry in entries:
        del entry["recent_tokens"]
    (sweep / "manifest.json").write_text(json.dumps(entries))
    (sweep / "configs" / f"{SECOND}.json").write_text('{"kv_h2o_enable": true}')
    (sweep / "configs" / f"{POINTS[2].run_id}.json").unlink()
    recording = read_recording(sweep, POINTS)
    assert [recording.get(point.run_id).notes for point in POINTS[:3]] == snapshot


@pytest.mark.parametrize("printed", [True, False])
def test_an_output_that_the_manifest_names_is_there(sweep: Path, printed: bool) -> None:
    edit_manifest(sweep, FIRST, output=f"logs/{FIRST}.stdout.txt")
    if not printed:
        (sweep / "logs" / f"{FIRST}.stdout.txt").unlink()
    recording = read_recording(sweep, POINTS)
    assert recording.results[SECOND].notes == (NO_OUTPUT,)
    if printed:
        assert recording.results[FIRST].notes == ()
    else:
        assert "the output of this run is missing" in str(recording.failures[FIRST])


@pytest.mark.parametrize("key", ["llm_model", "base_dir", "precision", "quality_text", "alone", "model", "threads"])
@pytest.mark.parametrize("run_id", [FIRST, SECOND])
def test_a_row_that_differs_in_what_no_sweep_varies_is_none_of_it(sweep: Path, key: str, run_id: str) -> None:
    if key in ("model", "threads"):
        (log,) = (sweep / "logs").glob(f"{run_id}.log")
        rows = [line.split("|") for line in log.read_text().splitlines()]
        rows[-1][[cell.strip() for cell in rows[0]].index(key)] = " 7 "
        log.write_text("\n".join("|".join(row) for row in rows) + "\n")
    else:
        config = sweep / "configs" / f"{run_id}.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), key: "other"}))
        others = [path for path in (sweep / "configs").glob("run_*.json") if path != config]
        for path in others if key != "alone" else ():
            path.write_text(json.dumps({key: "usual", **json.loads(path.read_text())}))
    recording = read_recording(sweep, POINTS)
    assert list(recording.failures) == [run_id]
    assert f"{run_id} is no run of this sweep: it has another" in str(recording.failures[run_id])


def test_a_scope_by_its_other_name_is_the_same_configuration(sweep: Path) -> None:
    name = "kv_lossless_scope"
    point = replace(POINTS[0], lossless={**POINTS[0].lossless, name: "front_n_and_h2o_kept"})
    replace_in(sweep / "configs" / f"{FIRST}.json", f'"{name}": "front_n"', f'"{name}": "front_n+h2o_kept"')
    edit_manifest(sweep, FIRST, **{name: "front_n+h2o_kept"})
    assert read_recording(sweep, [point]).failures == {}
    replace_in(sweep / "configs" / f"{FIRST}.json", "front_n+h2o_kept", "h2o_kept")
    assert "kv_lossless_scope 'h2o_kept', not 'front_n_and_h2o_kept'" in str(
        read_recording(sweep, [point]).failures[FIRST]
    )


def test_one_log_does_not_stand_for_all_points(sweep: Path, snapshot: SnapshotAssertion) -> None:
    for point in POINTS:
        edit_manifest(sweep, point.run_id, log=f"logs/./{FIRST}.log")
    recording = read_recording(sweep, POINTS)
    assert recording.results == {}
    assert str(recording.failures[FIRST]).replace(str(sweep), "") == snapshot
    assert read_recording(sweep).results == {}


@pytest.mark.parametrize(
    ("index", "shared", "log", "came"),
    [
        (1, FIRST, FIRST, f"shares_run_with {FIRST}, which is another configuration for the engine"),
        (18, "run_0099", FIRST, "shares_run_with run_0099, which the manifest does not list"),
        (18, FIRST, SECOND, f"shares_run_with {FIRST}, and another log than that run has: logs/{SECOND}.log"),
        (18, POINTS[9].run_id, FIRST, f"shares_run_with {POINTS[9].run_id}, which has no run of its own"),
    ],
)
@pytest.mark.parametrize("points", [POINTS, None])
def test_a_share_that_is_none_is_refused(
    sweep: Path, index: int, shared: str, log: str, came: str, points: tuple[Point, ...] | None
) -> None:
    edit_manifest(sweep, POINTS[9].run_id, log=f"logs/{FIRST}.log", shares_run_with=FIRST)
    edit_manifest(sweep, POINTS[index].run_id, log=f"logs/{log}.log", shares_run_with=shared)
    failures = read_recording(sweep, points).failures
    assert {run_id: error.came for run_id, error in failures.items()} == {POINTS[index].run_id: came}


def test_the_config_of_a_shared_run_is_that_of_its_leader(sweep: Path) -> None:
    """It has another keep ratio, which adaptive mode does not read; every other key is compared."""
    config = f"configs/{FIRST}.json"
    edit_manifest(sweep, POINTS[9].run_id, log=f"logs/{FIRST}.log", config=config, shares_run_with=FIRST)
    assert read_recording(sweep, POINTS).failures == {}
    edit_manifest(sweep, POINTS[9].run_id, config=f"configs/{SECOND}.json")
    failure = read_recording(sweep, POINTS).failures[POINTS[9].run_id]
    assert failure.came == "kv_h2o_target_lossy_ratio 3.2, not 3.0"


@pytest.fixture
def script_run(engine_recordings: Path, tmp_path: Path) -> Path:
    """A run folder of them, with two runs in probe mode, that a test may damage."""
    return Path(shutil.copytree(engine_recordings / "probe", tmp_path / "out"))


def test_a_folder_of_the_scripts_is_read_wherever_it_is(script_run: Path) -> None:
    """Its manifest names files from the working directory of that day, absolutely, or as Windows does."""
    before = read_recording(script_run)
    assert len(before.results) == 2
    assert before.failures == before.unused == {}
    first = next(iter(before.results))
    for named in ("/srv/kit/out/logs/", "C:\\kit\\out\\logs\\", "../out/logs/", "logs/"):
        edit_manifest(
            script_run, first, log=f"{named}{first}.log", config=f"{named}{first}.json".replace("logs", "configs")
        )
        assert read_recording(script_run).results == before.results
    (script_run / "logs" / f"{first}.log").rename(script_run / f"{first}.log")
    edit_manifest(script_run, first, log=f"{first}.log")
    assert read_recording(script_run).results[first].log_path == script_run / f"{first}.log"


@pytest.mark.parametrize(
    ("hits", "keys", "fails"),
    [("128.00", {}, False), ("128.50", {}, True), ("128.50", {"layer_nums": 30}, False)],
)
def test_more_restored_blocks_than_layers_can_have_coded(
    hits: str, keys: dict[str, Any], fails: bool, engine_recordings: Path, tmp_path: Path
) -> None:
    """Where the config lacks ``layer_nums`` the layer counter drifts: 32 layers, 64 tokens, a block every 16."""
    run = Path(shutil.copytree(engine_recordings / "store_no_layer_nums", tmp_path / "out"))
    (tmp_path / "preset.json").write_text(json.dumps(preset_of(run)))
    first = expand_points(load_preset(tmp_path / "preset.json"))[0]
    replace_in(run / "logs" / f"{first.run_id}.log", "162.00 ± 15.59", f"{hits} ± 15.59")
    config = run / "configs" / f"{first.run_id}.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **keys}))
    failures = read_recording(run, [first]).failures
    assert (first.run_id in failures) == fails


def baseline_batch(run: Path, **entry: object) -> Path:
    """What later scripts leave beside a run: the same runs again with H2O off."""
    batch = Path(shutil.copytree(run, run.parent / "batch"))
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    (batch / "manifest.json").write_text(json.dumps([{**each, **entry} for each in manifest]), encoding="utf-8")
    for log in (batch / "logs").glob("*.log"):
        shutil.copy(OTHER / "baseline_h2o_off.log", log)
        replace_in(log, "prompt=512<br>decode=128", "prompt=512<br>decode=64")
    return batch.rename(run / "baseline_batch")


@pytest.mark.parametrize(
    "entry", [{"disable_h2o": True}, {"kv_h2o_enable": False}, {}, {"disable_h2o": True, "log": "/srv/{}.log"}]
)
def test_baselines_with_the_same_run_ids(script_run: Path, entry: dict[str, object]) -> None:
    batch = baseline_batch(script_run, **{name: value for name, value in entry.items() if name != "log"})
    shutil.rmtree(batch / "configs")
    recording = read_recording(script_run)
    ids = list(recording.results)
    assert [row.run_id for row in recording.baselines] == [f"baseline_batch/{run_id}" for run_id in ids]
    assert [row.log_file for row in recording.baselines] == [f"baseline_batch/logs/{run_id}.log" for run_id in ids]
    assert recording.unused == {}


def test_a_log_that_links_lead_to_counts_once(sweep: Path) -> None:
    logs = sweep / "logs"
    (logs / "a_baseline.log").symlink_to("baseline_h2o_off.log")
    os.link(logs / "baseline_h2o_off.log", logs / "z_baseline.log")
    (sweep / "other.log").symlink_to(f"logs/{FIRST}.log")
    recording = read_recording(sweep, POINTS)
    assert [row.run_id for row in recording.baselines] == ["baseline_h2o_off"]
    assert (recording.failures, recording.unused) == ({}, {})
    (sweep / "manifest.json").unlink()
    assert read_recording(sweep, POINTS).failures == {}
    (logs / f"{SECOND}.log").unlink()
    (logs / f"{SECOND}.log").symlink_to(f"{FIRST}.log")
    assert list(read_recording(sweep, POINTS).failures) == [SECOND]  # one log is not that of two points


def test_a_manifest_equals_the_recorded_one(tmp_path: Path) -> None:
    entries = [manifest_entry(point.manifest_fields(), 0) for point in POINTS]
    write_new_json(tmp_path / "manifest.json", entries)
    assert (tmp_path / "manifest.json").read_bytes() == (SWEEP / "manifest.json").read_bytes()
    shared = manifest_entry(POINTS[9].manifest_fields(), 0, shares_run_with=FIRST)
    assert list(shared.items())[-3:] == [("log", f"logs/{FIRST}.log"), ("return_code", 0), ("shares_run_with", FIRST)]


def test_the_recorded_manifest_is_read() -> None:
    entries = read_manifest(SWEEP / "manifest.json")
    assert [entry.run_id for entry in entries] == [point.run_id for point in POINTS]
    first = entries[0]
    assert (first.log_file, first.config_file) == (f"logs/{first.run_id}.log", f"configs/{first.run_id}.json")
    assert (first.return_code, first.shares_run_with) == (0, None)
    assert [entry.differences(point) for entry, point in zip(entries, POINTS, strict=True)] == [[]] * 27
    other = replace(POINTS[0], sink_tokens=32, lossless={**POINTS[0].lossless, "kv_lossless_front_n": 4, "new": 1})
    assert first.differences(other) == ["sink_tokens 16, not 32", "kv_lossless_front_n 2, not 4"]


def entry(**changes: object) -> str:
    known = {"run_id": "a", "log": "logs/a.log", "config": None, "return_code": 0, **changes}
    return json.dumps([{key: value for key, value in known.items() if value is not ...}])


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "{}",
        "[1]",
        entry(run_id=""),
        entry(return_code=..., returncode=0),
        entry(return_code=...),
        entry(config=..., Config="a"),
        entry(outputs="logs/a.stdout.txt"),
        entry(Return_Code=1),
        entry(sweep_repeat="1", repeat=3),
        entry(not_launched="out of reach"),
        entry(sweep_repeat=3, repeat=3),
        entry(return_code="0"),
        entry(return_code=True),
        entry(run_id="a\x1b[0m"),
        entry(shares_run_with=1),
        entry(log=None),
        entry(log="logs/.."),
        entry(log="C:"),
        entry(log="a\0b"),
        entry(config="/"),
        json.dumps(json.loads(entry()) * 2),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, text: str, snapshot: SnapshotAssertion) -> None:
    (tmp_path / "manifest.json").write_text(text)
    assert error_text(StoreError, read_manifest, tmp_path / "manifest.json").replace(str(tmp_path), "") == snapshot


def test_a_folder_of_logs_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its logs would be silently left out; what stands beside a folder of logs may be anything."""
    (tmp_path / "logs").write_text("no folder")
    (tmp_path / "a.LOG").write_text("")
    (tmp_path / "a.txt").write_text("")
    assert recorded_logs(tmp_path) == [tmp_path / "a.LOG"]

    def closed(_: Path) -> NoReturn:
        raise PermissionError(13, "Permission denied")  # chmod would not keep root out

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(UsageError, match="a folder of recorded logs cannot be listed") as caught:
        find_recordings(tmp_path, [], [])
    assert (caught.value.where, caught.value.came) == (str(tmp_path), "Permission denied")


SPOIL: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "sparse": lambda path: (path.touch(), os.truncate(path, 3 << 30)),
}


@pytest.mark.parametrize("spoil", SPOIL.values(), ids=SPOIL)
def test_no_file_of_a_recording_makes_us_wait_or_takes_all_memory(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    readers: dict[str, Callable[[Path], object]] = {
        "x.log": read_table,
        "x.json": _read_config,
        "manifest.json": read_manifest,
        "x.csv": read_metrics_csv,
        "x.stdout.txt": read_demo_text,
        "base.json": read_base_config,
        "result.json": lambda path: load(dict[str, Any], path, "a result"),
    }
    for name, read in readers.items():
        spoil(tmp_path / name)
        assert re.search("not a regular file|too large|more than", error_text(H2OError, read, tmp_path / name)), name


def test_byte_order_marks_and_windows_line_ends_change_nothing(sweep: Path) -> None:
    """Tools and editors of Windows write both, and the figures are those that were there."""
    before = read_recording(sweep, POINTS)
    write_new_text(sweep / "rows.csv", render_metrics_csv(before.results.values()))
    rows = read_metrics_csv(sweep / "rows.csv")
    paths = [path for path in sweep.rglob("*") if path.suffix in (".log", ".json", ".csv")]
    for path in paths:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\r", b"").replace(b"\n", b"\r\n"))
    after = read_recording(sweep, POINTS)
    assert len(paths) > 50
    assert after.results == before.results
    assert after.failures == before.failures == {}
    assert read_metrics_csv(sweep / "rows.csv") == rows


def test_what_of_the_baselines_is_none_is_told(script_run: Path) -> None:
    batch = baseline_batch(script_run, disable_h2o=False)
    shutil.rmtree(batch / "configs")
    first, second = read_recording(script_run).results
    (batch / "logs" / f"{first}.log").write_text("")
    recording = read_recording(script_run)
    assert list(recording.results) == [first, second]
    assert recording.unused == {
        f"baseline_batch/{first}": "the log is empty",
        f"baseline_batch/{second}": "H2O is on but did nothing: this row is no measurement of it",
    }
    (batch / "manifest.json").write_text("[")
    assert read_recording(script_run).unused == {"baseline_batch": "a manifest of a sweep cannot be read"}

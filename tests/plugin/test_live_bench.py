"""The gate on a bench that is run: a fake one that replays the recordings, and can crash, hang and lie."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest
from syrupy.assertion import SnapshotAssertion

from tests.plugin.cases import BENCH, DECIDING, PRESET
from tests.plugin.project import (
    SWEEP,
    Project,
    check_failed,
    check_no_traceback,
    failure_of,
    replace_in,
    unwrapped,
    verdict,
)

WHOLE = ("-k", f"({PRESET} or {DECIDING}) and not quality and not consistency", "--h2o-decode-baseline=56.02")
RUN_IDS = [entry["run_id"] for entry in json.loads((SWEEP / "manifest.json").read_text())]


def read_csv(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / PRESET / "h2o_metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def read_manifest(run_dir: Path) -> list[dict[str, Any]]:
    return json.loads((run_dir / PRESET / "manifest.json").read_text())


def living(text: str) -> list[str]:
    """Processes whose command line has `text`."""
    lines = (" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
    return [line for line in lines if text in line]


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, pytest.RunResult]:
    """One run of the whole preset on a bench that behaves."""
    project = Project(tmp_path_factory.mktemp("folded"))
    return project, project.run(*project.make_bench(), *WHOLE, page=True)


def test_the_preset_costs_ten_launches_and_holds(
    folded: tuple[Project, pytest.RunResult], snapshot: SnapshotAssertion
) -> None:
    project, result = folded
    assert project.launches() == RUN_IDS[:10]
    assert verdict(project, result) == snapshot
    head = [
        "h2o: bench */llm_bench (--h2o-bench), sha256 *, tells no version",
        "h2o: model * (base config */model.json)",
    ]
    result.stdout.fnmatch_lines(head)
    assert {entry["layer_nums"] for entry in read_manifest(project.run_dir())} == {30}
    for config in (project.run_dir() / PRESET / "configs").iterdir():
        assert json.loads(config.read_text())["layer_nums"] == 30


def test_where_nobody_knows_the_number_of_layers_the_line_to_add_is_said(project: Project) -> None:
    bench = project.make_bench()
    project.write_ini(h2o_threads="2", h2o_disturbed="keep")
    result = project.run(*bench, "-k", f"{PRESET} and run_0001", "-rA")
    advice = (
        "the config of the model has no layer_nums, so the engine counts 32 layers and applies plans to the wrong "
        'ones: add "layer_nums": N to it, N being the number of its layers'
    )
    assert f"h2o: {PRESET}: {advice}" in unwrapped(result)
    (point,) = map(json.loads, (project.run_dir() / "journal.jsonl").read_text().splitlines())
    assert f"first cause: {advice}" in point["notes"]
    assert "layer_nums" not in read_manifest(project.run_dir())[0]


def test_a_live_run_leaves_every_artifact(
    folded: tuple[Project, pytest.RunResult], snapshot: SnapshotAssertion
) -> None:
    project, _ = folded
    folder = project.run_dir()
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == snapshot
    entries = read_manifest(folder)
    assert [entry["run_id"] for entry in entries] == RUN_IDS
    assert {entry["return_code"] for entry in entries} == {0}
    shared = {entry["run_id"]: entry["shares_run_with"] for entry in entries if "shares_run_with" in entry}
    assert shared == {run_id: RUN_IDS[n % 9] for n, run_id in enumerate(RUN_IDS) if n > 9}
    assert project.summary()["presets"][PRESET]["shared_runs"] == shared
    for entry in entries:
        assert (folder / PRESET / entry["log"]).is_file()
        config = json.loads((folder / PRESET / entry["config"]).read_text())
        assert config["kv_h2o_target_lossy_ratio"] == entry["h2o_target_lossy_ratio"]
    run = json.loads((folder / "run.json").read_text())
    assert run["overall_pass"] == "incomplete"
    assert str(project.path / "llm_bench") in run["digests"]
    assert str(project.path / "model.json") in run["digests"]
    journal = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    assert len(journal) == 27 + 3 + 2
    assert {record["outcome"] for record in journal} == {"passed"}


def test_the_run_folder_gated_on_again_gives_the_same_verdict(folded: tuple[Project, pytest.RunResult]) -> None:
    project, _ = folded
    first = project.run_dir()
    result = project.run(f"--h2o-logs={first}", "--h2o-out-dir=again", *WHOLE)
    assert result.ret == 0
    (second,) = (path for path in (project.path / "again").iterdir() if path.is_dir())
    ours, theirs = project.summary(first), project.summary(second)
    # Folding, and a launch that others disturbed, are known to the run that launched.
    assert theirs["presets"][PRESET].pop("notes") == [
        n for n in ours["presets"][PRESET].pop("notes") if "share" not in n and "disturbed" not in n
    ]
    assert theirs["presets"] == ours["presets"]
    assert read_csv(second) == read_csv(first)
    assert read_manifest(second) == read_manifest(first)


def test_two_workers_launch_no_more(folded: tuple[Project, pytest.RunResult], project: Project) -> None:
    result = project.run(*project.make_bench(), *WHOLE, "-n2")
    assert result.ret == 0
    assert sorted(project.launches()) == RUN_IDS[:10]
    assert read_csv(project.run_dir()) == read_csv(folded[0].run_dir())
    assert read_manifest(project.run_dir()) == read_manifest(folded[0].run_dir())


@pytest.mark.parametrize("workers", [(), ("-n2",)])
def test_a_build_without_a_dump_that_is_known_is_asked_once_and_says_so(
    project: Project, workers: tuple[str, ...]
) -> None:
    """Of a build that is not the embedded bench the consistency item only reports: no dump, or one of another form."""
    shutil.copy(project.preset(), project.preset("another"))
    only = (*project.make_bench(), "-k", f"({PRESET} or another) and consistency", *workers)
    assert project.run(*only).parseoutcomes()["skipped"] == 2
    assert project.launches() == ["consistency"]
    reasons = [left["why"] for left in project.summary()["left_out_on_purpose"]]
    told = "the runtime's own lossless sizes are not checked: this build wrote no dump ("
    assert [why[: len(told)] for why in reasons] == [told, told]
    assert sum("; asked once, of preset " in why for why in reasons) == 1
    if workers:
        return
    (project.path / "bench" / "layer_0").mkdir(parents=True)
    (project.path / "bench" / "layer_0" / "meta_t0_1.json").write_text('{"form": 2}')
    project.env["FAKE_DUMP"] = shutil.make_archive(str(project.path / "kv"), "zip", project.path, "bench")
    (project.path / "console.txt").write_text("")
    result = project.run(*only, "--h2o-out-dir=again")
    assert (result.ret, result.parseoutcomes()["skipped"]) == (0, 2)
    assert "left out on purpose: the runtime's own lossless sizes are not checked: " in unwrapped(result)
    assert project.launches() == ["consistency"] * 3  # it dumps, so each preset has a launch of its own


def test_a_build_that_failed_when_it_was_asked_for_a_dump_is_asked_again(project: Project) -> None:
    shutil.copy(project.preset(), project.preset("another"))
    bench = project.make_bench(consistency="crash")
    assert project.run(*bench, "-k", f"({PRESET} or another) and consistency").parseoutcomes()["failed"] == 2
    assert project.launches() == ["consistency"] * 2


def test_a_build_that_dumps_unasked_leaves_nothing_and_its_own_sizes_are_told(
    project: Project, engine_recordings: Path
) -> None:
    bench = project.make_bench()
    project.env["FAKE_DUMP"] = str(engine_recordings / "dump" / "kv.zip")
    before = set(project.path.iterdir())
    items = ("-k", f"{PRESET} and (consistency or run_0001)", "--h2o-set=kv_lossless_block_tokens=64")
    assert project.run(*bench, *items).parseoutcomes()["passed"] == 2
    assert {path.name for path in set(project.path.iterdir()) - before} == {"h2o-runs", "launches.txt", "tmp"}
    (note,) = (n for n in project.summary()["presets"][PRESET]["notes"] if n.startswith("3 samples: runtime 117,911"))
    assert "the runtime coded words of fp32, and scopes count fp16" in note


def test_only_the_point_that_is_asked_for_is_run_with_the_base_config_of_its_preset(project: Project) -> None:
    """Other presets, which have none, do not stand in the way unless they are selected too."""
    bench, _ = project.make_bench()
    replace_in(
        project.preset(),
        "# base_config: ../../models/my-model/config.json   # the model's config for llm_bench, relative to this file",
        "base_config: ../../model.json",
    )
    result = project.run(bench, "-k", f"{PRESET} and run_0012")
    assert result.ret == 0
    assert project.launches() == [RUN_IDS[11]]
    result.stdout.fnmatch_lines(["    1 row of 1 run", "gate INCOMPLETE *"])


FAILING = ("crash", "hang", "exit3", "truncated", "no_h2o", "wrong_backend", "idle", "no_json")


def test_a_failing_bench_says_what_happened(project: Project, snapshot: SnapshotAssertion) -> None:
    """A bench that does something else wrong in each point, and takes no -j in the last, which is no fault."""
    modes = {f"run_{number:04d}": mode for number, mode in enumerate(FAILING, start=1)}
    project.make_bench(**modes)
    options = ("--h2o-no-fold", "--h2o-bench-timeout=2", "-k", f"{PRESET} and ({' or '.join(modes)})")
    result = project.run(*BENCH, *options)
    failed = [f"test_bench[{PRESET}-{run_id}]" for run_id in RUN_IDS[:7]]
    check_failed(project, result, *failed)
    assert verdict(project, result, *failed) == snapshot
    assert not living(str(project.path / "llm_bench"))
    # The point whose bench takes no -j has its row from the table.
    (row,) = read_csv(project.run_dir())
    assert row["log_file"] == f"logs/{RUN_IDS[7]}.log"
    assert not (project.run_dir() / PRESET / "logs" / f"{RUN_IDS[7]}.json").exists()
    assert [entry["return_code"] for entry in read_manifest(project.run_dir())[:8]] == [-11, -15, 3, 0, 0, 0, 0, 0]


def test_a_bench_that_always_crashes_is_launched_once_a_group_and_tells_once(
    project: Project, snapshot: SnapshotAssertion
) -> None:
    result = project.run(*project.make_bench(run_="crash"), "-k", f"{PRESET} and lossy")
    assert verdict(project, result, f"test_lossy[{PRESET}]") == snapshot
    assert project.launches() == RUN_IDS[:9]
    # What is kept of it says the same when it is read again.
    again = project.run(f"--h2o-logs={project.run_dir()}", "-k", f"{PRESET} and run_0027", "--h2o-out-dir=again")
    told = failure_of(again, f"test_bench[{PRESET}-{RUN_IDS[26]}]")
    assert told.startswith("the recorded run was ended by SIGSEGV\n")


def test_a_dry_run_writes_configs_and_commands_and_launches_nothing(project: Project) -> None:
    result = project.run(*project.make_bench(), "--h2o-dry-run", "-k", f"smoke or {PRESET} or {DECIDING}", "-rs")
    assert result.ret == 0
    check_no_traceback(result)
    assert result.parseoutcomes()["skipped"] == 2 + 27 + 2 * 5 + 2
    assert project.launches() == []
    folder = project.run_dir() / PRESET
    told = (
        f"left out on purpose: dry run: nothing was run; configs, manifest and commands.sh of 27 runs are in {folder} "
    )
    assert told in unwrapped(result)
    assert {entry["return_code"] for entry in read_manifest(project.run_dir())} == {None}
    assert (folder / "commands.sh").read_text().count("llm_bench -m ") == 27
    assert len(list((folder / "configs").iterdir())) == 27
    assert len(list((project.run_dir() / "smoke" / "configs").iterdir())) == 2
    assert project.summary()["overall_pass"] == "incomplete"
    # A dry run is no recording.
    again = project.run(f"--h2o-logs={project.run_dir()}", "-k", f"{PRESET} and run_0001", "--h2o-out-dir=again")
    assert again.ret == 1
    told = failure_of(again, f"test_bench[{PRESET}-{RUN_IDS[0]}]")
    assert told.startswith(f"{RUN_IDS[0]} is listed in the recording and was never run\n")

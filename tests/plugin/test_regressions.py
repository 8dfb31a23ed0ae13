"""A slightly regressed input fails the right items, only those, and says why."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.plugin.project import Project, check_failed, drop_column, failure_of, log_of, replace_in

PRESET = "target_ratio_v3"
DECIDING = "front2_grouped_192_8"
RUN_3, RUN_5, RUN_6 = (
    "run_0003_p512_g128_k0.28_b8_lr3.4",
    "run_0005_p512_g128_k0.28_b16_lr3.2",
    "run_0006_p512_g128_k0.28_b16_lr3.4",
)
SWEEP_ONLY = ("-k", f"{PRESET} and not bench")


# -- one number made worse -----------------------------------------------------------------------------------------


def test_figures_equal_to_their_targets_or_just_above_hold(project: Project) -> None:
    """The fastest row has a lossy ratio of 3.358; of the original rule it is enough."""
    rule = ("--h2o-rule=best-of", "--h2o-decode-baseline=70")
    targets = (*rule, "--h2o-lossy-target=3.38", "--h2o-lossless-target=1.46756")
    result = project.run(*targets, *SWEEP_ONLY)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "preset or scope *lossy *decode *verdict *margin*",
            "target_ratio_v3 * 3.380 * 4.63% * PASS * +0.00%",
        ]
    )


def test_a_slightly_slower_row_fails_decode_and_joint(project: Project) -> None:
    replace_in(log_of(project.copy_recordings(), 6), "66.76 ± 10.35", "66.49 ± 10.35")
    result = project.run("--h2o-decode-baseline=70", "--h2o-rule=best-of", *SWEEP_ONLY)
    check_failed(project, result, f"test_decode[{PRESET}]", f"test_joint[{PRESET}]")
    assert (
        "target     <= 5.00% (default)\n"
        f"measured   5.01% on {RUN_6}\n"
        "decode     66.49 ± 10.35 tok/s with H2O on\n"
        "baseline   70.00 tok/s with H2O off (--h2o-decode-baseline)\n"
        "margin     missed by 0.01% of the baseline speed\n"
    ) in failure_of(result, f"test_decode[{PRESET}]")
    assert project.failed()[f"test_decode[{PRESET}]"] == (
        f"decode slow-down 5.01% on {RUN_6}, target <= 5.00% (default)"
    )


def test_a_slightly_lower_lossy_ratio_fails_lossy_and_joint(project: Project) -> None:
    sweep = project.copy_recordings()
    for number in (3, 12, 21):  # the same run three times: adaptive mode does not read the keep ratio
        replace_in(log_of(sweep, number), "3.380 ± 0.019", "3.379 ± 0.019")
    result = project.run("--h2o-lossy-target=3.38", *SWEEP_ONLY)
    check_failed(project, result, f"test_lossy[{PRESET}]", f"test_joint[{PRESET}]")
    assert (
        "E       assert lossy ratio 3.379 ± 0.019 >= 3.380\n"
        f"E         missed by 0.001 (0.03% of the target); target from --h2o-lossy-target; measured on {RUN_3}\n"
    ) in failure_of(result, f"test_lossy[{PRESET}]")
    assert "           lossy missed by 0.03% of the target\n" in failure_of(result, f"test_joint[{PRESET}]")


# -- dumps ---------------------------------------------------------------------------------------------------------

EVERY_SCOPE = ("front2_upper", "front2_chunked_128_16", DECIDING, "all_layers_grouped_192_8")


def test_a_dump_file_one_byte_too_short_fails_its_scopes_and_the_joint_rule(project: Project) -> None:
    short = project.copy_dump() / "code" / "layer_0" / "k_t0_463.bin"
    short.write_bytes(short.read_bytes()[:-1])
    result = project.run()
    check_failed(
        project,
        result,
        *(f"test_roundtrip[{scope}]" for scope in EVERY_SCOPE),
        *(f"test_lossless[{scope}]" for scope in EVERY_SCOPE[1:]),
        "test_upper_bound[front2_upper]",
        f"test_joint[{PRESET}]",
    )
    unreadable = (
        f"1 of 432 entries of {DECIDING} cannot be read\n"
        "  where: code/layer_0/meta_t0_463.json: 'k_t0_463.bin' has 177791 bytes, expected 177792 "
    )
    for item in (f"test_lossless[{DECIDING}]", f"test_roundtrip[{DECIDING}]", f"test_joint[{PRESET}]"):
        assert unreadable in failure_of(result, item)
    assert "note       the joint rule needs the lossless ratio of the scope that decides" in failure_of(
        result, f"test_joint[{PRESET}]"
    )
    assert f"dump       {project.path / 'dump'}" in failure_of(result, f"test_lossless[{DECIDING}]")
    # The ratio over the rest is nowhere given for the gate's.
    result.stdout.fnmatch_lines(
        [f"{DECIDING} * none * FAIL *", f"{DECIDING}:", "    no ratio: 1 of 432 entries cannot be read"]
    )
    preset = project.summary()["presets"][PRESET]
    assert preset["rules"] == {"joint": "FAIL", "best-of": "FAIL"}
    assert preset["original"]["averages"]["Offline online-sim lossless"] == "missing"
    assert "1.4602" not in (project.run_dir() / "summary.md").read_text()


def test_allowed_skips_pass_and_are_in_every_summary(project: Project) -> None:
    short = project.copy_dump() / "code" / "layer_0" / "k_t0_463.bin"
    short.write_bytes(short.read_bytes()[:-1])
    result = project.run("--h2o-allow-skips", "-k", f"{PRESET} or {DECIDING}")
    assert result.ret == 0
    why = f"{DECIDING}: 1 of 432 entries cannot be read (1 binary_read_error); its ratio is over the rest"
    result.stdout.fnmatch_lines([f"{DECIDING} * 1.4602 * PASS *", f"left out on purpose: {why[:40]}*"])
    summary = project.summary()
    assert summary["overall_pass"] is True
    assert summary["left_out_on_purpose"][-1]["why"] == f"{why} (skips were allowed)"
    assert why in (project.run_dir() / "summary.md").read_text()


def test_a_dead_layer_fails_and_is_allowed_by_the_scope_alone(project: Project) -> None:
    """All of V of one layer is zero; a file of another is lost, which leaves a gap that is told."""
    dump = project.copy_dump()
    for file in (dump / "code" / "layer_1").glob("v_*.bin"):
        file.write_bytes(bytes(file.stat().st_size))
    (dump / "code" / "layer_0" / "meta_t470_471.json").unlink()
    items = ("-k", f"{PRESET} and not bench or {DECIDING}")
    result = project.run(*items, "--h2o-allow-skips")
    check_failed(project, result, f"test_lossless[{DECIDING}]", f"test_roundtrip[{DECIDING}]", f"test_joint[{PRESET}]")
    told = failure_of(result, f"test_lossless[{DECIDING}]")
    assert f"the dump of {DECIDING} says nothing about a codec" in told
    assert "make a dump with llm_demo on a real prompt" in told
    seen = "run code, layer 1, V: all "
    result.stdout.fnmatch_lines([f"{DECIDING} * none * FAIL *", f"    no ratio: {seen}*"])
    assert f"none: {seen}" in (project.run_dir() / "summary.md").read_text()

    shutil.rmtree(project.run_dir())
    scopes = project.path / "gates" / "scopes.yaml"
    replace_in(scopes, f"{DECIDING}:\n", f"{DECIDING}:\n    degenerate: allow\n")
    result = project.run(*items, "--h2o-html=yes")
    assert result.ret == 0
    gap = "gap in run code, layer 0: 1 tokens, the first is 470"
    result.stdout.fnmatch_lines([f"    note: {gap}", f"left out on purpose: {DECIDING}: {seen}*"])
    folder, summary = project.run_dir(), project.summary()
    assert summary["left_out_on_purpose"][-1]["why"].startswith(f"{DECIDING}: {seen}")
    assert summary["scopes"][DECIDING]["dump_gaps"] == [gap]
    for name in ("summary.md", "report.html"):
        text = (folder / name).read_text()
        assert seen in text
    assert f"- {DECIDING}: {gap}" in (folder / "summary.md").read_text().replace("\\", "")


# -- logs ----------------------------------------------------------------------------------------------------------


def test_one_column_missing_in_one_log_fails_its_point_and_the_preset(project: Project) -> None:
    drop_column(log_of(project.copy_recordings(), 5), "h2o_lossy")
    result = project.run("-k", f"{PRESET} and (not bench or run_0005 or run_0006)")
    items = [
        f"test_bench[{PRESET}-{RUN_5}]",
        *(f"test_{kind}[{PRESET}]" for kind in ("lossy", "decode", "quality", "joint")),
    ]
    check_failed(project, result, *items)
    for item in items:
        told = failure_of(result, item)
        assert f"H2O columns are missing: h2o_lossy\n  where: logs/{RUN_5}.log\n" in told
        assert f"folder     {project.path / 'recordings' / PRESET}" in told
    note = f"{PRESET} needs a sound row of each of its 27 points, and\n           {RUN_5} has none"
    assert note in failure_of(result, f"test_lossy[{PRESET}]")
    result.stdout.fnmatch_lines(["    26 rows of 26 runs, 1 point without a sound row"])


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, pytest.RunResult]:
    """A recording with one run damaged in each way."""
    project = Project(tmp_path_factory.mktemp("damaged"))
    sweep = project.copy_recordings()
    log_of(sweep, 7).unlink()
    replace_in(log_of(sweep, 11), "3.172 ± 0.010", "nan ± nan")
    log_of(sweep, 13).write_text(log_of(sweep, 13).read_text() * 2)
    replace_in(log_of(sweep, 14), "3.143 ± 0.034", "3.143 ± -0.034")
    entries = json.loads((sweep / "manifest.json").read_text())
    entries[16]["return_code"] = 3
    entries[17]["return_code"] = -11
    entries[18]["recent_tokens"] = 96
    del entries[19]
    (sweep / "manifest.json").write_text(json.dumps(entries))
    return project, project.run("-k", f"{PRESET} and (bench or lossy)")


DAMAGES = {
    7: ("the log of this run is missing", "where: FOLDER/logs/RUN.log"),
    11: ("the row has no sound h2o_lossy", "where: logs/RUN.log", "came: nan", "expected: a finite number above 0"),
    13: ("a log has several rows, and nothing tells which one is meant", "where: logs/RUN.log", "came: 2 rows"),
    14: (
        "a row has an impossible lossy ratio",
        "where: h2o_lossy of RUN: logs/RUN.log",
        "came: 3.143 ± -0.034",
        "expected: a spread of 0 to 5.567",
    ),
    17: ("the recorded run ended with exit code 3", "where: logs/RUN.log", "came: no reason was recorded"),
    18: ("the recorded run was ended by SIGSEGV", "where: logs/RUN.log", "came: no reason was recorded"),
    19: (
        "RUN was recorded with another configuration",
        "where: FOLDER/manifest.json",
        "came: recent_tokens 96, not 64",
    ),
    20: ("RUN is not in the recording", "where: FOLDER"),
}


@pytest.mark.parametrize("number", DAMAGES)
def test_a_damaged_recording_says_of_each_run_what_is_wrong(
    number: int, damaged: tuple[Project, pytest.RunResult]
) -> None:
    project, result = damaged
    folder = project.path / "recordings" / PRESET
    (run_id,) = (path.stem for path in (folder / "configs").glob(f"run_{number:04d}_*.json"))
    told = failure_of(result, f"test_bench[{PRESET}-{run_id}]")
    wanted = [line.replace("RUN", run_id).replace("FOLDER", str(folder)) for line in DAMAGES[number]]
    assert [line.strip() for line in told.splitlines()[: len(wanted)]] == wanted


def test_a_damaged_recording_fails_only_what_is_damaged(damaged: tuple[Project, pytest.RunResult]) -> None:
    project, result = damaged
    points = [item for item in project.failed() if item.startswith("test_bench[")]
    assert [int(item.split("run_")[1][:4]) for item in points] == [7, 11, 13, 14, 17, 18, 19, 20]
    check_failed(project, result, *points, f"test_lossy[{PRESET}]")
    told = failure_of(result, f"test_lossy[{PRESET}]")
    assert told.startswith(f"8 of 27 rows of {PRESET} are missing or not sound\n  where: run_0007")
    assert ": the log of this run is missing\n  expected: a sound row of every point\n" in told
    result.stdout.fnmatch_lines(["    19 rows of 19 runs, 8 points without a sound row"])


# -- rules ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def split_rows(project: Project) -> Project:
    """A recording whose only row that is fast enough for a baseline of 70 evicts too little."""
    replace_in(log_of(project.copy_recordings(), 6), "3.358 ± 0.056", "2.990 ± 0.056")
    return project


def test_best_of_passes_where_no_single_row_does(split_rows: Project) -> None:
    selected = f"{PRESET} or {DECIDING}"
    result = split_rows.run("--h2o-decode-baseline=70", "--h2o-rule=best-of", "-rs", "-k", selected)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["target_ratio_v3 * 4.63% * PASS * +0.37%", "gate PASS (rule best-of)*"])
    assert split_rows.summary()["presets"][PRESET]["rules"] == {"joint": "FAIL", "best-of": "PASS"}
    assert (
        "Original rule (best of each column): PASS. Joint rule (one row): FAIL."
        in (split_rows.run_dir() / "summary.md").read_text()
    )


def test_joint_fails_where_only_best_of_would_pass_and_says_so(split_rows: Project) -> None:
    result = split_rows.run("--h2o-decode-baseline=70", *SWEEP_ONLY)
    # Decode is judged on rows that meet the lossy target, so it fails too.
    check_failed(split_rows, result, f"test_decode[{PRESET}]", f"test_joint[{PRESET}]")
    told = " ".join(failure_of(result, f"test_joint[{PRESET}]").split())
    assert (
        f"the rules differ: best-of would pass, with the lossy ratio of {RUN_3} and the decode speed of {RUN_6}, "
        "but no single row meets every target"
    ) in told
    assert f"no row meets every target; the nearest, {RUN_3}, misses decode" in told
    assert "decode 57.82 tok/s with H2O on, the mean of 17 rows" in told

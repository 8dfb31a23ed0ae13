"""What a user can get wrong: one text that says what, where and what to do, exit code 4, nothing run, no traceback."""

from __future__ import annotations

import itertools
import shutil

import pytest

from tests.plugin.project import SWEEP, Project, check_no_traceback, replace_in, unwrapped

PRESET = "target_ratio_v3"


def check_refused(project: Project, result: pytest.RunResult, *lines: str) -> None:
    """A usage error with exactly these lines; nothing was run or written."""
    check_no_traceback(result)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    start = next(n for n, line in enumerate(result.outlines) if line.startswith("ERROR: "))
    told = [line.replace(str(project.path), "PROJECT") for line in result.outlines[start:] if line]
    # Where standard output is buffered what stood on it before the error comes after it.
    told = list(itertools.takewhile(lambda line: not line.startswith("===="), told))
    assert told == [f"ERROR: {lines[0]}", *lines[1:]]
    assert project.runs() == []


# -- options: told before anything is collected ---------------------------------------------------------------------


def test_a_wrong_option_is_told_before_collection(project: Project) -> None:
    result = project.run("--h2o-decode-baseline=0")
    check_refused(
        project,
        result,
        "--h2o-decode-baseline takes paired, a decode speed or none",
        "  came: '0'",
        "  expected: paired; tok/s with H2O off, above 0, as 56.02; or none to leave the decode threshold out",
    )
    assert not any("collected" in line for line in result.outlines)


# -- what is run or read ------------------------------------------------------------------------------------------


def test_a_bench_without_a_base_config_names_the_three_ways(project: Project) -> None:
    bench, _ = project.make_bench()
    result = project.run(bench, "-k", PRESET)
    check_refused(
        project,
        result,
        "a bench was given, and no base config: the bench needs the model's config.json",
        f"  where: preset {PRESET}",
        "  expected: --h2o-base-config FILE, or base_config: in the preset",
        "  next: name the config.json of the model: --h2o-base-config path/to/model/config.json",
    )
    assert project.launches() == []


def test_a_bench_that_is_not_there(project: Project) -> None:
    project.make_bench()
    result = project.run("--h2o-bench=build/llm_bench", "--h2o-base-config=model.json")
    check_refused(
        project,
        result,
        "the bench is not there",
        "  where: --h2o-bench PROJECT/build/llm_bench",
        "  came: no such folder",
        "  expected: the llm_bench binary",
    )


def test_bare_logs_are_those_of_the_one_preset_that_is_selected(project: Project) -> None:
    """Also where another preset's name is part of its name. The run folder is a recording like any other."""
    (project.path / "bare").mkdir()
    for log in (SWEEP / "logs").glob("*.log"):
        shutil.copy(log, project.path / "bare")
    selected = ("-k", f"{PRESET} or front2_grouped")
    result = project.run("--h2o-logs=bare", *selected)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["    27 rows of 27 runs", "gate PASS *"])
    again = project.run(f"--h2o-logs={project.run_dir()}", "--h2o-out-dir=again", *selected)
    assert again.ret == 0
    again.stdout.fnmatch_lines(["    27 rows of 27 runs", "gate PASS *"])


PACKED = "packed_meta_*.json files are not read; was the engine run with MNN_KV_DUMP_DIR set to this folder?"


@pytest.mark.parametrize(
    ("option", "lines"),
    [
        (
            "--h2o-dump-dir=empty",
            (
                "no KV dump here",
                "  where: --h2o-dump-dir PROJECT/empty",
                "  came: an empty folder",
                "  expected: meta_*.json files, at any depth",
                f"  next: {PACKED}",
            ),
        ),
        (
            "--h2o-bench=pytest.ini",
            (
                "the bench cannot be run: its permissions do not allow it",
                "  where: --h2o-bench PROJECT/pytest.ini",
                "  expected: the llm_bench binary",
                "  next: chmod +x PROJECT/pytest.ini",
            ),
        ),
    ],
)
def test_what_an_option_names_is_looked_at_before_anything_runs(
    project: Project, option: str, lines: tuple[str, ...]
) -> None:
    (project.path / "empty").mkdir()
    check_refused(project, project.run(option, "-k", f"front2_grouped_192_8 or {PRESET}"), *lines)


# -- presets and scopes -------------------------------------------------------------------------------------------

BROKEN_PRESET = [
    "1 fault in PROJECT/gates/presets/smoke.yaml",
    "PROJECT/gates/presets/smoke.yaml:23:1: h2o_target_mod: unknown key",
    "  next: did you mean h2o_target_mode?",
]


def test_a_broken_preset_names_file_line_and_key(project: Project) -> None:
    replace_in(project.preset("smoke"), "h2o_target_mode:", "h2o_target_mod:")
    check_refused(project, project.run("-k", PRESET), *BROKEN_PRESET)


@pytest.mark.parametrize(
    ("logs", "what", "came"),
    [
        ("nowhere", "the folder of recorded logs is not there", "no such folder"),
        ("gates/scopes.yaml", "recorded logs are read from a folder", "a file"),
    ],
)
def test_logs_that_are_not_there(logs: str, what: str, came: str, project: Project) -> None:
    """Found out when all is collected, where a worker that raises would end the session with a traceback."""
    expected = "  expected: a folder with *.log files, or a run folder"
    check_refused(
        project, project.run(f"--h2o-logs={logs}", "-n2"), what, f"  where: PROJECT/{logs}", f"  came: {came}", expected
    )


def test_a_broken_scope_file_names_file_line_and_key(project: Project) -> None:
    """Also where only the sweep's items are asked for: a scope decides their lossless ratio."""
    replace_in(project.path / "gates" / "scopes.yaml", "    target: 1.3\n", "    targt: 1.3\n")
    check_refused(
        project,
        project.run(what="gates/test_sweep.py"),
        "1 fault in PROJECT/gates/scopes.yaml",
        "PROJECT/gates/scopes.yaml:44:5: scopes.front2_grouped_192_8.targt: unknown key",
        "  next: did you mean target?",
    )


def test_settings_reach_presets_and_scopes(project: Project) -> None:
    settings = ("--h2o-set=h2o_keep_ratios=0.28", "--h2o-set=zstd_level=1", "--h2o-set=targets.lossy=3.2")
    result = project.run(*settings, "-k", f"{PRESET} and not bench or front2_grouped_192_8 and lossless")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["target_ratio_v3 * 3.380 *", "    9 rows of 9 runs"])
    result.stdout.fnmatch_lines(["front2_grouped_192_8 * 1.4656 *"])


# -- what cannot be written ----------------------------------------------------------------------------------------


def test_a_run_folder_that_cannot_be_made_ends_the_run(project: Project) -> None:
    """A file stands where the folder should be: told before anything is measured."""
    (project.path / "out").touch()
    result = project.run("--h2o-out-dir=out", "-k", f"{PRESET} and (bench or lossy)")
    check_no_traceback(result)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "passed" not in result.parseoutcomes()
    result.stdout.fnmatch_lines(["ERROR: * cannot be *", "  where: */out/*", "  came: *"])


def test_a_gate_function_with_two_measured_things_is_refused(project: Project) -> None:
    (project.path / "gates" / "test_own.py").write_text("def test_both(h2o_sweep, h2o_scope):\n    pass\n")
    check_refused(
        project,
        project.run(),
        "a gate test measures one thing",
        "  where: gates/test_own.py::test_both",
        "  came: h2o_sweep, h2o_scope",
        "  expected: one of h2o_point, h2o_sweep, h2o_preset, h2o_health, h2o_demo, h2o_lossless, h2o_upper_bound, "
        "h2o_scope, h2o_comparison",
    )


def test_a_prompt_for_a_bench_that_takes_none_is_refused(project: Project) -> None:
    (project.path / "prompt.txt").write_text("Once upon a time.")
    with project.preset(PRESET).open("a", encoding="utf-8") as file:
        file.write("\nprompt_file: ../../prompt.txt\n")
    result = project.run(*project.make_bench(), "-k", f"{PRESET} and lossy")
    check_no_traceback(result)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = unwrapped(result)
    assert "a preset names a prompt file, and the bench takes no prompt" in text
    assert "or --h2o-demo PATH says it to llm_demo" in text

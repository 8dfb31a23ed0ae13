"""Where a target or baseline is said, what it does, and how a failure is repeated."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.plugin.project import Project, check_failed, failure_of, replace_in

PRESET = "target_ratio_v3"
DECIDING = "front2_grouped_192_8"
RUN_3 = "run_0003_p512_g128_k0.28_b8_lr3.4"
SWEEP_ONLY = ("-k", f"{PRESET} and not bench")


# -- targets -------------------------------------------------------------------------------------------------------


def raise_targets(project: Project, where: str, lossy: float, lossless: float) -> list[str]:
    """Set both targets in the ini file, in preset and scope, or on the command line; the options for it."""
    if where == "ini":
        with (project.path / "pytest.ini").open("a") as file:
            file.write(f"h2o_lossy_target = {lossy}\nh2o_lossless_target = {lossless}\n")
    elif where == "files":
        with project.preset().open("a") as file:
            file.write(f"targets:\n  lossy: {lossy}\n")
        replace_in(project.path / "gates" / "scopes.yaml", "    target: 1.3\n", f"    target: {lossless}\n")
    else:
        return [f"--h2o-lossy-target={lossy}", f"--h2o-lossless-target={lossless}"]
    return []


ABOVE, BELOW = (3.381, 1.4676), (3.38, 1.46756)
ORIGINS = {
    "ini": ("ini key h2o_lossy_target", "ini key h2o_lossless_target"),
    "files": (f"targets of preset {PRESET}", f"target of scope {DECIDING}"),
    "option": ("--h2o-lossy-target", "--h2o-lossless-target"),
}


@pytest.mark.parametrize(("winner", "losers"), [("ini", []), ("files", ["ini"]), ("option", ["files", "ini"])])
def test_a_target_just_above_what_was_measured_fails(winner: str, losers: list[str], project: Project) -> None:
    """Wherever it was said: command line over preset and scope, those over the ini file, that over the default."""
    for loser in losers:
        raise_targets(project, loser, *BELOW)
    if winner == "ini":  # a target of the scope itself would stand over it
        replace_in(project.path / "gates" / "scopes.yaml", "    target: 1.3\n", "")
    options = raise_targets(project, winner, *ABOVE)
    selected = f"{PRESET} and not bench or {DECIDING} and lossless"
    result = project.run(*options, "-k", selected)
    lossy, lossless, joint = f"test_lossy[{PRESET}]", f"test_lossless[{DECIDING}]", f"test_joint[{PRESET}]"
    check_failed(project, result, lossy, lossless, joint)
    told = failure_of(result, lossy)
    assert f"target     >= 3.381 ({ORIGINS[winner][0]})\nmeasured   3.380 ± 0.019 on {RUN_3}\n" in told
    assert "margin     missed by 0.001 (0.03% of the target)\n" in told
    told = failure_of(result, lossless)
    assert f"target     >= 1.4676 ({ORIGINS[winner][1]})\nmeasured   1.46756 on {DECIDING}\n" in told
    assert "margin     missed by 0.00004 (0.002% of the target)\n" in told
    if winner == "option":  # and a lower one holds where the files ask for more
        replace_in(project.preset(), "  lossy: 3.38\n", "  lossy: 3.381\n")
        assert project.run(*raise_targets(project, "option", *BELOW), "-k", selected).ret == 0


# -- baselines -----------------------------------------------------------------------------------------------------


def test_without_a_baseline_decode_and_joint_fail_and_lossy_is_judged(project: Project) -> None:
    sweep = project.copy_recordings()
    log_of_baseline = sweep / "logs" / "baseline_h2o_off.log"
    log_of_baseline.write_text("killed\n")
    result = project.run("--h2o-lossy-target=3.5", *SWEEP_ONLY)
    check_failed(project, result, *(f"test_{kind}[{PRESET}]" for kind in ("lossy", "decode", "joint")))
    for kind in ("decode", "joint"):
        told = failure_of(result, f"test_{kind}[{PRESET}]")
        assert told.startswith(
            f"no baseline: nothing says how fast {PRESET} decodes with H2O off\n  came: logs/baseline_h2o_off.log: "
        )
        assert "--h2o-decode-baseline none leaves the decode threshold out on purpose" in told
    assert "measured   3.380 ± 0.019" in failure_of(result, f"test_lossy[{PRESET}]")


def test_a_baseline_left_out_is_a_skip_with_its_reason_in_every_summary(project: Project) -> None:
    result = project.run("--h2o-decode-baseline=none", "-rs", "-k", f"{PRESET} or {DECIDING}")
    assert result.ret == 0
    outcomes = result.parseoutcomes()
    assert (outcomes["passed"], outcomes["skipped"]) == (4 + 27, 1 + 2)
    why = "the decode threshold is left out: decode baseline none (--h2o-decode-baseline)"
    result.stdout.fnmatch_lines(
        [
            "left out on purpose: the decode threshold is left out: decode baseline none*",
            "gate PASS *",
            f"SKIPPED [[]1[]] gates/test_sweep.py:*: {why}",
        ]
    )
    summary = project.summary()
    item = f"gates/test_sweep.py::test_decode[{PRESET}]"
    assert {"item": item, "why": why} in summary["left_out_on_purpose"]
    assert summary["presets"][PRESET]["outcomes"][item] == "skipped"
    assert "decode_pass" not in summary["presets"][PRESET]["original"]["gate"]
    assert f"- {item}: {why}\n" in (project.run_dir() / "summary.md").read_text()


# -- what a failure offers -----------------------------------------------------------------------------------------


def test_the_printed_command_repeats_the_failure(project: Project) -> None:
    """Also that of an item that needs a scope of another gate file, and from a subfolder."""
    cwd = project.path / "gates"
    first = project.run("--h2o-lossless-target=1.5", "-k", f"joint and {PRESET}", what=".", cwd=cwd)
    (line,) = (line for line in first.outlines if line.startswith("repeat     pytest "))
    assert line == f"repeat     pytest 'test_sweep.py::test_joint[{PRESET}]' --h2o-lossless-target=1.5"
    name, option = shlex.split(line)[2:]
    again = project.run(option, what=name, cwd=cwd)
    assert again.ret == 1
    assert again.parseoutcomes() == {"failed": 1}
    assert failure_of(again, f"test_joint[{PRESET}]") == failure_of(first, f"test_joint[{PRESET}]")


def test_an_error_of_a_gate_file_is_its_own(project: Project) -> None:
    """What is no error of ours is shown by pytest as ever, and the diagnosis does not stand in its way."""
    gate = project.path / "gates" / "test_own.py"
    gate.write_text(
        "def test_name(h2o_sweep):\n    assert h2o_sweep.best('h2o_lossi') > 3\n\n"
        "def test_attribute(h2o_sweep):\n    assert h2o_sweep.bets('h2o_lossy') > 3\n\n"
        "def test_nothing(h2o_targets):\n    pass\n"
    )
    result = project.run(what=str(Path("gates") / "test_own.py"))
    assert result.parseoutcomes()["errors"] == 1
    assert failure_of(result, "ERROR at setup of test_nothing").startswith(
        "h2o_targets needs one of h2o_sweep, h2o_lossless, h2o_upper_bound, h2o_scope beside it"
    )
    assert failure_of(result, f"test_name[{PRESET}]").startswith(
        "no metric is called 'h2o_lossi'\n  where: h2o_sweep.best of target_ratio_v3\n  expected: one of h2o_lossy"
    )
    assert "AttributeError: 'SweepItem' object has no attribute 'bets'" in failure_of(
        result, f"test_attribute[{PRESET}]"
    )


def test_an_impossible_speed_fails_its_items_and_the_run_is_kept(project: Project) -> None:
    result = project.run("--h2o-decode-baseline=0.5", *SWEEP_ONLY)
    check_failed(project, result, *(f"test_{kind}[{PRESET}]" for kind in ("decode", "joint")))
    assert failure_of(result, f"test_decode[{PRESET}]").startswith("a row has an impossible decode slow-down")
    result.stdout.fnmatch_lines("gate FAIL *")
    assert (project.run_dir() / "run.json").exists()

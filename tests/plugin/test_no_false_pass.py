"""Ways in which a gate could look green without having held: each must end red, or as not complete."""

from __future__ import annotations

import pytest

from tests.plugin.project import SWEEP, Project, log_of, unwrapped


def check_usage_error(project: Project, text: str, *arguments: str) -> None:
    result = project.run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    printed = result.stdout.str() + result.stderr.str()
    assert text in printed
    assert "Traceback" not in printed


def test_an_option_about_launching_needs_a_bench(project: Project) -> None:
    option = "--h2o-decode-budget"
    check_usage_error(project, f"{option} says how to run a bench, and recorded logs are read", f"{option}=20")


@pytest.mark.parametrize("key", ["h2o_lossy_targe", "H2O_LOSSY_TARGET", "h2o-lossy-target", "H2o-Lossy_target"])
def test_a_misspelt_ini_key_is_refused(key: str, project: Project) -> None:
    project.write_ini(**{key: "9"})
    check_usage_error(project, f"the ini file has an unknown key {key}\n  next: did you mean h2o_lossy_target?")


@pytest.mark.parametrize(
    ("setting", "more"), [("decides=true", ""), ("codec_mod=legacy", "\n  next: did you mean codec_mode?")]
)
def test_a_setting_that_nothing_reads_or_that_is_fixed_is_refused(setting: str, more: str, project: Project) -> None:
    text = "--h2o-set sets a key that neither presets nor scopes have, or that is fixed"
    check_usage_error(project, f"{text}\n  came: {setting}{more}", f"--h2o-set={setting}")


def test_an_upper_bound_cannot_decide(project: Project) -> None:
    check_usage_error(project, "an upper bound cannot decide", "--h2o-set=entry_mode=aggregate")


def test_the_rule_best_of_gates_on_the_lossless_ratio_too(project: Project) -> None:
    result = project.run("--h2o-rule=best-of", "--h2o-set=targets.lossless=2.0", "-k", "target_ratio_v3 or grouped")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["FAILED *test_joint*target_ratio_v3*"])
    assert project.summary()["overall_pass"] is False


def test_an_excused_item_does_not_excuse_the_gate(project: Project) -> None:
    gates = project.path / "gates" / "test_sweep.py"
    text = gates.read_text()
    for name in ("lossy", "joint"):
        text = text.replace(f"def test_{name}(", f"@pytest.mark.xfail(reason='known')\ndef test_{name}(")
    gates.write_text(text.replace('"""The sweep gates', 'import pytest\n"""The sweep gates'))
    result = project.run("--h2o-lossy-target=3.5")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*excused by an xfail mark: known*", "gate FAIL*"])


@pytest.mark.parametrize(
    ("options", "ret", "told"),
    [
        ((), 0, None),
        (
            ("--h2o-strict", "-k", "target_ratio_v3 and lossy"),
            1,
            "the gate is INCOMPLETE, and --h2o-strict takes PASS alone",
        ),
        (
            ("-o", "h2o_strict=yes", "-k", "test_lossy"),
            1,
            "the gate is INCOMPLETE, and ini key h2o_strict takes PASS alone",
        ),
        (("--h2o-strict", "-k", "own", "own"), 1, "no item of the gate ran, and --h2o-strict takes PASS alone"),
        (("-o", "h2o_strict=yes", "-k", "own", "own"), 0, None),
        (("--h2o-strict", "--collect-only"), 0, None),
        (("--h2o-strict",), 0, None),
    ],
)
def test_strict_takes_a_pass_alone(options: tuple[str, ...], ret: int, told: str | None, project: Project) -> None:
    (project.path / "own").mkdir()
    (project.path / "own" / "test_own.py").write_text("def test_own(): pass\n")
    result = project.run(*options)
    assert result.ret == ret
    lines = [line for line in result.outlines if line.startswith("exit code 1: ")]
    assert lines == ([] if told is None else [f"exit code 1: {told}"])
    assert told is None or "repeat" not in result.stdout.str()


def test_items_that_were_deselected_or_skipped_leave_the_gate_incomplete(project: Project) -> None:
    gates = project.path / "gates" / "test_sweep.py"
    text = gates.read_text().replace("def test_joint(", "@pytest.mark.skip(reason='later')\ndef test_joint(")
    gates.write_text("import pytest\n" + text)
    result = project.run("--deselect", "gates/test_sweep.py::test_lossy")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "incomplete: preset target_ratio_v3 was not held against the lossy target",
            "incomplete: preset target_ratio_v3 was not held against the joint rule",
            "gate INCOMPLETE*",
        ]
    )
    assert project.summary()["items"]["skipped"] == 1 + 2  # quality and consistency are not known of recorded logs


@pytest.mark.parametrize("workers", [(), ("-n1",)])
def test_the_gate_names_the_items_that_were_not_asked(workers: tuple[str, ...], project: Project) -> None:
    scopes = project.path / "gates" / "scopes.yaml"
    scopes.write_text(scopes.read_text() + "    target: 1.2\n")  # of all_layers_grouped_192_8, which -k leaves out
    selection = ("-k", "target_ratio_v3 or front2_grouped", "--deselect=gates/test_dumps.py::test_roundtrip")
    left = [f"--deselect=gates/test_sweep.py::test_{name}" for name in ("consistency", "quality")]
    first = f"gates/test_sweep.py::test_bench[target_ratio_v3-{log_of(SWEEP, 1).stem}]"
    result = project.run(*workers, *selection, *left, f"--deselect={first}", page=True)
    assert result.ret == 0
    told = [
        "preset target_ratio_v3: not asked: test_bench, test_consistency, test_quality",
        "scope all_layers_grouped_192_8: not asked: test_lossless, test_roundtrip",
        "scope front2_grouped_192_8: not asked: test_roundtrip",
    ]
    assert project.summary()["overall_pass"] == "incomplete"
    assert project.summary()["incomplete_for"][-3:] == told
    said = unwrapped(result)
    files = [(project.run_dir() / name).read_text() for name in ("summary.md", "report.html")]
    for line in told:
        assert f"incomplete: {line}" in said
        assert all(line.replace("_", "\\_") in text or line in text for text in files)
    assert "gate INCOMPLETE" in said


def test_a_node_id_alone_leaves_the_rest_of_its_preset_unasked(project: Project) -> None:
    items = [f"gates/test_sweep.py::test_{name}[target_ratio_v3]" for name in ("lossy", "decode", "joint")]
    dumps = [f"gates/test_dumps.py::test_{name}[front2_grouped_192_8]" for name in ("lossless", "roundtrip")]
    assert project.run(*items[1:], what=items[0]).ret == 0
    assert project.summary()["incomplete_for"][-1].endswith("test_bench (27 items), test_consistency, test_quality")
    assert project.run(*items[1:], *dumps, what=items[0]).ret == 0
    last = project.summary(project.runs()[-1])
    assert last["incomplete_for"] == [
        "preset target_ratio_v3: not asked: test_bench (27 items), test_consistency, test_quality"
    ]


def test_rows_whose_configuration_nobody_knows_are_said_to_be_unverified(project: Project) -> None:
    sweep = project.copy_recordings()
    (sweep / "manifest.json").unlink()
    configs = sorted((sweep / "configs").glob("run_*.json"))
    configs[0].write_text("{broken")
    for config in configs[1:3]:
        config.unlink()
    result = project.run("-k", "target_ratio_v3", page=True)
    line = "3 of 27 rows: configuration not verified: neither config nor manifest: keep_ratio,"
    assert f"note: {line}" in unwrapped(result)
    (note,) = project.summary()["presets"]["target_ratio_v3"]["notes"][:1]
    assert note.startswith(line)
    for name in ("summary.md", "report.html"):
        assert line.rpartition(":")[0] in (project.run_dir() / name).read_text()


def test_a_gate_test_without_a_verdict_fails(project: Project) -> None:
    (project.path / "gates" / "test_own.py").write_text(
        "def test_nothing(h2o_sweep):\n    pass\n\n"
        "def test_truth(h2o_sweep):\n    assert h2o_sweep.best('h2o_lossy')\n\n"
        "def test_other(h2o_sweep, h2o_targets):\n    assert h2o_sweep.best('h2o_lossy') >= h2o_targets.decode_drop\n\n"
        "def test_wrong_way(h2o_sweep):\n    assert h2o_sweep.decode_drop() >= -5\n"
    )
    result = project.run("-k", "test_own and target_ratio_v3")
    assert result.parseoutcomes()["failed"] == 4
    result.stdout.fnmatch_lines_random(
        [
            "the test passed without measuring target_ratio_v3",
            "a lossy ratio is neither true nor false",
            "a lossy ratio was compared with the target of another metric",
            "a decode slow-down was compared the wrong way round",
        ]
    )

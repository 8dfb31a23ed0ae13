"""Targets are asked of each workload, and one configuration has to meet them at every one."""

import json
import shutil
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from tests.plugin.project import Project, check_failed, failure_of, replace_in, unwrapped, verdict
from tests.plugin.test_paired_gate import PRESET, BenchProject

SHORT, LONG = "two-p512-g128", "two-p1024-g128"
PARTS = tuple(f"test_{name}[{part}]" for name in ("lossy", "decode", "quality") for part in (SHORT, LONG))
WHOLE = "test_consistency[two]", "test_joint[two]"
TWO = PRESET.replace("prompts: 512", "prompts: [512, 1024]").replace("[3.0, 3.2, 3.4]", "[3.2, 3.4]")
TWO = TWO.replace("h2o_keep_ratios: 0.28", "h2o_keep_ratios: [0.28, 0.3]")
SWEEP_ITEMS = ("-k", "two and not bench")


def make_project(path: Path, drop_long: float = 0.0) -> BenchProject:
    """A bench that loses this much at prompts of 1,024 tokens alone, and a preset with both lengths."""
    project = BenchProject(path)
    project.preset("small").rename(project.preset("two"))
    project.preset("two").write_text(TWO)
    project.env["FAKE_ANY_LENGTH"] = "1"
    project.set_decode(base=60, drop=0.0, drop_long=drop_long, spread=0.01, seed=1)
    return project


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[BenchProject, pytest.RunResult]:
    """A run in which everything holds; no test may change it."""
    project = make_project(tmp_path_factory.mktemp("sound"))
    return project, project.run("-k", "two or front2_grouped", page=True)


@pytest.fixture
def recorded(tmp_path: Path, sound: tuple[BenchProject, pytest.RunResult]) -> Project:
    """A project of its own over the logs of that run, held against a speed; its logs may be changed."""
    project = make_project(tmp_path)
    shutil.copytree(sound[0].run_dir(), tmp_path / "logs")
    project.write_ini(h2o_logs="logs", h2o_decode_baseline="60", h2o_decode_drop_target="0.2")
    return project


def log_of(project: Project, prompt: int, lossy: float) -> list[Path]:
    return sorted((project.path / "logs" / "two" / "logs").glob(f"run_*_p{prompt}_*_lr{lossy}.log"))


def set_lossy(project: Project, prompt: int, target: float, value: str) -> None:
    for log in log_of(project, prompt, target):
        old = next(cell for cell in log.read_text().splitlines()[2].split("|") if cell.strip().startswith("3."))
        replace_in(log, f"|{old}|", f"| {value} ± 0.010 |")
        log.with_suffix(".json").unlink()  # it has the ratio too


def test_each_workload_is_an_item_and_the_rule_is_one(tmp_path: Path) -> None:
    project = make_project(tmp_path)

    def collect(*options: str) -> set[str]:
        lines = project.run("--collect-only", "-q", *options).outlines
        return {line.split("::")[1] for line in lines if "::" in line}

    asked = "--h2o-target=h2o_keep=0.9"
    assert collect(*SWEEP_ITEMS, asked) == {*PARTS, *WHOLE}
    assert {item.split("[")[0] for item in collect("-k", "p1024")} == {"test_bench", *(i.split("[")[0] for i in PARTS)}
    assert all("p1024" in item for item in collect("-k", "p1024"))
    best_of = collect(*SWEEP_ITEMS, "--h2o-rule=best-of")
    assert best_of == {f"test_{name}[two]" for name in ("lossy", "decode", "quality", "consistency", "joint")}


def test_a_bench_that_is_sound_everywhere_passes(sound: tuple[BenchProject, pytest.RunResult]) -> None:
    project, result = sound
    assert result.ret == 0
    result.stdout.fnmatch_lines(["two * PASS *", f"{SHORT} *3.380 * PASS *", f"{LONG} *3.380 * PASS *"])
    presets = project.summary()["presets"]
    assert project.summary()["overall_pass"] is True
    assert list(presets) == ["two", SHORT, LONG]
    assert presets["two"]["workloads"] == [SHORT, LONG]
    assert presets["two"]["rules"] == {"joint": "PASS", "best-of": "PASS"}
    assert [presets[part]["rows"] for part in ("two", SHORT, LONG)] == [8, 4, 4]
    assert presets["two"]["launches"] == 5  # two configurations at two lengths, and one that folding is checked on
    assert [v["metric"] for v in presets["two"]["verdicts"]] == ["joint_margin"]
    assert [v["metric"] for v in presets[LONG]["verdicts"]] == ["h2o_lossy", "decode_drop"]
    folder = project.run_dir() / "two"
    pairs = [json.loads((folder / f"decode-{part[4:]}" / "pairs.json").read_text()) for part in (SHORT, LONG)]
    assert [one["candidate"].split("_", 2)[2] for one in pairs] == [
        f"p{prompt}_g128" + pairs[0]["candidate"].split("_g128")[1] for prompt in (512, 1024)
    ]
    texts = (project.run_dir() / "summary.md").read_text(), (project.run_dir() / "report.html").read_text()
    for text in texts:
        assert f"Workload {SHORT}" in text
        assert f"Workload {LONG}" in text
        assert "at every workload" in text
    assert texts[1].count(f"decode-{LONG[4:]}/logs/pair_01_baseline.log") == 1
    assert (
        texts[1].count("lossy ratio) against decode speed, two-") == texts[1].count("against decode speed, two-") >= 0
    )


def test_a_bench_that_is_slow_at_one_length_fails_that_workload(tmp_path: Path) -> None:
    project = make_project(tmp_path, drop_long=0.5)
    result = project.run(*SWEEP_ITEMS)
    check_failed(project, result, f"test_decode[{LONG}]", "test_joint[two]")
    assert "two at p1024-g128: decode slow-down\n" in failure_of(result, f"test_decode[{LONG}]")
    told = failure_of(result, "test_joint[two]")
    assert "two: no configuration meets every target at every workload\n" in told
    assert "decode missed by 4" in told
    assert project.summary()["presets"][LONG]["decode"]["outcome"] == "fail"
    assert project.summary()["presets"][SHORT]["decode"]["outcome"] == "pass"


def test_recorded_pairs_of_each_workload_are_judged_again(recorded: Project) -> None:
    recorded.write_ini(h2o_logs="logs")
    result = recorded.run("-k", "two and (decode or joint)")
    assert result.ret == 0, result.outlines
    assert result.parseoutcomes()["passed"] == 3
    (recorded.path / "logs" / "two" / "decode-p1024-g128" / "pairs.json").unlink()
    result = recorded.run("-k", "two and decode")
    assert result.parseoutcomes()["failed"] == 1
    assert "no pairs of launches are recorded" in failure_of(result, f"test_decode[{LONG}]")


def test_a_ratio_too_low_at_one_length_fails_that_workload(recorded: Project) -> None:
    for target in (3.2, 3.4):
        set_lossy(recorded, 1024, target, "2.900")
    result = recorded.run(*SWEEP_ITEMS)
    check_failed(recorded, result, f"test_lossy[{LONG}]", "test_joint[two]")
    assert recorded.run(*SWEEP_ITEMS, "--h2o-rule=best-of").ret == 0


OWN = """
def test_old(h2o_sweep):
    assert h2o_sweep.joint_margin() >= 0

def test_drop(h2o_preset):
    assert h2o_preset.decode_drop() <= 0.05
"""


def test_one_configuration_has_to_meet_the_targets_at_every_workload(
    recorded: Project, snapshot: SnapshotAssertion
) -> None:
    """At each length one evicts enough, and it is another one. Also in a gate file that knows no workloads."""
    set_lossy(recorded, 512, 3.2, "2.900")
    set_lossy(recorded, 1024, 3.4, "2.900")
    (recorded.path / "gates" / "test_own.py").write_text(OWN)
    result = recorded.run(*SWEEP_ITEMS)
    told = ("test_joint[two]", f"test_old[{LONG}]", "test_drop[two]")
    check_failed(recorded, result, *told, f"test_old[{SHORT}]")
    assert verdict(recorded, result, *told) == snapshot


def test_one_workload_alone_is_judged_by_its_own_rows(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    result = project.run("-k", f"{LONG} and not bench")
    assert result.ret == 0, result.outlines
    assert [name[:8] for name in project.launches()[:3]] == ["run_0005", "run_0006", "run_0007"]
    assert all(name.startswith("pair_") for name in project.launches()[3:])
    assert "in the sweep the fastest of 4 rows that meet the lossy target" in unwrapped(result)
    summary = project.summary()
    assert list(summary["presets"]) == ["two", LONG]
    assert "not asked" in " ".join(summary["incomplete_for"])

"""The paired decode verdict end to end, on a bench whose speed, noise and slow-down are set."""

import json
import shutil
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.project import BASE_CONFIG, FAKE_BENCH, SWEEP, Project, code_of

PRESET = """
prompts: 512
gens: 128
h2o_target_lossy_ratios: [3.0, 3.2, 3.4]
h2o_keep_ratios: 0.28
h2o_block_tokens: 8
h2o_sink_tokens: 16
h2o_recent_tokens: 64
h2o_trigger_min_tokens: 384
"""


class BenchProject(Project):
    """A project whose bench is the fake one, with one preset of three points."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        for path in (self.path / "gates" / "presets").iterdir():
            path.unlink()
        (self.path / "gates" / "presets" / "small.yaml").write_text(PRESET)
        self.launch_list = self.path / "launches.txt"
        self.env = {
            "FAKE_RECORDINGS": str(SWEEP),
            "FAKE_LAUNCHES": str(self.launch_list),
            "XDG_CACHE_HOME": str(self.path / "cache"),
            "FAKE_HERE": str(self.path / "bench.sh"),
        }
        self.bench = self.make_script("bench.sh")
        self.ini()

    def make_script(self, name: str, **environment: str) -> Path:
        """A script that starts the fake bench, with an environment of its own."""
        path = self.path / name
        exports = "".join(f"export {key}='{value}'\n" for key, value in environment.items())
        path.write_text(f'#!/bin/sh\n{exports}exec \'{sys.executable}\' -ISc "{code_of(FAKE_BENCH)}" "$@"\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    def ini(self, **keys: str) -> None:
        same = {"h2o_bench": str(self.bench), "h2o_base_config": str(BASE_CONFIG), "h2o_threads": "2"}
        self.write_ini(**{**same, "h2o_disturbed": "keep", **keys})

    def set_decode(self, **values: float) -> None:
        text = ",".join(f"{key}={value}" for key, value in values.items())
        self.env["FAKE_DECODE"] = text

    def gate_on_its_run(self, **keys: str) -> Path:
        """From now on the run that was made is a recording, and gated on; its folder."""
        shutil.move(self.path / "h2o-runs", self.path / "first")
        (kept,) = (self.path / "first").glob("2*")
        self.write_ini(h2o_logs=str(kept), **keys)
        return kept

    def count(self, part: str = "") -> int:
        return sum(part in line for line in self.launch_list.read_text().splitlines())

    def pairs(self) -> dict[str, Any]:
        return json.loads((self.run_dir() / "small" / "decode" / "pairs.json").read_text())


@pytest.fixture
def bench_project(tmp_path: Path) -> BenchProject:
    return BenchProject(tmp_path)


def test_no_slow_down_passes(bench_project: BenchProject) -> None:
    bench_project.set_decode(base=60, drop=0.0, spread=0.01, seed=1)
    result = bench_project.run("-k", "small or front2_grouped")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "h2o: decode paired with H2O off in the same bench, at most 20 pairs a preset (default where*",
            "small * [[]*, *] * PASS * +*",
            "    note: timed run_000*: in the sweep the*",
            "    note: paired with H2O off in the same bench: * launches; the verdict is*",
            "gate PASS (rule joint)*",
        ]
    )
    summary = bench_project.summary()
    assert summary["overall_pass"] is True
    assert summary["presets"]["small"]["rules"]["joint"] == "PASS"
    decode = summary["presets"]["small"]["decode"]
    assert decode["outcome"] == "pass"
    assert decode["high"] < 0.05
    assert decode["launches"] == 2 * decode["pairs"] == bench_project.count("/decode/")
    pairs = bench_project.pairs()
    assert pairs["seed"] == decode["seed"]
    folder = bench_project.run_dir() / "small" / "decode"
    assert len(list((folder / "logs").glob("*.log"))) == decode["launches"]
    assert "best-of" in summary["presets"]["small"]["rules"]


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> tuple[BenchProject, pytest.RunResult]:
    """A run on a bench that H2O slows down, which is judged as it was and again."""
    project = BenchProject(tmp_path_factory.mktemp("slow"))
    project.set_decode(base=60, drop=0.3, spread=0.03, seed=2)
    return project, project.run("-k", "test_decode or test_joint")


def test_a_slow_down_fails_and_says_why(slow: tuple[BenchProject, pytest.RunResult]) -> None:
    project, result = slow
    assert result.ret == 1
    assert result.parseoutcomes()["failed"] == 2
    result.stdout.fnmatch_lines(
        [
            "E*assert decode slow-down *% (interval *% to unbounded, 6 pairs) <= 5.00%",
            "E*missed by *% of the baseline speed; target from default; measured on run_*",
            "measured   *% (interval *% to unbounded, 6 pairs) on run_000*",
            "     3.???     *  not timed        run_000*",
            "note       paired with H2O off in the same bench: 12 launches; the verdict is clear after 6 pairs",
        ]
    )
    assert project.count("/decode/") == 12
    assert project.summary()["overall_pass"] is False
    assert project.summary()["presets"]["small"]["rules"]["joint"] == "FAIL"


@pytest.mark.parametrize(("target", "ret"), [("0.1", 1), ("0.6", 0)])
def test_a_run_folder_with_pairs_is_judged_again(
    target: str, ret: int, slow: tuple[BenchProject, pytest.RunResult], bench_project: BenchProject
) -> None:
    bench_project.write_ini(h2o_logs=str(slow[0].run_dir()), h2o_decode_drop_target=target)
    result = bench_project.run("-k", "test_decode")
    assert result.ret == ret
    result.stdout.fnmatch_lines([f"*(interval *, 6 pairs) {'<=' if ret else '(target'}*"])
    assert not bench_project.launch_list.exists()


def test_what_pairs_cannot_tell_is_inconclusive_and_no_pass(bench_project: BenchProject) -> None:
    bench_project.set_decode(base=60, drop=0.05, spread=0.15, seed=3)
    result = bench_project.run("--h2o-decode-budget", "6", "-k", "small or grouped_192")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*InconclusiveDecode: *test_decode[[]small[]]: no pass, inconclusive: *% (interval *, 6 pairs), "
            "target 5.00%",
            "small*",
            "    decode slow-down * (interval * to *, 6 pairs)*",
            "    note: to decide: *",
            "no pass: inconclusive: decode slow-down *",
            "gate INCONCLUSIVE (rule joint)*",
        ]
    )
    summary = bench_project.summary()
    assert summary["overall_pass"] == "inconclusive"
    assert len(summary["inconclusive"]) == 2
    assert summary["presets"]["small"]["rules"]["joint"] == "INCONCLUSIVE"
    text = (bench_project.run_dir() / "summary.md").read_text()
    assert text.startswith("# KV-cache compression gate: INCONCLUSIVE\n")
    assert "Inconclusive: no pass" in text
    # What was recorded can be judged more strictly.
    bench_project.gate_on_its_run()
    result = bench_project.run("--h2o-strict", "-k", "small or grouped_192", "--h2o-out-dir=strict")
    assert result.ret == 1
    assert "exit code 1: the gate is INCONCLUSIVE, and --h2o-strict takes PASS alone" in result.outlines
    result = bench_project.run("--h2o-inconclusive", "fail", "-k", "test_decode")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["E*inconclusive: the interval holds the target; target from default*"])
    assert bench_project.summary()["overall_pass"] is False
    assert bench_project.summary()["failed"][0]["why"].startswith("inconclusive: decode slow-down ")


UNLIKE = [
    "small * no value [[]..., ...] * INCONCLUSIVE*",
    "    decode slow-down no value (no interval, 0 pairs, 2 excluded) (target*",
    "    note: not comparable: no pair could be compared, so this is no verdict*",
    "    note: excluded pair 1: unlike contexts: warnings of the candidate show*",
    "gate INCONCLUSIVE*",
]
NO_ROW = [
    "nothing was timed: no row of small meets the targets beside that of decode",
    "note       no row meets the other targets (lossy): no decode speed could matter, *",
]
NO_TIME = [
    "    note: paired with *: 2 launches; 1 pair can never*",
    "    note: planned 1 of 20 pairs: the first took * s, and there are*",
    "gate INCONCLUSIVE*",
]
OTHER_ROW = 'case "$*" in *pair_*) export FAKE_CELLS=\'{"h2o_lossy": "2.900 ± 0.010"}\';; esac\nexec '
TOO_SHORT = "case \"$*\" in *pair_*) echo 'decode tokens num = 40';; esac\nexec "


@pytest.mark.parametrize(
    ("options", "env", "script", "launches", "ret", "told"),
    [
        ((), {"FAKE_KV_LEN": "2566"}, "exec ", 4, 0, UNLIKE),
        (("--h2o-lossy-target=3.5", "-k", "test_decode or test_joint"), {}, "exec ", 0, 1, NO_ROW),
        (("--h2o-decode-budget=20,0.01s",), {}, "exec ", 2, 0, NO_TIME),
        (("--h2o-baseline-bench=exit3.sh",), {}, "exec ", 2, 1, ["*the bench ended with exit code 3*"]),
        ((), {}, OTHER_ROW, 2, 1, ["*a launch of a pair is not of the row that it times*"]),
        ((), {}, TOO_SHORT, 2, 1, ["*fewer tokens were decoded than asked*"]),
    ],
    ids=["unlike contexts", "no row can pass", "no time", "a crash", "another row", "too short"],
)
def test_pairs_that_tell_nothing_are_no_pass(
    options: tuple[str, ...],
    env: dict[str, str],
    script: str,
    launches: int,
    ret: int,
    told: list[str],
    bench_project: BenchProject,
) -> None:
    bench_project.set_decode(base=60, drop=0.0, spread=0.01, seed=1)
    bench_project.env |= env
    del bench_project.env["FAKE_HERE"]
    bench_project.make_script("exit3.sh", FAKE_MODE="exit3")
    bench_project.bench.write_text(bench_project.bench.read_text().replace("exec ", script, 1))
    result = bench_project.run("-k", "test_decode", *options)
    assert result.ret == ret
    assert bench_project.count("/decode/") in (launches, launches - ret)  # of a pair the other side may come first
    result.stdout.fnmatch_lines(told)


def test_two_builds_are_compared_with_the_same_config(bench_project: BenchProject) -> None:
    other = bench_project.make_script("other.sh", FAKE_DECODE="base=90,drop=0,spread=0.02,seed=5")
    bench_project.set_decode(base=60, drop=0.0, spread=0.02, seed=1)
    result = bench_project.run("--h2o-baseline-bench", str(other), "-k", "test_decode")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["    note: paired with another build,*", f"*{other}*"])
    configs = bench_project.run_dir() / "small" / "decode" / "configs"
    a, b = (json.loads((configs / f"pair_01_{side}.json").read_text()) for side in ("baseline", "candidate"))
    assert a == b
    assert a["kv_h2o_enable"] is True


def test_two_gates_at_once_never_time_at_once(bench_project: BenchProject) -> None:
    bench_project.env["FAKE_SPANS"] = str(bench_project.path / "spans.txt")
    with ThreadPoolExecutor() as pool:
        gates = [pool.submit(bench_project.run, "-k", "test_bench") for _ in range(2)]
    assert [gate.result().ret for gate in gates] == [0, 0]
    words = (bench_project.path / "spans.txt").read_text().split()
    assert words == ["in", "out"] * (2 * 3)
    first, second = ((run / "small" / "h2o_metrics.csv").read_text() for run in bench_project.runs())
    assert first.count("\n") == second.count("\n") == 4


def test_a_worker_that_is_killed_in_a_pair_leaves_the_others_a_verdict(bench_project: BenchProject) -> None:
    bench_project.set_decode(base=60, drop=0.3, spread=0.02, seed=2)
    del bench_project.env["FAKE_HERE"]
    bench_project.env["FAKE_KILL_PARENT"] = "8"  # the fifth launch of a pair
    result = bench_project.run("-k", "test_decode or test_joint", "-n2")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*worker 'gw?' crashed while running*"])
    # Two pairs were whole; of the third, one launch was made and is made again.
    assert bench_project.count("/decode/") == 12 + 1
    assert bench_project.summary()["presets"]["small"]["decode"]["outcome"] == "fail"

"""The item of real prompts: a fake llm_demo that holds, or has one fault."""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

import pytest

from tests.plugin.broken_off import wait_until
from tests.plugin.project import FAKE_DEMO, Project, check_failed, unwrapped

ITEM = "test_demo[target_ratio_v3]"
SELECTED = ("-k", "test_demo and target_ratio_v3", "--h2o-decode-baseline=none", "--h2o-set=h2o_block_tokens=8")


@pytest.fixture
def demo(project: Project) -> Project:
    """A project whose bench replays the recordings, and that has a fake llm_demo."""
    project.bench = (*project.make_bench(), "--h2o-demo=llm_demo")  # type: ignore[attr-defined]
    program = project.path / "llm_demo"
    program.write_text(f"#!{sys.executable} -IS\n" + FAKE_DEMO.read_text())
    program.chmod(0o755)
    return project


def say(project: Project, *flags: str, **told: Any) -> pytest.RunResult:
    """Gate with an llm_demo that behaves so."""
    project.env["FAKE_DEMO"] = json.dumps(told)
    return project.run(*SELECTED, "--h2o-set=h2o_keep_ratios=0.28", *project.bench, *flags)  # type: ignore[attr-defined]


def test_prompts_that_are_said_as_fast_pass_and_are_told(demo: Project) -> None:
    result = say(demo)
    assert result.ret == 0, unwrapped(result)
    preset = demo.summary()["presets"]["target_ratio_v3"]
    verdicts = [(v["title"], v["source"], v["measured"].split()[0], v["outcome"]) for v in preset["verdicts"]]
    assert verdicts == [
        ("decode slow-down on real prompts", "run_0003_p512_g128_k0.28_b8_lr3.4", "0.00%", "pass"),
        *(
            ("decode slow-down on real prompts of one length", f"prompts of about {length} tokens", "0.00%", "pass")
            for length in ("128", "512", "2,048")
        ),
    ]
    (note,) = [note for note in preset["notes"] if "austen_512" in note and "slow-down" in note]
    assert note.startswith("about 512 tokens, austen_512 (512 tokens): decode slow-down 0.00% (")
    assert "decode 50.00 and 50.00 tok/s" in note
    folder = demo.run_dir() / "target_ratio_v3" / "demo"
    pairs = json.loads((folder / "demo.json").read_text())["pairs"]
    assert len(pairs) == 18  # 6 of 8 rounds tell all
    assert {pair["order"] for pair in pairs} == {"AB", "BA"}
    launches = sorted(path.name for path in folder.glob("austen_128_1_h2o_*"))
    assert launches == [f"austen_128_1_h2o_{side}.{end}" for side in ("off", "on") for end in ENDS]
    assert not list(folder.glob("**/tmp"))


ENDS = ("json", "metrics.jsonl", "stdout.txt")


def test_a_slow_down_at_one_length_fails_that_length(demo: Project) -> None:
    result = say(demo, drop={"2048": 0.3})
    check_failed(demo, result, ITEM)
    text = unwrapped(result)
    assert "decode slow-down on real prompts of one length 30.00% (8 pairs of about 2,048 tokens)" in text
    assert "prompts of about 2,048 tokens" in text
    assert demo.failed()[ITEM].startswith("decode slow-down on real prompts of one length 30.00%")
    outcomes = [v["outcome"] for v in demo.summary()["presets"]["target_ratio_v3"]["verdicts"]]
    assert outcomes.count("fail") == 1


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"idle": True}, "H2O did nothing on the prompt austen_"),
        ({"summary": False}, "llm_demo ended with exit code 0 and without a summary"),
        ({"text": "!!!!!!!!!!"}, "llm_demo said not a single word"),
        ({"exit": 3}, "llm_demo ended with exit code 3"),
        ({"prints": "[H2O] scatter restore failed: layer=3\n"}, "the bench printed signs of a broken cache"),
    ],
)
def test_a_launch_with_a_fault_fails_the_item(told: dict[str, Any], says: str, demo: Project) -> None:
    result = say(demo, "--h2o-demo-rounds=1", **told)
    check_failed(demo, result, ITEM)
    assert says in unwrapped(result)


def test_rounds_that_cannot_tell_are_no_pass(demo: Project) -> None:
    """One pair a length, and a length of which no pair can be compared."""
    one = say(demo, "--h2o-demo-rounds=1", "--h2o-inconclusive=fail")
    check_failed(demo, one, ITEM)
    assert "(no interval, 3 pairs)" in unwrapped(one)


def test_unlike_lengths_are_excluded_and_told(demo: Project) -> None:
    result = say(demo, "--h2o-demo-rounds=1", decoded=40, metrics=None)
    assert demo.summary()["overall_pass"] == "inconclusive"
    text = unwrapped(result)
    assert "96 tokens decoded with H2O off, 40 with H2O on" in text
    notes = " ".join(demo.summary()["presets"]["target_ratio_v3"]["notes"])
    assert "no pair could be compared" in notes
    assert "evictions not told by this build" in notes


def test_pairs_that_were_whole_are_kept_where_a_run_goes_on(demo: Project) -> None:
    flags = ("--h2o-demo-prompts=p_600.txt", "--h2o-demo-rounds=3", "--h2o-no-fold")
    (demo.path / "p_600.txt").write_text("Say on.")
    demo.env["FAKE_DEMO"] = json.dumps({"hang": "p_600_2_h2o_on"})
    child = demo.start(*SELECTED, "--h2o-set=h2o_keep_ratios=0.28", *demo.bench, *flags, "--h2o-html=no")  # type: ignore[attr-defined]
    wait_until(lambda: bool(list(demo.path.glob("h2o-runs/2*/*/demo/p_600_2_h2o_on.stdout.txt"))), "nothing hangs")
    child.send_signal(signal.SIGKILL)
    child.finish()
    folder = demo.run_dir() / "target_ratio_v3" / "demo"
    before = {path.name: path.read_bytes() for path in folder.glob("p_600_1_*")}
    assert len(before) == 6
    result = say(demo, *flags, f"--h2o-resume={demo.run_dir()}")
    assert demo.summary()["overall_pass"] == "inconclusive", unwrapped(result)
    assert {path.name: path.read_bytes() for path in folder.glob("p_600_1_*")} == before
    assert (folder / "p_600_2_h2o_on.broken-off-1.json").is_file()
    assert len(json.loads((folder / "demo.json").read_text())["pairs"]) == 3


def test_prompts_of_a_manifest_are_said(demo: Project) -> None:
    (demo.path / "kit").mkdir()
    for name in ("prompt_128_1", "prompt_600_2"):
        (demo.path / "kit" / f"{name}.txt").write_text("Say on.")
    lines = [json.dumps({"prompt_file": f"kit/{name}.txt"}) for name in ("prompt_600_2", "prompt_128_1")]
    (demo.path / "prompts.jsonl").write_text("\n".join(lines))
    flags = ("--h2o-demo-prompts=prompts.jsonl", "--h2o-demo-rounds=1", "--h2o-demo-drop-target=0.5")
    assert say(demo, *flags, tokens={"prompt_128_1": 130, "prompt_600_2": 600}).ret == 0
    pairs = json.loads((demo.run_dir() / "target_ratio_v3" / "demo" / "demo.json").read_text())["pairs"]
    assert sorted((pair["prompt"], pair["on"]["prompt_tokens"]) for pair in pairs) == [
        ("prompt_128_1", 130), ("prompt_600_2", 600),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--h2o-demo-prompts=nowhere.txt",), "a prompt cannot be read"),
        (("--h2o-demo-rounds=100",), "more pairs of llm_demo than a verdict can have"),
        (("--h2o-demo-rounds=0",), "--h2o-demo-rounds is out of range"),
        (("--h2o-demo=nowhere",), "llm_demo is not there"),
    ],
)
def test_prompts_that_cannot_be_said_end_the_run_before_it_starts(
    flags: tuple[str, ...], says: str, demo: Project
) -> None:
    result = say(demo, *flags)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert says in unwrapped(result)
    assert demo.launches() == []


def test_prompts_without_an_llm_demo_are_refused(project: Project) -> None:
    result = project.run("--h2o-demo-prompts=p.txt")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--h2o-demo-prompts names prompts, and nothing says them" in unwrapped(result)

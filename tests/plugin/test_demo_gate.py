"""The items of real prompts, and of what is said of them: a fake llm_demo that holds, or has one fault."""

import json
import signal
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from tests.plugin.broken_off import wait_until
from tests.plugin.cases import BENCH, PRESET
from tests.plugin.project import ROOT, Project, unwrapped, verdict

ONE_POINT = ("--h2o-set=h2o_keep_ratios=0.28", "--h2o-set=h2o_block_tokens=8", "--h2o-set=h2o_target_lossy_ratios=3.4")
GATE = (*BENCH, "--h2o-demo=llm_demo", *ONE_POINT, "--h2o-decode-baseline=none")
SAID, TEXTS = ("-k", f"test_demo and {PRESET}"), ("-k", f"test_quality and {PRESET}")
ROUND = "--h2o-demo-rounds=1"
ONCE = (ROUND, "--h2o-demo-prompts=p_600.txt")  # of several prompts the first is drawn


@pytest.fixture
def demo(project: Project) -> Project:
    """A project whose bench replays the recordings, and that has a fake llm_demo."""
    project.make_demo()
    project.launch_here()
    (project.path / "p_600.txt").write_text("Say on.")
    return project


def say(project: Project, *flags: str, **told: Any) -> pytest.RunResult:
    """Gate with an llm_demo that behaves so."""
    project.env["FAKE_DEMO"] = json.dumps(told)
    return project.run(*GATE, *flags)


def test_prompts_that_are_said_as_fast_pass_and_are_told(demo: Project, snapshot: SnapshotAssertion) -> None:
    assert verdict(demo, say(demo, *SAID)) == snapshot
    folder = demo.run_dir() / PRESET / "demo"
    pairs = json.loads((folder / "demo.json").read_text())["pairs"]
    assert len(pairs) == 18  # 6 of 8 rounds tell all
    assert {pair["order"] for pair in pairs} == {"AB", "BA"}
    launches = sorted(path.name for path in folder.glob("austen_128_1_h2o_*"))
    ends = ("json", "metrics.jsonl", "stdout.txt")
    assert launches == [f"austen_128_1_h2o_{side}.{end}" for side in ("off", "on") for end in ends]
    assert not list(folder.glob("**/tmp"))


FAULTS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "slow at one length": (SAID, {"drop": {"2048": 0.3}}),
    "idle": ((*SAID, *ONCE), {"idle": True}),
    "no summary": ((*SAID, *ONCE), {"summary": False}),
    "not a word": ((*SAID, *ONCE), {"text": "!!!!!!!!!!"}),
    "exit code": ((*SAID, *ONCE), {"exit": 3}),
    "signs": ((*SAID, *ONCE), {"prints": "[H2O] scatter restore failed: layer=3\n"}),
    "one pair of a length": ((*SAID, ROUND, "--h2o-inconclusive=fail"), {}),
    "unlike lengths": ((*SAID, *ONCE), {"decoded": 40, "metrics": None}),
    # what is said: reported, and a gate only with a target
    "other words": ((*TEXTS, *ONCE), {"text": "one two three, no more"}),
    "other words than asked": ((*TEXTS, *ONCE, "--h2o-set=targets.similarity=0.4"), {"text": "one two three, no more"}),
    "not a word where it is asked": ((*TEXTS, *ONCE, "--h2o-set=targets.similarity=0.9"), {"text": "!!!!!!!!!!"}),
    "exit code where it is asked": ((*TEXTS, *ONCE), {"exit": 1}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_said_of_a_fault(name: str, demo: Project, snapshot: SnapshotAssertion) -> None:
    flags, told = FAULTS[name]
    assert verdict(demo, say(demo, *flags, **told)) == snapshot


def test_recorded_texts_are_compared(demo: Project) -> None:
    """What a real llm_demo said, with H2O off and on."""
    said = ROOT / "fixtures" / "recordings" / "other" / "llm_demo_prose_h2o_$state.stdout.txt"
    state = "state=off; grep -q 'h2o_enable.: true' \"$1\" && state=on"
    del demo.env["FAKE_HERE"]
    (demo.path / "llm_demo").write_text(f"#!/bin/sh\n{state}; cat {said}\n")
    prompt = f"--h2o-demo-prompts={ROOT / 'fixtures' / 'prompts' / 'prose.txt'}"
    assert say(demo, *TEXTS, ROUND, prompt).ret == 0
    (note,) = (note for note in demo.summary()["presets"][PRESET]["notes"] if note.startswith("prose: "))
    assert note.startswith("prose: 52 words with H2O off, 20 with H2O on; the first 11 words (52")


def test_pairs_that_were_whole_are_kept_where_a_run_goes_on(demo: Project) -> None:
    """Unless a file of theirs was edited meanwhile."""
    flags = (*SAID, "--h2o-demo-prompts=p_600.txt", "--h2o-demo-rounds=3", "--h2o-no-fold")
    here = demo.env.pop("FAKE_HERE")
    demo.env["FAKE_DEMO"] = json.dumps({"hang": "p_600_3_h2o_on"})
    child = demo.start(*GATE, *flags, "--h2o-html=no")
    wait_until(lambda: bool(list(demo.path.glob("h2o-runs/2*/*/demo/p_600_3_h2o_on.stdout.txt"))), "nothing hangs")
    child.send_signal(signal.SIGKILL)
    child.finish()
    folder = demo.run_dir() / PRESET / "demo"
    before = {path.name: path.read_bytes() for path in folder.glob("p_600_1_*")}
    assert len(before) == 6
    edited = folder / "p_600_2_h2o_off.stdout.txt"
    edited.write_text(edited.read_text() + "\n")
    demo.env["FAKE_HERE"] = here
    result = say(demo, *flags, f"--h2o-resume={demo.run_dir()}")
    assert demo.summary()["overall_pass"] == "inconclusive", unwrapped(result)
    assert {path.name: path.read_bytes() for path in folder.glob("p_600_1_*")} == before
    assert (folder / "p_600_3_h2o_on.broken-off-1.json").is_file()
    assert (folder / "p_600_2_h2o_off.broken-off-1.stdout.txt").is_file()  # it was said again
    assert len(json.loads((folder / "demo.json").read_text())["pairs"]) == 3


def test_prompts_of_a_manifest_are_said(demo: Project) -> None:
    (demo.path / "kit").mkdir()
    tokens = {"prompt_128_1": 130, "prompt_600_2": 600}
    for name in tokens:
        (demo.path / "kit" / f"{name}.txt").write_text("Say on.")
    lines = [json.dumps({"prompt_file": f"kit/{name}.txt"}) for name in reversed(tokens)]
    (demo.path / "prompts.jsonl").write_text("\n".join(lines))
    flags = ("--h2o-demo-prompts=prompts.jsonl", ROUND, "--h2o-demo-drop-target=0.5")
    assert say(demo, *SAID, *flags, tokens=tokens).ret == 0
    pairs = json.loads((demo.run_dir() / PRESET / "demo" / "demo.json").read_text())["pairs"]
    assert {pair["prompt"]: pair["on"]["prompt_tokens"] for pair in pairs} == tokens
    assert len(pairs) == 2

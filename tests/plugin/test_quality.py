"""Items of quality: perplexity where the bench tells it, generated text where there is an llm_demo."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.plugin.project import ROOT, Project

QUALITY = "test_quality or test_joint"
ASKED = ("--h2o-decode-baseline=60", "--h2o-quality-target=0.1")
DEMO = """#!{python} -IS
# Says what the recorded llm_demo said: prose or code, with H2O on or off.
import json, os, sys
from pathlib import Path

config, prompt, tokens, mode = sys.argv[1:]
assert (tokens, mode) == ("128", "--prompt-file-mode=whole"), sys.argv
values = json.loads(Path(config).read_text())
assert values["sampler_type"] == "greedy"
assert os.environ["MNN_KV_DUMP_DIR"] == "off" and Path(os.environ["LLM_DEMO_TMP_PATH"]).is_dir()
if Path(prompt).stem == "{broken}":
    sys.exit("Unable to open prompt file")
name = "prose" if Path(prompt).stem == "prose" else "code"
state = "on" if values["kv_h2o_enable"] else "off"
sys.stdout.write(Path("{other}", f"llm_demo_{{name}}_h2o_{{state}}.stdout.txt").read_text())
"""


def add_rise(folder: Path, rise: str, *, only: str = "run_") -> None:
    """Give the rows of recorded logs a column with the rise in perplexity."""
    for path in (folder / "logs").glob(f"{only}*.log"):
        header, line, row = path.read_text().splitlines()
        path.write_text(f"{header} quality_ppl_rise |\n{line} ---: |\n{row} {rise} |\n")


def make_demo(project: Project, broken: str = "-") -> tuple[str, ...]:
    demo = project.path / "llm_demo"
    other = ROOT / "fixtures" / "recordings" / "other"
    demo.write_text(DEMO.format(python=sys.executable, other=other, broken=broken))
    demo.chmod(0o755)
    prompts = ROOT / "fixtures" / "prompts"
    said = (f"--h2o-demo-prompts={prompts / 'prose.txt'}", f"--h2o-demo-prompts={prompts / 'code.txt'}")
    return ("--h2o-demo=llm_demo", *said, "--h2o-demo-rounds=1", "--h2o-decode-baseline=70")


def test_a_rise_within_the_target_passes(project: Project) -> None:
    add_rise(project.copy_recordings(), "0.0999")
    result = project.run("-k", QUALITY, *ASKED)
    assert result.ret == 0
    verdicts = {v["title"]: v for v in project.summary()["presets"]["target_ratio_v3"]["verdicts"]}
    assert verdicts["rise in perplexity"]["measured"] == "+9.99%"
    assert verdicts["rise in perplexity"]["target"] == "+10.00%"
    assert verdicts["rise in perplexity"]["outcome"] == "pass"
    assert result.parseoutcomes()["passed"] == 2


def test_a_rise_just_above_it_fails_the_item_and_the_joint_rule(project: Project) -> None:
    add_rise(project.copy_recordings(), "0.1001")
    result = project.run("-k", QUALITY, *ASKED)
    assert result.parseoutcomes() == {"failed": 2, "deselected": result.parseoutcomes()["deselected"]}
    result.stdout.fnmatch_lines(
        [
            "*rise in perplexity +10.01% <= +10.00%",
            "target_ratio_v3: rise in perplexity",
            "margin     missed by 0.01%*",
            "     lossy    decode     rise  misses           run",
            "target_ratio_v3: no row meets every target",
            "           rise in perplexity <= +10.00% (--h2o-quality-target)",
            "           quality missed by 0.01% of the full cache's perplexity",
        ]
    )


def test_the_row_of_the_verdict_also_meets_the_lossy_target(project: Project) -> None:
    """The rows that evict too little to count keep the text: their quality is no excuse for those that count."""
    folder = project.copy_recordings()
    add_rise(folder, "0.5")
    for path in (folder / "logs").glob("run_*_lr3.0.log"):
        path.write_text(path.read_text().replace(" 0.5 |", " 0.01 |"))
    assert project.run("-k", QUALITY, *ASKED).parseoutcomes()["failed"] == 2
    loose = project.run("-k", "test_quality", "--h2o-rule=best-of", *ASKED)
    assert loose.parseoutcomes()["passed"] == 1


def test_a_row_without_the_column_is_missing_data(project: Project) -> None:
    folder = project.copy_recordings()
    add_rise(folder, "0.01", only="run_000")
    result = project.run("-k", "test_quality")
    assert result.parseoutcomes()["failed"] == 1
    result.stdout.fnmatch_lines(["*the column quality_ppl_rise of target_ratio_v3 is missing or not a number*"])


def test_not_measured_is_skipped_by_default_and_fails_where_it_was_asked_for(project: Project) -> None:
    skipped = project.run("-k", "test_quality", "-rs")
    assert skipped.parseoutcomes()["skipped"] == 1
    skipped.stdout.fnmatch_lines(["*quality is not measured: the rows of target_ratio_v3 have no column*"])
    asked = project.run("-k", QUALITY, *ASKED)
    assert asked.parseoutcomes()["failed"] == 2
    asked.stdout.fnmatch_lines(["*quality is not measured: the rows of target_ratio_v3 have no column*"])


def test_texts_are_reported_and_gate_only_with_a_target(project: Project) -> None:
    bench, demo = project.make_bench(), make_demo(project)
    text = ("-k", "test_quality and target_ratio_v3", "--h2o-set=h2o_keep_ratios=0.28", "--h2o-set=h2o_block_tokens=8")
    reported = project.run(*text, *bench, *demo)
    assert reported.ret == 0
    preset = project.summary()["presets"]["target_ratio_v3"]
    assert any(
        note.startswith("prose: 52 words with H2O off, 20 with H2O on; the first 11 words (52")
        for note in preset["notes"]
    )
    assert [(v["title"], v["outcome"]) for v in preset["verdicts"]] == [("similarity of generated text", "reported")]
    folder = project.run_dir() / "target_ratio_v3" / "demo"
    assert (folder / "prose_1_h2o_on.stdout.txt").is_file()
    failed = project.run(*text, *bench, *demo, "--h2o-set=targets.similarity=0.19")
    assert failed.parseoutcomes()["failed"] == 1
    failed.stdout.fnmatch_lines(["*similarity of generated text 0.18* >= 0.190*"])


def test_a_demo_that_fails_is_a_failure_with_its_output(project: Project) -> None:
    bench, demo = project.make_bench(), make_demo(project, broken="prose")
    result = project.run("-k", "test_quality and target_ratio_v3", "--h2o-set=h2o_keep_ratios=0.28", *bench, *demo)
    assert result.parseoutcomes()["failed"] == 1
    result.stdout.fnmatch_lines(["*llm_demo ended with exit code 1*", "*Unable to open prompt file*"])


def test_a_demo_that_says_no_word_is_missing_data(project: Project) -> None:
    bench, demo = project.make_bench(), make_demo(project)
    (project.path / "llm_demo").write_text("#!/bin/sh\necho prompt file is p\necho '!!!!!!!!'\necho '############'\n")
    alike = ("--h2o-set=h2o_keep_ratios=0.28", "--h2o-set=targets.similarity=0.9")
    result = project.run("-k", "test_quality and target_ratio_v3", *alike, *bench, *demo)
    assert result.parseoutcomes()["failed"] == 1
    result.stdout.fnmatch_lines(["*llm_demo said not a single word*"])


def test_a_demo_belongs_to_a_bench(project: Project) -> None:
    project.write_ini()
    result = project.run("--h2o-demo=llm_demo")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["*llm_demo says nothing about the embedded bench*"])

"""A built-in metric takes a row in gate/metrics.py, an assertion in a gate file, and a line of docs: nothing else."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.project import ROOT, SWEEP, Project, failure_of, replace_in

NAME = "h2o_of_a_later_engine"
ROW = f'        Metric("{NAME}", "cache misses", "lower", fmt=".2f", target=9.0),\n'
ASSERTION = f"""

def test_misses(h2o_sweep, h2o_targets):
    assert h2o_sweep.best("{NAME}") <= h2o_targets.{NAME}
"""
SHORT = NAME.removeprefix("h2o_")
FLAG = f"--{NAME.replace('_', '-')}-target"
ITEMS = ("-k", "target_ratio_v3 and (misses or joint or regression)", "--h2o-decode-baseline=none")
JOINT, MISSES = "test_joint[target_ratio_v3]", "test_misses[target_ratio_v3]"


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose gates run in a copy of the package that has the metric."""
    package = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT / "pytest_h2o", package / "pytest_h2o")
    (package / "fixtures").symlink_to(ROOT / "fixtures")
    replace_in(package / "pytest_h2o" / "gate" / "metrics.py", "        # timings\n", f"{ROW}        # timings\n")
    project = Project(tmp_path_factory.mktemp("project"))
    project.copy_recordings()
    with (project.path / "gates" / "test_sweep.py").open("a") as file:
        file.write(ASSERTION)
    set_column(project, "2.33 ± 0.12")
    project.env = {"PYTHONPATH": str(package)}
    return project


def set_column(project: Project, cell: str) -> None:
    """The column of the metric in every log, as if a later engine had printed it."""
    for log in Path(project.path, "recordings", "target_ratio_v3", "logs").glob("run_*.log"):
        head, rule, row = (SWEEP / "logs" / log.name).read_text().splitlines()
        log.write_text(f"{head} {NAME} |\n{rule} --- |\n{row} {cell} |\n")


def run(project: Project, *options: str) -> pytest.RunResult:
    return project.run_cold(*ITEMS, *options)


def schema(project: Project, kind: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "pytest_h2o", "schema", kind]
    done = subprocess.run(command, cwd=project.path, env=project.env, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_it_holds_and_is_found_in_option_rule_tables_page_figures_and_schemas(changed: Project) -> None:
    result = run(changed, f"{FLAG}=8.5", "--h2o-save=main")
    assert result.ret == 0, "\n".join([*result.outlines, *result.errlines])
    place = next(n for n, line in enumerate(result.outlines) if line.startswith("preset or scope"))
    assert [line.split()[-3:] for line in result.outlines[place : place + 2]] == [
        [SHORT, "verdict", "margin"],
        ["2.33", "PASS", "+12.67%"],
    ]
    folder = changed.run_dir()
    (verdict,) = (v for v in changed.summary()["presets"]["target_ratio_v3"]["verdicts"] if v["metric"] == NAME)
    assert (verdict["target_origin"], verdict["outcome"], verdict["unit"]) == (FLAG, "pass", "number")
    assert "| cache misses | 2.33" in (folder / "summary.md").read_text()
    assert "cache misses" in (folder / "report.html").read_text()
    record = json.loads((folder / "figures.json").read_text())["record"]
    assert record["metrics"][NAME] == {"unit": "", "better": "lower", "exact": True}
    (figures,) = (subject["figures"] for subject in record["subjects"] if subject["kind"] == "preset")
    assert len([row for row in figures.values() if NAME in row]) == 27
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    assert [line["data"]["presets"]["target_ratio_v3"]["targets"][NAME] for line in lines if line["data"]["presets"]]
    asked = schema(changed, "preset")["$defs"]["Targets"]["properties"][NAME]
    assert asked == {"type": "number", "description": "largest cache misses"}
    kept = schema(changed, "journal")["properties"]["data"]["properties"]["presets"]["additionalProperties"]
    assert kept["properties"]["targets"]["properties"][NAME]["unit"] == "number"


def test_a_worse_value_fails_the_item_the_rule_and_the_comparison(changed: Project) -> None:
    """The target is one of the preset."""
    (baseline,) = (changed.path / "h2o-runs" / "baselines").iterdir()
    set_column(changed, "9.50 ± 0.00")
    with changed.preset().open("a") as file:
        file.write(f"targets: {{{NAME}: 9.25}}\n")
    result = run(changed, "--h2o-html=no", "--h2o-compare=main", f"--h2o-compare-fail={NAME}:1")
    assert result.ret == 1
    told = failure_of(result, MISSES)
    assert "target     <= 9.25 (targets of preset target_ratio_v3)\nmeasured   9.50 ± 0.00 on run_" in told
    assert "margin     missed by 0.25\n" in told
    assert f"           {SHORT} missed by 2.70% of the target\n" in failure_of(result, JOINT)
    told = failure_of(result, "test_no_regression[target_ratio_v3]")
    assert "cache misses 2.33 -> 9.50" in told
    assert "allowed 1 %" in told
    assert baseline.exists()

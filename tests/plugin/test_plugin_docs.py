"""What docs/writing-a-plugin.md and docs/baselines.md say is so: the code of the one, the table of the other."""

import inspect
import re
import shlex

import yaml

from pytest_h2o.bench.adapter import BenchAdapter
from pytest_h2o.gate.metrics import recorded_metrics
from pytest_h2o.plugin import hookspecs
from tests.plugin.project import ROOT, Project
from tests.plugin.test_hooks import GATE

TEXT = (ROOT / "docs" / "writing-a-plugin.md").read_text("utf-8")
EXAMPLES = ROOT / "docs" / "examples"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_code_is_that_of_files_which_other_tests_run() -> None:
    files = ("my_metric.py", "my_section.py", "llama_bench.py", "llama_gates/conftest.py")
    known = [(EXAMPLES / name).read_text("utf-8") for name in (*files, "llama_gates/test_cache_types.py")]
    assert blocks("python") == [known[0], GATE.lstrip("\n"), *known[1:]]
    target, preset = blocks("yaml")
    assert yaml.safe_load(target) == {"targets": {"metrics": {"first_token_s": 1.35}}}
    assert preset == (EXAMPLES / "llama_gates" / "presets" / "kv_q4_0.yaml").read_text("utf-8")


def test_every_hook_and_every_member_is_in_its_table() -> None:
    hooks = [name for name in vars(hookspecs) if name.startswith("pytest_h2o_")]
    assert re.findall(r"^\| `(pytest_h2o_\w+)` \|", TEXT, re.MULTILINE) == hooks
    members = [name for name, _ in inspect.getmembers(BenchAdapter) if not name.startswith("_")]
    table = TEXT.partition("| member |")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(members)
    for name in hooks:
        (example,) = re.findall(r"docs/examples/(\w+\.py)", getattr(hookspecs, name).__doc__ or "")
        assert name in (EXAMPLES / example).read_text("utf-8") or name == "pytest_h2o_codecs"


def test_the_command_runs(project: Project) -> None:
    (command,) = blocks("console")
    _, what, *arguments = shlex.split(command)
    result = project.run(
        *(word.replace("fixtures", str(ROOT / "fixtures")) for word in arguments),
        f"--rootdir={project.path}",
        "-c",
        "pytest.ini",
        what=str(ROOT / what),
    )
    assert result.ret == 0, result.outlines


def test_the_table_of_baselines_has_every_metric() -> None:
    text = (ROOT / "docs" / "baselines.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| .*? \| (higher|lower|same) \| (?:`(\w+)`)? *\|$", text, re.MULTILINE)
    assert rows == [(metric.name, metric.better, metric.part_of) for metric in recorded_metrics().values()]

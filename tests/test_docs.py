"""What README.md and docs/ say is so: their commands run, their tables name what there is, their promises are tested.

Every command and snippet is run, or the page gives the reason why it is not.

A comment before a block says how it is tested:

``<!-- exit N -->``
    The commands end with this exit code, not with 0.
``<!-- where bench -->``
    They run where a bench is: beside ``build/llm_bench``, ``build/llm_demo`` and ``path/to/model/config.json``.
``<!-- file PATH -->``
    The block is a file of the project, for the commands after it.
``<!-- tested by FILE -->``
    Another test runs it; its file names the page.
``<!-- not run: REASON -->``
    It cannot run here; few blocks cannot.

A ``text`` block is output of the commands before it, in its order; ``...`` stands for anything.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import yaml

import pytest_h2o
from pytest_h2o.gate.metrics import GATE_OPTIONS
from tests.plugin import warm
from tests.plugin.project import BASE_CONFIG, FAKES, ROOT, SWEEP, replace_in, write_fake
from tools import tables

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = 13
"""So many blocks at most do not run here."""
RUNNABLE = {"pytest", "pytest-h2o", "python", "mkdir", "cd", "ls"}
"""Programs that a block may start: a page must not make the tests install, download or remove anything."""
_FENCE = re.compile(r"(?:<!-- (?P<mark>[^\n]*?) -->\n)?^(?P<pad> *)```(?P<kind>\w*)\n(?P<body>.*?)^ *```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    kind: str
    body: str
    mark: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def exit_code(self) -> int:
        return int(self.mark.removeprefix("exit ")) if self.mark.startswith("exit ") else 0


def read_blocks(path: Path) -> list[Block]:
    text, page = path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))
    return [
        Block(page, text[: m.start("body")].count("\n"), m["kind"], m["body"], m["mark"] or "")
        for m in _FENCE.finditer(text)
    ]


BLOCKS = [block for page in PAGES for block in read_blocks(page)]


def check_harmless(block: Block) -> None:
    """The block starts programs of RUNNABLE alone; python only our own modules, or lines of the page."""
    text = re.sub(r"<<'END'\n.*?^END$", "", block.body.replace("\\\n", " "), flags=re.DOTALL | re.MULTILINE)
    commands = [part.split() for line in text.splitlines() for part in line.split("&&") if part.strip()]
    for words in commands:
        assert words[0] in RUNNABLE, str(block)
        ours = words[1] == "-" or (words[1] == "-m" and words[2].startswith("pytest_h2o")) if words[1:] else False
        assert words[0] != "python" or ours, str(block)


class DocsProject:
    """Where the commands of one page run, one after the other: the gates of this repository, and a fake bench."""

    def __init__(self, path: Path, *, whole: bool) -> None:
        self.path = path
        self.programs = [path / "build" / name for name in FAKES]
        (path / "tmp").mkdir(parents=True)
        (path / "gates" / "presets").mkdir(parents=True)
        for name in ("test_sweep.py", "test_dumps.py", "test_regression.py", "scopes.yaml"):
            shutil.copy(ROOT / "gates" / name, path / "gates")
        preset = Path("gates", "presets", "target_ratio_v3.yaml")
        shutil.copy(ROOT / preset, path / preset)
        if not whole:  # a third of the points, and one scope
            replace_in(path / preset, "h2o_keep_ratios: [0.28, 0.3, 0.33]", "h2o_keep_ratios: [0.28]")
            scopes = yaml.safe_load((path / "gates" / "scopes.yaml").read_text(encoding="utf-8"))["scopes"]
            kept = {name: scope for name, scope in scopes.items() if scope.get("decides")}
            (path / "gates" / "scopes.yaml").write_text(yaml.safe_dump({"scopes": kept}), encoding="utf-8")
        (path / "fixtures").symlink_to(ROOT / "fixtures")
        ini = [
            "h2o_logs = fixtures/recordings/smollm2-135m",
            "h2o_set = model_layers=30",
            "h2o_html = no",
            "h2o_threads = 2",
            "h2o_disturbed = keep",
        ]
        (path / "pytest.ini").write_text("\n".join(["[pytest]", *ini]) + "\n")
        self.output = ""

    def add_bench(self) -> None:
        """A bench and a model's config, where the commands that launch one expect them."""
        for file in (*self.programs, self.path / "path" / "to" / "model" / "config.json"):
            file.parent.mkdir(parents=True, exist_ok=True)
            if file in self.programs:
                write_fake(file)
            else:
                shutil.copy(BASE_CONFIG, file)

    def run(self, block: Block) -> None:
        check_harmless(block)
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "GITHUB_", "TOX_", "H2O_", "FAKE_"))}
        env |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}",
            "PYTEST_ADDOPTS": "-p no:cacheprovider -p no:hypothesispytest",
            "PY_COLORS": "0",
            "COLUMNS": "80",
            "TMPDIR": str(self.path / "tmp"),
            "FAKE_RECORDINGS": str(SWEEP),
            "FAKE_LAUNCHES": str(self.path / "launches.txt"),
            "FAKE_DECODE": "base=60,drop=0.0,spread=0.01,seed=1",
            "FAKE_HERE": os.pathsep.join(map(str, self.programs)),
        }
        lines = block.body.replace("\\\n", " ").strip().splitlines()
        if all(line.startswith(("pytest ", "pytest-h2o ")) and not {*"<>&|"} & {*line} for line in lines):
            code, self.output = 0, ""
            for program, *arguments in map(shlex.split, lines):
                workers = warm.count_workers(arguments)
                result = warm.Run(arguments, cwd=self.path, env=env, program=program, workers=workers).finish(300)
                code, self.output = code or int(result.ret), f"{self.output}{result.stdout.str()}\n"
        else:
            command = ["bash", "-e", "-c", block.body]
            done = subprocess.run(command, cwd=self.path, env=env, capture_output=True, text=True, timeout=300)
            code, self.output = done.returncode, done.stdout + done.stderr
        assert code == block.exit_code, f"{block}: exit code {code}\n{self.output}"

    def check_output(self, block: Block) -> None:
        """Every line of the block, in its order, nothing between them but where ``...`` stands."""
        shown = block.body.splitlines()
        lines, place, free = self.output.splitlines(), 0, True
        for line in shown:
            if line.strip() == "...":
                free = True
                continue
            pattern = line.replace("[", "[[]").replace("...", "*")
            found = [n for n in range(place, len(lines)) if fnmatchcase(lines[n].rstrip(), pattern.rstrip())]
            assert found, f"{block} shows a line that is not printed here: {line}\n{self.output}"
            assert free or found[0] == place, f"{block} leaves out what stands before: {line}\n{self.output}"
            place, free = found[0] + 1, False


SLOW = {"docs/reference-bench.md": pytest.mark.slow}
"""Its command is one of tests/reference on a longer prompt."""


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=SLOW.get(page, ())) for page in (str(path.relative_to(ROOT)) for path in PAGES)]
)
def test_the_commands_of_a_page_run(page: str, tmp_path: Path) -> None:
    project = DocsProject(tmp_path / "project", whole=page == "docs/first-gate.md")
    for block in (block for block in BLOCKS if block.page == page):
        if block.mark.startswith(("not run: ", "tested by ")):
            continue
        if block.mark.startswith("file "):
            target = project.path / block.mark.removeprefix("file ")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.body, encoding="utf-8")
        elif block.kind in ("sh", "console"):
            if block.mark == "where bench":
                project.add_bench()
            project.run(block)
        elif block.kind == "text":
            project.check_output(block)
        else:
            raise AssertionError(f"{block}: nothing runs a block of {block.kind or 'no kind'}; mark how it is tested")


def test_a_command_that_changes_the_machine_is_never_run() -> None:
    for body in (
        "pip install x\n",
        "pytest gates && rm -r gates\n",
        "python -m pip install x\n",
        "python tools/x.py\n",
    ):
        with pytest.raises(AssertionError, match=r"docs/page\.md:1"):
            check_harmless(Block("docs/page.md", 1, "sh", body, ""))


def test_what_is_not_run_says_why() -> None:
    reasons = {(block.page, block.mark.removeprefix("not run: ")) for block in BLOCKS if "not run" in block.mark}
    assert len(reasons) <= NOT_RUN
    assert all(len(reason.split()) > 3 for _, reason in reasons)


def test_what_another_test_runs_is_there() -> None:
    for block in BLOCKS:
        if block.mark.startswith("tested by "):
            text = (ROOT / block.mark.removeprefix("tested by ")).read_text(encoding="utf-8")
            assert Path(block.page).name in text, str(block)


def test_no_command_hides_in_an_indented_block() -> None:
    for page in PAGES:
        hidden = re.findall(r"^    (?:pytest|python|pip|\$ )[^\n]*", page.read_text(encoding="utf-8"), re.M)
        assert hidden == [], str(page)


def test_the_workflow_for_github_is_one() -> None:
    (block,) = [block for block in BLOCKS if block.page == "docs/ci.md" and block.kind == "yaml"]
    workflow = yaml.safe_load(block.body)
    commands = [step["run"] for step in workflow["jobs"]["gate"]["steps"] if "run" in step]
    given = set(re.findall(r"--h2o-[a-z-]+", " ".join(commands)))
    assert given
    assert given <= {option.flag for option in GATE_OPTIONS}
    assert {step["uses"] for step in workflow["jobs"]["gate"]["steps"] if "uses" in step} >= {"actions/checkout@v4"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_names_of_files_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        assert "://" in target or (page.parent / target).exists(), f"{page.name} links to {target}"
    for name in re.findall(r"(?:`|python )((?:pytest_h2o|tests|tools|benchmarks|fixtures|gates)/[\w./-]+\w)", text):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_every_page_is_listed() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name


def test_every_page_stands_in_the_site() -> None:
    groups = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = [page for group in groups for pages in group.values() for page in pages]
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_every_public_name_is_in_the_reference() -> None:
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    public = {name for name in pytest_h2o.__all__ if name != "__version__"}
    assert {name for name in public if not re.search(rf"\b{name}\b", text)} == set()


@pytest.mark.parametrize("name", tables.PAGES)
def test_a_page_of_tables_is_what_the_code_says(name: str) -> None:
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert page == tables.make(name), "python tools/tables.py writes it again"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


PROMISES = [
    line
    for line in (ROOT / "docs" / "promises.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith(("| ---", "| promise"))
]


@pytest.mark.parametrize("row", PROMISES, ids=range(len(PROMISES)))
def test_a_promise_names_its_test(row: str) -> None:
    _, promise, held_by, _ = row.split("|")
    assert promise.strip()
    if held_by.strip().startswith("the same"):
        return
    named = re.findall(r"`([^`]+)`", held_by)
    assert named
    file = ""
    for name in named:
        path, _, function = name.partition("::")
        file = path or file
        text = (ROOT / file).read_text(encoding="utf-8")
        assert f"def {function}(" in text if function else "def test_" in text, name


def test_there_are_promises() -> None:
    assert len(PROMISES) > 10

"""A user's project in a temporary folder: the shipped gates, and the recordings or a fake bench to gate on."""

import html
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.plugin import warm
from tests.recorded import record

ROOT = Path(__file__).resolve().parents[2]
RECORDINGS = ROOT / "fixtures" / "recordings" / "smollm2-135m"
SWEEP = RECORDINGS / "target_ratio_v3"
BASE_CONFIG = ROOT / "fixtures" / "recordings" / "base_config.json"
DUMPS = ROOT / "fixtures" / "dumps" / "fp16.zip"
FAKE_BENCH = ROOT / "tests" / "fake_llm_bench.py"
FAKE_DEMO = ROOT / "tests" / "fake_llm_demo.py"
FAKES = {"llm_bench": FAKE_BENCH, "llm_demo": FAKE_DEMO}

MODES = {"plain": [], "n0": ["-n0"], "n2": ["-n2"], "no-xdist": ["-p", "no:xdist"]}
"""The ways of running pytest that must not make a difference."""

QUICK = tuple(f"-pno:{name}" for name in ["cacheprovider", "hypothesispytest", "syrupy", "anyio", "platformdirs"])
"""Plugins of our own tests that a gate has no use for; hypothesis alone takes half of the time of a short run."""


class Project:
    """The gates of a user, runnable by `run`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.env: dict[str, str] = {}
        shutil.copytree(ROOT / "gates", self.path / "gates", ignore=shutil.ignore_patterns("__pycache__"))
        scopes = self.path / "gates" / "scopes.yaml"
        scopes.write_text(scopes.read_text().replace("../fixtures/dumps/fp16.zip", str(DUMPS)))
        self.write_ini(h2o_logs=str(RECORDINGS), h2o_set="model_layers=30")

    # -- what is gated on -----------------------------------------------------------------------------------------

    def write_ini(self, **keys: str) -> None:
        lines = [f"{key} = {value}" for key, value in keys.items()]
        (self.path / "pytest.ini").write_text("\n".join(["[pytest]", *lines]) + "\n")

    def copy_recordings(self) -> Path:
        """The recordings as files of this project's own, for a test to damage; the ini file points to them."""
        folder = self.path / "recordings"
        if not folder.exists():
            shutil.copytree(RECORDINGS, folder)
            self.write_ini(h2o_logs="recordings")
        return folder / "target_ratio_v3"

    def copy_dump(self) -> Path:
        """The dump as files of this project's own; the scopes point to them."""
        folder = self.path / "dump"
        shutil.unpack_archive(DUMPS, folder)
        scopes = self.path / "gates" / "scopes.yaml"
        scopes.write_text(scopes.read_text().replace(str(DUMPS), "../dump"))
        return folder

    def preset(self, name: str = "target_ratio_v3") -> Path:
        return self.path / "gates" / "presets" / f"{name}.yaml"

    def make_bench(self, **modes: str) -> tuple[str, ...]:
        """A fake bench that replays the recordings, `modes` of runs by the start of their ids; the options for it."""
        write_fake(self.path / "llm_bench")
        shutil.copy(BASE_CONFIG, self.path / "model.json")
        self.env = {
            "FAKE_RECORDINGS": str(SWEEP),
            "FAKE_MODES": json.dumps(modes),
            "FAKE_LAUNCHES": str(self.path / "launches.txt"),
        }
        self.write_ini(h2o_threads="2", h2o_set="model_layers=30", h2o_disturbed="keep")  # tests run beside others
        return ("--h2o-bench=llm_bench", "--h2o-base-config=model.json")

    def make_demo(self) -> tuple[str, ...]:
        """A fake bench and a fake llm_demo, which does what `FAKE_DEMO` says; the options for both."""
        write_fake(self.path / "llm_demo")
        return (*self.make_bench(), "--h2o-demo=llm_demo")

    def launch_here(self) -> None:
        """Launches of the fakes take no process of their own: for tests of what comes of them."""
        self.env["FAKE_HERE"] = os.pathsep.join(str(self.path / name) for name in FAKES)

    def launches(self) -> list[str]:
        """Run ids in the order in which the fake bench was launched."""
        file = self.path / "launches.txt"
        return [Path(line).stem for line in file.read_text().splitlines()] if file.exists() else []

    # -- running --------------------------------------------------------------------------------------------------

    def _environment(self) -> dict[str, str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "TOX_", "H2O_", "FAKE_"))}
        # A machine lock of this project's own: no other test is waited for.
        (self.path / "tmp").mkdir(exist_ok=True)
        return env | {"PY_COLORS": "0", "COLUMNS": "100", "TMPDIR": str(self.path / "tmp"), **self.env}

    def start(self, *arguments: str, what: str = "gates", cwd: Path | None = None, workers: int = 0) -> warm.Run:
        """A run to be watched or killed; `workers` of xdist are forked, the others started."""
        return warm.Run([what, *QUICK, *arguments], cwd=cwd or self.path, env=self._environment(), workers=workers)

    def run(
        self, *arguments: str, what: str = "gates", cwd: Path | None = None, page: bool = False, timeout_s: float = 120
    ) -> pytest.RunResult:
        """A whole run; `page`: with report.html, whose charts take a third of the time."""
        html = () if page else ("-o", "h2o_html=no")
        workers = warm.count_workers(arguments)
        return self.start(*html, *arguments, what=what, cwd=cwd, workers=workers).finish(timeout_s)

    def run_cold(self, *arguments: str, what: str = "gates") -> pytest.RunResult:
        """A whole run by an interpreter that has loaded nothing yet."""
        command = [sys.executable, "-m", "pytest", what, *QUICK, *arguments]
        done = subprocess.run(
            command, cwd=self.path, env=self._environment(), capture_output=True, text=True, timeout=120, check=False
        )
        return pytest.RunResult(done.returncode, done.stdout.splitlines(), done.stderr.splitlines(), 0.0)

    # -- what came of it --------------------------------------------------------------------------------------------

    def runs(self) -> list[Path]:
        folders = (path for path in (self.path / "h2o-runs").glob("*") if path.is_dir() and path.name != "baselines")
        return sorted(folders)

    def run_dir(self) -> Path:
        (folder,) = self.runs()
        return folder

    def summary(self, run_dir: Path | None = None) -> dict[str, Any]:
        return json.loads(((run_dir or self.run_dir()) / "summary.json").read_text())

    def failed(self, run_dir: Path | None = None) -> dict[str, str]:
        """Name of each failed item, without its file, and the one line that says why."""
        return {failed["item"].split("::")[1]: failed["why"] for failed in self.summary(run_dir)["failed"]}


def code_of(fake: Path) -> str:
    """Code that is the fake, and takes it compiled."""
    return f"import sys; sys.path.append('{fake.parent}'); import {fake.stem} as fake; sys.exit(fake.main())"


def write_fake(path: Path) -> None:
    """The fake of a program of this name."""
    path.write_text(f"#!{sys.executable} -IS\n{code_of(FAKES[path.name])}\n")
    path.chmod(0o755)


def failure_of(result: pytest.RunResult, item: str) -> str:
    """What the terminal says of one failed item, from its title line to the next one."""
    lines = result.outlines
    starts = [n for n, line in enumerate(lines) if re.fullmatch(rf"_+ {re.escape(item)} _+", line)]
    assert len(starts) == 1, f"{len(starts)} failures are titled {item}:\n" + "\n".join(lines)
    end = next(
        n for n in range(starts[0] + 1, len(lines)) if re.fullmatch(r"(_{2,} .+ _{2,}|={2,} .+ ={2,})", lines[n])
    )
    return "\n".join(lines[starts[0] + 1 : end])


def unwrapped(result: pytest.RunResult) -> str:
    """The output in one line, blanks as they would be had nothing been cut to fit the terminal."""
    return " ".join(" ".join(result.outlines).split())


def run_in_root(out: Path, *arguments: str) -> tuple[pytest.RunResult, Path]:
    """Run the gates of the repository itself, with the run folder in `out`: what was said and the folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "H2O_"))}
    environment |= {"PY_COLORS": "0", "COLUMNS": "100"}
    result = warm.Run([*record.command(out, *arguments), *QUICK], cwd=ROOT, env=environment).finish()
    assert result.ret == 0, "\n".join(result.outlines)
    (folder,) = out.glob("2*")
    return result, folder


def check_no_traceback(result: pytest.RunResult) -> None:
    """Neither we nor pytest fell over."""
    text = "\n".join(result.outlines)
    for sign in ("Traceback (most recent call last)", "INTERNALERROR", "object has no attribute"):
        assert sign not in text, text


def check_failed(project: Project, result: pytest.RunResult, *items: str) -> None:
    """Exactly these items failed; pytest's verdict and the summary's agree."""
    check_no_traceback(result)
    assert result.ret == 1
    assert set(project.failed()) == set(items)
    assert project.summary()["overall_pass"] is False
    assert json.loads((project.run_dir() / "run.json").read_text())["overall_pass"] is False


def refusal(project: Project, result: pytest.RunResult) -> str:
    """The whole text of a usage error, before which nothing was launched or written."""
    check_no_traceback(result)
    assert result.ret == pytest.ExitCode.USAGE_ERROR, result.outlines
    assert project.runs() == project.launches() == []
    start = next(n for n, line in enumerate(result.outlines) if line.startswith("ERROR: "))
    # Where standard output is buffered what stood on it before the error comes after it.
    told = itertools.takewhile(lambda line: not line.startswith(("====", "gates/")), result.outlines[start:])
    collected = any(line.startswith("collected ") for line in result.outlines)
    return plain("\n".join(["after collection" if collected else "at once", *filter(None, told)]), project)


SAID_EVERYWHERE = re.compile(
    r" *(note:? +(first cause: |decode speeds are not alike|quality is left out|timings are not compared;"
    r"|\d+ of \d+ rows: output not kept)|lossless coding at run time, |warnings? |log |config )|.*\bdisturbed\b"
)
"""Lines that most failures and most gates have alike, and those that others on the machine bring about."""


def verdict(project: Project, result: pytest.RunResult, *told: str) -> str:
    """How a gate ended, in words: what failed and why, the last lines, and what is said of the items `told`.

    The artifacts say the same: summary.json and run.json of the verdict, summary.md and report.html of each reason.
    """
    check_no_traceback(result)
    folder = max(project.runs(), key=lambda path: path.stat().st_mtime_ns)
    summary = project.summary(folder)
    assert json.loads((folder / "run.json").read_text())["overall_pass"] == summary["overall_pass"]
    assert result.ret == (summary["overall_pass"] is False), result.outlines
    reasons = [one["why"] for one in (*summary["failed"], *summary["left_out_on_purpose"])] + summary["incomplete_for"]
    reasons += [note for preset in summary["presets"].values() for note in preset["notes"]]
    for report in filter(Path.exists, (folder / "summary.md", folder / "report.html")):
        text = html.unescape(report.read_text()).replace("\\", "")
        assert [why for why in reasons if " ".join(why.split()) not in text] == []
    counts = {name: count for name, count in result.parseoutcomes().items() if name != "deselected"}
    lines = [f"exit {result.ret}: {counts}"]
    lines += [f"{name}: {preset['rules']}" for name, preset in summary["presets"].items() if "rules" in preset]
    lines += [f"{one['item'].split('::')[-1]}: {one['why']}" for one in summary["failed"]]
    shown = "\n".join(result.outlines).rpartition(" h2o ====")[2].partition("\n")[2]
    last = shown[: shown.index("\n", shown.index("\ngate ") + 1)]
    lines += re.sub(r"\n(?:  |      )(?=\S)", " ", last).splitlines()
    for item in told:
        lines += ["", f"{item}:", *failure_lines(result, item)]
    return plain("\n".join(line for line in lines if not SAID_EVERYWHERE.match(line)), project)


def failure_lines(result: pytest.RunResult, item: str) -> list[str]:
    """What we say of a failed item: the error or the comparison, and the diagnosis."""
    error, _, diagnosis = re.sub(r"\n {11}(?=\S)", " ", failure_of(result, item)).partition(" h2o diagnosis ")
    compared = [line for line in error.splitlines() if line.startswith("E  ")]
    return [*(compared or error.rstrip("-").splitlines()), *diagnosis.splitlines()[1:]]


def plain(text: str, project: Project) -> str:
    """The text with what differs from run to run by name: folders, runs, seconds."""
    for name, place in (("PROJECT", project.path), ("ROOT", ROOT)):
        text = text.replace(str(place), name)
    text = re.sub(r"\d{8}-\d{6}-[0-9a-f]{6}", "RUN", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:]+\+00:00", "TIME", text)
    return re.sub(r"\d+\.\d s\b", "S s", text)


def add_plugin(project: Project, *lines: str, gate: str = "") -> None:
    """A conftest of these lines beside the gates, able to import the examples, and a gate in the gate file."""
    gates = project.path / "gates"
    for name in ("my_codec.py", "my_metric.py", "my_section.py"):
        shutil.copy(ROOT / "docs" / "examples" / name, gates)
    conftest = ["import pathlib, sys", "sys.path.insert(0, str(pathlib.Path(__file__).parent))", *lines]
    (gates / "conftest.py").write_text("\n".join(conftest) + "\n")
    with (gates / "test_sweep.py").open("a") as file:
        file.write(gate)


def replace_in(path: Path, old: str, new: str) -> None:
    """Change one text in a file; it must be there exactly once."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {path}"
    path.write_text(text.replace(old, new), encoding="utf-8")


def log_of(sweep: Path, number: int) -> Path:
    """The log of a run by its number."""
    (path,) = (sweep / "logs").glob(f"run_{number:04d}_*.log")
    return path


def drop_column(log: Path, column: str) -> None:
    """Take one column out of a table, as a binary that does not print it would have written it."""
    rows = [line.strip().strip("|").split("|") for line in log.read_text(encoding="utf-8").splitlines()]
    place = [cell.strip() for cell in rows[0]].index(column)
    lines = ["|" + "|".join(cell for n, cell in enumerate(row) if n != place) + "|" for row in rows]
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")

"""Rows of tables of whole gates: what is changed in a project, the command line, and which failures are looked at."""

from collections.abc import Callable
from typing import NamedTuple

from tests.plugin.project import Project, add_plugin, log_of, replace_in

PRESET, DECIDING = "target_ratio_v3", "front2_grouped_192_8"
RUN_5 = "run_0005_p512_g128_k0.28_b16_lr3.2"
SWEEP_ONLY = ("-k", f"{PRESET} and not bench")
BENCH = ("--h2o-bench=llm_bench", "--h2o-base-config=model.json")
Prepare = Callable[[Project], object]


class Case(NamedTuple):
    """A gate of the shipped project: its command line, what is changed before, and failures whose text counts."""

    arguments: tuple[str, ...]
    prepare: Prepare | None = None
    told: tuple[str, ...] = ()


def every(*steps: Prepare) -> Prepare:
    return lambda project: [step(project) for step in steps]


def ini(**keys: str) -> Prepare:
    return lambda project: project.write_ini(**keys)


def conftest(*lines: str, gate: str = "") -> Prepare:
    return lambda project: add_plugin(project, *lines, gate=gate)


def preset(text: str, name: str = PRESET) -> Prepare:
    """A preset with this text at its end."""

    def change(project: Project) -> None:
        file = project.preset(name)
        file.write_text(f"{file.read_text() if file.exists() else ''}\n{text}\n")

    return change


def replaced(file: str, old: str, new: str) -> Prepare:
    return lambda project: replace_in(project.path / "gates" / file, old, new)


def written(name: str, text: str) -> Prepare:
    return lambda project: (project.path / name).write_text(text)


def in_log(number: int, old: str, new: str) -> Prepare:
    """A recorded log with another text."""
    return lambda project: replace_in(log_of(project.copy_recordings(), number), old, new)

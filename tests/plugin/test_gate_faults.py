"""A gate with one random fault never ends with exit code 0 and PASS where the fault matters, and never in a traceback.

TMPDIR=/dev/shm H2O_FUZZ_GATES=10000 python -m pytest -n2 tests/plugin/test_gate_faults.py    # tox -e fuzz-gates
H2O_FUZZ_SEED=4711 H2O_FUZZ_GATES=1 ...                                     # one gate again, its folder kept
"""

import os
import random
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.plugin.gate_faults import KINDS, Gate, break_gate, launch, make_template
from tests.plugin.project import Project

COUNT = int(os.environ.get("H2O_FUZZ_GATES", "8"))
FIRST = int(os.environ.get("H2O_FUZZ_SEED", "1"))
TIMEOUT_S = 120
BLOCK = 12
BAD = ("Traceback (most recent call last)", "INTERNALERROR", "object has no attribute")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("template") / "gate").path


def judge(gate: Gate, name: str) -> str | None:
    """What is wrong with the end of a gate; None if nothing is."""
    project = Project.__new__(Project)
    project.path, project.env = gate.path, gate.env
    try:
        result = project.run(*gate.arguments, timeout_s=TIMEOUT_S)
    except TimeoutError as error:
        return f"hangs:\n{error}"
    said = "\n".join(result.outlines)
    if name != "a_hook_of_pytest_misbehaves":
        for sign in BAD:
            if sign in said:
                return f"{sign}:\n{said}"
        if result.ret not in (0, 1, 2, 3, 4, 5, -signal.SIGTERM):
            return f"ends with {result.ret}:\n{said}"
    verdicts = {line.split()[1] for line in result.outlines if re.match("gate [A-Z]+", line)}
    if result.ret == 0 and (verdicts == {"FAIL"} or (gate.is_fatal and "PASS" in verdicts)):
        return f"passes:\n{said}"
    if result.ret == 0 and gate.is_fatal and KINDS.get(name) == "plugins" and not verdicts:
        return f"ends well without a verdict:\n{said}"
    return None


@pytest.mark.parametrize("first", range(FIRST, FIRST + COUNT, BLOCK))
def test_no_fault_passes(first: int, template: Path, tmp_path: Path) -> None:
    wrong: list[str] = []
    for seed in range(first, min(first + BLOCK, FIRST + COUNT)):
        gate, name, what = break_gate(template, tmp_path / str(seed), seed)
        fault = judge(gate, name)
        line = f"seed {seed}, {name}: {what}"
        if fault is not None:
            wrong.append(f"{line}\n{fault}")
            print(f"\nWRONG {line}\n{fault}", file=sys.stderr)
        if COUNT > 1:
            shutil.rmtree(gate.path, ignore_errors=True)
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.parametrize("prepare", [lambda gate: None, launch], ids=["recorded", "launched"])
def test_the_template_passes(prepare: Callable[[Gate], None], template: Path, tmp_path: Path) -> None:
    shutil.copytree(template, tmp_path / "gate")
    gate = Gate(tmp_path / "gate", random.Random(1))
    prepare(gate)
    fault = judge(gate, "none")
    assert fault is not None
    assert fault.startswith("passes:")

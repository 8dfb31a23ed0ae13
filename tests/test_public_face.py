"""What plugins import: the names of `pytest_h2o`, and the modules that the documentation of 0.1 named."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_h2o

STUB = Path(pytest_h2o.__file__).with_suffix(".pyi")
OLD = {
    "pytest_h2o.bench.adapter": ["BenchAdapter"],
    "pytest_h2o.bench.row": ["BenchRow"],
    "pytest_h2o.codecs.base": ["Codec", "SideInfo", "Stream", "Words"],
    "pytest_h2o.codecs.planes.byte_planes": ["join_planes", "split_planes"],
    "pytest_h2o.codecs.registry": ["register"],
    "pytest_h2o.errors": ["CodecError", "TableError"],
    "pytest_h2o.gate.row_metrics": ["RowMetric"],
    "pytest_h2o.report.sections": ["ReportSection", "SectionTable"],
}
"""Module -> names, as docs/codecs.md, docs/writing-a-plugin.md and docs/examples of 0.1 imported them."""


def test_every_public_name_is_there_and_the_stub_says_the_same() -> None:
    stub = ast.parse(STUB.read_text("utf-8"))
    said = {alias.name: node.module for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert sorted([*said, "__version__"]) == sorted(pytest_h2o.__all__)
    for name, module in said.items():
        assert getattr(pytest_h2o, name) is getattr(importlib.import_module(str(module)), name)
    with pytest.raises(AttributeError, match="no attribute 'Codecs'"):
        pytest_h2o.__getattr__("Codecs")


@pytest.mark.parametrize("module", OLD)
def test_what_0_1_documented_can_be_imported(module: str, recwarn: pytest.WarningsRecorder) -> None:
    sys.modules.pop(module, None) if module in pytest_h2o._MOVED else None
    space: dict[str, object] = {}
    exec(compile(f"from {module} import {', '.join(OLD[module])}", "a_plugin.py", "exec"), space)
    assert all(space[name] is getattr(pytest_h2o, name) for name in OLD[module])
    warned = [(warning.filename, str(warning.message)) for warning in recwarn if "pytest_h2o" in str(warning.message)]
    text = f"{module} is gone in the next release: import its names from pytest_h2o"
    assert warned == ([("a_plugin.py", text)] if module in pytest_h2o._MOVED else [])


def test_the_names_load_nothing_until_they_are_asked_for() -> None:
    code = "import pytest_h2o, sys; print([m for m in sys.modules if m.startswith('pytest_h2o.') or m == 'numpy'])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"

"""The rules of the house: imports go down and never in a circle, start-up is light, what plugins import is there."""

import ast
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pytest_h2o

ROOT = Path(__file__).parents[1]

_spec = importlib.util.spec_from_file_location("house", ROOT / "tools" / "house.py")
house = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(house)


@pytest.fixture(scope="module")
def home() -> Any:
    return house.House(ROOT / "pytest_h2o")


def test_the_rooms_are_those_of_the_floors(home: Any) -> None:
    assert home.rooms() == sorted(room for floor in house.FLOORS for room in floor)
    assert len(home.rooms()) <= 12
    assert len(house.FLOORS) == 7


def test_every_import_goes_down(home: Any) -> None:
    assert home.wrong_ways() == []


def test_no_import_closes_a_circle(home: Any) -> None:
    assert home.cycles() == []


def test_no_function_is_longer_than_a_screen(home: Any) -> None:
    assert home.long_functions() == {}


def test_an_import_that_goes_up_or_round_is_seen(tmp_path: Path) -> None:
    """In a function and under TYPE_CHECKING too."""
    files = {
        "__init__.py": "",
        "errors.py": "def late():\n    from pytest_h2o import files\n",
        "files.py": "import typing\nif typing.TYPE_CHECKING:\n    from pytest_h2o.errors import late\n",
        "gate/__init__.py": "",
        "gate/rule.py": "import pytest_h2o.run.items\n",
        "run/__init__.py": "",
        "run/items.py": "from pytest_h2o.gate.rule import x\nfrom pytest_h2o import gate\n",
    }
    for name, text in files.items():
        path = tmp_path / "pytest_h2o" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    wrong = house.House(tmp_path / "pytest_h2o")
    assert wrong.wrong_ways() == ["errors -> files", "gate.rule -> run.items"]
    assert wrong.cycles() == [["errors", "files"], ["gate.rule", "run.items"]]


def test_only_the_plugin_knows_pytest(home: Any) -> None:
    knows = set()
    for name, tree in home.trees.items():
        for node in ast.walk(tree):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(module.split(".")[0] in ("pytest", "_pytest", "pluggy", "xdist") for module in modules):
                knows.add(name.split(".")[0])
    assert knows == {"plugin"}


def test_loading_the_plugin_loads_nothing_but_pytest_and_the_standard_library() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules)\n"
        "import pytest_h2o.plugin.hooks\n"
        "names = ('errors', 'inputs', 'inputs.options', 'gate', 'gate.metrics')\n"
        "names += ('plugin', 'plugin.hooks', 'plugin.config', 'plugin.controller')\n"
        "own = {'pytest_h2o', *('pytest_h2o.' + name for name in names)}\n"
        "new = {m.split('.')[0] for m in set(sys.modules) - before - own}\n"
        "ours = {m for m in sys.modules if m.startswith('pytest_h2o')} - own\n"
        "print(sorted(new - set(sys.stdlib_module_names)), sorted(ours))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"


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

"""The rules of the house that a test can hold: imports go one way, only the plugin knows pytest, files stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_h2o

PACKAGE = Path(pytest_h2o.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

LAYERS = (
    {"errors", "error_records", "__init__"},
    {"codecs", "cores", "dumps", "presets", "preset_model", "scopes", "points", "schema", "options", "decode_options"}
    | {"store", "history", "option_checks", "embedded", "executor_name", "progress"},
    {"bench", "codecs_bench", "lossless", "gate", "reference"},
    {"report"},
    {"comparisons", "gate_files", "known_rope", "launch_settings", "preset_fit", "row_sources", "selection", "session"}
    | {"pair_sources", "decode_plan", "decode_figures", "scope_figures", "text_figures", "calibrations"}
    | {"consistency_figures", "embedded_reach", "extensions", "progress_display", "run_head"}
    | {"asked", "resume", "workers"},
    {"plugin", "run_config", "controller", "hookspecs", "cli", "commands", "__main__"},
)
"""From the bottom up; a module imports from its own layer and those below."""

KNOW_PYTEST = {"plugin", "controller", "hookspecs"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def layer_of(room: str) -> int:
    for level, rooms in enumerate(LAYERS):
        if room in rooms:
            return level
    raise AssertionError(f"{room} has no layer: add it to LAYERS")


def imports_of(path: Path, *, at_load: bool = False) -> set[str]:
    """Modules that a file imports; `at_load` leaves out what stands in functions or under TYPE_CHECKING."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes: list[ast.stmt] = tree.body if at_load else [n for n in ast.walk(tree) if isinstance(n, ast.stmt)]
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return names


def _ids(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", MODULES, ids=_ids)
def test_imports_go_one_way(path: Path) -> None:
    level = layer_of(room_of(path))
    for name in imports_of(path):
        if name.startswith("pytest_h2o."):
            room = name.split(".")[1]
            assert layer_of(room) <= level, f"{path.name} in {room_of(path)} imports {name}, which stands above it"


KNOW_PYTEST = ("plugin", "run_config", "controller", "hookspecs")


@pytest.mark.parametrize("path", [p for p in MODULES if room_of(p) not in KNOW_PYTEST], ids=_ids)
def test_only_the_plugin_knows_pytest(path: Path) -> None:
    assert not {name for name in imports_of(path) if name.split(".")[0] in ("pytest", "_pytest", "pluggy", "xdist")}


@pytest.mark.parametrize("path", MODULES, ids=_ids)
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350


def test_loading_the_plugin_loads_nothing_but_pytest_and_the_standard_library() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules)\n"
        "import pytest_h2o.plugin.hooks\n"
        "names = ('errors', 'options', 'plugin', 'run_config', 'controller')\n"
        "own = {'pytest_h2o', *('pytest_h2o.' + name for name in names)}\n"
        "new = {m.split('.')[0] for m in set(sys.modules) - before - own}\n"
        "ours = {m for m in sys.modules if m.startswith('pytest_h2o')} - own\n"
        "print(sorted(new - set(sys.stdlib_module_names)), sorted(ours))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"

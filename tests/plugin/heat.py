"""Done once in the process that runs of pytest are forked from: what each of them would make anew, and alike.

Code of templates, validators of JSON, plans of pairs, what is installed, asserts of the shipped gates. Nothing that
depends on a gate.
"""

import ast
import functools
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
from _pytest.assertion import rewrite
from filelock import ReadWriteLock as ReadWriteLock

from pytest_h2o.files import _adapter
from pytest_h2o.gate.decode import DEFAULT_CONFIDENCE, PairedComparison
from pytest_h2o.gate.sequential import GIVES_UP, make_plan
from pytest_h2o.inputs.checking import schema_of
from pytest_h2o.inputs.presets import PresetKeys
from pytest_h2o.inputs.scopes import ScopeKeys
from pytest_h2o.lossless.result import LosslessResult
from pytest_h2o.report import artifacts
from pytest_h2o.run import history, journal

for kind in (LosslessResult, PairedComparison, journal.News, journal._Record, history.RunRecord):
    _adapter(kind)
for model in (PresetKeys, ScopeKeys):
    schema_of(model)
for pairs in (8, 20, 24):
    make_plan(pairs, DEFAULT_CONFIDENCE, GIVES_UP)
platform.processor()

_templates = jinja2.FileSystemBytecodeCache().directory  # of this machine: runs have temporary folders of their own
jinja2.FileSystemBytecodeCache._get_default_cache_dir = lambda cache: _templates

_found = [one for one in metadata.distributions() if one.entry_points.select(group="pytest11")]
metadata.distributions = lambda **_: list(_found)
for _name in ("entry_points", "files", "metadata"):  # each reads a file
    setattr(metadata.Distribution, _name, property(functools.cache(getattr(metadata.Distribution, _name).fget)))
    for _one in _found:
        getattr(_one, _name)
metadata.Distribution.from_name = functools.cache(metadata.Distribution.from_name)
for _name in artifacts._PACKAGES:
    artifacts._version(_name)

_rewrite, _rewritten = rewrite.rewrite_asserts, dict[bytes, ast.Module]()
for _gate in (Path(__file__).parents[2] / "gates").glob("test_*.py"):
    _text = _gate.read_bytes()
    _rewrite(_rewritten.setdefault(_text, ast.parse(_text)), _text)


def _take_rewritten(tree: ast.Module, source: bytes, *given: Any) -> None:
    if source in _rewritten:
        tree.body = _rewritten[source].body
    else:
        _rewrite(tree, source, *given)


rewrite.rewrite_asserts = _take_rewritten

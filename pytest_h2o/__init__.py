"""pytest-h2o: a regression gate for KV-cache compression in LLM runtimes.

What plugins import stands here, each name loaded when it is asked for: ``from pytest_h2o import Codec, register``.
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

__version__ = "0.1.0"

_HOMES = {
    "codecs.base": ("Codec", "Rope", "SideInfo", "Stream", "Words"),
    "codecs.planes": ("join_planes", "split_planes"),
    "codecs.registry": ("get_codec", "register"),
    "bench.adapter": ("BenchAdapter",),
    "bench.rows": ("BenchRow", "Row"),
    "gate.metrics": ("Metric", "RowMetric"),
    "inputs.options": ("Range",),
    "run.journal": ("ReportSection", "SectionTable"),
    "errors": (
        "BenchError",
        "CodecError",
        "DumpError",
        "H2OError",
        "PresetError",
        "StoreError",
        "TableError",
        "UsageError",
    ),
}
"""Module -> what of it is public; `__init__.pyi` says the same to type checkers."""

_PUBLIC = {name: module for module, names in _HOMES.items() for name in names}

_MOVED = {
    "pytest_h2o.bench.row": "bench.rows",
    "pytest_h2o.codecs.planes.byte_planes": "codecs.planes",
    "pytest_h2o.gate.row_metrics": "gate.metrics",
    "pytest_h2o.report.sections": "run.journal",
}
"""Modules that the documentation of 0.1 named, and where their names are now; read for this release."""

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    return value


class _MovedModules:
    """Finder and loader of the modules of `_MOVED`; it is asked last, after every place where a module could be."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, _MovedModules) if name in _MOVED else None

    @staticmethod
    def create_module(spec: ModuleSpec) -> None:
        return None

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        moved = f"{module.__name__} is gone in the next release: import its names from pytest_h2o"
        warnings.warn(moved, DeprecationWarning, stacklevel=2)
        home = vars(import_module(f"{__name__}.{_MOVED[module.__name__]}"))
        vars(module).update({name: value for name, value in home.items() if not name.startswith("__")})


sys.meta_path.append(_MovedModules)

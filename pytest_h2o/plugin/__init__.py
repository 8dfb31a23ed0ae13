"""The plugin.

pytest takes every module of an installed plugin for one with asserts to rewrite, and loads it the slow way. This
package has none for a user to see: from here on its modules are found before pytest is asked.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class _AsTheyAre(MetaPathFinder):
    """Finds the modules of this package as Python does."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, path, target) if name.startswith("pytest_h2o.") else None


sys.meta_path.insert(0, _AsTheyAre())

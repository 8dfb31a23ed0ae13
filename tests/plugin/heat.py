"""Done once in the process that runs of pytest are forked from: what each of them would make anew, and alike.

Code of templates, validators of JSON, plans of pairs, what is installed. Nothing that depends on a gate.
"""

import functools
import platform
from importlib import metadata

import jinja2
from filelock import ReadWriteLock as ReadWriteLock

from pytest_h2o.files import _adapter
from pytest_h2o.gate.decode import DEFAULT_CONFIDENCE, PairedComparison
from pytest_h2o.gate.sequential import GIVES_UP, make_plan
from pytest_h2o.lossless.result import LosslessResult
from pytest_h2o.run import history, journal

for kind in (LosslessResult, PairedComparison, journal.News, journal._Record, history.RunRecord):
    _adapter(kind)
for pairs in (8, 20, 24):
    make_plan(pairs, DEFAULT_CONFIDENCE, GIVES_UP)
platform.processor()

_templates = jinja2.FileSystemBytecodeCache().directory  # of this machine: runs have temporary folders of their own
jinja2.FileSystemBytecodeCache._get_default_cache_dir = lambda cache: _templates

_found = [one for one in metadata.distributions() if one.entry_points.select(group="pytest11")]
metadata.distributions = lambda **_: list(_found)
metadata.version = functools.cache(metadata.version)

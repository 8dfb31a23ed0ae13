"""Makes llama-bench known to these gates: the adapter lies one folder up."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from llama_bench import pytest_h2o_benches  # noqa: F401

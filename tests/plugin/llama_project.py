"""The gates of llama-bench as docs/examples has them, in a temporary folder, and a stand-in for the binary."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from tests.plugin.project import ROOT, Project

EXAMPLES = ROOT / "docs" / "examples"
RECORDING = ROOT / "fixtures" / "recordings" / "llama-bench" / "cache-types.json"

FAKE_LLAMA_BENCH = """#!{python} -IS
# Prints what is recorded of the cache types and lengths that it is asked for, and noise on standard error.
import json, os, sys

asked = dict(zip(sys.argv[1::2], sys.argv[2::2]))
print("ggml_vulkan: Found 1 Vulkan devices:", file=sys.stderr, flush=True)
if not os.path.isfile(asked["-m"]):
    sys.exit("error: failed to load model '" + asked["-m"] + "'")
found = [
    dict(test, n_threads=int(asked["-t"]))
    for test in json.load(open({recording!r}))
    if (test["type_k"], test["type_v"]) == (asked["-ctk"], asked["-ctv"])
    and (test["n_prompt"] == int(asked["-p"]) or test["n_gen"] == int(asked["-n"]))
]
assert (asked["-fa"], asked["-o"]) == ("1", "json")
print(json.dumps(found, indent=2))
"""


class LlamaProject(Project):
    """Gates of KV-cache types; `recording` holds the tests that are gated on, for a test to change."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        shutil.rmtree(path / "gates")
        shutil.copy(EXAMPLES / "llama_bench.py", path)
        shutil.copytree(EXAMPLES / "llama_gates", path / "gates", ignore=shutil.ignore_patterns("__pycache__"))
        self.recording = path / "recorded" / "bench.json"
        self.recording.parent.mkdir()
        self.write(json.loads(RECORDING.read_text()))
        self.write_ini(h2o_logs="recorded")

    def write(self, tests: list[dict[str, Any]]) -> None:
        self.recording.write_text(json.dumps(tests, indent=2))

    def read(self) -> list[dict[str, Any]]:
        tests: list[dict[str, Any]] = json.loads(self.recording.read_text())
        return tests

    def make_llama_bench(self) -> tuple[str, ...]:
        """A stand-in for the binary that prints the recording; the options for it."""
        bench = self.path / "llama-bench"
        bench.write_text(FAKE_LLAMA_BENCH.format(python=sys.executable, recording=str(self.recording)))
        bench.chmod(0o755)
        (self.path / "model.gguf").write_bytes(b"GGUF")
        (self.path / "model.json").write_text('{"model": "model.gguf"}')
        self.write_ini(h2o_threads="2")
        return ("--h2o-bench=llama-bench", "--h2o-base-config=model.json")

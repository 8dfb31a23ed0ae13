"""The whole ``pytest-h2o lossless`` command against a plain script, side by side.

    python benchmarks/lossless_command.py [--sets fixtures,tenfold,prefill,tokens] [--rounds 5] [--json FILE]

Sets, all with every layer, mode chunked_grouped, 192 tokens a chunk and 8 bytes of framing:

- fixtures: the fp16 recordings;
- tenfold: ten times as much, by repetition;
- prefill: 500 MB of prompt entries, by repetition;
- tokens: 50,000 one-token entries.

Each round runs both as whole processes, one after the other, in alternating order, after one run of each that is not
counted. Wall time is from start to end, start-up included; processor time and peak memory are those of the process
(`os.wait4`). The command also decodes every stream and compares it; the script only counts. Both must count the same
bytes. Printed are medians, and the median of the ratios round by round (script over command: higher is better).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "fixtures" / "dumps" / "fp16.zip"
SCRIPT = ROOT / "benchmarks" / "straightforward_lossless.py"
SAME = ("k_compressed_bytes", "v_compressed_bytes", "raw_bytes")


def write_entry(folder: Path, meta: dict[str, Any], data: dict[str, bytes]) -> None:
    span = f"t{meta['seq_start']}_{meta['seq_start'] + meta['seq_len']}"
    names = {f"{tensor}_file": f"{tensor}_{span}.bin" for tensor in data}
    for tensor, words in data.items():
        (folder / names[f"{tensor}_file"]).write_bytes(words)
    (folder / f"meta_{span}.json").write_text(json.dumps({**meta, **names}, indent=2), encoding="utf-8")


def read_entries(stage: str | None = None) -> list[tuple[Path, dict[str, Any], dict[str, bytes]]]:
    entries = []
    with zipfile.ZipFile(FIXTURES) as dump:
        for name in sorted(dump.namelist()):
            folder, _, file = name.rpartition("/")
            if file.startswith("meta_"):
                meta = json.loads(dump.read(name))
                if stage in (None, meta["stage"]):
                    data = {tensor: dump.read(f"{folder}/{meta[f'{tensor}_file']}") for tensor in "kv"}
                    entries.append((Path(folder), meta, data))
    return entries


def repeat(root: Path, stage: str | None, times: int) -> None:
    for number in range(times):
        for folder, meta, data in read_entries(stage):
            target = root / f"{number:03d}_{folder}"
            target.mkdir(parents=True, exist_ok=True)
            write_entry(target, {**meta, "run_id": f"{number:03d}_{meta['run_id']}"}, data)


def make_prefill(root: Path) -> None:
    raw_bytes = sum(len(words) for _, _, data in read_entries("prefill") for words in data.values())
    repeat(root, "prefill", round(500e6 / raw_bytes))


def make_tokens(root: Path, runs: int = 5, layers: int = 5, tokens: int = 2000) -> None:
    """Rows of one entry above layer 0, in other channels for each layer and repetition: no two are copies."""
    entries = [entry for entry in read_entries("prefill") if entry[1]["layer_id"]]
    _, meta, data = max(entries, key=lambda entry: entry[1]["seq_len"])
    rows = {tensor: np.frombuffer(words, "<u2").reshape(meta["seq_len"], -1) for tensor, words in data.items()}
    times = -(-tokens // meta["seq_len"])
    for run in range(runs):
        for layer in range(layers):
            folder = root / f"run{run}" / f"layer_{layer}"
            folder.mkdir(parents=True)
            for token in range(tokens):
                again, row = divmod(token, meta["seq_len"])
                own = {"layer_id": layer, "seq_start": token, "seq_len": 1, "seq_end_exclusive": token + 1}
                words = {tensor: np.roll(of[row], layer * times + again).tobytes() for tensor, of in rows.items()}
                write_entry(folder, {**meta, **own, "stage": "decode", "run_id": f"run{run}"}, words)


SETS: dict[str, Callable[[Path], None]] = {
    "fixtures": lambda root: repeat(root, None, 1),
    "tenfold": lambda root: repeat(root, None, 10),
    "prefill": make_prefill,
    "tokens": make_tokens,
}


def run_once(command: list[str]) -> dict[str, float]:
    """Wall and processor seconds and peak memory of one process."""
    started = time.perf_counter()
    pid = os.posix_spawn(
        command[0],
        command,
        {**os.environ, "PYTHONPATH": str(ROOT)},
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(pid, 0)
    wall_s = time.perf_counter() - started
    if status:
        raise SystemExit(f"failed with status {status}: {' '.join(command)}")
    return {"wall_s": wall_s, "cpu_s": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1024}


def commands(root: Path, out: Path, extra: list[str]) -> dict[str, list[str]]:
    ours = "--overwrite --scope layer_range --layer-start 0 --entry-mode chunked_grouped --online-chunk-seq 192"
    ours += " --degenerate allow"  # the one-token entries repeat those of a short prompt
    return {
        "script": [sys.executable, str(SCRIPT), str(root), str(out / "script.json"), "--layers", "1000000"],
        "command": [
            *(sys.executable, "-m", "pytest_h2o", "lossless", "--dump-dir", str(root)),
            *("--out-json", str(out / "command.json"), *ours.split(), "--online-framing-bytes", "8", *extra),
        ],
    }


def compare(name: str, work: Path, rounds: int, extra: list[str]) -> dict[str, Any]:
    root = work / name
    root.mkdir()
    SETS[name](root)
    both = commands(root, work, extra)
    for command in both.values():
        run_once(command)
    counted = {kind: json.loads((work / f"{kind}.json").read_text(encoding="utf-8")) for kind in both}
    unlike = [key for key in SAME if counted["script"][key] != counted["command"][key]]
    if unlike:
        raise SystemExit(f"{name}: the two count unlike bytes: {', '.join(unlike)}")
    runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in both}
    for number in range(rounds):
        for kind in sorted(both, reverse=bool(number % 2)):
            runs[kind].append(run_once(both[kind]))
    result: dict[str, Any] = {"set": name, "rounds": rounds, "raw_mb": counted["command"]["raw_bytes"] / 1e6}
    for kind, measured in runs.items():
        result[kind] = {key: statistics.median(run[key] for run in measured) for key in measured[0]}
    for key in ("wall_s", "cpu_s"):
        ratios = [s[key] / c[key] for s, c in zip(runs["script"], runs["command"], strict=True)]
        result[f"{key}_ratio"] = statistics.median(ratios)
        result[f"{key}_ratio_range"] = [min(ratios), max(ratios)]
    return result


def render(result: dict[str, Any]) -> str:
    script, command = result["script"], result["command"]
    return (
        f"| {result['set']} | {result['raw_mb']:.0f} | {script['wall_s']:.2f} | {command['wall_s']:.2f} | "
        f"{result['wall_s_ratio']:.2f} ({result['wall_s_ratio_range'][0]:.2f}-{result['wall_s_ratio_range'][1]:.2f}) | "
        f"{script['cpu_s']:.2f} | {command['cpu_s']:.2f} | {script['peak_mb']:.0f} | {command['peak_mb']:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="fixtures,tenfold", help=f"of {', '.join(SETS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work-dir", type=Path, help="where sets are made (default: the system's temporary folder)")
    parser.add_argument("--extra", default="", help="more flags for the command, for example '--no-verify --workers 1'")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also keep the figures")
    args = parser.parse_args()
    print(
        "| set | raw MB | script s | command s | times faster | script cpu s | command cpu s | script MB | command MB |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    results = []
    for name in args.sets.split(","):
        with tempfile.TemporaryDirectory(dir=args.work_dir) as work:
            results.append(compare(name, Path(work), args.rounds, args.extra.split()))
        print(render(results[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

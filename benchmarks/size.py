"""Time and memory against bytes, entries, points and workers; figures for docs/size-and-machines.md.

    python benchmarks/size.py --json benchmarks/results/size/size.json --figures benchmarks/results/size \
        [--curves bytes,entries,points,workers] [--small]

Each point of a curve is a process of its own, measured with `os.wait4`: wall and processor seconds, and the largest
resident set, in which mapped pages of the dump count. Dumps are made by repetition and not stored: every entry has
metas of its own and data files that are hard links to a few. What is measured:

- bytes: ``pytest-h2o lossless`` on prompt entries of 16 MB a tensor, up to 10 GB, every stream decoded and compared
  (byteplane, chunks of 192 tokens);
- entries: the index alone of one-token entries, up to 100,000;
- points: ``pytest --collect-only`` of one preset whose grid has up to 10,000 points, beside a bare parametrized file;
- workers: 500 MB of prompt entries, one to twice as many threads as there are cores.

``--small`` makes each curve a tenth as long. With ``--json`` and an old file, ``--figures`` alone draws that.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.collection import time_collection
from benchmarks.lossless_command import FIXTURES, read_entries, run_once
from pytest_h2o.files import usable_cores

Point = dict[str, Any]
ENTRY_BYTES = 16_000_000
INDEX = """
import sys
from pytest_h2o.lossless.index import index_dump
print(len(index_dump(sys.argv[1], sized=False).entries))
"""


def make_prompts(root: Path, raw_bytes: int) -> int:
    """Prompt entries of `ENTRY_BYTES` a tensor, their data hard links to one file a tensor; gives their raw bytes."""
    _, meta, data = max(read_entries("prefill"), key=lambda entry: entry[1]["seq_len"])
    row_bytes = len(data["k"]) // meta["seq_len"]
    tokens = ENTRY_BYTES // row_bytes
    root.mkdir(parents=True)
    for tensor, words in data.items():
        (root / f"{tensor}.bin").write_bytes((words * (tokens // meta["seq_len"] + 1))[: tokens * row_bytes])
    count = max(1, raw_bytes // (2 * tokens * row_bytes))
    for number in range(count):
        folder = root / f"run{number:04d}" / "layer_0"
        folder.mkdir(parents=True)
        own = {"layer_id": 0, "seq_start": 0, "seq_len": tokens, "seq_end_exclusive": tokens, "run_id": f"run{number}"}
        names = {f"{tensor}_file": f"{tensor}.bin" for tensor in data}
        (folder / "meta_t0.json").write_text(json.dumps({**meta, **own, **names}), encoding="utf-8")
        for tensor in data:
            (folder / f"{tensor}.bin").hardlink_to(root / f"{tensor}.bin")
    return count * 2 * tokens * row_bytes


def make_tokens(root: Path, entries: int) -> int:
    """One-token entries, their data hard links to one file a tensor and folder; gives how many."""
    _, meta, data = read_entries("decode")[0]
    per_folder = 2000
    for first in range(0, entries, per_folder):
        folder = root / f"run{first // per_folder:03d}" / "layer_0"
        folder.mkdir(parents=True)
        for tensor, words in data.items():
            (folder / f"{tensor}.bin").write_bytes(words)
        for token in range(min(per_folder, entries - first)):
            own = {"seq_start": token, "seq_len": 1, "seq_end_exclusive": token + 1, "run_id": folder.parent.name}
            names = {}
            for tensor in data:
                names[f"{tensor}_file"] = f"{tensor}_t{token}.bin"
                (folder / names[f"{tensor}_file"]).hardlink_to(folder / f"{tensor}.bin")
            text = json.dumps({**meta, **own, "layer_id": 0, **names})
            (folder / f"meta_t{token}.json").write_text(text, encoding="utf-8")
    return entries


MAKERS = {"prompts": make_prompts, "tokens": make_tokens}


def make(kind: str, root: Path, size: int) -> int:
    """Make a dump in a process of its own: what this one ever held would count as the peak of those it starts."""
    command = [sys.executable, __file__, "--make", kind, str(root), str(size)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def lossless(root: Path, out: Path, *extra: str) -> list[str]:
    flags = "--overwrite --entry-mode chunked_grouped --online-chunk-seq 192 --online-framing-bytes 8"
    command = [sys.executable, "-m", "pytest_h2o", "lossless", "--dump-dir", str(root), "--out-json", str(out)]
    return [*command, *flags.split(), "--codec-mode", "byteplane", *extra]


def measure_bytes(work: Path, scale: float) -> Iterator[Point]:
    for giga in (0.1, 1.0, 3.0, 10.0):
        root = work / f"bytes{giga}"
        raw = make("prompts", root, int(giga * scale * 1e9))
        yield {"x": raw / 1e9, "series": "lossless, decoded", **run_once(lossless(root, work / "out.json"))}


def measure_entries(work: Path, scale: float) -> Iterator[Point]:
    for entries in (1000, 10_000, 30_000, 100_000):
        count = max(100, int(entries * scale))
        root = work / f"entries{entries}"
        make("tokens", root, count)
        command = [sys.executable, "-c", INDEX, str(root)]
        yield {"x": count, "series": "index", **run_once(command)}


def measure_points(work: Path, scale: float) -> Iterator[Point]:
    for points in (100, 1000, 10_000):
        count = max(10, int(points * scale))
        ours, bare = work / f"ours{points}", work / f"bare{points}"
        (ours / "presets").mkdir(parents=True)
        bare.mkdir()
        (ours / "test_sweep.py").write_text((FIXTURES.parents[2] / "gates" / "test_sweep.py").read_text("utf-8"))
        (ours / "scopes.yaml").write_text((FIXTURES.parents[2] / "gates" / "scopes.yaml").read_text("utf-8"))
        (ours / "presets" / "large.yaml").write_text(f"prompts: [512]\ngens: {list(range(1, count + 1))}\n")
        ids = f"[f'large-run_{{n:05d}}_p512_g{{n}}_k0.5_b64_lr3.0' for n in range({count})]"
        mark = f"@pytest.mark.parametrize('n', range({count}), ids={ids})"
        (bare / "test_bare.py").write_text(f"import pytest\n{mark}\ndef test_n(n):\n    pass\n")
        for series, folder, extra in (
            ("pytest-h2o", ours, ["--h2o-decode-baseline=none"]),
            ("bare file", bare, ["-p", "no:h2o"]),
        ):
            wall_s, items = time_collection(folder, extra)
            if items < count:
                raise SystemExit(f"{series} collected {items} items, not {count}")
            yield {"x": count, "series": series, "wall_s": wall_s}


def measure_workers(work: Path, scale: float) -> Iterator[Point]:
    root = work / "workers"
    raw = make("prompts", root, int(5e8 * scale))
    for codec in ("byteplane", "rowref"):
        for workers in sorted({1, usable_cores(), 2 * usable_cores()}):
            command = lossless(root, work / "out.json", "--workers", str(workers), "--codec-mode", codec)
            yield {"x": workers, "series": codec, "mb_per_s": raw / 1e6 / (run := run_once(command))["wall_s"], **run}


CURVES: dict[str, tuple[Callable[[Path, float], Iterator[Point]], str]] = {
    "bytes": (measure_bytes, "raw GB of the dump"),
    "entries": (measure_entries, "entries"),
    "points": (measure_points, "points of one preset"),
    "workers": (measure_workers, "worker threads"),
}


def draw(curves: dict[str, list[Point]], folder: Path) -> None:
    """One SVG a curve: seconds, and where it was measured memory."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "h2o"
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    for name, points in curves.items():
        shown = [("wall_s", "seconds"), ("peak_mb", "largest resident set, MB")]
        shown = [(key, label) for key, label in shown if key in points[0]]
        figure, axes = pyplot.subplots(1, len(shown), figsize=(4.5 * len(shown), 3), squeeze=False)
        for axis, (key, label) in zip(axes[0], shown, strict=True):
            for series in dict.fromkeys(point["series"] for point in points):
                own = [(point["x"], point[key]) for point in points if point["series"] == series]
                axis.plot(*zip(*own, strict=True), marker="o", label=series)
            axis.set(xlabel=CURVES[name][1], ylabel=label, ylim=(0, None), xlim=(0, None))
            axis.grid(alpha=0.3)
            axis.legend()
        figure.tight_layout()
        figure.savefig(folder / f"size-{name}.svg", metadata={"Date": None})
        pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", default=",".join(CURVES), help=f"of {', '.join(CURVES)}; empty: only draw")
    parser.add_argument("--json", type=Path, help="what was measured; curves that are not measured now stay in it")
    parser.add_argument("--figures", type=Path, metavar="DIR")
    parser.add_argument("--work-dir", type=Path)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--make", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        print(MAKERS[args.make[0]](Path(args.make[1]), int(args.make[2])))
        return
    curves = json.loads(args.json.read_text("utf-8")) if args.json and args.json.exists() else {}
    for name in filter(None, args.curves.split(",")):
        with tempfile.TemporaryDirectory(dir=args.work_dir) as work:
            curves[name] = []
            for point in CURVES[name][0](Path(work), 0.1 if args.small else 1.0):
                curves[name].append(point)
                told = ", ".join(f"{key} {value:.2f}" for key, value in point.items() if isinstance(value, float))
                print(f"{name}: {point['series']}, x {point['x']:g}: {told}", flush=True)
        if args.json:
            args.json.write_text(json.dumps(curves, indent=1) + "\n", encoding="utf-8")
    if args.figures:
        draw(curves, args.figures)


if __name__ == "__main__":
    main()

"""How surely the default gate answers: it passes on the embedded bench as it is, and fails on one that is worse.

    python benchmarks/default_gate.py [--runs 10] [--cases healthy decode ...] [--neighbour 0.5] [--out-md FILE]

Each case is a copy of the repository in which the embedded bench has one fault; the default gate runs in it, `--runs`
times, the cases in turn. ``healthy`` has none and must pass; each of the others must fail the items that it is about. A
neighbour takes a share of a core meanwhile. It takes long: a minute or two for each run, on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRESS = re.compile(r"h2o: .+: (run|pair) \d+ of |^gates/\S+ \S|PASSED")


@dataclass(frozen=True)
class Case:
    """A fault of the embedded bench: texts of its modules and what stands in their place; the items that must fail."""

    what: str
    changes: tuple[tuple[str, str, str], ...] = ()
    fails: tuple[str, ...] = ()


CASES = {
    "healthy": Case("the embedded bench as it is"),
    "decode": Case(
        "decode with H2O is 10 % slower than without",
        (
            (
                "model.py",
                "    for _ in range(gen_len):\n",
                "    slower_s = None\n"
                "    if cache._policy is not None:  # timed on a copy of which nothing is evicted, and a tenth slower\n"
                "        whole, token = EvictingCache(model.hyper, len(prompt) + gen_len), tokens[0]\n"
                "        for held, copied in zip(cache.layers, whole.layers):\n"
                "            copied._keys[:, : held.length] = held.keys\n"
                "            copied._values[:, : held.length] = held.values\n"
                "            copied.length = held.length\n"
                "        whole.next_position, began_s = cache.next_position, time.perf_counter()\n"
                "        for _ in range(gen_len):\n"
                "            token = model.best(model.decode(token, whole))\n"
                "        slower_s = (time.perf_counter() - began_s) / 0.9\n"
                "    for _ in range(gen_len):\n",
            ),
            (
                "model.py",
                "time.perf_counter() - prefilled_s, tuple(",
                "slower_s or time.perf_counter() - prefilled_s, tuple(",
            ),
        ),
        ("test_decode[embedded]", "test_joint[embedded]"),
    ),
    "quality": Case(
        "as many blocks are kept, but the wrong ones: mirrored, so that the recent tokens go",
        (
            (
                "policy.py",
                "blocks = tuple(np.flatnonzero(keep).tolist())",
                "blocks = tuple(np.flatnonzero(keep[::-1]).tolist())",
            ),
        ),
        ("test_quality[embedded]", "test_joint[embedded]", "test_quality[embedded_store]"),
    ),
    "sizes": Case(
        "64 bytes more are counted for each sample than it is coded to",
        (("lossless.py", "coded_bytes=size_k + size_v,", "coded_bytes=size_k + size_v + 64,"),),
        ("test_consistency[embedded]", "test_consistency[embedded_store]"),
    ),
    "store": Case(
        "what store mode restores is put back a token too late",
        (("cache.py", "held[:, start : start + len(words)] =", "held[:, start + 1 : start + 1 + len(words)] ="),),
        ("test_bench[embedded_store-",),
    ),
}


@dataclass(frozen=True)
class Run:
    """One run of the default gate."""

    exit_code: int
    verdict: str
    failed: tuple[str, ...]
    elapsed_s: float
    first_line_s: float

    def is_right(self, case: Case) -> bool:
        """Whether the gate passed, or failed for what is the fault."""
        if not case.fails:
            return self.exit_code == 0 and self.verdict == "pass"
        return self.exit_code == 1 and all(any(item.startswith(name) for item in self.failed) for name in case.fails)


def make_copy(folder: Path, case: Case) -> None:
    """What the default gate needs of the repository, with the fault of a case."""
    for name in ("pytest_h2o", "gates", "fixtures/models", "fixtures/text", "fixtures/prompts", "fixtures/dumps"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    for module, old, new in case.changes:
        path = folder / "pytest_h2o" / "reference" / module
        text = path.read_text("utf-8")
        if text.count(old) != 1:
            raise SystemExit(f"{path} has {text.count(old)} times what a case changes: {old!r}")
        path.write_text(text.replace(old, new), "utf-8")


def run_gate(folder: Path) -> Run:
    """Run the default gate in a copy."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "H2O_"))}
    environment = {**kept, "PYTHONPATH": str(folder), "PYTEST_H2O_CACHE_DIR": "", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "pytest", "gates", "-p", "no:cacheprovider", "--h2o-out-dir", str(out)]
    started_s = time.perf_counter()
    first_line_s = float("nan")
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if first_line_s != first_line_s and PROGRESS.search(line):
                first_line_s = time.perf_counter() - started_s
    summary = json.loads(next(out.glob("2*/summary.json")).read_text("utf-8"))
    verdict = {True: "pass", False: "fail"}.get(summary["overall_pass"], str(summary["overall_pass"]))
    failed = tuple(item["item"].split("::")[-1] for item in summary["failed"])
    return Run(child.returncode, verdict, failed, time.perf_counter() - started_s, first_line_s)


@contextmanager
def neighbour(share: float) -> Iterator[None]:
    """A process that takes a share of a core."""
    if not share:
        yield
        return
    code = f"import time\nwhile True:\n e = time.perf_counter() + {share / 100}\n"
    code += f" while time.perf_counter() < e: pass\n time.sleep({(1 - share) / 100})"
    child = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield
    finally:
        child.kill()
        child.wait()


def render_table(runs: dict[str, list[Run]]) -> str:
    """The table: a line a case."""
    lines = [
        "| case | what | right | verdicts | seconds, least to most | first progress, most |",
        "| --- | --- | ---: | --- | ---: | ---: |",
    ]
    for name, done in runs.items():
        case = CASES[name]
        seconds = [run.elapsed_s for run in done]
        verdicts = ", ".join(f"{sum(r.verdict == v for r in done)} {v}" for v in dict.fromkeys(r.verdict for r in done))
        lines.append(
            f"| {name} | {case.what} | {sum(run.is_right(case) for run in done)} of {len(done)} | {verdicts} "
            f"| {min(seconds):.0f} to {max(seconds):.0f} | {max(run.first_line_s for run in done):.1f} s |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10, help="runs of each case (default: 10)")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--neighbour", type=float, default=0.0, metavar="SHARE", help="of a core, taken by others")
    parser.add_argument("--out-md", type=Path)
    args = parser.parse_args()
    runs: dict[str, list[Run]] = {name: [] for name in args.cases}
    with tempfile.TemporaryDirectory() as folder, neighbour(args.neighbour):
        for name in args.cases:
            make_copy(Path(folder, name), CASES[name])
        for number in range(1, args.runs + 1):
            for name in args.cases:
                run = run_gate(Path(folder, name))
                runs[name].append(run)
                right = "right" if run.is_right(CASES[name]) else "WRONG"
                print(
                    f"{number} {name}: {right}, {run.verdict}, {run.elapsed_s:.0f} s: {' '.join(run.failed)}",
                    flush=True,
                )
    table = render_table(runs)
    print(table)
    if args.out_md:
        args.out_md.write_text(table, "utf-8")
    return 0 if all(run.is_right(CASES[name]) for name, done in runs.items() for run in done) else 1


if __name__ == "__main__":
    sys.exit(main())

"""How few pairs can decide: today's rule beside that of version 1, and beside the best that noise allows at all.

    python benchmarks/decode_fewer_pairs.py --out-md benchmarks/results/decode/fewer-pairs.md

Three tables: both rules on the same pairs; what no test can go below, were the noise known exactly; and what else a
launch tells, in the recordings.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from decode_error_rates import TARGET, draw_log_ratios
from decode_noise import EMBEDDED, LAUNCH_SPREAD, NOISES, RECORDINGS, Noise, lognormal, recorded_rows
from decode_rules import FAIL, PASS, Outcomes, sequential, sequential_before

from pytest_h2o.gate.decode import DEFAULT_CONFIDENCE, DEFAULT_PAIRS, Budget

Floats = npt.NDArray[np.float64]
DROPS = (0.0, 0.05, 0.10, 0.20)
QUIET = tuple(Noise(f"lognormal {spread} %", *[lognormal(spread / 100)] * 2) for spread in (3, 6))
CHOSEN = (
    *QUIET,
    LAUNCH_SPREAD,
    *(one for one in NOISES if one.name in ("lognormal 12 %, 10 % outliers", "lognormal 12 %, drift and order effect")),
    *(one for one in NOISES if one.name.startswith("recorded launches")),
    EMBEDDED,
)


def compare_rules(replicates: int, seed: int) -> Iterable[str]:
    yield f"| noise | rule | {' | '.join(f'drop {drop:.0%}' for drop in DROPS)} |"
    yield "| --- | --- |" + " --- |" * len(DROPS)
    for noise in CHOSEN:
        drawn = [draw_log_ratios(noise, drop, (replicates, DEFAULT_PAIRS), seed) for drop in DROPS]
        for name, rule in (("version 1", sequential_before), ("now", sequential)):
            cells = [_render(rule(values, TARGET, Budget())) for values in drawn]
            yield f"| {noise.name} | {name} | {' | '.join(cells)} |"


def _render(outcomes: Outcomes) -> str:
    passed, failed = (100 * float((outcomes.outcome == said).mean()) for said in (PASS, FAIL))
    pairs = outcomes.launches / 2
    return f"{passed:.1f} / {failed:.1f}<br>{np.median(pairs):.0f} ({pairs.mean():.1f})"


# -- what no test can go below ---------------------------------------------------------------------------------------

GRID = np.linspace(-14.0, 26.0, 401)
PASSES, FAILS, ENDS, GOES_ON = range(4)
EDGE = 1 - DEFAULT_CONFIDENCE


def fewest_on_average(gap: float, clear: float, wrong: float = EDGE) -> float:
    """Wald's bound: mean pairs of any test that is clear so often, `gap` standard deviations away from the target."""
    divergence = clear * math.log(clear / wrong) + (1 - clear) * math.log((1 - clear) / (1 - wrong))
    return divergence / (gap**2 / 2)


def best_test(gaps: tuple[float, float], passed: float, failed: float) -> dict[str, tuple[float, float, int, float]]:
    """The test of at most 20 pairs with the fewest at no drop and at a drop of a fifth, both weighed alike.

    `gaps` are the two drops in standard deviations of a pair beyond the target; the noise is normal and known. It
    passes and fails at the edge as often as is promised, passes `passed` without a drop, fails `failed` at the larger.
    Found by backward induction; the prices of the four errors are moved until they are held. Returns pass, fail, median
    and mean pairs without a drop, on the target and at the larger drop.
    """
    prices = np.log([30.0, 100.0, 60.0, 100.0])  # a pass missed, a wrong pass, a fail missed, a wrong fail
    for turn in range(200):
        actions = _induce(gaps, np.exp(prices))
        found = {name: _follow(actions, gap) for name, gap in (("0", gaps[0]), ("target", 0.0), ("20", gaps[1]))}
        off = np.log([found["0"][0] / passed, found["target"][0] / EDGE, (1 - found["20"][1]) / (1 - failed)])
        off = np.append(off, math.log(found["target"][1] / EDGE))
        if np.abs(off).max() < 0.02:
            return found
        prices += np.array([-0.45, 0.3, 0.2, 0.3]) * np.clip(off, -1, 1) / (1 + turn / 60)
    raise ValueError("the prices of the errors were not found")


def _induce(gaps: tuple[float, float], prices: Floats) -> list[npt.NDArray[np.int64]]:
    """What to do after each pair, by the sum of the values."""
    kernel, later, actions = _kernel(0.0), np.zeros(len(GRID)), []
    for n in range(DEFAULT_PAIRS, 0, -1):
        none, large = (np.exp(gap * GRID - gap**2 * n / 2) for gap in gaps)
        costs = [prices[1] - prices[0] * none, prices[3] - prices[2] * large, np.zeros(len(GRID))]
        costs += [none + large + kernel @ later] if n < DEFAULT_PAIRS else []
        actions.append(np.argmin(costs, axis=0))
        later = np.min(costs, axis=0)
    return actions[::-1]


def _follow(actions: Sequence[npt.NDArray[np.int64]], gap: float) -> tuple[float, float, int, float]:
    kernel, mass = _kernel(gap), _kernel(gap)[np.abs(GRID).argmin()]
    passed = failed = mean = 0.0
    median = 0
    for n, action in enumerate(actions, start=1):
        passed += float(mass[action == PASSES].sum())
        failed += float(mass[action == FAILS].sum())
        mean += n * float(mass[action != GOES_ON].sum())
        left = np.where(action == GOES_ON, mass, 0.0)
        median = median or (n if left.sum() < 0.5 else 0)
        mass = left @ kernel
    return passed, failed, median, mean


def _kernel(gap: float) -> Floats:
    step = np.exp(-((GRID[:, None] + gap - GRID) ** 2) / 2) / math.sqrt(2 * math.pi)
    kernel: Floats = step * (GRID[1] - GRID[0])
    return kernel


def bounds() -> Iterable[str]:
    spread = 0.12 * math.sqrt(2)
    gaps = (math.log1p(-TARGET) / spread, (math.log1p(-TARGET) - math.log1p(-0.2)) / spread)
    yield "| clear answers at 12 % | Wald's bound, mean pairs | best test of 20 pairs: median (mean) |"
    yield "| --- | --- | --- |"
    found = best_test(gaps, 0.31, 0.98)
    for text, gap, clear, name in (
        ("31 % passes without a drop", gaps[0], 0.31, "0"),
        ("98 % fails at a drop of 20 %", gaps[1], 0.98, "20"),
    ):
        yield f"| {text} | {fewest_on_average(gap, clear):.1f} | {found[name][2]} ({found[name][3]:.1f}) |"


# -- what else a launch tells ----------------------------------------------------------------------------------------


def what_launches_tell() -> Iterable[str]:
    with zipfile.ZipFile(RECORDINGS / "engine.zip") as archive:
        pairs = json.loads(archive.read("decode_pairs.json"))
        logs = [archive.read(name).decode() for name in archive.namelist() if "target_ratio_v3/logs/" in name]
    decode, prefill = (
        np.log([[pair[side][f"{phase}_tok_per_s"] for side in ("off", "on")] for pair in pairs])
        for phase in ("decode", "prefill")
    )
    slower, slower_prefill = (values[:, 0] - values[:, 1] for values in (decode, prefill))
    slope = np.cov(slower, slower_prefill)[0, 1] / slower_prefill.var(ddof=1)
    error = slower_prefill.std(ddof=1) / math.sqrt(len(pairs))
    alike, sides = np.corrcoef(slower, slower_prefill)[0, 1], np.corrcoef(decode.T)[0, 1]
    off, on = decode.std(axis=0, ddof=1)
    moved = 100 * abs(slope * slower_prefill.mean())
    yield f"- {len(pairs)} pairs, H2O off and on: the ratios of decode and of prefill correlate by {alike:.2f},"
    yield f"  decode of the two sides by {sides:.2f}."
    yield f"- H2O itself changes prefill there: by {-slower_prefill.mean():+.3f} ± {error:.3f} (log)."
    yield f"  Taken for luck of the launch, it would move the drop by {moved:.0f} % points."
    yield f"- Spread of a launch in that session: {off:.3f} off, {on:.3f} on."
    for name, rows in (("the recorded sweep", recorded_rows()[1:]), ("that engine's sweep", recorded_rows(logs))):
        means, inside = np.array(rows).T
        foretold = math.sqrt(((inside / means) ** 2).mean() / 3)
        yield f"- {len(rows)} rows of {name}: they spread by {np.log(means).std(ddof=1):.3f}, neighbours by"
        yield f"  {np.diff(np.log(means)).std() / math.sqrt(2):.3f}; their 3 repeats foretell {foretold:.3f}."


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=10_000, help="comparisons a cell")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--out-md", type=Path)
    arguments = parser.parse_args(argv)
    lines = [
        "# Fewer pairs for a decode verdict",
        "",
        f"Pass / fail in %, then pairs spent, median (mean). {arguments.replicates} comparisons a cell, at most 20 "
        "pairs, a target of 5 %.",
        "",
        *compare_rules(arguments.replicates, arguments.seed),
        "",
        "The fewest pairs of any test, were the noise normal and known exactly:",
        "",
        *bounds(),
        "",
        "What else the launches of the recordings tell:",
        "",
        *what_launches_tell(),
    ]
    text = "\n".join(lines) + "\n"
    if arguments.out_md:
        arguments.out_md.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How often the paired decode verdict is right, wrong and undecided, and what it costs, beside simpler rules.

    python benchmarks/decode_error_rates.py --out-md rates.md --out-json rates.json

Everything is drawn from one seed, so the same command and numpy give the same numbers.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from decode_noise import LAUNCH_SPREAD, NOISES, Noise
from decode_rules import (
    FAIL,
    INCONCLUSIVE,
    PASS,
    Outcomes,
    best_of_rows,
    fixed_t_test,
    mean_of_rows,
    peeking_t_test,
    sequential,
    sequential_fitted,
)

from pytest_h2o.gate.decode import DEFAULT_CONFIDENCE, DEFAULT_PAIRS, Budget

Floats = npt.NDArray[np.float64]
DROPS = (0.0, 0.03, 0.05, 0.08, 0.10, 0.20, 0.30)
TARGET = 0.05
PAIRED = "paired, sequential"
ROWS_OF_ORIGINAL = 27
BUDGETS = (20, 24, 40, 80)
TIMES = (10, 15)
"""Budgets of time, in pairs of mean length."""
CONFIDENCES = (0.90, 0.95, 0.975, 0.99)


@dataclass(frozen=True)
class Cell:
    """One rule on one noise at one true drop; shares are fractions of the replicates."""

    table: str
    noise: str
    rule: str
    drop: float
    replicates: int
    passed: float
    inconclusive: float
    failed: float
    passed_error: float
    failed_error: float
    launches_median: float
    launches_mean: float


def summarize(table: str, noise: str, rule: str, drop: float, outcomes: Outcomes) -> Cell:
    count = len(outcomes.outcome)
    share = {said: float((outcomes.outcome == said).mean()) for said in (PASS, INCONCLUSIVE, FAIL)}
    error = {said: math.sqrt(share[said] * (1 - share[said]) / count) for said in share}
    return Cell(
        table=table,
        noise=noise,
        rule=rule,
        drop=drop,
        replicates=count,
        passed=share[PASS],
        inconclusive=share[INCONCLUSIVE],
        failed=share[FAIL],
        passed_error=error[PASS],
        failed_error=error[FAIL],
        launches_median=float(np.median(outcomes.launches)),
        launches_mean=float(outcomes.launches.mean()),
    )


def draw_log_ratios(noise: Noise, drop: float, shape: tuple[int, int], seed: int) -> Floats:
    """Log ratios baseline / candidate `[comparisons, pairs]` at a true drop."""
    baseline, candidate = noise.draw(_generator(seed, noise.name, drop), shape)
    return baseline - candidate - math.log1p(-drop)


def _generator(seed: int, *names: object) -> np.random.Generator:
    return np.random.default_rng([seed, *(zlib.crc32(str(name).encode()) for name in names)])


def simulate_noise(noise: Noise, replicates: int, seed: int) -> Iterable[Cell]:
    """Every rule at every drop under the default policy."""
    alpha = 1 - DEFAULT_CONFIDENCE
    for drop in DROPS:
        values = draw_log_ratios(noise, drop, (replicates, DEFAULT_PAIRS), seed)
        number, rows = noise.draw(_generator(seed, "rows", noise.name, drop), (replicates, ROWS_OF_ORIGINAL))
        rows = rows + math.log1p(-drop)
        known = math.log(float(np.exp(number).mean()))  # the mean of many launches: the number that is asked for
        for rule, outcomes in (
            (PAIRED, sequential(values, TARGET, Budget())),
            (f"mean of {ROWS_OF_ORIGINAL} rows", mean_of_rows(rows, TARGET, alpha, known)),
            ("mean of 6 rows", mean_of_rows(rows[:, :6], TARGET, alpha, known)),
            ("one row, by 3 repeats that have all the noise", mean_of_rows(rows[:, :3], TARGET, alpha, known)),
            (
                f"mean of {ROWS_OF_ORIGINAL} rows, number measured once",
                mean_of_rows(rows, TARGET, alpha, number[:, 0]),
            ),
            (f"best of {ROWS_OF_ORIGINAL} rows", best_of_rows(rows, TARGET)),
            ("one row", best_of_rows(rows[:, :1], TARGET)),
            (f"t-test of {DEFAULT_PAIRS} pairs", fixed_t_test(values, TARGET, alpha)),
            ("t-test after every pair", peeking_t_test(values, TARGET, alpha)),
        ):
            yield summarize("rules", noise.name, rule, drop, outcomes)


def simulate_budgets(replicates: int, seed: int) -> Iterable[Cell]:
    """The paired verdict with more pairs, at 12 % a launch."""
    for pairs in BUDGETS:
        for drop in DROPS:
            values = draw_log_ratios(LAUNCH_SPREAD, drop, (replicates, pairs), seed)
            outcomes = sequential(values, TARGET, Budget(pairs))
            yield summarize("budgets", LAUNCH_SPREAD.name, f"{pairs} pairs", drop, outcomes)


def simulate_times(replicates: int, seed: int) -> Iterable[Cell]:
    """The paired verdict with time for so many pairs, the plan fitted to the time of the first one."""
    for pairs in TIMES:
        for drop in DROPS:
            values, first_s = draw_timed(LAUNCH_SPREAD, drop, (replicates, DEFAULT_PAIRS), seed)
            budget = Budget(elapsed_s=pairs * float(first_s.mean()))
            outcomes = sequential_fitted(values, TARGET, first_s, budget)
            yield summarize("budgets", LAUNCH_SPREAD.name, f"time of {pairs} pairs", drop, outcomes)


def draw_timed(noise: Noise, drop: float, shape: tuple[int, int], seed: int) -> tuple[Floats, Floats]:
    """Log ratios `[comparisons, pairs]`, and the time of each first pair: a launch takes as long as it is slow."""
    baseline, candidate = noise.draw(_generator(seed, noise.name, drop), shape)
    candidate = candidate + math.log1p(-drop)
    return baseline - candidate, np.exp(-baseline[:, 0]) + np.exp(-candidate[:, 0])


def simulate_confidences(replicates: int, seed: int) -> Iterable[Cell]:
    """What another confidence would cost or save, at 12 % a launch and the default number of pairs."""
    for confidence in CONFIDENCES:
        for drop in DROPS:
            values = draw_log_ratios(LAUNCH_SPREAD, drop, (replicates, DEFAULT_PAIRS), seed)
            outcomes = sequential(values, TARGET, Budget(), confidence)
            yield summarize("confidences", LAUNCH_SPREAD.name, f"{confidence:.1%}", drop, outcomes)


def render_markdown(cells: Sequence[Cell]) -> str:
    """The paired verdict on every noise, then one table a noise for every rule, then budgets and confidences."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.table, cell.noise), []).append(cell)
    overview = [replace(cell, rule=cell.noise) for cell in cells if (cell.table, cell.rule) == ("rules", PAIRED)]
    tables = [_render_group("overview", "", overview)]
    tables += [_render_group(table, noise, group) for (table, noise), group in groups.items()]
    return "\n\n".join(tables) + "\n"


def _render_group(table: str, noise: str, cells: Sequence[Cell]) -> str:
    title = {
        "overview": "The paired verdict, by noise",
        "rules": noise,
        "budgets": f"{noise}: planned pairs",
        "confidences": f"{noise}: confidence",
    }[table]
    worst = max(max(cell.passed_error, cell.failed_error) for cell in cells)
    lines = [
        f"### {title}",
        "",
        f"Pass / inconclusive / fail in %, then launches, median (mean). {cells[0].replicates} comparisons a cell, "
        f"Monte-Carlo standard error at most {100 * worst:.2f} % points.",
        "",
        "| true drop | " + " | ".join(f"{drop:.0%}" for drop in DROPS) + " |",
        "| --- |" + " --- |" * len(DROPS),
    ]
    for rule in dict.fromkeys(cell.rule for cell in cells):
        by_drop = {cell.drop: cell for cell in cells if cell.rule == rule}
        lines.append(f"| {rule} | " + " | ".join(_render_cell(by_drop[drop]) for drop in DROPS) + " |")
    return "\n".join(lines)


def _render_cell(cell: Cell) -> str:
    shares = " / ".join(f"{100 * share:.1f}" for share in (cell.passed, cell.inconclusive, cell.failed))
    return f"{shares}<br>{cell.launches_median:.0f} ({cell.launches_mean:.1f})"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=4000, help="comparisons a cell")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--out-md", type=Path)
    parser.add_argument("--out-json", type=Path)
    arguments = parser.parse_args(argv)
    started = time.monotonic()
    cells: list[Cell] = []
    for noise in NOISES:
        cells += simulate_noise(noise, arguments.replicates, arguments.seed)
    cells += simulate_budgets(arguments.replicates, arguments.seed)
    cells += simulate_times(arguments.replicates, arguments.seed)
    cells += simulate_confidences(arguments.replicates, arguments.seed)
    markdown = render_markdown(cells)
    if arguments.out_md:
        arguments.out_md.write_text(markdown, encoding="utf-8")
    else:
        sys.stdout.write(markdown)
    if arguments.out_json:
        record = {
            "seed": arguments.seed,
            "target": TARGET,
            "confidence": DEFAULT_CONFIDENCE,
            "numpy": np.__version__,
            "cells": [asdict(cell) for cell in cells],
        }
        arguments.out_json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    sys.stderr.write(f"{len(cells)} cells in {time.monotonic() - started:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

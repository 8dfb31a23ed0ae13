"""The error rates that the decode verdict is asked to keep, in a small seeded simulation."""

import importlib
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pytest_h2o.gate.decode import Budget, Pair, RowSpeed, judge_rows, next_action
from tests.sweeps import make_pair

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TARGET = 0.05
COMPARISONS = 4000


class Simulation:
    """The modules in benchmarks/, which are scripts and no package."""

    def __init__(self) -> None:
        self.rates: ModuleType = importlib.import_module("decode_error_rates")
        self.rules: ModuleType = importlib.import_module("decode_rules")
        self.noise: ModuleType = importlib.import_module("decode_noise")

    def shares(self, noise: str, drop: float, budget: Budget, comparisons: int = COMPARISONS) -> dict[str, float]:
        (chosen,) = [one for one in self.noise.NOISES if one.name == noise]
        values = self.rates.draw_log_ratios(chosen, drop, (comparisons, budget.pairs), seed=11)
        outcomes = self.rules.sequential(values, TARGET, budget)
        names = {"pass": self.rules.PASS, "fail": self.rules.FAIL}
        found = {name: float((outcomes.outcome == code).mean()) for name, code in names.items()}
        return {**found, "median_pairs": float(np.median(outcomes.launches)) / 2}


@pytest.fixture
def simulation(monkeypatch: pytest.MonkeyPatch) -> Simulation:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return Simulation()


def error_of(share: float, comparisons: int = COMPARISONS) -> float:
    return math.sqrt(max(share * (1 - share), 1e-4) / comparisons)


def check_at_most(share: float, limit: float) -> None:
    """The limit is kept with two standard errors to spare."""
    assert share + 2 * error_of(share) <= limit


@pytest.mark.parametrize("pairs", [20, 24])
def test_false_alarms_without_a_drop_are_at_most_one_percent(simulation: Simulation, pairs: int) -> None:
    check_at_most(simulation.shares("lognormal 12 %", 0.0, Budget(pairs))["fail"], 0.01)


@pytest.mark.parametrize(("pairs", "asked"), [(20, 0.97), (24, 0.99)])
def test_a_drop_of_a_fifth_fails(simulation: Simulation, pairs: int, asked: float) -> None:
    found = simulation.shares("lognormal 12 %", 0.20, Budget(pairs), comparisons=12_000)
    assert found["fail"] - 2 * error_of(found["fail"], 12_000) >= asked
    assert found["median_pairs"] <= 8
    assert found["pass"] == 0


@pytest.mark.parametrize("pairs", [20, 24])
def test_a_drop_of_a_tenth_hardly_ever_passes(simulation: Simulation, pairs: int) -> None:
    check_at_most(simulation.shares("lognormal 12 %", 0.10, Budget(pairs))["pass"], 0.01)


@pytest.mark.parametrize(("pairs", "least"), [(20, 0.27), (40, 0.45), pytest.param(80, 0.72, marks=pytest.mark.slow)])
def test_clear_passes_without_a_drop_are_as_many_as_the_documentation_says(
    simulation: Simulation, pairs: int, least: float
) -> None:
    assert simulation.shares("lognormal 12 %", 0.0, Budget(pairs), comparisons=600)["pass"] >= least


@pytest.mark.parametrize(
    "noise",
    [
        "lognormal 5 %",
        "lognormal 20 %",
        "lognormal 12 %, 10 % outliers",
        "recorded launches, H2O off",
        "recorded launches, H2O on",
        "recorded within a run, 3 repeats",
        "lognormal 12 %, drift and order effect",
    ],
)
def test_a_drop_on_the_target_is_misjudged_at_most_as_often_as_promised(simulation: Simulation, noise: str) -> None:
    found = simulation.shares(noise, TARGET, Budget())
    for outcome in ("pass", "fail"):
        assert found[outcome] <= 0.05 + 3 * error_of(0.05)


@pytest.mark.parametrize("pairs", [8, 15])
def test_a_plan_fitted_to_the_time_of_the_first_pair_keeps_the_promise(simulation: Simulation, pairs: int) -> None:
    noise = simulation.noise.LAUNCH_SPREAD
    values, first_s = simulation.rates.draw_timed(noise, TARGET, (COMPARISONS, 20), seed=12)
    budget = Budget(elapsed_s=pairs * float(first_s.mean()))
    said = simulation.rules.sequential_fitted(values, TARGET, first_s, budget).outcome
    for outcome in (simulation.rules.PASS, simulation.rules.FAIL):
        assert 0.02 < (said == outcome).mean() <= 0.05 + 3 * error_of(0.05)


def test_the_simulation_decides_as_the_gate_does(simulation: Simulation) -> None:
    noise = simulation.noise.LAUNCH_SPREAD
    names = {
        "pass": simulation.rules.PASS,
        "fail": simulation.rules.FAIL,
        "inconclusive": simulation.rules.INCONCLUSIVE,
    }
    for drop in (0.0, 0.1, 0.25):
        values = simulation.rates.draw_log_ratios(noise, drop, (15, 20), seed=5)
        simulated = simulation.rules.sequential(values, TARGET, Budget())
        for i, row in enumerate(values):
            pairs: list[Pair] = []
            action = next_action(pairs, Budget(), TARGET)
            while action.launch:
                pairs.append(make_pair(math.exp(row[len(pairs)]), 1.0))
                action = next_action(pairs, Budget(), TARGET)
            assert names[action.verdict.outcome] == simulated.outcome[i]
            assert 2 * len(pairs) == simulated.launches[i]


@pytest.mark.parametrize("rows", [3, 6, 27])
def test_the_simulated_rule_of_rows_is_that_of_the_gate(rows: int, simulation: Simulation) -> None:
    drawn = np.random.default_rng(5).normal(-0.05, 0.08, (60, rows))
    codes = {"pass": simulation.rules.PASS, "fail": simulation.rules.FAIL, "inconclusive": 0}
    said = simulation.rules.mean_of_rows(drawn, TARGET, 0.05, 0.0).outcome.tolist()
    judged = [judge_rows([RowSpeed(speed) for speed in np.exp(one).tolist()], 1.0, TARGET) for one in drawn]
    assert said == [codes[verdict.outcome] for verdict in judged]


def test_a_mean_of_rows_keeps_its_promise_and_the_fastest_does_not(simulation: Simulation) -> None:
    rates = simulation.rates
    cells = {(c.rule, c.drop): c for c in rates.simulate_noise(simulation.noise.LAUNCH_SPREAD, 2000, seed=3)}
    assert cells["mean of 27 rows", 0.05].passed < 0.06
    assert cells["mean of 27 rows", 0.05].failed < 0.08
    assert cells["mean of 27 rows", 0.0].passed > 0.6
    assert cells["mean of 27 rows", 0.2].passed == 0
    assert cells["mean of 27 rows", 0.2].failed == 1
    assert cells["best of 27 rows", 0.2].passed > 0.8

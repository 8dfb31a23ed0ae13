"""How noisy a bench is: measured on pairs of one build, and what drop it leaves to be told from none."""

from __future__ import annotations

import json
import math
import random
import statistics

import pytest

from pytest_h2o.errors import StoreError, UsageError
from pytest_h2o.files import plain
from pytest_h2o.gate.decode import Noise, Pair, measure_noise
from tests.sweeps import make_pair


def draw_pairs(count: int, spread: float, excluded: int = 0) -> list[Pair]:
    draw = random.Random(7)
    speeds = [60 * draw.lognormvariate(0, spread) for _ in range(2 * count)]
    return [make_pair(speeds[2 * n], speeds[2 * n + 1], "unlike" if n < excluded else None) for n in range(count)]


def test_the_noise_of_a_bench_against_itself() -> None:
    noise = measure_noise(draw_pairs(40, 0.12))
    assert noise.launch_spread == pytest.approx(0.12, rel=0.15)
    assert noise.pair_spread == pytest.approx(0.12 * math.sqrt(2), rel=0.25)
    assert abs(noise.drop) < 0.06
    assert Noise.from_json(json.loads(json.dumps(plain(noise)))) == noise


def test_a_candidate_that_is_slower_drops() -> None:
    pairs = [make_pair(60 + n / 10, 54 + n / 10) for n in range(12)]
    noise = measure_noise(pairs)
    assert noise.drop == pytest.approx(0.1, abs=0.002)
    speeds = [math.log(speed) for n in range(12) for speed in (60 + n / 10, 54 + n / 10)]
    assert noise.launch_spread == pytest.approx(statistics.stdev(speeds))
    silent = Noise(0.0, 0.0, 0.0, 12)
    assert Noise.from_json(plain(silent)) == silent


def test_more_pairs_lower_the_floor_and_too_few_have_none() -> None:
    noise = Noise(launch_spread=0.12, pair_spread=0.17, drop=0.0, pairs=20)
    floors = [noise.floor(pairs) for pairs in (10, 20, 30)]
    assert all(floor is not None for floor in floors)
    assert floors == sorted(floors, reverse=True)  # type: ignore[type-var]
    assert 0.08 < floors[1] < 0.13  # type: ignore[operator]
    assert noise.floor(3) is None
    assert Noise(0.0, 0.0, 0.0, 20).floor(20) == 0.0


def test_too_few_pairs_say_nothing() -> None:
    with pytest.raises(UsageError, match="too few pairs could be compared to know the noise"):
        measure_noise(draw_pairs(8, 0.1, excluded=3))


@pytest.mark.parametrize("damage", [{"launch_spread": -0.1}, {"pair_spread": -0.1}, {"pairs": "x"}, {"version": 2}])
def test_a_damaged_calibration_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises(StoreError, match="a calibration"):
        Noise.from_json({**plain(Noise(0.1, 0.1, 0.0, 8)), **damage})

"""Real prompts with H2O off and on: recorded runs of llm_demo, and pairs that cannot be compared or did nothing."""

import math
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.bench.demo import DemoLaunch, compare_texts, read_demo
from pytest_h2o.errors import BenchError
from pytest_h2o.files import load, plain
from pytest_h2o.gate.demo import DemoComparison, DemoPair, bucket_of, plan_prompts
from pytest_h2o.gate.metrics import METRICS


@pytest.fixture(scope="module")
def recorded(engine_recordings: Path) -> DemoComparison:
    """Six prompts, a launch a side each, as a comparison."""
    folder = engine_recordings / "llm_demo"

    def read(tag: str, name: str) -> tuple[DemoLaunch, str]:
        run = f"{tag}_{name}"
        return read_demo(run, folder / tag / "logs" / f"{run}.stdout.log", folder / tag / "metrics" / f"{run}.jsonl")

    pairs = []
    for name in sorted(path.stem for path in (folder / "prompts").iterdir()):
        (off, said_off), (on, said_on) = read("off", name), read("full", name)
        pairs.append(DemoPair(name, "AB", off, on, compare_texts(name, said_off, said_on)))
        pairs[-1].check(384)
    return DemoComparison("run_0001", 384, 1, 1, tuple(pairs))


def test_the_recorded_runs_give_what_is_counted_by_hand(recorded: DemoComparison, snapshot: SnapshotAssertion) -> None:
    """Decode speeds are those that the script counted of the same files; two prompts ended at unlike lengths."""
    assert recorded.buckets == (128, 512, 2048)
    speeds = {pair.prompt: (pair.off.decode_tok_per_s, pair.on.decode_tok_per_s) for pair in recorded.pairs}
    assert {name: (round(off, 3), round(on, 3)) for name, (off, on) in speeds.items()} == {
        "prompt_128_1": (26.256, 42.716),
        "prompt_128_2": (48.644, 43.498),
        "prompt_2048_1": (25.609, 36.882),
        "prompt_2048_2": (23.164, 34.289),
        "prompt_512_1": (32.440, 44.841),
        "prompt_512_2": (41.679, 42.823),
    }
    log_ratio = {name: math.log(off / on) for name, (off, on) in speeds.items()}
    compared = [log_ratio[f"prompt_{name}"] for name in ("128_1", "128_2", "2048_1", "512_2")]
    walsh = [(a + b) / 2 for place, a in enumerate(compared) for b in compared[place:]]
    verdict = recorded.judge(0.08)
    assert verdict.drop == pytest.approx(1 - math.exp(-statistics.median(walsh)))
    assert (verdict.pairs, verdict.outcome, verdict.low) == (4, "inconclusive", None)
    assert verdict.excluded == snapshot
    by_bucket = {bucket: recorded.judge(0.08, bucket) for bucket in recorded.buckets}
    assert by_bucket[128].drop == pytest.approx(1 - math.sqrt(42.716 * 43.498 / 26.256 / 48.644), abs=1e-4)
    assert by_bucket[512].drop == pytest.approx(1 - 42.823 / 41.679, abs=1e-4)
    assert by_bucket[2048].drop == pytest.approx(1 - 36.882 / 25.609, abs=1e-4)


def test_evictions_and_columns_of_the_recorded_runs(recorded: DemoComparison, snapshot: SnapshotAssertion) -> None:
    assert {pair.prompt: pair.on.evicted_tokens for pair in recorded.pairs} == snapshot
    rows = list(recorded.rows())  # the short ones are below the trigger
    assert [row.log_file for row in rows] == [f"full_prompt_{name}" for name in ("2048_1", "2048_2", "512_1", "512_2")]
    first = rows[0]
    assert {name: cell.mean for name in METRICS if name.startswith("h2o_") and (cell := first.get(name))} == snapshot
    assert first.cells["h2o_lossless_decode_cache_miss"] == "5.000000"


def test_what_is_said_of_the_recorded_runs(recorded: DemoComparison, snapshot: SnapshotAssertion) -> None:
    assert {bucket: list(recorded.describe(bucket, 0.08)) for bucket in recorded.buckets} == snapshot
    assert [text.degenerate for text in recorded.texts if text.degenerate] == snapshot
    older = replace(recorded.pairs[3].on, told=None, evicted_tokens=None)
    told = replace(recorded, pairs=(replace(recorded.pairs[3], on=older),))
    assert list(told.describe(2048, 0.08)) == snapshot
    assert list(told.rows()) == []


def launch(name: str = "on", **fields: object) -> DemoLaunch:
    return replace(DemoLaunch(name, 512, 96, 2.0, 50.0, told={"h2o_lossy": 3.0}, evicted_tokens=9), **fields)  # type: ignore[arg-type]


OFF = launch("off", told={"h2o_lossy": 1.0}, evicted_tokens=0)


@pytest.mark.parametrize(
    ("off", "on", "says"),
    [
        (OFF, launch(evicted_tokens=0), "H2O did nothing on the prompt p\n.*\n  came: no token evicted of 512"),
        (OFF, launch(prompt_tokens=511), "the prompt p is another with H2O on than with it off"),
        (replace(OFF, evicted_tokens=3), launch(), "H2O was on in the launch that was to have it off"),
        (replace(OFF, told={"h2o_lossy": 2.0}), launch(), "H2O was on in the launch that was to have it off"),
    ],
)
def test_a_side_that_did_not_do_what_it_was_to_do(off: DemoLaunch, on: DemoLaunch, says: str) -> None:
    with pytest.raises(BenchError, match=says):
        DemoPair("p", "AB", off, on).check(512)  # which the prompt just reaches


def test_a_short_prompt_and_a_build_that_tells_nothing_are_no_fault() -> None:
    DemoPair("p", "AB", OFF, launch(evicted_tokens=0)).check(513)
    DemoPair("p", "AB", replace(OFF, told=None, evicted_tokens=None), launch(told=None, evicted_tokens=None)).check(384)


@pytest.mark.parametrize(
    ("tokens", "bucket"), [(1, 128), (146, 128), (255, 128), (257, 512), (502, 512), (1944, 2048), (9**9, 131072)]
)
def test_a_prompt_is_of_the_nearest_length(tokens: int, bucket: int) -> None:
    assert bucket_of(tokens) == bucket


def test_every_round_says_every_prompt_in_an_order_of_its_own() -> None:
    rounds = list(plan_prompts(["a", "b", "c", "d"], 8, seed=7))
    assert [sorted(prompt for prompt, _ in each) for each in rounds] == [["a", "b", "c", "d"]] * 8
    assert len({tuple(prompt for prompt, _ in each) for each in rounds}) > 3
    for prompt in "abcd":
        firsts = [first for each in rounds for said, first in each if said == prompt]
        assert [firsts[n : n + 2].count("AB") for n in range(0, 8, 2)] == [1] * 4
    assert rounds == list(plan_prompts(["a", "b", "c", "d"], 8, seed=7))


@pytest.mark.parametrize(("speed", "outcome"), [(46.5, "pass"), (45.5, "fail")])
def test_eight_steady_rounds_tell_a_drop_just_within_the_target_from_one_just_above(speed: float, outcome: str) -> None:
    pairs = tuple(
        DemoPair(prompt, "AB", OFF, launch(decode_tok_per_s=speed, prompt_tokens=tokens))
        for _ in range(8)
        for prompt, tokens in (("a", 512), ("b", 2000))
    )
    found = DemoComparison("run_0001", 384, 1, 8, pairs)
    assert [found.judge(0.08, bucket).outcome for bucket in (None, 512, 2048)] == [outcome] * 3
    assert all(found.is_clear(*targets) for targets in ((0.08, 0.08), (0.08, None), (None, 0.08)))
    assert not found.is_clear(None, None)
    assert not found.is_clear(None, None)
    assert not replace(found, pairs=pairs[:4]).is_clear(0.08, None)
    assert "lossy ratio 3.000" in next(found.describe(512, 0.08))
    assert found.disturbed is None
    loud = replace(pairs[0], off=replace(OFF, disturbance="others used 2.0 of 2 cores"))
    assert replace(found, pairs=(*pairs, loud)).disturbed == (
        "1 of 34 launches were disturbed, first off: others used 2.0 of 2 cores"
    )
    assert load(DemoComparison, plain(found), "pairs") == found

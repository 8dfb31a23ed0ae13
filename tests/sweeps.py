"""Sweep items over rows made by hand, in a session that launches nothing; and pairs beside recorded rows."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pytest_h2o.bench.rows import Row
from pytest_h2o.files import plain
from pytest_h2o.gate.decode import Pair, PairedComparison, TimedLaunch, plan_order
from pytest_h2o.gate.metrics import METRICS
from pytest_h2o.gate.rule import RowFacts, decode_drop
from pytest_h2o.gate.values import Target, Targets
from pytest_h2o.inputs.presets import preset_from_flags
from pytest_h2o.run.items import SweepItem
from pytest_h2o.run.pairs import Baseline

SWEEP = Path(__file__).resolve().parents[1] / "fixtures" / "recordings" / "smollm2-135m" / "target_ratio_v3"
ROW = {"llm_demo": "prompt=512<br>decode=128", "h2o_lossy": "3.1"}


def make_row(run_id: str, speed: float | None = 60.0, disturbance: str | None = None, **cells: str) -> Row:
    """The result of a run; without a speed its row has no such column."""
    speeds = {} if speed is None else {"speed(tok/s)": f"300.00 ± 1.00<br>{speed:.4f} ± 1.00"}
    path = Path(f"{run_id}.log")
    return Row({**ROW, **speeds, **cells}, path.name, 3, run_id, path, disturbance=disturbance)


def make_pair(baseline: float, candidate: float, excluded: str | None = None) -> Pair:
    """Two launches of a second at these speeds."""
    return Pair("AB", TimedLaunch("a", baseline, 1.0), TimedLaunch("b", candidate, 1.0), excluded)


def make_pairs(candidate: str, drop: float, count: int = 12, excluded: str | None = None) -> PairedComparison:
    """Pairs that differ by about one slow-down; two of them are too few for a verdict."""
    pairs = tuple(
        Pair(
            "AB" if n % 2 else "BA",
            TimedLaunch(f"pair_{n:02d}_baseline", 60 + n / 100, 1.0),
            TimedLaunch(f"pair_{n:02d}_candidate", (60 + n / 50) * (1 - drop), 1.0),
            excluded,
        )
        for n in range(count)
    )
    return PairedComparison(candidate, "H2O off", 1, 20, pairs, stopped="the verdict is clear after 12 pairs")


NAMES = {
    "lossy": "h2o_lossy",
    "decode_drop": "decode_drop",
    "quality": "quality_ppl_rise",
    "lossless": "lossless_ratio",
    "similarity": "demo_similarity",
    **{name: name for name in ("demo_drop", "demo_bucket_drop", "h2o_lossless_fallback")},
}


def make_asked(**targets: float | None) -> dict[str, float]:
    """Targets by metric, without those that are None."""
    return {NAMES[key]: target for key, target in targets.items() if target is not None}


def make_facts(
    run_id: str,
    lossy: float | None,
    speed: float | None = None,
    rise: float | None = None,
    *,
    baseline: float | None = None,
    lossless: float | None = None,
) -> RowFacts:
    """A row with these figures, its slow-down against a baseline."""
    drop = None if speed is None or baseline is None else decode_drop(baseline, speed)
    values = {"h2o_lossy": lossy, "decode_tok_per_s": speed, "decode_drop": drop, "quality_ppl_rise": rise}
    return RowFacts(run_id, {**values, "lossless_ratio": lossless})


def make_targets(**values: float | None) -> Targets:
    """The targets of a preset: a lossy ratio of 3 and a slow-down of 5 %, unless `values` say otherwise."""
    asked = {"lossy": 3.0, "lossless": None, "decode_drop": 0.05, "quality": None, **values}
    given = {NAMES[key]: value for key, value in asked.items()}
    return Targets(
        {name: Target(name, given.get(name), "preset" if name in given else "no target") for name in METRICS}
    )


def make_sweep(
    *results: Row,
    pairs_drop: float | None = None,
    pairs: Mapping[str, Any] | None = None,
    known: PairedComparison | None = None,
    targets: Mapping[str, float | None] | None = None,
    **own: Any,
) -> SweepItem:
    """An item over these rows; nobody is asked but for its own preset, rows and target.

    Decode is held against 60 tok/s, or paired with the given slow-down (`pairs`: what else `make_pairs` takes); `known`
    is a comparison that was made before; `own`: of the session or its source.
    """
    preset = preset_from_flags()
    asked = make_targets(**(targets or {}))

    def baseline(found: object, workload: str = "") -> Baseline:
        assert found == results
        return Baseline(60.0, "a number", files=(Path("off.log"),))

    def pairs_of(point: Any, target: float, workload: str = "") -> PairedComparison:
        assert target == asked.decode_drop.value
        return make_pairs(point.run_id, pairs_drop or 0.0, **(pairs or {}))

    by_id = {result.run_id: result for result in results}
    source = SimpleNamespace(
        baseline=baseline,
        is_paired=pairs_drop is not None,
        pairs=pairs_of,
        known_pairs=lambda workload="": known,
        result=lambda point: by_id[point.run_id],
        model_layers=30,
        notes=(),
        fingerprint=lambda found: {},
        first_cause=lambda result: None,
        coding=None,
        inexact=(),
    )
    points = tuple(SimpleNamespace(run_id=run_id, workload="", manifest_fields=dict) for run_id in by_id)
    kept: list[tuple[str, dict[str, Any]]] = []
    session: Any = SimpleNamespace(
        settings={"inconclusive": "warn"},
        rule="joint",
        source=lambda of: source,
        deciding_ratio=lambda: 1.4,
        points=lambda of: points,
        in_order_of_launches=lambda of: points,
        not_launched=lambda of: {},
        describe_not_launched=lambda of: None,
        run=SimpleNamespace(new=SimpleNamespace(kept=kept, add_preset=lambda *facts: kept.append(facts))),
    )
    for name, value in own.items():
        setattr(session if hasattr(session, name) else source, name, value)
    return SweepItem(session, preset, asked)


def record_pairs(
    folder: Path,
    candidate: str,
    drops: Sequence[float],
    *,
    planned_pairs: int = 20,
    kv_len: int | None = None,
    **fields: Any,
) -> PairedComparison:
    """Pairs of a recorded row with their configs and logs in a folder, as a run leaves them: 60 tok/s with H2O off.

    With `kv_len` the candidate printed that it decoded so long a context.
    """
    logs, configs = folder / "logs", folder / "configs"
    logs.mkdir(parents=True)
    configs.mkdir()
    on = json.loads((SWEEP / "configs" / f"{candidate}.json").read_text(encoding="utf-8"))
    pairs = []
    for number, (order, drop) in enumerate(zip(plan_order(len(drops), 1), drops, strict=True), start=1):
        launches = []
        for side, log, config, speed in (
            ("baseline", "baseline_h2o_off", {**on, "kv_h2o_enable": False}, 60 + number / 10),
            ("candidate", candidate, on, round((60 + number / 10) * (1 - drop), 4)),
        ):
            run_id = f"pair_{number:02d}_{side}"
            text = (SWEEP / "logs" / f"{log}.log").read_text(encoding="utf-8")
            (logs / f"{run_id}.log").write_text(re.sub(r"<br>[\d.]+ ± [\d.]+", f"<br>{speed} ± 0.50", text))
            (configs / f"{run_id}.json").write_text(json.dumps(config))
            launches.append(TimedLaunch(run_id, speed, 2.0))
        if kv_len is not None:
            (logs / f"{run_id}.stdout.txt").write_text(f"Drop stale per-layer pending plan: layer=3 kv_len={kv_len}.\n")
        why = None if kv_len is None else f"the sides decoded unlike contexts: kv_len {kv_len} and 640"
        pairs.append(Pair(order, *launches, why))
    made = PairedComparison(
        candidate, "H2O off in the same bench", 1, planned_pairs, tuple(pairs), elapsed_s=4.0 * len(drops), **fields
    )
    made = replace(made, plan=made.checksum)
    (folder / "pairs.json").write_text(json.dumps(plain(made)))
    return made

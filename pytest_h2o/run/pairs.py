"""Decode speed: what it is held against, and the pairs of launches that decide where that is H2O off or another build.

Thin: the order of launches, the verdict and when to stop are decided in `pytest_h2o.gate`.
"""

from __future__ import annotations

import hashlib
import math
import platform
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_h2o.bench.adapter import check_decoded, check_elapsed
from pytest_h2o.bench.command import digest_model, is_embedded
from pytest_h2o.bench.launch import Relaunches
from pytest_h2o.bench.recorded import IN_CONFIG, read_launch, recorded_logs, unswept
from pytest_h2o.bench.rows import COLUMN_DECIMALS, Row, describe_unverified
from pytest_h2o.bench.sweep import compare_rows, digest_launches
from pytest_h2o.errors import H2OError, NotMeasured, StoreError, TableError
from pytest_h2o.files import cache_folder, digest_file, load, plain
from pytest_h2o.gate.decode import (
    DEFAULT_PAIRS,
    PAIRS_NAME,
    Budget,
    Noise,
    Order,
    Pair,
    PairedComparison,
    TimedLaunch,
    next_action,
    plan_order,
)
from pytest_h2o.gate.metrics import METRICS
from pytest_h2o.gate.values import Measured, Target, check_cells, row_cell
from pytest_h2o.inputs.checking import LLM_BENCH
from pytest_h2o.inputs.options import Given, Settings, parse_budget

if TYPE_CHECKING:
    from pytest_h2o.bench.command import BaseConfig, BenchSettings
    from pytest_h2o.inputs.presets import Point, Preset

# -- what decode speed is held against ------------------------------------------------------------------------------


DEFAULT_BUDGET = "20"
EMBEDDED_BUDGET = "20,60s"
"""The embedded bench is for a look of a few minutes. A bench of one's own is judged, however long its launches take."""


class Baseline(NamedTuple):
    """Decode tok/s with H2O off, where it comes from, and what speaks against the comparison."""

    tok_per_s: float
    origin: str
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    """What it was read from."""
    understates: bool = False
    """Whether it decoded a longer context than a run: the slow-down is larger than it seems, and no pass."""


def paired_baseline(comparison: PairedComparison | None) -> Baseline | None:
    """The median speed of a comparison's baseline, for figures that want one number; the verdict rests on the pairs."""
    speed = None if comparison is None else comparison.median_tok_per_s("baseline")
    if comparison is None or speed is None:
        return None
    return Baseline(speed, f"median of its launches in {len(comparison.pairs)} pairs: {comparison.baseline}")


def pick_recorded(rows: Sequence[Row], results: Sequence[Row], uncompressed: str = "H2O off") -> Baseline | None:
    """The recorded row with nothing compressed that the given runs may be compared with; None if there is none.

    It must have the prompt, gen, model (with its size), backend, threads, precision, mmap and further conditions of
    every run. Of several the fastest is taken: the one that is hardest to hold. `uncompressed` is how the bench calls
    such a row.
    """
    wanted = {_identity(result) for result in results}
    fitting = [
        (row.decode_tok_per_s.mean, row)
        for row in rows
        if wanted == {_identity(row)} and row.decode_tok_per_s is not None
    ]
    if not fitting:
        return None
    speed, best = max(fitting, key=lambda pair: pair[0])
    others = f" (the fastest of {len(fitting)})" if len(fitting) > 1 else ""
    return Baseline(
        speed,
        f"recorded row with {uncompressed}, {best.log_file}{others}",
        (*unlike_contexts(results, best), *(longer := longer_baseline(results, best))),
        tuple(path for path in (best.log_path, best.config_path, best.stdout_path) if path is not None),
        bool(longer),
    )


def describe_unfit(rows: Sequence[Row], results: Sequence[Row]) -> list[str]:
    """Say of each recorded row with H2O off why `pick_recorded` could not take it: what differs from which run."""
    lines = []
    for row in rows:
        other = next((r for r in results if _identity(r) != _identity(row)), None)
        if other is None:
            lines.append(f"{row.log_file} has no decode speed")
            continue
        pairs = zip(_IDENTITY, _identity(row), _identity(other), strict=True)
        differs = ", ".join(f"{name} {came}, not {asked}" for name, came, asked in pairs if came != asked)
        lines.append(f"{row.log_file} has {differs} as {other.run_id} has")
    return lines


_FIELDS = ("prompt_len", "gen_len", "model", "backend", "threads")
_CELLS = ("modelSize", "precision", "mmap", "conditions")
_IDENTITY = (*_FIELDS, *_CELLS)


def _identity(row: Row) -> tuple[object, ...]:
    """What two rows must have alike; a cell that both lack is alike, one that one of them lacks is not."""
    return (*(getattr(row, name) for name in _FIELDS), *(row.cells.get(name) for name in _CELLS))


def seen_context(result: Row) -> int | None:
    """The longest context that a run decoded, in tokens: prompt + generated length, or more where a warning says so.

    A cache that is not cleared between repeats goes on growing; the engine's warnings then name a ``kv_len`` above
    prompt + generated length. None where the row has no lengths.
    """
    if result.prompt_len is None or result.gen_len is None:
        return None
    named = result.output.max_kv_len if result.output is not None else None
    return max(result.prompt_len + result.gen_len, named or 0)


def unlike_contexts(results: Sequence[Row], off: Row | None = None) -> tuple[str, ...]:
    """Say where the binary's own warnings show that H2O on decoded a longer context than H2O off, as `off` tells it."""
    known = 0 if off is None else seen_context(off) or 0
    for row in results:
        asked, seen = (row.prompt_len or 0) + (row.gen_len or 0), seen_context(row)
        if seen is not None and seen > max(asked, known):
            return (
                f"decode speeds are not alike: warnings of {row.run_id} show a kv_len of {seen}, above prompt + gen "
                f"= {asked}: H2O on decoded a longer context than H2O off, so the slow-down is overstated, not hidden",
            )
    return ()


def longer_baseline(results: Sequence[Row], off: Row) -> tuple[str, ...]:
    """Say where H2O off decoded a longer context than a run: then the slow-down is understated."""
    known = seen_context(off) or 0
    for row in results:
        seen = seen_context(row)
        if seen is not None and known > (1 + CONTEXT_TOLERANCE) * seen:
            return (
                f"decode speeds are not alike: warnings of {off.log_file} show a kv_len of {known}, above the {seen} "
                f"tokens of {row.run_id}, so H2O off decoded a longer context, the slow-down is understated, and "
                "nothing passes on it",
            )
    return ()


def choose_baseline(settings: Settings, preset: Preset) -> Given:
    """What decode speed is held against: ``paired``, ``none``, a speed in tok/s, or None where nothing says it.

    The command line stands over the preset, that over the ini file. Where none of them says it, it is ``paired`` if a
    bench runs, and None (the pairs or the row that were recorded) if logs are read. Another build to compare with means
    ``paired``.
    """
    given, other = settings.given["decode-baseline"], settings.given["baseline-bench"]
    if given.on_command_line:
        return given
    if other.value is not None:
        return Given("paired", other.origin)
    for choice in (Given(preset.targets.decode_baseline, f"targets of preset {preset.name}"), given):
        if choice.value is not None:
            return choice
    return Given("paired", "default where a bench runs") if settings["bench"] is not None else Given(None, "default")


def decode_budget(settings: Settings, preset: Preset) -> Budget:
    """Pairs and seconds for the verdict of a preset: command line before preset before ini file before default.

    What is said in one place stands as a whole: pairs alone set no limit of time, seconds alone leave 20 pairs.
    """
    given, own = settings.given["decode-budget"], preset.targets
    if not given.on_command_line and (own.decode_pairs is not None or own.decode_time_s is not None):
        return Budget(own.decode_pairs or DEFAULT_PAIRS, own.decode_time_s)
    usual = EMBEDDED_BUDGET if is_embedded(settings["bench"]) else DEFAULT_BUDGET
    pairs, elapsed_s = parse_budget(given.value or usual, given.origin)
    return Budget(pairs or DEFAULT_PAIRS, elapsed_s)


def describe_decode(settings: Settings, presets: Sequence[Preset]) -> list[str]:
    """Lines for the header: what decode speed is held against, and with what budget; alike presets share a line."""
    found: dict[str, list[str]] = {}
    for preset in presets:
        chosen = choose_baseline(settings, preset)
        if chosen.value == "paired" and settings["bench"] is not None:
            budget = decode_budget(settings, preset)
            other = settings["baseline-bench"]
            against = "H2O off in the same bench" if other is None else f"the build {other}"
            limit = "" if budget.elapsed_s is None else f" or {budget.elapsed_s:g} s"
            each = "workload" if len(preset.workloads(settings["rule"])) > 1 else "preset"
            text = f"paired with {against}, at most {budget.pairs} pairs{limit} a {each} ({chosen.origin})"
        elif chosen.value is None:
            text = "held against the recorded pairs or row with H2O off"
        else:
            text = f"held against {chosen.value} ({chosen.origin})"
        found.setdefault(text, []).append(preset.name)
    if len(found) == 1:
        return [f"decode {text}" for text in found]
    return [f"decode of {', '.join(names)}: {text}" for text, names in found.items()]


# -- the noise of this machine ----------------------------------------------------------------------------------------


def calibration_path(bench: BenchSettings, base: BaseConfig) -> Path:
    """Where the calibration of a bench and model on this machine is kept; it need not be there.

    The folder is ``noise`` in `cache_folder`. The name is a digest of machine, bench with its libraries, model config,
    its place and files, backend and threads: change one of them, and no old calibration is taken for it.
    """
    marks = (
        platform.node(),
        bench.digest,
        digest_file(base.path),
        *digest_model(base).values(),
        str(base.base_dir),
        bench.backend,
        str(bench.threads),
    )
    name = hashlib.sha256("\0".join(marks).encode("utf-8", "surrogateescape")).hexdigest()[:24]
    return cache_folder() / "noise" / f"{name}.json"


def flag_target(path: Path, budget: Budget, target: float | None) -> tuple[str, ...]:
    """Say that a target is finer than this machine's noise allows; nothing where it is not, or where no one knows.

    A calibration that cannot be read is said and not used: it is advice, and no verdict rests on it.
    """
    try:
        noise = Noise.from_json(path) if path.exists() else None
    except StoreError as error:
        return (f"the calibration {path} is not used: {error.what} ({error.came})",)
    if noise is None or target is None:
        return ()
    floor = noise.floor(budget.pairs)
    if floor is None or target >= floor:
        return ()
    return (
        f"the decode target of {target:.1%} is below the noise floor of this machine, {floor:.1%} with {budget.pairs} "
        f"pairs (a launch spreads by {noise.launch_spread:.1%}): expect an inconclusive verdict; more pairs lower the "
        "floor",
    )


# -- pairs -----------------------------------------------------------------------------------------------------------

_SAME = (
    ("prompt_len", "prompt length"),
    ("gen_len", "generated length"),
    ("backend", "backend"),
    ("threads", "number of threads"),
    ("model", "model"),
)

CONTEXT_TOLERANCE = 0.01
"""Contexts are alike if they differ by at most this share: the last warning of a run need not name the last token."""


def why_unlike(baseline: Row, candidate: Row) -> str | None:
    """Say why the decode speeds of two runs cannot be compared; None if nothing speaks against it."""
    for name, title in _SAME:
        a, b = getattr(baseline, name), getattr(candidate, name)
        if a != b:
            return f"another {title}: baseline {a}, candidate {b}"
    for title, a, b in (
        ("decoded unlike numbers of tokens", _decoded(baseline), _decoded(candidate)),
        ("logged unlike lengths of layer 0", _logged(baseline), _logged(candidate)),
    ):
        if a is not None and b is not None and a != b:
            return f"the sides {title}: baseline {a:g}, candidate {b:g}"
    a, b = seen_context(baseline), seen_context(candidate)
    if a is None or b is None:
        return "a row has no prompt or generated length, so nothing tells what context it decoded"
    if abs(a - b) <= CONTEXT_TOLERANCE * min(a, b):
        return None
    longer, result = ("baseline", baseline) if a > b else ("candidate", candidate)
    lengths = (result.prompt_len or 0) + (result.gen_len or 0)
    return (
        f"unlike contexts: warnings of the {longer} show a kv_len of {max(a, b)}, above prompt + gen = {lengths}, "
        f"so it decoded a longer context"
    )


class Held(NamedTuple):
    """What the launches of pairs are held to beside their own soundness."""

    row: Row | None = None
    """The row that they time; None where it is not sound itself."""
    targets: Sequence[Target] = ()
    """What every row must hold."""
    asynchronous: bool = False
    """Whether coding is, so that coded columns differ from launch to launch."""

    def check(self, launch: Row, *, candidate: bool) -> Row:
        """The launch of a side, if a verdict may rest on it; a TableError if not."""
        check_decoded(check_cells(launch))
        if self.row is not None:
            _check_setting(launch, self.row, candidate)
        if candidate and self.row is not None:
            self._check_alike(launch, self.row)
            for target in self.targets:
                self._check_target(launch, self.row, target)
        return launch

    def _check_alike(self, launch: Row, row: Row) -> None:
        if apart := compare_rows(row, launch, asynchronous=self.asynchronous):
            raise TableError(
                "a launch of a pair is not of the row that it times: it has other figures",
                where=str(launch.log_path),
                came="; ".join(f"{name} {came or 'missing'}, not {asked or 'missing'}" for name, asked, came in apart),
                expected=f"those of {row.run_id} to the last digit, as one config gives them",
                hint="the bench does not do the same in every launch: its speed here is that of something else"
                if row.asked_repeat is None
                else "its columns depend on the repeats: take sweep_repeat out of the preset",
            )

    def _check_target(self, launch: Row, row: Row, target: Target) -> None:
        metric, cell = METRICS[target.metric], row_cell(launch, target.metric)
        if cell is None and (metric.name not in COLUMN_DECIMALS or row_cell(row, metric.name) is None):
            return  # a plugin's may rest on the quality, which pairs do not measure
        measured = Measured(metric.name, math.nan if cell is None else cell.mean, launch.run_id)
        if measured.judge(metric.relation, target) != "pass":
            raise TableError(
                f"a launch of a pair misses what every row must hold: {metric.title}",
                where=str(launch.log_path),
                came="nothing" if cell is None else metric.render(cell.mean),
                expected=f"{metric.relation} {target!r} ({target.origin})",
                hint="the row held it: the bench is sick in some launches and not in others",
            )


def _check_setting(launch: Row, row: Row, candidate: bool) -> None:
    """TableError where a launch of a pair has another model, machine or config than the row, as far as both say it.

    Of benches but llm_bench it is not known which keys compress: in these a baseline may differ from the row.
    """
    told, asked = unswept(launch), unswept(row)
    has_known_keys = candidate or f"{IN_CONFIG}llm_model" in asked
    for name in sorted(asked.keys() & told.keys()):
        if not has_known_keys and name.startswith(IN_CONFIG):
            continue
        if told[name] != asked[name] and "none" not in (told[name], asked[name]):
            raise TableError(
                f"a launch of a pair has another {name} than the row that it times",
                where=str(launch.log_path),
                came=told[name],
                expected=f"{asked[name]}, as {row.run_id} has",
                hint="it is of another run: copy the whole folder of the preset, or measure it again",
            )


def _decoded(row: Row) -> float | None:
    """Tokens that were decoded: as it was told, else as it was asked."""
    return row.gen_len if row.decoded_tokens is None else min(row.decoded_tokens, row.gen_len or math.inf)


def _logged(row: Row) -> int | None:
    return None if row.output is None else row.output.logged_kv


OTHER_BUILD = "another build"
"""How a comparison begins to say what its baseline is, where that is not the same bench with nothing compressed."""

Launch = Callable[[str], Row]
"""Launches one side under a run id of its own; raises H2OError if it gives no sound row."""

Keep = Callable[[str, Callable[[], dict[str, Any]]], dict[str, Any]]
"""``keep(key, make)`` returns what `make` returned when `key` was asked for first, in this run or before it was broken
off; the value is plain JSON."""


@dataclass(frozen=True)
class LaunchedPair:
    """A pair, and what it cost."""

    pair: Pair
    elapsed_s: float
    relaunches: int
    measured_again: tuple[str, ...]
    files: Mapping[str, str]
    """See `digest_launches`."""


@dataclass
class PairRunner:
    """Launches the pairs of one comparison, keeps each as soon as it is whole, and what was measured again."""

    baseline: Launch
    candidate: Launch
    keep: Keep = lambda _, make: make()
    relaunches: Relaunches = field(default_factory=Relaunches)
    elapsed_s: float = 0.0
    measured_again: list[str] = field(default_factory=list)

    def launch_pair(self, number: int, first: Order) -> Pair:
        """Launch both sides of a pair, `first` saying which begins; errors as in a launch.

        Of a pair that was launched before the run was broken off nothing is launched again; of half a pair all is: its
        two launches belong side by side.
        """
        name = f"pair_{number:02d}"
        kept = self.keep(name, lambda: plain(self._launch_both(name, first)))
        launched = load(LaunchedPair, kept, "a pair of launches")
        self.elapsed_s += launched.elapsed_s
        self.relaunches.left -= launched.relaunches
        self.measured_again += launched.measured_again
        return launched.pair

    def _launch_both(self, name: str, first: Order) -> LaunchedPair:
        relaunches = Relaunches(self.relaunches.left)
        seconds: list[float] = []
        again: list[str] = []

        def measure(side: str, launch: Launch) -> Row:
            def timed(run_id: str) -> Row:
                row = launch(run_id)
                seconds.append(row.elapsed_s or 0.0)
                return row

            run_id = f"{name}_{side}"
            return relaunches.until_quiet(
                timed(run_id),
                lambda number: timed(f"{run_id}_again{number}"),
                lambda row: again.append(f"{row.run_id}: {row.disturbance}"),
            )

        if first == "AB":
            a, b = measure("baseline", self.baseline), measure("candidate", self.candidate)
        else:
            b, a = measure("candidate", self.candidate), measure("baseline", self.baseline)
        pair = Pair(first, _timed(a), _timed(b), why_unlike(a, b))
        spent = self.relaunches.left - relaunches.left
        return LaunchedPair(pair, sum(seconds), spent, tuple(again), digest_launches(a, b))


def _timed(result: Row) -> TimedLaunch:
    speed = result.decode_tok_per_s
    if speed is None:
        raise NotMeasured("a launch of a pair has no decode speed", where=str(result.log_path))
    return TimedLaunch(result.run_id, speed.mean, round(result.elapsed_s or 0.0, 4), result.disturbance)


def compare_pairs(
    runner: PairRunner, budget: Budget, target: float, *, candidate: str, baseline: str, notes: Sequence[str] = ()
) -> PairedComparison:
    """Launch pairs until the verdict on `target` is clear, the budget is spent, or more would not help."""
    seed = runner.keep("order", lambda: {"seed": secrets.randbelow(2**32)})["seed"]
    order = plan_order(budget.pairs + budget.spare_pairs + 1, seed)
    pairs: list[Pair] = []
    planned = budget
    while (action := next_action(pairs, planned, target, elapsed_s=runner.elapsed_s)).launch:
        pairs.append(runner.launch_pair(len(pairs) + 1, order[len(pairs)]))
        if len(pairs) == 1:
            planned = budget.fitted(pairs[0].elapsed_s, runner.elapsed_s)
    made = PairedComparison(
        candidate=candidate,
        baseline=baseline,
        seed=seed,
        planned_pairs=planned.pairs,
        pairs=tuple(pairs),
        measured_again=tuple(runner.measured_again),
        stopped=action.reason,
        elapsed_s=round(runner.elapsed_s, 3),
        notes=(*_fitting(budget, planned, pairs), *notes),
    )
    return replace(made, plan=made.checksum)


def _fitting(asked: Budget, planned: Budget, pairs: Sequence[Pair]) -> tuple[str, ...]:
    """What to say where there was no time for as many pairs as were asked for."""
    if planned.pairs == asked.pairs:
        return ()
    return (
        f"planned {planned.pairs} of {asked.pairs} pairs: the first took {pairs[0].elapsed_s:.1f} s, and there are "
        f"{asked.elapsed_s:g} s for all (--h2o-decode-budget {asked.pairs} sets no limit of time)",
    )


def hold_against_logs(comparison: PairedComparison, folder: Path, point: Point, held: Held) -> PairedComparison:
    """Hold recorded pairs of a point against the logs of their launches in a folder; StoreError where they differ.

    The pairs come back with a note on what launches with H2O on could not be held against.
    """
    seen: dict[str, int] = {}
    evicting = []
    left = _launches_in(folder)
    for number, pair in enumerate(comparison.pairs, start=1):
        where = f"{folder / PAIRS_NAME}: pair {number}"

        def refuse(what: str, came: str, expected: str, where: str = where) -> StoreError:
            hint = "copy the whole folder of the preset, or measure it again"
            return StoreError(f"recorded pairs: {what}", where=where, came=came, expected=expected, hint=hint)

        rows = {}
        for side in ("baseline", "candidate"):
            launch: TimedLaunch = getattr(pair, side)
            if re.fullmatch(rf"pair_{number:02d}_{side}(_again\d+)?", launch.run_id) is None:
                what, expected = f"the {side} is not the launch of this pair", f"pair_{number:02d}_{side}"
                raise refuse(what, launch.run_id, expected)
            if (last := left.pop((number, side), launch.run_id)) != launch.run_id:
                raise refuse(f"the {side} was measured again, and another launch counts", launch.run_id, last)
            compressed = side == "candidate" or comparison.baseline.startswith(OTHER_BUILD)
            try:
                row = read_launch(folder, replace(point, run_id=launch.run_id, compressed=compressed))
                check_elapsed(replace(row, elapsed_s=launch.elapsed_s))
                rows[side] = held.check(row, candidate=side == "candidate")
                evicting += [row] * compressed
            except H2OError as error:
                told = error.what if error.came is None else f"{error.what}: {error.came}"
                raise refuse(f"the log of the {side} gives no sound row", told, error.expected or "its log") from error
            speed = row.decode_tok_per_s
            if speed is None or not math.isclose(speed.mean, launch.decode_tok_per_s, rel_tol=1e-9):
                what = f"the {side} has another decode speed than its log"
                raise refuse(what, f"{launch.decode_tok_per_s:g} tok/s", f"{speed.mean if speed else None} tok/s")
        if (order := plan_order(number, comparison.seed)[-1]) != pair.order:
            raise refuse("its launches have another order than was drawn", pair.order, f"{order}, by the seed")
        cells = str([row.cells for row in rows.values()])
        # Another bench may print so little that two launches look alike.
        if (first := seen.setdefault(cells, number)) != number and point.bench == LLM_BENCH:
            raise refuse(f"its logs are those of pair {first} to the last digit", "a copy", "launches of its own")
        unlike = why_unlike(rows["baseline"], rows["candidate"])
        if (unlike is None) != (pair.excluded is None):
            told = "its logs can be compared" if unlike is None else unlike
            raise refuse("whether it counts is not what its logs say", pair.excluded or "not excluded", told)
    if left:
        raise StoreError(
            "recorded pairs: some that were launched are not among them",
            where=str(folder / PAIRS_NAME),
            came=f"{len(comparison.pairs)} pairs, and the log of {next(iter(left.values()))}",
            expected="all pairs that were launched: a choice among them is no comparison",
            hint="copy the whole folder of the preset, or measure it again",
        )
    unverified = describe_unverified(evicting, "launches of pairs with H2O on")
    if not comparison.plan:
        unverified.append("how many pairs were planned is as pairs.json says: an earlier version wrote it, unchecked")
    return replace(comparison, notes=tuple(dict.fromkeys((*comparison.notes, *unverified))))


_PAIR_LOG = re.compile(r"pair_(\d{2,})_(baseline|candidate)(?:_again(\d+))?")


def _launches_in(folder: Path) -> dict[tuple[int, str], str]:
    """The launch of each side of each pair that left a log in a folder: the last one, where it was measured again."""
    found: dict[tuple[int, str], tuple[int, str]] = {}
    for path in recorded_logs(folder):
        if (named := _PAIR_LOG.fullmatch(path.stem)) is not None:
            key = (int(named[1]), named[2])
            found[key] = max(found.get(key, (0, "")), (int(named[3] or 0), path.stem))
    return dict(sorted((key, run_id) for key, (_, run_id) in found.items()))


def launch_pairs(runner: PairRunner, count: int, seed: int) -> Iterator[Pair]:
    """Launch a fixed number of pairs, for calibration: nothing is decided meanwhile."""
    for number, first in enumerate(plan_order(count, seed), start=1):
        yield runner.launch_pair(number, first)

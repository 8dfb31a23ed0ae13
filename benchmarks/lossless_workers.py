"""One process against several for the streams of one evaluation, side by side.

    python benchmarks/lossless_workers.py [--sets prefill,tokens] [--workers 2] [--rounds 5] [--codec NAME] [--dask]

Sets as in `lossless_command.py`. Each round measures every stream of the set (encoded, counted, decoded, compared) in
this process, and in processes that are forked from it, in shuffled order, after one round that is not counted. What the
machine itself allows is measured beside it: as many processes at once, each with the whole set and nothing shared;
"times the work of 1 process" tells how many times as much is done in the same time. Wall seconds from the finished
index to the last result, medians;
the start of the processes counts, as a command pays it every time. With ``--dask`` also the worker processes of a dask
scheduler that is there already, as many, of one thread each, everything on this machine; the connection counts.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.lossless_command import SETS
from pytest_h2o.inputs.scope import Scope
from pytest_h2o.lossless.apart import run_on_processes
from pytest_h2o.lossless.evaluate import make_codec
from pytest_h2o.lossless.executors import open_executor
from pytest_h2o.lossless.index import index_dump
from pytest_h2o.lossless.measure import Measurement, Task, plan_groups, plan_tasks

SETTINGS = Scope(
    scope="layer_range",
    layer_start=0,
    entry_mode="chunked_grouped",
    online_chunk_seq=192,
    online_framing_bytes=8,
)


def here(tasks: list[Task], settings: Scope) -> int:
    measurement = Measurement(make_codec(settings.codec), verify=True)
    return sum(measured.tally.coded_bytes for task in tasks for measured in measurement([task]))


def on_processes(tasks: list[Task], workers: int, settings: Scope) -> int:
    measurement = Measurement(make_codec(settings.codec), verify=True)
    found = run_on_processes(measurement.opened, [[task] for task in tasks], workers)
    return sum(measured.tally.coded_bytes for measured in found)


def alone(tasks: list[Task], settings: Scope, barrier: Any, seconds: Any) -> None:
    barrier.wait()
    started = time.perf_counter()
    here(tasks, settings)
    seconds.put(time.perf_counter() - started)


def as_copies(tasks: list[Task], workers: int, settings: Scope) -> float:
    """Wall seconds of the slowest of `workers` processes that each do all tasks, at the same time."""
    context = get_context("spawn")
    barrier, seconds = context.Barrier(workers), context.SimpleQueue()
    processes = [context.Process(target=alone, args=(tasks, settings, barrier, seconds)) for _ in range(workers)]
    for process in processes:
        process.start()
    slowest = max(float(seconds.get()) for _ in processes)
    for process in processes:
        process.join()
    return slowest


def on_dask(tasks: list[Task], settings: Scope, address: str) -> int:
    measurement = Measurement(make_codec(settings.codec), verify=True)
    with open_executor(address) as executor:
        return sum(
            measured.tally.coded_bytes
            for measured in executor.run(measurement, tasks, sum(task.raw_bytes for task in tasks))
        )


def compare(root: Path, workers: int, rounds: int, settings: Scope, address: str | None) -> dict[str, float]:
    tasks = list(plan_tasks(plan_groups(index_dump(root).entries, settings), settings))
    ways: dict[str, Callable[[], int]] = {
        "1 process": lambda: here(tasks, settings),
        f"{workers} processes": lambda: on_processes(tasks, workers, settings),
    }
    if address is not None:
        ways[f"{workers} dask workers"] = lambda: on_dask(tasks, settings, address)
    copies = f"{workers} copies"
    seconds: dict[str, list[float]] = {name: [] for name in (*ways, copies)}
    counted = set()
    for number in range(rounds + 1):
        for name in random.Random(number).sample(list(ways), len(ways)):
            started = time.perf_counter()
            counted.add(ways[name]())
            if number:
                seconds[name].append(time.perf_counter() - started)
        if number:
            seconds[copies].append(as_copies(tasks, workers, settings))
    if len(counted) != 1:
        raise SystemExit(f"the ways count unlike bytes: {counted}")
    return {name: statistics.median(values) for name, values in seconds.items()}


def start_dask(args: argparse.Namespace) -> AbstractContextManager[Any]:
    if not args.dask:
        return nullcontext()
    from distributed import LocalCluster

    cluster: AbstractContextManager[Any] = LocalCluster(
        n_workers=args.workers, threads_per_worker=1, processes=True, dashboard_address=None
    )
    return cluster


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="prefill,tokens", help=f"of {', '.join(SETS)}")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work-dir", type=Path)
    parser.add_argument("--codec", default=SETTINGS.codec)
    parser.add_argument("--dask", action="store_true")
    args = parser.parse_args()
    settings = replace(SETTINGS, codec=args.codec)
    for name in args.sets.split(","):
        with tempfile.TemporaryDirectory(dir=args.work_dir) as work, start_dask(args) as cluster:
            SETS[name](Path(work))
            address = cluster and cluster.scheduler_address.replace("tcp://", "dask://")
            medians = compare(Path(work), args.workers, args.rounds, settings, address)
        one, work_done = medians["1 process"], {f"{args.workers} copies": args.workers}
        for way, wall in medians.items():
            gain = one / wall * work_done.get(way, 1)
            print(f"{name}: {way} {wall:.2f} s, {gain:.2f} times the work of 1 process", flush=True)


if __name__ == "__main__":
    main()

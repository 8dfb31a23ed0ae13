"""Which streams there are, and the threads that work on them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_h2o.lossless import plan
from pytest_h2o.lossless.executors import spread
from pytest_h2o.lossless.index import DumpEntry, index_dump
from pytest_h2o.lossless.plan import (
    ENTRY_MODES,
    ChunkFraming,
    EntryTable,
    LosslessSettings,
    NoFraming,
    Task,
    plan_groups,
    plan_tasks,
)
from tests.lossless.samples import FP32

A_REAL_ENTRY = index_dump(FP32).entries[0]


@st.composite
def some_entries(draw: st.DrawFn) -> list[DumpEntry]:
    """Entries of some runs, layers, stages and shapes, in the order of their paths."""
    count = draw(st.integers(1, 12))
    return [
        A_REAL_ENTRY._replace(
            meta=f"meta_{number:02}.json",
            run_id=draw(st.sampled_from(["a", "b", None])),
            layer_id=draw(st.integers(0, 2)),
            stage=draw(st.sampled_from(["prefill", "decode"])),
            head_dim=draw(st.sampled_from([64, 128])),
            seq_start=draw(st.integers(0, 6)),
            seq_len=draw(st.integers(1, 9)),
        )
        for number in range(count)
    ]


def rows_of(tasks: list[Task], tensor: str) -> list[tuple[str, int]]:
    """(meta, row) of every token in the order in which it is coded."""
    pieces = [piece for task in tasks if task.tensor == tensor for chunk in task.chunks for piece in chunk.pieces]
    return [(piece.entry.meta, row) for piece in pieces for row in range(piece.first, piece.first + piece.rows)]


@given(
    entries=some_entries(),
    mode=st.sampled_from(ENTRY_MODES),
    chunk=st.integers(0, 10),
    by_stage=st.booleans(),
    task_bytes=st.sampled_from([1, 3000, 1 << 20]),
)
@settings(max_examples=200, deadline=None)
def test_every_token_is_in_one_stream_of_its_group(
    entries: list[DumpEntry], mode: str, chunk: int, by_stage: bool, task_bytes: int
) -> None:
    chosen = LosslessSettings(entry_mode=mode, online_chunk_seq=chunk, aggregate_by_stage=by_stage)
    groups = plan_groups(entries, chosen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "_TASK_BYTES", task_bytes)
        tasks = list(plan_tasks(groups, chosen))
    by_layer = sorted(groups, key=lambda group: (group[0].layer_id, group[0].kv_heads, group[0].head_dim))
    expected = [(entry.meta, row) for group in by_layer for entry in group for row in range(entry.seq_len)]
    assert rows_of(tasks, "k") == rows_of(tasks, "v") == expected
    assert sorted(expected) == sorted((entry.meta, row) for entry in entries for row in range(entry.seq_len))
    check_groups(groups, chosen)
    for task in tasks:
        check_chunks(task, chosen)


def check_groups(groups: list[list[DumpEntry]], chosen: LosslessSettings) -> None:
    joined = chosen.entry_mode in ("aggregate", "chunked_grouped")
    keys = []
    for group in groups:
        assert joined or len(group) == 1
        order = [(entry.seq_start, entry.meta) for entry in group]
        assert order == sorted(order)
        stages = {entry.stage for entry in group}
        (key,) = {(e.run_id, e.layer_id, e.kv_heads, e.head_dim) for e in group}
        assert len(stages) == 1 or not chosen.aggregate_by_stage
        keys.append((key, stages.pop() if chosen.aggregate_by_stage else None))
    assert not joined or len(set(keys)) == len(keys)


def check_chunks(task: Task, chosen: LosslessSettings) -> None:
    rows = chosen.online_chunk_seq if chosen.entry_mode.startswith("chunked") else 0
    for chunk in task.chunks:
        assert chunk.rows == sum(piece.rows for piece in chunk.pieces) > 0
        assert not rows or chunk.rows <= rows
        assert {piece.entry.layer_id for piece in chunk.pieces} == {task.layer_id}
        if rows and chunk.rows < rows:  # only the end of a sequence is short
            last = chunk.pieces[-1]
            assert last.first + last.rows == last.entry.seq_len
    if chosen.entry_mode == "aggregate":
        (chunk,) = task.chunks
        assert task.framing == EntryTable(tuple(piece.rows for piece in chunk.pieces))
    else:
        framed = chosen.entry_mode.startswith("chunked")
        assert task.framing == (ChunkFraming(chosen.online_framing_bytes) if framed else NoFraming())


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_all_tasks_are_done_once(workers: int) -> None:
    assert sorted(spread(lambda task: task * task, range(1, 50), workers)) == [n * n for n in range(1, 50)]
    assert list(spread(lambda task: task, (), workers)) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_plan_is_not_held_whole(workers: int) -> None:
    taken = 0

    def endless() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    results = spread(lambda task: task, endless(), workers)
    first = next(results)
    results.close()  # type: ignore[attr-defined]
    assert first >= 1
    assert threading.active_count() == 1 or all(not t.name.startswith("h2o-codec") for t in threading.enumerate())


@pytest.mark.parametrize("workers", [1, 4])
def test_first_error_ends_the_work(workers: int) -> None:
    done: list[int] = []

    def work(task: int) -> int:
        if task == 3:
            raise KeyError("three")
        time.sleep(0.001)
        done.append(task)
        return task

    with pytest.raises(KeyError, match="three"):
        list(spread(work, range(1, 10_000), workers))
    assert len(done) < 1000
    assert not any(thread.name.startswith("h2o-codec") for thread in threading.enumerate())


def test_error_of_the_plan_itself_is_raised() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("no more plan")

    with pytest.raises(ValueError, match="no more plan"):
        list(spread(lambda task: task, broken(), 2))

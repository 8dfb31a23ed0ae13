"""Which streams there are, and their framing."""

import struct
from typing import get_args
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.errors import CodecError
from pytest_h2o.inputs.keys import EntryMode
from pytest_h2o.inputs.scope import Scope
from pytest_h2o.lossless import measure
from pytest_h2o.lossless.index import DumpEntry, index_dump
from pytest_h2o.lossless.measure import ChunkFraming, EntryTable, Framing, Task, plan_groups, plan_tasks
from tests.lossless.samples import SMALL
from tests.told import error_text

A_REAL_ENTRY = index_dump(SMALL).entries[0]
PAYLOAD = bytes(range(60))


@st.composite
def some_entries(draw: st.DrawFn) -> list[DumpEntry]:
    """Entries of some runs, layers, stages and shapes, in the order of their paths."""
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
        for number in range(draw(st.integers(1, 12)))
    ]


def rows_of(tasks: list[Task], tensor: str) -> list[tuple[str, int]]:
    """(meta, row) of every token in the order in which it is coded."""
    pieces = [piece for task in tasks if task.tensor == tensor for chunk in task.chunks for piece in chunk.pieces]
    return [(piece.entry.meta, row) for piece in pieces for row in range(piece.first, piece.first + piece.rows)]


@given(
    entries=some_entries(),
    mode=st.sampled_from(get_args(EntryMode)),
    chunk=st.integers(0, 10),
    by_stage=st.booleans(),
    task_bytes=st.sampled_from([1, 3000, 1 << 20]),
)
def test_every_token_is_in_one_stream_of_its_group(
    entries: list[DumpEntry], mode: EntryMode, chunk: int, by_stage: bool, task_bytes: int
) -> None:
    scope = Scope(entry_mode=mode, online_chunk_seq=chunk, aggregate_by_stage=by_stage)
    groups = plan_groups(entries, scope)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "_TASK_BYTES", task_bytes)
        tasks = list(plan_tasks(groups, scope))
    by_layer = sorted(groups, key=lambda group: (group[0].layer_id, group[0].kv_heads, group[0].head_dim))
    expected = [(entry.meta, row) for group in by_layer for entry in group for row in range(entry.seq_len)]
    assert rows_of(tasks, "k") == rows_of(tasks, "v") == expected
    assert sorted(expected) == sorted((entry.meta, row) for entry in entries for row in range(entry.seq_len))
    check_groups(groups, scope)
    for task in tasks:
        check_chunks(task, scope)


def check_groups(groups: list[list[DumpEntry]], scope: Scope) -> None:
    joined = scope.entry_mode in ("aggregate", "chunked_grouped")
    keys = []
    for group in groups:
        assert joined or len(group) == 1
        order = [(entry.seq_start, entry.meta) for entry in group]
        assert order == sorted(order)
        stages = {entry.stage for entry in group}
        (key,) = {(e.run_id, e.layer_id, e.kv_heads, e.head_dim) for e in group}
        assert len(stages) == 1 or not scope.aggregate_by_stage
        keys.append((key, stages.pop() if scope.aggregate_by_stage else None))
    assert not joined or len(set(keys)) == len(keys)


def check_chunks(task: Task, scope: Scope) -> None:
    framed = scope.entry_mode.startswith("chunked")
    rows = scope.online_chunk_seq if framed else 0
    for chunk in task.chunks:
        assert chunk.rows == sum(piece.rows for piece in chunk.pieces) > 0
        assert not rows or chunk.rows <= rows
        assert {piece.entry.layer_id for piece in chunk.pieces} == {task.layer_id}
        if rows and chunk.rows < rows:  # only the end of a sequence is short
            last = chunk.pieces[-1]
            assert last.first + last.rows == last.entry.seq_len
    if scope.entry_mode == "aggregate":
        (chunk,) = task.chunks
        assert task.framing == EntryTable(tuple(piece.rows for piece in chunk.pieces))
    else:
        assert task.framing == (ChunkFraming(scope.online_framing_bytes) if framed else Framing())


@pytest.mark.parametrize("framing", [Framing(), *map(ChunkFraming, (0, 1, 8, 16)), EntryTable((20, 3, 1))], ids=str)
def test_a_record_is_framing_and_payload(framing: Framing) -> None:
    header = framing.header(PAYLOAD)
    assert len(header) == framing.overhead_bytes
    assert framing.unwrap(memoryview(header + PAYLOAD)) == PAYLOAD


def test_framing_is_length_checksum_and_zero_bytes() -> None:
    header = struct.pack("<II", 60, crc32(PAYLOAD))
    assert [ChunkFraming(n).header(PAYLOAD) for n in (0, 6, 8, 16)] == [b"", header[:6], header, header + bytes(8)]
    assert EntryTable((5, 6)).header(PAYLOAD) == struct.pack("<III", 2, 5, 6)


@pytest.mark.parametrize("overhead", [8, 16])
def test_every_flipped_bit_and_every_truncation_of_a_framed_chunk_is_refused(overhead: int) -> None:
    framing = ChunkFraming(overhead)
    record = framing.header(PAYLOAD) + PAYLOAD
    damaged = [record[:length] for length in range(len(record))]
    damaged += [record + b"\0"]
    for index in range(len(record)):
        for bit in range(8):
            damaged.append(record[:index] + bytes([record[index] ^ 1 << bit]) + record[index + 1 :])
    for one in damaged:
        with pytest.raises(CodecError, match="a chunk is damaged"):
            framing.unwrap(memoryview(one))


def test_a_damaged_record_says_what_was_found(snapshot: SnapshotAssertion) -> None:
    assert error_text(CodecError, ChunkFraming(4).unwrap, memoryview(b"\5\0\0\0abcd")) == snapshot
    record = EntryTable((20, 3, 1)).header(b"")
    for entries, given_record in (((20, 4), record), ((24,), record), ((20, 3, 1), record[:6])):
        with pytest.raises(CodecError, match="the table of a joined stream is damaged"):
            EntryTable(entries).unwrap(memoryview(given_record))


def test_a_chunk_that_is_too_long_is_refused() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return 1 << 32

    with pytest.raises(CodecError, match="a chunk is too long for its framing"):
        ChunkFraming(8).header(Huge())

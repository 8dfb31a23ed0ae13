"""From entries to words: the same bits, whichever way they come."""

import mmap
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.errors import DumpError
from pytest_h2o.lossless.index import Piece, index_dump, read_pieces
from tests.lossless.samples import FP16, FP32, make_zip, read_words, write_entry
from tests.told import error_text


def test_fp16_dump_is_the_fp32_dump_rounded() -> None:
    """Two recordings of one run: an oracle for both readers."""
    rounded = {entry.meta: entry for entry in index_dump(FP16).entries}
    compared = 0
    for entry in index_dump(FP32).entries:
        same = rounded.get(entry.meta)
        if same is not None:
            for tensor in ("k", "v"):
                words = read_words(entry, tensor)
                assert words.dtype == np.uint16
                assert words.shape == (entry.seq_len, 3, 64)
                assert np.array_equal(words, read_words(same, tensor))
                compared += 1
    assert compared == 2 * 25


def test_rounding_is_half_to_even_and_overflow_is_infinite(tmp_path: Path) -> None:
    floats = np.array([1 + 2**-11, 1 + 3 * 2**-11, 65519.9, 65520.0, -1e30, np.nan, 2**-25, 2**-25 * 1.01], "<f4")
    data = np.resize(floats, (4, 2, 8)).tobytes()
    write_entry(tmp_path, data=data, bytes_per_elem=4, dtype="fp32")
    words = read_words(index_dump(tmp_path).entries[0], "v")
    assert [hex(word) for word in words[0, 0]] == [
        "0x3c00",
        "0x3c02",
        "0x7bff",
        "0x7c00",
        "0xfc00",
        "0x7e00",
        "0x0",
        "0x1",
    ]


def test_large_file_is_mapped_and_small_one_read(tmp_path: Path) -> None:
    data = np.arange(40_000 * 16, dtype="<u4").astype("<u2").tobytes()
    write_entry(tmp_path, tokens=40_000, data=data)
    write_entry(tmp_path, start=50_000)
    large, small = index_dump(tmp_path).entries
    words = read_words(large, "k")
    base = words
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base.obj if isinstance(base, memoryview) else base, mmap.mmap)
    assert not words.flags.writeable
    assert words.tobytes() == data
    part = read_pieces([Piece(large, 100, 39_000)], "k")
    assert not part.flags.writeable
    assert part.tobytes() == data[100 * 32 : 39_100 * 32]
    both = read_pieces([Piece(large, 0, 40_000), Piece(small, 0, 4)], "k")
    assert both.flags.writeable
    assert np.array_equal(both[:40_000], words)
    assert read_words(small, "k").flags.writeable


@pytest.mark.parametrize("packed", [False, True])
@given(cuts=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(1, 6)), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_pieces_are_slices_of_whole_entries(
    tmp_path_factory: pytest.TempPathFactory, packed: bool, cuts: list[tuple[int, int, int]]
) -> None:
    root = tmp_path_factory.mktemp("dump")
    for start, tokens in ((0, 6), (10, 1), (20, 6)):
        write_entry(root, start=start, tokens=tokens)
    entries = index_dump(make_zip(root, root.with_suffix(".zip")) if packed else root).entries
    pieces = [Piece(entries[which], min(first, entries[which].seq_len - 1), 0) for which, first, _ in cuts]
    pieces = [
        piece._replace(rows=min(rows, piece.entry.seq_len - piece.first))
        for piece, (_, _, rows) in zip(pieces, cuts, strict=True)
    ]
    expected = np.concatenate([read_words(p.entry, "v")[p.first : p.first + p.rows] for p in pieces])
    assert np.array_equal(read_pieces(pieces, "v"), expected)


@given(hnp.arrays(np.uint32, (4, 2, 8)))
@settings(max_examples=30, deadline=None)
def test_mixed_widths_are_read_together(tmp_path_factory: pytest.TempPathFactory, bits: np.ndarray) -> None:
    root = tmp_path_factory.mktemp("dump")
    write_entry(root, run_id="a")
    write_entry(root, run_id="b", data=bits.astype("<u4").tobytes(), bytes_per_elem=4, dtype="float32")
    write_entry(root, run_id="c")
    entries = index_dump(root).entries
    words = read_pieces([Piece(entry, 0, 4) for entry in entries], "k")
    with np.errstate(all="ignore"):
        rounded = bits.view(np.float32).astype(np.float16).view(np.uint16)
    whole = [read_words(entry, "k") for entry in entries]
    assert np.array_equal(words, np.concatenate(whole))
    assert np.array_equal(words[4:8], rounded)


@pytest.mark.parametrize(
    ("tokens", "size"),
    [
        (4, 127),
        (4, 129),
        (4, 0),
        (4, None),
        (40_000, 5),
        *((40_000, 40_000 * 32 + more) for more in (-1, 1)),
        (40_000, None),
    ],
)
def test_a_file_that_changed_or_went_away_after_the_index_is_refused(
    tmp_path: Path, tokens: int, size: int | None, snapshot: SnapshotAssertion
) -> None:
    """A small one is read, a large one mapped."""
    data = write_entry(tmp_path, tokens=tokens).with_name(f"k_t0_{tokens}.bin")
    (entry,) = index_dump(tmp_path).entries
    data.unlink() if size is None else data.write_bytes(bytes(size))
    assert error_text(DumpError, read_words, entry, "k").replace(str(tmp_path), "") == snapshot


def test_short_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a signal or a network file system gives them."""
    write_entry(tmp_path)
    (entry,) = index_dump(tmp_path).entries
    whole = read_words(entry, "k")
    really_read = os.readv
    monkeypatch.setattr(os, "readv", lambda file, buffers: really_read(file, [buffers[0][:50]]))
    assert np.array_equal(read_words(entry, "k"), whole)


def test_stream_that_no_memory_holds_is_one_error() -> None:
    entry = index_dump(FP32).entries[0]
    for heads in (2**31 - 1, 2**20):
        large = entry._replace(seq_len=2**31 - 1, kv_heads=heads)  # fp32: not mapped
        with pytest.raises(DumpError, match="there is not enough memory for one stream of the dump"):
            read_pieces([Piece(large, 0, 2**31 - 1)], "k")


def test_a_large_member_of_an_archive_is_read_not_mapped(tmp_path: Path) -> None:
    data = np.arange(40_000 * 16, dtype="<u4").astype("<u2").tobytes()
    write_entry(tmp_path / "dump", tokens=40_000, data=data)
    (entry,) = index_dump(make_zip(tmp_path / "dump", tmp_path / "dump.zip")).entries
    assert read_words(entry, "k").tobytes() == data

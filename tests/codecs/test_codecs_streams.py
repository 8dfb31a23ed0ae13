"""Streams of a dump: all of it, in order, and what is not sound is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sample_streams import DUMP, ROPE, SMALL

from pytest_h2o.cli.codecs import streams
from pytest_h2o.errors import DumpError

ORACLE = DUMP.parents[1] / "oracle" / "fp16" / "all_layers_grouped.json"


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SMALL, tmp_path / "dump")) / "code" / "layer_1"


def test_all_bytes_of_a_dump_are_in_its_streams() -> None:
    oracle = json.loads(ORACLE.read_text())
    dumped = list(streams(DUMP, ROPE))
    for tensor in ("k", "v"):
        chosen = [d for d in dumped if d.stream.tensor == tensor]
        assert sum(d.stream.raw_bytes for d in chosen) == oracle[f"{tensor}_raw_bytes"]
        assert sum(d.entries for d in chosen) == oracle["selected_entries"]
        assert all(d.stream.rope == (ROPE if tensor == "k" else None) for d in chosen)
    assert [(d.run_id, d.layer) for d in dumped[::2]] == [
        (run, layer) for run in ("code", "log", "prose") for layer in (0, 1, 2, 15, 29)
    ]


def test_entries_stand_in_order_of_their_positions(layer: Path) -> None:
    (k, _) = streams(layer.parents[1])
    assert k.stream.positions is not None
    expected = list(range(471))
    assert k.stream.positions.tolist() == expected
    for name, start, end in (("k_t0_1", 0, 1), ("k_t6_7", 6, 7), ("k_t7_470", 7, 470), ("k_t470_471", 470, 471)):
        words = np.fromfile(layer / f"{name}.bin", "<u2").reshape(-1, 3, 64)
        assert np.array_equal(k.stream.words[start:end], words)


def test_fp32_is_rounded() -> None:
    fp16, fp32 = (next(iter(streams(DUMP.with_name(kind)))) for kind in ("fp16.zip", "fp32.zip"))
    assert np.array_equal(fp16.stream.words[:470], fp32.stream.words[:470])


def test_a_zip_of_a_dump_is_read(layer: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "dump"), "zip", layer.parents[1])
    (k, v), (zipped_k, zipped_v) = streams(layer.parents[1]), streams(archive)
    assert np.array_equal(k.stream.words, zipped_k.stream.words)
    assert np.array_equal(v.stream.words, zipped_v.stream.words)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DumpError, match="no KV dump here"):
        list(streams(tmp_path))


def test_an_entry_that_cannot_be_read_is_not_passed_over(layer: Path) -> None:
    file = layer / "v_t7_470.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DumpError) as caught:
        list(streams(layer.parents[1]))
    error = caught.value
    assert error.what == "a dump has entries that cannot be read"
    assert error.where == f"{layer.parents[1]}/code/layer_1/meta_t7_470.json"
    assert error.came is not None
    assert error.came.startswith("binary_read_error: ")
    assert error.came.endswith("(1 of 9 entries)")

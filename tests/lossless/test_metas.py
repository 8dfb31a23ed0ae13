"""Every way in which one meta can be unsound, with its reason and its words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.lossless.index import index_dump
from tests.lossless.samples import the_skipped, write_entry

UNSOUND: list[dict[str, Any]] = [
    {"seq_len": True},
    {"seq_len": 4.0},
    {"layer_id": "0"},
    {"head_dim": ..., "kv_heads": None},
    {"layer_id": -1},
    {"seq_start": -4},
    {"seq_start": 2**63},
    {"seq_start": 2**63 - 4, "seq_end_exclusive": 2**63},
    {"layer_id": 2**31},
    {"seq_end_exclusive": 5},
    {"seq_end_exclusive": 4.0},
    {"seq_len": 0, "seq_end_exclusive": 0},
    {"kv_heads": 2**31},
    {"seq_len": 2**31, "seq_end_exclusive": 2**31},
    {"kv_heads": 2**31 - 1, "head_dim": 2**31 - 1},  # the product is beyond 64 bits
    {"kv_heads": 2**32, "head_dim": 2**32},
    {"kv_heads": -2, "head_dim": -8},
    {"head_dim": 9},
    {"bytes_per_elem": 1},
    {"dtype": "bf8"},
    {"dtype": ["fp16"]},
    {"stage": ...},
    {"stage": "both"},
    {"run_id": 7},
    {"v_file": ...},
    {"k_file": 3, "v_file": None},
    {"k_file": ""},
    {"k_file": "gone.bin"},
    {"k_file": "sub/gone.bin"},
    {"k_file": "\ud800"},
    {"k_file": "k_t0_4.bin/x"},
    {"k_file": "."},
]


def test_an_unsound_meta_is_skipped_with_its_reason(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    told = []
    for number, changes in enumerate(UNSOUND):
        write_entry(tmp_path / str(number), **changes)
        skipped = the_skipped(tmp_path / str(number))
        told.append(f"{changes}: {skipped.reason}: {skipped.detail}")
    assert "\n".join(told) == snapshot


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        (b"", "no JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"{", "no JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (b"\xff{}", "no JSON: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (b"[1]", "no JSON object but list"),
        (b"{} {}", "no JSON: text behind the end, at character 2"),
        (b'{"a":' * 9000 + b"1" + b"}" * 9000, "no JSON: maximum recursion depth exceeded"),
        (b'{"layer_id": ' + b"9" * 20_000 + b"}", "no JSON: Exceeds the limit"),
        (b"[" * 60_000, "no JSON: maximum recursion depth exceeded"),
        (b'{"layer_id": 1e999}', "layer_id is inf, seq_start is missing"),
        ("\ufeff\ufeff{}".encode(), "no JSON: Expecting value"),
        (b"null", "no JSON object but NoneType"),
        (b" " * 65537, "larger than 65536 bytes"),
    ],
    ids=[
        "empty",
        "cut",
        "no_utf8",
        "list",
        "two",
        "deep",
        "long_integer",
        "deep_list",
        "infinite",
        "two_marks",
        "null",
        "large",
    ],
)
def test_a_meta_that_is_no_json_object_is_skipped(tmp_path: Path, text: bytes, detail: str) -> None:
    write_entry(tmp_path).write_bytes(text)
    skipped = the_skipped(tmp_path)
    assert skipped.reason == ("meta_invalid_numeric_fields" if "layer_id is" in detail else "meta_parse_error")
    assert skipped.detail.startswith(detail)
    assert len(skipped.detail) < 1000
    assert (skipped.layer_id, skipped.stage, skipped.seq_len) == (None, None, None)


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_a_meta(tmp_path: Path) -> None:
    meta = write_entry(tmp_path)
    meta.write_bytes(
        b"\xef\xbb\xbf" + json.dumps(json.loads(meta.read_text()), indent=1).replace("\n", "\r\n").encode()
    )
    index = index_dump(tmp_path)
    assert (len(index.entries), index.skipped) == (1, ())


def test_a_meta_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    meta = write_entry(tmp_path)
    meta.write_bytes(meta.read_bytes().ljust(65536))
    assert len(index_dump(tmp_path).entries) == 1

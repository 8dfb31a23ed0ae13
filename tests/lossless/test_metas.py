"""Every way in which one meta can be unsound, with its reason and its words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_h2o.lossless.index import index_dump
from pytest_h2o.lossless.meta import MetaFault, parse_meta
from tests.lossless.samples import the_skipped, write_entry


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"seq_len": True}, "meta_invalid_numeric_fields", "seq_len is True; expected whole numbers"),
        ({"seq_len": 4.0}, "meta_invalid_numeric_fields", "seq_len is 4.0; expected whole numbers"),
        ({"layer_id": "0"}, "meta_invalid_numeric_fields", "layer_id is '0'; expected whole numbers"),
        (
            {"head_dim": ..., "kv_heads": None},
            "meta_invalid_numeric_fields",
            "kv_heads is None, head_dim is missing; expected whole numbers",
        ),
        ({"layer_id": -1}, "meta_invalid_numeric_fields", "layer_id is -1, seq_start 0: negative, or absurdly large"),
        ({"seq_start": -4}, "meta_invalid_numeric_fields", "layer_id is 0, seq_start -4: negative, or absurdly large"),
        (
            {"seq_start": 2**63},
            "meta_invalid_numeric_fields",
            f"layer_id is 0, seq_start {2**63}: negative, or absurdly large",
        ),
        (
            {"seq_end_exclusive": 5},
            "meta_invalid_numeric_fields",
            "seq_end_exclusive is 5, but seq_start + seq_len is 4",
        ),
        (
            {"seq_end_exclusive": 4.0},
            "meta_invalid_numeric_fields",
            "seq_end_exclusive is 4.0, but seq_start + seq_len is 4",
        ),
        (
            {"seq_len": 0, "seq_end_exclusive": 0},
            "invalid_shape",
            "[seq_len, kv_heads, head_dim] is [0, 2, 8], each must be at least 1 and less than 2**31",
        ),
        (
            {"kv_heads": 2**31},
            "invalid_shape",
            "[seq_len, kv_heads, head_dim] is [4, 2147483648, 8], each must be at least 1 and less than 2**31",
        ),
        (
            {"kv_heads": 2**31 - 1, "head_dim": 2**31 - 1},
            "binary_read_error",
            f"'k_t0_4.bin' has 128 bytes, expected {8 * (2**31 - 1) ** 2} ([4, 2147483647, 2147483647] of 2 bytes)",
        ),
        (
            {"head_dim": 9},
            "binary_read_error",
            "'k_t0_4.bin' has 128 bytes, expected 144 ([4, 2, 9] of 2 bytes)",
        ),
        (
            {"bytes_per_elem": 1},
            "unsupported_bytes_per_elem_1",
            "bytes_per_elem is 1, only 2 (fp16) and 4 (fp32) are read",
        ),
        ({"dtype": "bf16"}, "unsupported_dtype", "dtype is 'bf16', expected fp16 for 2 bytes an element"),
        ({"dtype": ["fp16"]}, "unsupported_dtype", "dtype is ['fp16'], expected fp16 for 2 bytes an element"),
        ({"stage": ...}, "meta_invalid_text_fields", "stage is missing; expected text"),
        ({"stage": "both"}, "meta_invalid_text_fields", "stage is 'both', expected prefill or decode"),
        ({"run_id": 7}, "meta_invalid_text_fields", "run_id is 7; expected text"),
        ({"v_file": ...}, "missing_k_or_v_file", "v_file is missing; expected text"),
        ({"k_file": 3, "v_file": None}, "missing_k_or_v_file", "k_file is 3, v_file is None; expected text"),
        ({"k_file": ""}, "missing_k_or_v_file", "k_file or v_file is empty"),
        ({"k_file": "gone.bin"}, "missing_k_or_v_binary", "'gone.bin' does not exist"),
        ({"k_file": "sub/gone.bin"}, "missing_k_or_v_binary", "'sub/gone.bin' does not exist"),
        ({"k_file": "\ud800"}, "missing_k_or_v_binary", "'\\ud800' does not exist"),
        ({"k_file": "k_t0_4.bin/x"}, "missing_k_or_v_binary", "'k_t0_4.bin/x' does not exist"),
        ({"k_file": "."}, "missing_k_or_v_binary", "'.' is no regular file"),
    ],
)
def test_unsound_meta_is_skipped_with_its_reason(
    tmp_path: Path, changes: dict[str, Any], reason: str, detail: str
) -> None:
    write_entry(tmp_path, **changes)
    skipped = the_skipped(tmp_path)
    assert (skipped.reason, skipped.detail) == (reason, detail)


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
        (b" " * 65537, "larger than 65536 bytes"),
    ],
    ids=["empty", "cut", "no_utf8", "list", "two", "deep", "long_integer", "large"],
)
def test_meta_that_is_no_json_object_is_skipped(tmp_path: Path, text: bytes, detail: str) -> None:
    write_entry(tmp_path).write_bytes(text)
    skipped = the_skipped(tmp_path)
    assert skipped.reason == "meta_parse_error"
    assert skipped.detail.startswith(detail)
    assert (skipped.layer_id, skipped.stage, skipped.seq_len) == (None, None, None)


def test_meta_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    meta = write_entry(tmp_path)
    meta.write_bytes(meta.read_bytes().ljust(65536))
    assert len(index_dump(tmp_path).entries) == 1


@given(
    st.dictionaries(
        st.sampled_from(
            ["layer_id", "seq_start", "seq_len", "kv_heads", "head_dim", "bytes_per_elem", "stage", "run_id"]
        ),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.lists(st.none(), max_size=2),
    )
)
@settings(max_examples=200, deadline=None)
def test_any_fields_are_a_sound_meta_or_a_reason(changes: dict[str, Any]) -> None:
    sound = {"layer_id": 0, "seq_start": 0, "seq_len": 1, "kv_heads": 1, "head_dim": 1, "bytes_per_elem": 2}
    fields = {**sound, "stage": "decode", "run_id": "r", "k_file": "k", "v_file": "v", **changes}
    data = json.dumps(fields).encode()
    try:
        meta = parse_meta(data)
    except MetaFault:
        with pytest.raises(MetaFault, match=r"\('[a-z0-9_.-]+', [\"'].+[\"']\)"):
            parse_meta(data)
    else:
        assert all(type(number) is int for number in meta[:6])
        assert meta.bytes_per_elem in (2, 4)
        assert min(meta.seq_len, meta.kv_heads, meta.head_dim) >= 1


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_are_no_meta(data: bytes) -> None:
    with pytest.raises(MetaFault):
        parse_meta(data)

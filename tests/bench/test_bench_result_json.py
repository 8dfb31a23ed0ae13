"""The JSON of the bench, sound and damaged."""

from __future__ import annotations

import functools
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_h2o.bench.rows import Measurement, Row, parse_json, require_h2o
from pytest_h2o.errors import TableError

from .checks import check_rows_or_error
from .samples import OTHER


def parse_results(*results: dict[str, object], **head: object) -> tuple[Row, ...]:
    return parse_json(json.dumps({**head, "results": list(results)}), log_file="x.json")


def test_json_without_cache_use() -> None:
    prefill, decode, both = parse_results(
        {"type": "prefill", "prompt_len": 16, "tps": 12.345, "std": 0.5},
        {"type": "decode", "generate_len": 8, "tps": 5, "std": 0.25, "loading_time": 1.5, "loading_time_std": 0.125},
        {"type": "prefill_and_decode", "prompt_len": 16, "generate_len": 8},
        modelSize=1.5, precision=1, useMmap=True,
    )  # fmt: skip
    assert prefill.cells == {
        "modelSize": "1.50 GiB", "precision": "High", "mmap": "true", "test": "pp16", "t/s": "12.35 ± 0.50",
    }  # fmt: skip
    assert prefill.prefill_tok_per_s == Measurement(12.35, 0.5)
    assert (decode.cells["test"], decode.cells["loadingTime(s)"]) == ("tg8", "1.50 ± 0.12")
    assert decode.decode_tok_per_s == Measurement(5.0, 0.25)
    assert (both.cells["test"], both.decode_tok_per_s) == ("pp16+tg8", None)


def test_json_with_numbers_that_its_writer_could_not_print() -> None:
    text = (OTHER / "multi.json").read_text(encoding="utf-8")
    text = text.replace('"decode_std":3.80824420573218', '"decode_std":', 1)
    text = text.replace('"h2o_keep_ratio":1.0', '"h2o_keep_ratio":', 1)
    text = text.replace('"h2o_lossless_decode_cache_miss_std":0.0}', '"h2o_lossless_decode_cache_miss_std":}', 1)
    first, _ = parse_json(text, log_file="x.json")
    assert first.decode_tok_per_s == Measurement(73.46, None)
    keep = first.get("h2o_keep")
    assert keep is not None
    assert math.isnan(keep.mean)
    assert first.get("h2o_lossless_decode_cache_miss") == Measurement(0.0, None)


def test_json_without_h2o() -> None:
    (row,) = parse_results({"type": "decode", "generate_len": 8, "tps": 5, "std": 0})
    with pytest.raises(TableError, match="this bench has no H2O columns"):
        require_h2o(row)


@pytest.mark.parametrize(
    ("text", "what", "where", "came"),
    [
        ("", "the JSON of the bench cannot be read", "x.json:1:1", "Expecting value"),
        ('{"results": [', "the JSON of the bench cannot be read", "x.json:1:14", "Expecting value"),
        ("[" * 100000, "the JSON of the bench cannot be read", "x.json", "values nested too deeply"),
        ("[]", "the JSON is not from the bench", "x.json", None),
        ("{}", "the JSON has no results", "x.json", "NoneType"),
        ('{"results": []}', "the JSON has no results", "x.json", "an empty list"),
        ('{"results": [1]}', "the JSON has a result of another kind", "x.json: results[0]", "int"),
        ('{"results": [{}]}', "the JSON of the bench has another value than it writes", "x.json: results[0]",
         "type: None"),
        ('{"model": 3, "results": [{}]}', "the JSON of the bench has another value than it writes", "x.json",
         "model: 3"),
        ('{"threads": true, "results": [{}]}', "the JSON of the bench has another value than it writes", "x.json",
         "threads: True"),
        ('{"results": [{"type": "decode", "generate_len": 8, "tps": "5"}]}',
         "the JSON of the bench has another value than it writes", "x.json: results[0]", "tps: '5'"),
    ],
)  # fmt: skip
def test_json_that_is_damaged(text: str, what: str, where: str, came: str | None) -> None:
    with pytest.raises(TableError) as caught:
        parse_json(text, log_file="x.json")
    assert (caught.value.what, caught.value.where, caught.value.came) == (what, where, came)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["results", "type", "prompt_len", "generate_len", "tps", "std", "model", "threads", "modelSize",
                         "prefill_tps", "decode_tps", "h2o_keep_ratio", "h2o_keep_ratio_std"]), inner, max_size=6,
    ),
    max_leaves=12,
)  # fmt: skip


@given(json_values, st.sampled_from(["decode", "prefill", "prefill_and_decode"]))
@settings(max_examples=200, deadline=None)
def test_any_json_gives_rows_or_an_error(value: object, kind: str) -> None:
    result = {"type": kind, "prompt_len": 1, "generate_len": 1, **(value if isinstance(value, dict) else {})}
    for document in (value, {"results": [result]}):
        text = json.dumps(document)
        check_rows_or_error(functools.partial(parse_json, text, log_file="x.json"), "x.json")


@given(st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_text_as_json_gives_rows_or_an_error(text: str) -> None:
    with pytest.raises(TableError):
        parse_json(text, log_file="x.json")

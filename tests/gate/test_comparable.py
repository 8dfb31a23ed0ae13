"""When the two sides of a pair decoded the same thing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_h2o.bench.output import OutputSummary
from pytest_h2o.bench.rows import Row
from pytest_h2o.run.pairs import CONTEXT_TOLERANCE, seen_context, why_unlike
from tests.sweeps import make_row

CELLS = {"model": "qwen", "backend": "CPU", "threads": "4"}


def make(run_id: str = "baseline", *, kv_len: int | None = None, **cells: str) -> Row:
    result = make_row(run_id, **{**CELLS, **cells})
    return result if kv_len is None else replace(result, output=OutputSummary(max_kv_len=kv_len))


def test_alike_rows_can_be_compared() -> None:
    assert why_unlike(make(), make("candidate", h2o_keep="0.3")) is None


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"llm_demo": "prompt=256<br>decode=128"}, "another prompt length: baseline 512, candidate 256"),
        ({"llm_demo": "prompt=512<br>decode=64"}, "another generated length: baseline 128, candidate 64"),
        ({"backend": "OPENCL"}, "another backend: baseline CPU, candidate OPENCL"),
        ({"threads": "2"}, "another number of threads: baseline 4, candidate 2"),
        ({"model": "llama"}, "another model: baseline qwen, candidate llama"),
    ],
)
def test_what_differs_is_said(cells: dict[str, str], said: str) -> None:
    assert why_unlike(make(), make("candidate", **cells)) == said


@pytest.mark.parametrize(("kv_len", "context"), [(None, 640), (0, 640), (639, 640), (641, 641), (2567, 2567)])
def test_the_context_is_what_the_row_asks_for_or_more_where_a_warning_says_so(kv_len: int | None, context: int) -> None:
    assert seen_context(make(kv_len=kv_len)) == context


@pytest.mark.parametrize("side", ["baseline", "candidate"])
def test_a_context_may_be_longer_by_the_tolerance_and_by_no_token_more(side: str) -> None:
    most = 606  # one percent of 600, to the token
    assert most == 600 * (1 + CONTEXT_TOLERANCE)
    cells = {"llm_demo": "prompt=500<br>decode=100"}

    def judge(kv_len: int) -> str | None:
        sides = ("baseline", "candidate")
        rows = {name: make(name, kv_len=kv_len if name == side else None, **cells) for name in sides}
        return why_unlike(rows["baseline"], rows["candidate"])

    assert judge(most) is None
    assert judge(most + 1) == (
        f"unlike contexts: warnings of the {side} show a kv_len of {most + 1}, above prompt + gen = 600, so it decoded "
        f"a longer context"
    )


def test_rows_that_both_lack_their_lengths_are_not_compared() -> None:
    rows = [make(name, llm_demo="") for name in ("baseline", "candidate")]
    assert [seen_context(row) for row in rows] == [None, None]
    assert why_unlike(*rows) == "a row has no prompt or generated length, so nothing tells what context it decoded"


@pytest.mark.parametrize("only", ["pp512", "tg128"])
def test_one_length_alone_tells_no_context(only: str) -> None:
    whole = make()
    half = replace(whole, cells={**whole.cells, "llm_demo": "", "test": only})
    assert (seen_context(whole), seen_context(half)) == (640, None)
    assert why_unlike(half, half) is not None

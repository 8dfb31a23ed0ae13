"""Warnings and reasons in what the bench printed: recordings, glued text, and far too much of it."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.bench.output import OTHER_KINDS, OutputSummary, count_warnings, summarize_output

from .samples import OTHER, SWEEP

STALE = "Drop stale per-layer pending plan"


def summarize(text: str, *, has_text: bool = False) -> OutputSummary:
    return summarize_output(io.BytesIO(text.encode()), has_text=has_text)


@pytest.mark.parametrize(
    "path",
    [
        SWEEP / "logs" / "run_0001_p512_g128_k0.28_b8_lr3.0.stdout.txt",
        SWEEP / "logs" / "baseline_h2o_off.stdout.txt",
        *(OTHER / f"{name}.stdout.txt" for name in ("missing_model", "bad_json", "bad_arg")),
        *(OTHER / f"llm_demo_{name}_h2o_{state}.stdout.txt" for name in ("prose", "code") for state in ("on", "off")),
    ],
    ids=lambda path: path.name,
)
def test_recorded_outputs(path: Path, snapshot: SnapshotAssertion) -> None:
    summary = count_warnings(path, has_text="llm_demo" in path.name)
    assert summary == snapshot
    assert path.name.startswith("run") or path.read_text().count("Drop stale") == summary.warnings.get(STALE, 0)


def test_number_of_kinds_is_bounded() -> None:
    words = ["".join(chr(97 + (n >> shift) % 16) for shift in (0, 4, 8)) for n in range(2000)]
    summary = summarize("".join(f"odd {word}\n" for word in words))
    assert len(summary.warnings) == 65
    assert summary.warnings[OTHER_KINDS] == 2000 - 64


def test_memory_is_bounded() -> None:
    class Endless(io.RawIOBase):
        """1.2 MB of one line, then 0.1 MB of many."""

        left = 1_300_000

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            count = min(len(buffer), self.left)
            self.left -= count
            text = b"kv_len=12345 " if self.left > 100_000 else b"kv_len=123 x\n"
            buffer[:count] = (text * (count // len(text) + 1))[:count]
            return count

    tracemalloc.start()
    summary = summarize_output(io.BufferedReader(Endless(), 1 << 16))  # type: ignore[arg-type]
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert summary.max_kv_len is not None
    assert peak_bytes < 600_000


def test_a_number_at_the_end_of_a_piece_is_not_cut() -> None:
    for pad in range(65500, 65540):
        text = "x" * 100 + " " * pad + "kv_len=123456 end"
        assert summarize(text).max_kv_len == 123456


@pytest.mark.parametrize(
    ("text", "warnings", "reason"),
    [
        (
            "a b" + f"{STALE}: layer=3 kv_len=9." * 2 + "Clamp invalid meta n=-4 to 0.\n",
            {STALE: 2, "Clamp invalid meta n=N to N.": 1, "a b": 1},
            None,
        ),
        (
            "".join(f"No tuning for type={n} here, use {n * 2.5} instead\n" for n in range(3))
            + "L 12 x86 v2 at 0x7f\n",
            {"No tuning for type=N here, use N instead": 3, "L N x86 v2 at N": 1},
            None,
        ),
        # Statistics that were asked for are no warnings.
        ("[H2O] layer=3 kv=512 keep_ratio=0.3\n[H2O-LOSSLESS] layer=0 kv=512 raw=3\n", {}, None),
        ("[H2O-LOSSLESS] async lost\n", {"[H2O-LOSSLESS] async lost": 1}, None),
        ("[H2O] floor-keep dominates target: kv=80 target=0.3 floor=1.0\n", {}, None),
        # A mere hint is the reason only if nothing says more.
        (
            "File not exist: a/llm.mnn.weight\n",
            {"File not exist: a/llm.mnn.weight": 1},
            "File not exist: a/llm.mnn.weight",
        ),
        ("File not exist: a\nterminate called\n", {"File not exist: a": 1, "terminate called": 1}, "terminate called"),
        ("\x1b[31m\x1bUnable to open x\x07\n", {"\\x1bUnable to open x\\x07": 1}, "\\x1bUnable to open x\\x07"),
    ],
)
def test_lines_are_kinds_without_their_numbers_and_one_is_the_reason(
    text: str, warnings: dict[str, int], reason: str | None
) -> None:
    summary = summarize(text)
    assert (summary.warnings, summary.reason) == (warnings, reason)
    assert summary.max_kv_len == (9 if "kv_len" in text else None)

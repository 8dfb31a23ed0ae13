"""What ``analyze`` and ``eval`` do not let decide, and what they say beside their verdict."""

import csv
import json
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_h2o.cli.main import main
from pytest_h2o.inputs.scope import Scope
from pytest_h2o.lossless.evaluate import evaluate_lossless
from tests.cli.test_commands import FIXTURES, ORACLE, RECORDED, analyze, read_csv

_TOLD, _NOT_TOLD = ("raw_bytes", "compressed_bytes"), ("hi_bytes", "lo_bytes")
LAYER_0 = {
    "layer_id": 0,
    **{f"{side}_{name}": 7 if name in _TOLD else None for side in "kv" for name in _TOLD + _NOT_TOLD},
}
ONLINE = json.loads((ORACLE / "online_grouped_192_8_front2.json").read_text(encoding="utf-8"))
UPPER = json.loads((ORACLE / "upper_front2.json").read_text(encoding="utf-8"))
MEASURED = evaluate_lossless(
    FIXTURES / "dumps" / "small",
    Scope(scope="layer_ids", layer_ids=(1,), entry_mode="chunked_grouped", online_chunk_seq=192),
    verify=True,
    workers=1,
).to_json()
SKIPPED = {"path": "meta_t0_1.json", "reason": "x", "detail": "y"}
CONTRADICTIONS: list[dict[str, object]] = [
    {"skipped_entries": 1},
    {"skip_reasons": {"x": 1}},
    {"skipped": [SKIPPED]},
    {"skipped_entries": 1, "skip_reasons": {"x": 1}},
    {"skipped_entries": 1, "skip_reasons": {"z": 1}, "skipped": [SKIPPED], "scanned_entries": 10},
    {"skipped_entries": 1, "skip_reasons": {"x": 1}, "skipped": [SKIPPED]},
    {"k_chunk_meta_bytes": -8},
    {"v_chunk_meta_bytes": 0},
    {"online_framing_bytes": 8},
    {"online_chunks": 60},
    {"encoded_streams": 5, "verified_streams": 6},
    {"encoded_streams": 0},
    {"verified_streams": 7},
    {"verified_streams": -1},
    {"selected_entries": 0},
    {"selected_entries": 99},
    {"selected_layers": [0]},
    {"selected_dumps": 2},
    {"aggregate_groups": -1},
    {"bf16_entries": 10},
    {"converted_fp32_entries": 10},
    {"by_prompt_length": []},
    {"by_run": [{**MEASURED["by_run"][0], "prompt_tokens": 7}]},
    {"k_hi_mode_counts": {"raw": -3}},
    {"v_lo_mode_counts": {"raw": 1}},
    {"by_layer": [{**MEASURED["by_layer"][0], "k_hi_bytes": 1}]},
    {"by_head": [{**MEASURED["by_run"][0], "kv_head": 0, "v_raw_bytes": 2}]},
    {"by_head": [{**MEASURED["by_run"][0], "kv_head": 0, "v_compressed_bytes": 0}]},
    {"findings": [{"kind": "gap", "run_id": None, "layer_id": 1, "tokens": -1, "first": 1}]},
    {"elapsed_s": -1.0},
]


@pytest.mark.parametrize(
    ("changes", "flags", "message"),
    [
        (UPPER, [], "an upper bound cannot decide\n"),
        (
            {"skipped_entries": 400, "skip_reasons": {"x": 400}},
            [],
            "400 of 832 entries of the online simulation could ",
        ),
        (None, [], "this is no lossless result that can be read\n"),
        ({"weighted_lossless_ratio": 5.0}, [], "a lossless result contradicts itself\n"),
        ({"lossless_ratio": 5.0}, [], "a lossless result contradicts itself\n"),
        ({"v_lossless_ratio": 5.0}, [], "a lossless result contradicts itself\n"),
        ({"compressed_bytes": 7}, [], "a lossless result contradicts itself\n"),
        ({"k_raw_bytes": 7}, [], "a lossless result contradicts itself\n"),
        ({"by_layer": [LAYER_0]}, [], "a lossless result contradicts itself\n"),
        *(({**MEASURED, **changes}, [], "a lossless result contradicts itself\n") for changes in CONTRADICTIONS),
        (
            {"encoded_streams": 60, "verified_streams": 59},
            [],
            "a ratio of streams that were not decoded cannot decide\n",
        ),
        ({}, ["--model-layers=0"], "--model-layers is out of range\n"),
        ({}, ["--h2o-layer-start=-1"], "--h2o-layer-start is out of range\n"),
    ],
)
def test_analyze_refuses_results_that_cannot_decide(
    changes: dict[str, object] | None,
    flags: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    online = tmp_path / "online.json"
    broken = {"lossless_ratio": 5, "skipped_entries": 400}
    online.write_text(json.dumps(broken if changes is None else {**ONLINE, **changes}))
    source = ["--csv", str(FIXTURES / "recordings" / "h2o_metrics.expected.csv"), f"--out={tmp_path / 'a.md'}"]
    command = ["analyze", *source, f"--offline-lossless-online-json={online}", "--decode-baseline=56.02", *flags]
    assert main(command) == 2
    assert capsys.readouterr().err.startswith(f"pytest-h2o analyze: {message}")
    assert not (tmp_path / "a.md").exists()


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({}, "online simulation: the file does not say whether its streams were decoded again"),
        (
            {"skipped_entries": 400, "skip_reasons": {"x": 400}},
            "online simulation: 400 of 832 entries could not be read and are left out (--allow-skips)",
        ),
    ],
)
def test_analyze_says_what_a_result_does_not_show(changes: dict[str, object], note: str, tmp_path: Path) -> None:
    online = tmp_path / "online.json"
    online.write_text(json.dumps({**ONLINE, **changes}))
    flags = [f"--offline-lossless-online-json={online}", "--allow-skips", "--decode-baseline=56.02"]
    _, analysis = analyze(tmp_path, *flags, "--model-layers=30")
    assert note in analysis["notes"]
    assert "decode baseline: 56.02 tok/s (--decode-baseline)" in analysis["notes"]
    assert analysis["whole_cache"][0] == "3.1098"
    text = (tmp_path / "analysis.md").read_text(encoding="utf-8")
    assert f"- note: {note}\n" in text
    assert "| 4.9604 | 3.1098 |" in text


def test_an_upper_bound_that_was_not_decoded_is_noted(tmp_path: Path) -> None:
    upper = tmp_path / "upper.json"
    upper.write_text(json.dumps({**UPPER, "encoded_streams": 24, "verified_streams": 0}))
    code, analysis = analyze(tmp_path, f"--offline-lossless-json={upper}", "--decode-baseline=none")
    assert code == 0
    assert "upper bound: not verified, 0 of 24 streams were decoded and compared" in analysis["notes"]


Cells = dict[str, str]


def write_csv(path: Path, change: Callable[[list[Cells]], object]) -> Path:
    rows = read_csv(FIXTURES / "recordings" / "h2o_metrics.expected.csv")
    change(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


def cell(column: str, text: str, number: int = 3) -> Callable[[list[Cells]], object]:
    return lambda rows: rows[number].update({column: text})


def column(name: str, text: str | None) -> Callable[[list[Cells]], object]:
    """In every row; None takes it away."""
    return lambda rows: [row.pop(name) if text is None else row.update({name: text}) for row in rows]


def analyze_csv(tmp_path: Path, change: Callable[[list[Cells]], object], *flags: str) -> tuple[int, dict[str, object]]:
    return analyze(tmp_path, f"--csv={write_csv(tmp_path / 'rows.csv', change)}", "--decode-baseline=56.02", *flags)


SPEED = "speed(tok/s)"
IDLE = {"h2o_keep": "1.0", "h2o_lossy": "1.0", "h2o_floor_keep": "1.0"}


@pytest.mark.parametrize(
    ("change", "flags", "message"),
    [
        (cell("h2o_lossy", "inf ± 0.000"), [], "a row has the column h2o_lossy and no number in it"),
        (column(SPEED, None), [], "the row has no sound prefill speed"),
        (cell("h2o_lossy", ""), [], "H2O columns are missing: h2o_lossy"),
        (cell("h2o_keep", "0.9"), [], "the row contradicts itself: its lossy ratio is above what its keep"),
        (column("decode_tokens", "127"), [], "fewer tokens were decoded than asked"),
        (cell(SPEED, "300<br>99999"), [], "a row has an impossible decode slow-down"),
        (column("quality_ppl_rise", "n/a"), [], "a row has the column quality_ppl_rise and no number in it"),
        (column("quality_ppl_rise", ""), [], "a row has the column quality_ppl_rise and no number in it"),
        (cell("quality_ppl_rise", "0.001"), [], "a row lacks the column quality_ppl_rise, and a target"),
        (lambda rows: None, ["--quality-target=0.5"], "a row lacks the column quality_ppl_rise, and a target"),
        (lambda rows: [row.update(IDLE) for row in rows], [], "no row shows H2O at work"),
    ],
)
def test_analyze_refuses_rows_that_no_verdict_may_rest_on(
    change: Callable[[list[Cells]], object],
    flags: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = write_csv(tmp_path / "rows.csv", change)
    command = ["analyze", f"--csv={rows}", f"--out={tmp_path / 'a.md'}", "--decode-baseline=56.02", *flags]
    assert main(command) == 2
    assert capsys.readouterr().err.startswith(f"pytest-h2o analyze: {message}")


@pytest.mark.parametrize(
    ("rise", "flags", "code"),
    [
        ("0.009", [], 0),
        ("0.011", [], 1),
        ("0.5", [], 1),
        ("0.5", ["--quality-target=0.6"], 0),
        ("0.011", ["--rule=best-of"], 1),
    ],
)
def test_analyze_holds_quality(rise: str, flags: list[str], code: int, tmp_path: Path) -> None:
    assert analyze_csv(tmp_path, column("quality_ppl_rise", rise), *flags)[0] == code


def test_analyze_leaves_out_what_h2o_did_nothing_in(tmp_path: Path) -> None:
    """The baseline that parse finds beside the runs is no run, and no speed of theirs."""
    idle = {**IDLE, "log_file": "off.log", SPEED: "900<br>900"}
    code, analysis = analyze_csv(tmp_path, lambda rows: rows.append({**rows[0], **idle}), "--decode-baseline=80")
    assert code == 1
    assert "left out, for H2O did nothing in them: off.log" in analysis["notes"]


def tell_rise(run: Path, rise: str) -> None:
    """As a bench that measures quality would: every row has this rise in perplexity."""
    for log in (run / "logs").glob("run_*.log"):
        head, rule, row = log.read_text(encoding="utf-8").splitlines()
        log.write_text(f"{head} quality_ppl_rise |\n{rule} --- |\n{row} {rise} |\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("rises", "code", "told"),
    [
        ({2: "0.006", 3: "0.0055"}, 0, "should be the same in every launch, and is not: from +0.50% to +0.60%"),
        ({2: "0.5"}, 1, "misses quality"),
        ({2: "0.005"}, 2, "launch 2 of run_0001_p512_g128_k0.28_b8_lr3.0 is launch 1 to the last digit"),
        ({3: "0.006"}, 2, "launch 2 of each point is not recorded"),
    ],
)
def test_eval_holds_every_launch(
    rises: dict[int, str], code: int, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(RECORDED, tmp_path / "run")
    for number, rise in rises.items():
        for part in ("configs", "logs"):
            shutil.copytree(RECORDED / part, run / f"launch-{number}" / part)
        tell_rise(run / f"launch-{number}", rise)
    tell_rise(run, "0.005")
    assert main(["eval", str(run), str(FIXTURES / "dumps" / "fp16.zip")]) == code
    captured = capsys.readouterr()
    assert told in captured.out + captured.err
    assert (f"each point was launched {len(rises) + 1} times" in captured.out) == (code < 2)


def test_eval_names_its_own_flag_where_entries_are_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, dump = tmp_path / "run", tmp_path / "dump"
    shutil.copytree(RECORDED, run)
    shutil.unpack_archive(FIXTURES / "dumps" / "fp16.zip", dump)
    short = next(iter(sorted(dump.glob("*/layer_0/k_*.bin"))))
    short.write_bytes(short.read_bytes()[:-1])
    assert main(["eval", str(run), str(dump)]) == 2
    error = capsys.readouterr().err
    assert "1 of 432 entries of the online simulation could not be read\n" in error
    assert "--allow-skips takes the ratio over the rest on purpose" in error
    assert "--h2o-" not in error
    assert main(["eval", str(run), str(dump), "--allow-skips"]) == 0


KIT = ["--decode-baseline=none", "--lossy-target=2.9"]
"""The recorded runs of the scripts stay below a lossy ratio of 3."""


def analyze_kit(run: Path, out: Path, *flags: str) -> tuple[int, dict[str, Any]]:
    """Hold the CSV that the scripts made of a recorded run against what the flags ask."""
    online = f"--offline-lossless-online-json={ORACLE / 'online_grouped_192_8_front2.json'}"
    code = main(["analyze", f"--csv={run / 'kit.csv'}", online, f"--out={out / 'a.md'}", "--overwrite", *KIT, *flags])
    return code, json.loads((out / "a.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("run", "flags", "misses"),
    [
        ("store", ("--max-lossless-queue-peak=8", "--max-lossless-fallback=0"), []),
        ("store", ("--max-lossless-queue-peak=7.99",), ["lossless_queue_peak"]),
        ("store", ("--max-lossless-async-wait-us=35240",), ["lossless_async_wait_us"]),
        ("store", ("--max-lossless-decomp-us=3159", "--max-lossless-queue-peak=-1"), ["lossless_decomp_us"]),
        ("store", ("--runtime-mode=store", "--require-runtime-decomp"), []),
        ("store", ("--runtime-mode=full",), ["lossless_async_wait_us"]),
        ("store", ("--runtime-mode=full", "--max-lossless-async-wait-us=-1"), []),
        ("store_no_layer_nums", ("--max-lossless-fallback=0",), ["lossless_fallback"]),
        ("probe", ("--runtime-mode=probe", "--strict-runtime-metric-columns", "--require-decode-cache-activity"), []),
    ],
)
def test_gate_flags_of_the_later_scripts(
    run: str, flags: tuple[str, ...], misses: list[str], engine_recordings: Path, tmp_path: Path
) -> None:
    code, analysis = analyze_kit(engine_recordings / run, tmp_path, *flags)
    assert (code, analysis["joint"]["misses"], analysis["missing"]) == (bool(misses), misses, [])


@pytest.mark.parametrize(
    ("run", "flag", "told"),
    [
        ("probe", "--require-runtime-decomp", "-decomp: nothing shows a restore in out/probe/logs/run_"),
        ("probe", "--runtime-mode=store", "--runtime-mode store: nothing shows a restore in"),
        ("probe", "--require-async-queue-activity", "nothing shows work in the asynchronous queue in out/probe"),
        ("target_ratio_v3", "--require-async-queue-activity", ".log and more"),
    ],
)
def test_what_the_later_scripts_require_of_every_row_is_no_pass_where_it_is_missing(
    run: str, flag: str, told: str, engine_recordings: Path, tmp_path: Path
) -> None:
    code, analysis = analyze_kit(engine_recordings / run, tmp_path, flag)
    assert (code, analysis["overall_pass"]) == (1, False)
    assert told in " ".join(analysis["missing"])
    assert f"- missing: {analysis['missing'][0]}\n" in (tmp_path / "a.md").read_text(encoding="utf-8")


def test_columns_of_later_engines_are_required_only_where_asked(
    engine_recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "kit.csv"
    rows = read_csv(engine_recordings / "probe" / "kit.csv")
    gone = [name for name in rows[0] if "async" in name]
    with old.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [name for name in rows[0] if name not in gone], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    assert analyze_kit(tmp_path, tmp_path)[0] == 0
    code, analysis = analyze_kit(tmp_path, tmp_path, "--strict-runtime-metric-columns")
    assert code == 1
    assert analysis["missing"] == [f"--strict-runtime-metric-columns: no {', '.join(gone)} (an older binary)"]
    for most, says in (("8", "a row lacks the column h2o_lossless_async_wait_us"), ("nan", "is out of range")):
        command = ["analyze", f"--csv={old}", f"--out={tmp_path / 'b.md'}", f"--max-lossless-async-wait-us={most}"]
        assert main(command) == 2
        assert says in capsys.readouterr().err


def test_eval_knows_of_the_manifest_what_a_run_was(
    engine_recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of the scripts in store mode holds; one whose layer counter drifts does not, splendid as its ratio is."""
    command = ["--decode-baseline=none", "--lossy-target=2.9"]
    for run, code in (("store", 0), ("store_no_layer_nums", 2)):
        folder = shutil.copytree(engine_recordings / run, tmp_path / run)
        assert main(["eval", str(folder), str(FIXTURES / "dumps" / "fp16.zip"), *command]) == code
    error = capsys.readouterr().err
    assert "more blocks of the cache were restored than its layers can have coded\n" in error
    assert "came: 162 hits and misses of the decode cache beside h2o_lossless 5.829 ± 1.185\n" in error
    assert "expected: at most 128: 32 layers, 64 tokens, one block a layer and 16 tokens\n" in error
    assert "first cause: the config of the model has no layer_nums" in error


def test_a_point_without_a_row_is_no_pass(
    engine_recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(engine_recordings / "probe", tmp_path / "run")
    next((run / "logs").iterdir()).write_text("")
    assert main(["parse", f"--log-dir={run}", f"--out-csv={run / 'kit.csv'}", "--overwrite"]) == 1
    assert main(["analyze", f"--csv={run / 'kit.csv'}", f"--out={tmp_path / 'a.md'}", *KIT]) == 2
    assert "points of a sweep have no row\n" in capsys.readouterr().err


def test_decode_over_all_rows_that_meet_the_other_targets(tmp_path: Path) -> None:
    """Of the recorded sweep 18 rows meet the lossy target; one of them is as fast as 67 tok/s, their mean is not."""
    rows = read_csv(FIXTURES / "recordings" / "h2o_metrics.expected.csv")
    lossy = [float(row["h2o_lossy"].split()[0]) for row in rows]
    decode = [float(row["speed(tok/s)"].split("<br>")[1].split()[0]) for row in rows]
    speeds = [speed for speed, ratio in zip(decode, lossy, strict=True) if ratio >= 3]
    assert analyze(tmp_path, "--decode-baseline=66", "--decode-aggregation=best")[0] == 0
    assert analyze(tmp_path, "--decode-baseline=66")[0] == 1
    assert analyze(tmp_path, "--decode-baseline=66", "--rule=best-of")[0] == 0
    for over, speed in (("mean", statistics.mean(speeds)), ("median", statistics.median(speeds))):
        count = f"the {over} of {len(speeds)} rows that meet the other targets (--decode-over)"
        note = f"decode speed: {speed:.2f} tok/s, {count}; slow-down "
        for baseline, outcome, exit_code in ((0.99, True, 0), (1 / 0.95, "inconclusive", 1), (1.2, False, 1)):
            given = f"--decode-baseline={speed * baseline:.6f}"
            for rule in ("joint", "best-of"):
                flags = (f"--decode-over={over}", f"--rule={rule}", "--decode-baseline-source=rolling_median")
                code, analysis = analyze(tmp_path, given, *flags)
                assert (code, analysis["overall_pass"]) == (exit_code, outcome)
                assert any(one.startswith(note) for one in analysis["notes"])
                assert "the baseline is said to be rolling_median" in analysis["notes"]
            text = (tmp_path / "analysis.md").read_text(encoding="utf-8")
            assert text.startswith(
                f"# Gate: {'INCONCLUSIVE' if code and outcome else 'FAIL' if code else 'PASS'} (rule"
            )
    none_meets = analyze(tmp_path, "--decode-baseline=66", "--decode-over=mean", "--lossy-target=9")[1]
    assert "27 rows, none of which meets the other targets" in " ".join(none_meets["notes"])

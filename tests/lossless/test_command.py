"""``pytest-h2o lossless`` as a user calls it."""

import argparse
import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.cli.lossless import add_arguments_lossless, scope_from_args
from pytest_h2o.cli.main import main
from pytest_h2o.errors import UsageError
from pytest_h2o.inputs.scope import Scope
from pytest_h2o.lossless.result import LosslessResult, render_markdown
from tests.lossless.samples import FIXTURES, FP32, SMALL, write_entry
from tests.told import error_text


def parse(*flags: str) -> Scope:
    parser = argparse.ArgumentParser()
    add_arguments_lossless(parser)
    return scope_from_args(parser.parse_args(["--dump-dir", "d", "--out-json", "o", *flags]))


def run(tmp_path: Path, *flags: str, dump: Path = FP32) -> int:
    return main(["lossless", "--dump-dir", str(dump), "--out-json", str(tmp_path / "out.json"), *flags])


def test_no_flags_are_the_defaults() -> None:
    assert parse() == Scope()


def test_every_setting_has_its_flag(snapshot: SnapshotAssertion) -> None:
    flags = """--stage decode --scope layer_ids --layer-ids 6,7 8
        --zstd-level 9 --strict-fp16 --min-seq-len 10 --max-seq-len 11 --entry-mode chunked_grouped
        --online-chunk-seq 12
        --online-framing-bytes 13 --aggregate-by-stage --measure-heads
        --codec-mode adaptive_v22 --adaptive-block-seq 14 --bitshuffle
        --k-hi-predictors raw,xor_seq --k-lo-predictors xor_seq --v-hi-predictors pair_delta, --v-lo-predictors raw"""
    settings = parse(*flags.split())
    assert settings == snapshot
    others = {"front_n", "layer_start", "layer_end", "name", "path", "given", "description", "root", "allow_skips"}
    others |= {"rope", "target", "decides", "degenerate"}
    assert {key.name for key in fields(Scope) if getattr(settings, key.name) == getattr(Scope(), key.name)} == others
    assert parse("--front-n", "3") == Scope(front_n=3)
    assert parse("--scope", "layer_range", "--layer-start", "4", "--layer-end", "5") == Scope(
        scope="layer_range", layer_start=4, layer_end=5
    )


@pytest.mark.parametrize("flags", ["--layer-ids 0,1", "--online-chunk-seq 192", "--layer-ids 0,one"])
def test_a_flag_that_would_do_nothing_is_refused(flags: str, snapshot: SnapshotAssertion) -> None:
    assert error_text(UsageError, parse, *flags.split()) == snapshot


def test_result_is_written_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = "--entry-mode chunked_grouped --online-chunk-seq 192 --online-framing-bytes 8 --verbose"
    assert run(tmp_path, *flags.split(), "--out-md", str(tmp_path / "out.md")) == 0
    values = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    oracle = json.loads((FIXTURES / "oracle/fp32/online_grouped_192_8_front2.json").read_text(encoding="utf-8"))
    assert {key: values[key] for key in oracle} == oracle
    told = capsys.readouterr()
    assert told.out == (
        "lossless ratio 1.3800 (K 1.1943, V 1.6341), 728,832 -> 528,143 bytes, 25 entries, "
        "12 of 12 streams decoded and equal\n"
    ).replace("1.3800 (K 1.1943, V 1.6341)", summary(values)).replace("528,143", f"{values['compressed_bytes']:,}")
    assert re.fullmatch(r"(\d+ of 1 MB, \d+ MB/s, after \d+ s\n)+", told.err)
    text = (tmp_path / "out.md").read_text(encoding="utf-8")
    assert f"lossless ratio {summary(values)}" in text
    assert "| entry mode | chunked_grouped, chunks of 192 tokens + 8 bytes |" in text


def summary(values: dict[str, float]) -> str:
    ratios = (values[key] for key in ("lossless_ratio", "k_lossless_ratio", "v_lossless_ratio"))
    return "{:.4f} (K {:.4f}, V {:.4f})".format(*ratios)


def test_skipped_entries_give_code_1_and_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], snapshot: SnapshotAssertion
) -> None:
    dump = tmp_path / "dump"
    write_entry(dump)
    write_entry(dump, start=4).with_name("k_t4_8.bin").write_bytes(b"short")
    assert run(tmp_path, "--out-md", str(tmp_path / "out.md"), dump=dump) == 1
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["skip_reasons"] == {"binary_read_error": 1}
    assert capsys.readouterr().err == snapshot
    assert "1 entries were skipped: the ratio is one over the rest" in (tmp_path / "out.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--stage", "all"], "--stage does not fit"),
        (["--zstd-level", "99"], "setting 'zstd_level' of codec adaptive_v22 is out of range"),
        (["--codec-mode", "nothing"], "there is no codec 'nothing'"),
        (
            ["--codec-mode", "zstd", "--zstd-level", "19"],
            "--zstd-level means nothing to the codec zstd\n  came: --codec-mode zstd\n"
            "  expected: --codec-mode zstd:level=19, or --zstd-level left out",
        ),
        (["--layer-ids", "5", "--scope", "layer_ids"], "the selection takes nothing of the dump"),
        (["--dump-dir", "nowhere"], "the dump root does not exist"),
    ],
)
def test_bad_input_is_one_error_and_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert run(tmp_path, *flags) == 2
    assert capsys.readouterr().err.startswith(f"pytest-h2o lossless: {message}\n")
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("which", ["out.json", "out.md"])
def test_nothing_is_overwritten_unless_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str], which: str) -> None:
    (tmp_path / which).write_text("mine", encoding="utf-8")
    flags = ["--out-md", str(tmp_path / "out.md")]
    assert run(tmp_path, *flags) == 2
    assert capsys.readouterr().err.startswith("pytest-h2o lossless: a file that exists would be overwritten\n")
    assert [path.name for path in tmp_path.iterdir()] == [which]
    assert run(tmp_path, *flags, "--overwrite") == 0
    assert (tmp_path / which).read_text(encoding="utf-8") != "mine"


def test_counting_without_decoding_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--no-verify", "--workers", "1") == 0
    assert "0 of 50 streams decoded and equal" in capsys.readouterr().out


def test_markdown_of_hostile_names_stays_a_table() -> None:
    oracle = json.loads((FIXTURES / "oracle/fp16/per_meta_front2.json").read_text(encoding="utf-8"))
    skipped = {"path": "a|b`c\n<script>", "reason": "meta_parse_error", "detail": "x\x1b[2J`", "layer_id": None}
    skips = {"skipped_entries": 1, "skip_reasons": {"meta_parse_error": 1}, "scanned_entries": 1081}
    listed = [{**skipped, "seq_len": None, "stage": None}]
    values = {**oracle, "dump_dir": "/tmp/`|\n# head", **skips, "skipped": listed}
    text = render_markdown(LosslessResult.from_json(values))
    assert "| dump | `/tmp/'¦?# head` |" in text
    assert "- `a¦b'c?<script>`: meta_parse_error, `x?[2J'`" in text
    assert "\x1b" not in text


def imports_of(code: str, *heavy: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter; it fails if any of `heavy` was imported."""
    check = f"found = {set(heavy)!r} & set(sys.modules); sys.exit(repr(found) if found else 0)"
    env = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE")}  # it imports some itself
    command = [sys.executable, "-c", f"import sys; {code}; {check}"]
    return subprocess.run(command, capture_output=True, text=True, env=env)


def test_flags_are_known_without_importing_numpy_or_the_table_of_options() -> None:
    code = (
        "import argparse; from pytest_h2o.cli import lossless as m; m.add_arguments_lossless(argparse.ArgumentParser())"
    )
    ours = "pytest_h2o.inputs.options", "pytest_h2o.gate.metrics", "pytest_h2o.files"
    done = imports_of(code, "numpy", "zstandard", "pydantic", "yaml", "pytest", *ours)
    assert (done.returncode, done.stderr) == (0, "")


def test_evaluation_imports_nothing_slow(tmp_path: Path) -> None:
    argv = ["lossless", "--dump-dir", str(SMALL), "--out-json", str(tmp_path / "out.json")]
    slow = "pydantic", "yaml", "pytest", "zipfile", "multiprocessing", "concurrent.futures", "importlib.metadata"
    of_numpy = "numpy.ma", "numpy.random"  # np.unique, say, imports the first
    code = f"from pytest_h2o.cli.main import main; assert main({argv!r}) == 0"
    if Path("/proc/self/task").exists():  # the BLAS of numpy would start one a core
        code += "; import os; assert len(os.listdir('/proc/self/task')) == 1"
    done = imports_of(code, *slow, *of_numpy, "tempfile")
    assert (done.returncode, done.stderr) == (0, "")

"""Files: KV dumps, models, the history and what a run folder has."""

import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pytest_h2o.cli.rows import read_result
from pytest_h2o.files import plain
from pytest_h2o.gate.decode import Budget, Noise
from pytest_h2o.inputs.scope import Scope
from pytest_h2o.lossless.evaluate import evaluate_lossless
from pytest_h2o.lossless.index import Piece, find_overlaps_and_gaps, index_dump, read_pieces
from pytest_h2o.reference.gguf import GgufFile
from pytest_h2o.report.artifacts import read_run
from pytest_h2o.run.history import RunRecord, read_history, read_record, record_to_json, render_line
from pytest_h2o.run.pairs import flag_target
from tests.fuzz.target import Target, check_harmless
from tests.fuzz.text_targets import BETWEEN, ROOT, write
from tests.records import make_record

_MAX_READ = 1 << 20
BUDGET = Budget(pairs=20, elapsed_s=60.0)
META: dict[str, Any] = {
    "layer_id": 0, "seq_start": 0, "seq_len": 4, "seq_end_exclusive": 4, "kv_heads": 2, "head_dim": 8,
    "bytes_per_elem": 2, "dtype": "fp16", "stage": "prefill", "run_id": "run",
    "k_file": "k_t0_4.bin", "v_file": "v_t0_4.bin",
}  # fmt: skip
_JSON = (
    b"[" * 500, b"{", b'"', b"null", b"true", b"NaN", b"\\ud800", b"\\u0000", b"\\u001b[2J", b"../", b"/", b"\\\\",
    b"-1", b"9" * 5000, b"4294967296", b"9223372036854775807", b"1e999", b"2147483647", b"\xff",
)  # fmt: skip


def _check_dump(root: Path) -> None:
    """What the index lets through can be read, and is coded and decoded to the same bits."""
    index = index_dump(root)
    find_overlaps_and_gaps(index.entries)
    for skipped in index.skipped:
        assert len(skipped.detail) < 1000
    for entry in index.entries:
        if entry.seq_len * entry.row_elements * entry.bytes_per_elem <= _MAX_READ:
            for tensor in ("k", "v"):
                words = read_pieces([Piece(entry, 0, entry.seq_len)], tensor)
                assert words.shape == (entry.seq_len, entry.kv_heads, entry.head_dim)
    settings = Scope(scope="layer_range", layer_start=0, codec="byteplane")
    result = evaluate_lossless(root, settings, verify=True, workers=1)
    assert result.verified_streams == result.encoded_streams > 0


def run_dump_meta(data: bytes, folder: Path) -> bool:
    """A dump of one entry, whose meta is anything; its data files are sound, and a file lies outside the root."""
    inner = folder / "dump" / "run" / "layer_0"
    inner.mkdir(parents=True, exist_ok=True)
    write(folder, "outside.bin", bytes(128))
    for name in ("k_t0_4.bin", "v_t0_4.bin"):
        write(inner, name, bytes(range(128)))
    write(inner, "meta_t0_4.json", data)
    _check_dump(folder / "dump")
    return True


def run_dump_zip(data: bytes, folder: Path) -> bool:
    _check_dump(write(folder, "dump.zip", data))
    return True


def run_gguf(data: bytes, folder: Path) -> bool:
    file = GgufFile(write(folder, "model.gguf", data))
    for name, shape in file.hyper.tensor_shapes().items():
        values = file.floats(name)
        assert values.shape == shape
        assert values.dtype == np.float32
    return True


def run_history(data: bytes, folder: Path) -> bool:
    """Every good line is read whatever stands beside it."""
    found = list(read_history(write(folder, "history.jsonl", data)))
    for record in found:
        if isinstance(record, RunRecord):
            assert read_record(render_line(record).encode(), "again") == record
        else:
            check_harmless(str(record))
            assert "\n" not in str(record)
    return any(isinstance(record, RunRecord) for record in found)


def run_record_signed(data: bytes, folder: Path) -> bool:
    """A record whose author could make a checksum."""
    try:
        value = json.loads(data)
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (ValueError, RecursionError):
        return False  # this would be no record at all
    signed = {"schema": 1, "sha256": hashlib.sha256(text.encode("ascii")).hexdigest(), "record": value}
    record = read_record(signed, "record")
    assert read_record(record_to_json(record), "again") == record
    return True


def run_baseline(data: bytes, folder: Path) -> bool:
    record = read_record(write(folder, "main.json", data))
    assert read_record(render_line(record).encode(), "again") == record
    return True


def run_lossless_result(data: bytes, folder: Path) -> bool:
    read_result(write(folder, "result.json", data))
    return True


def run_calibration(data: bytes, folder: Path) -> bool:
    """What is said of it is harmless, and one that is taken gives a noise floor that is a fraction."""
    path = write(folder, "noise.json", data)
    for line in flag_target(path, BUDGET, 0.05):
        check_harmless(line)
    noise = Noise.from_json(path)
    floor = noise.floor(BUDGET.pairs)
    assert 0 <= floor <= 1
    return True


def run_run_folder(data: bytes, folder: Path) -> bool:
    """The journal of an unfinished run, or with more parts the records of a finished one."""
    run = folder / "run"
    run.mkdir(exist_ok=True)
    parts = data.split(BETWEEN, 2)
    for name in ("journal.jsonl", "run.json", "summary.json"):
        (run / name).unlink(missing_ok=True)
    for name, part in zip(("journal.jsonl", "run.json", "summary.json"), parts, strict=False):
        write(run, name, part)
    read_run(run)
    return True


def _metas() -> Sequence[bytes]:
    changes: tuple[dict[str, Any], ...] = (
        {}, {"bytes_per_elem": 4, "dtype": "fp32", "seq_len": 2, "seq_end_exclusive": 2}, {"run_id": None},
        {"k_file": "../layer_0/k_t0_4.bin"}, {"k_file": "../../../outside.bin"},
        {"seq_len": 2**31 - 1, "kv_heads": 2**31 - 1},
    )  # fmt: skip
    return [json.dumps({**META, **change}).encode() for change in changes]


def _zips() -> Sequence[bytes]:
    archives = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w", method) as file:
            for name in ("k_t0_4.bin", "v_t0_4.bin"):
                file.writestr(zipfile.ZipInfo(f"run/{name}"), bytes(range(128)), method)
            file.writestr(zipfile.ZipInfo("run/meta_t0_4.json"), json.dumps(META), method)
        archives.append(archive.getvalue())
    return archives


_ZIP = (*(b"PK" + kind for kind in (b"\1\2", b"\3\4", b"\5\6", b"\6\6", b"\6\7")), b"\xff" * 4, b"../", b"\1\0")
_GGUF = (b"\xff\xff\xff\xff", b"\xff" * 8, b"\x00" * 8, b"\x09\x00\x00\x00", b"\x08\x00\x00\x00", b"\x01", b"llama.")


def _run_folders() -> Sequence[bytes]:
    """The run that 0.1 wrote, ended and before its end; some of earlier days are in ``seeds``, and refused."""
    with zipfile.ZipFile(ROOT / "fixtures" / "run-of-0.1.zip") as archive:
        names = {Path(name).name: name for name in archive.namelist()}
        journal, *ends = (archive.read(names[name]) for name in ("journal.jsonl", "run.json", "summary.json"))
    return [journal, BETWEEN.join((journal, *ends))]


def _record() -> RunRecord:
    return make_record()


def _calibrations() -> Sequence[bytes]:
    return [json.dumps(plain(Noise(spread, 0.03, 0.0, 20))).encode() for spread in (0.02, 1e308)]


FILE_TARGETS = (
    Target("dump_meta", run_dump_meta, _metas, _JSON),
    Target("dump_zip", run_dump_zip, _zips, (*_ZIP, *_JSON)),
    Target("gguf", run_gguf, tokens=_GGUF),
    Target("history", run_history, lambda: [2 * render_line(_record()).encode(), b"{}\n"], (b"\n", *_JSON)),
    Target(
        "record_signed", run_record_signed, lambda: [json.dumps(record_to_json(_record())["record"]).encode()], _JSON
    ),
    Target("baseline", run_baseline, lambda: [json.dumps(record_to_json(_record()), indent=1).encode()], _JSON),
    Target("lossless_result", run_lossless_result, tokens=_JSON),
    Target("calibration", run_calibration, _calibrations, (b"1e308", b"9" * 400, *_JSON)),
    Target("run_folder", run_run_folder, _run_folders, (BETWEEN, b"\n", *_JSON)),
)

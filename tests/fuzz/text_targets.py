"""Readers of text: presets, scopes, settings, and what the bench wrote."""

import io
import json
from collections.abc import Sequence
from math import prod
from pathlib import Path

from pytest_h2o.bench.command import build_run_config, read_base_config
from pytest_h2o.bench.output import OutputSummary, summarize_output
from pytest_h2o.bench.recorded import read_recording
from pytest_h2o.bench.rows import parse_json, read_metrics_csv, read_rows, read_table, read_text, render_metrics_csv
from pytest_h2o.bench.sweep import read_manifest
from pytest_h2o.files import dump, load
from pytest_h2o.inputs.presets import SWEPT_KEYS, expand_points, load_preset, preset_from_flags
from pytest_h2o.inputs.scopes import load_scopes, override
from tests.fuzz.target import Target, check_harmless

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "fixtures"
PRESETS = ROOT / "gates" / "presets"
SCOPES = ROOT / "gates" / "scopes.yaml"
RECORDINGS = FIXTURES / "recordings"
_RUN = "run_0001_p512_g128_k0.28_b8_lr3.0"
SWEEP = RECORDINGS / "smollm2-135m" / "target_ratio_v3"
BETWEEN = b"\n\0\n"
"""Separates the parts of an input that stands for several files."""

_YAML = (b"&a ", b"*a", b"!!python/name:os.system", b"- ", b": ", b"---\n", *(bytes([sign]) for sign in b"[{?|\t'<"))
_NUMBERS = (b"-1", b"1e999", b"nan", b"-nan", b"inf", b"9" * 5000, b"1e-05", b"0x10", b"\xef\xbb\xbf", b"\xff")
_JSON = (b"[" * 500, b"{", b'"', b"null", b"true", b"NaN", b"\\ud800", b"\\u0000", b",", b":", *_NUMBERS)


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def read_all(*paths: Path) -> list[bytes]:
    return [path.read_bytes() for path in paths]


def _preset_text(text: bytes, folder: Path, name: str) -> bool:
    preset = load_preset(write(folder, name, text))
    points = expand_points(preset)
    assert len(points) == prod(len(getattr(preset, key)) for key in SWEPT_KEYS)
    assert len({point.run_id for point in points}) == len(points)
    return True


def run_preset(data: bytes, folder: Path) -> bool:
    return _preset_text(data, folder, "preset.yaml")


def run_preset_json(data: bytes, folder: Path) -> bool:
    return _preset_text(data, folder, "preset.json")


def run_scopes(data: bytes, folder: Path) -> bool:
    scopes = load_scopes(write(folder, "scopes.yaml", data))
    assert sum(scope.decides for scope in scopes) == 1
    return True


_PRESET = preset_from_flags(h2o_block_tokens="8,16")
_SCOPE = load_scopes(SCOPES)[0]
_POINT = expand_points(_PRESET)[0]


def run_setting(data: bytes, folder: Path) -> bool:
    """``--h2o-set`` as the system hands it over: bytes that are no UTF-8 come as lone surrogates."""
    assignments = data.decode("utf-8", "surrogateescape").split("\n")
    if data[:1] == b"s":
        override(_SCOPE, *assignments)
    else:
        _PRESET.override(*assignments)
    return True


def run_table(data: bytes, folder: Path) -> bool:
    rows = read_table(write(folder, "run.log", data), log_file="run.log")
    assert rows
    again = read_metrics_csv(write(folder, "rows.csv", render_metrics_csv(rows).encode()))
    filled = [{column: cell for column, cell in row.cells.items() if cell} for row in rows]
    assert [dict(row.cells) for row in again] == filled
    return True


def run_result_json(data: bytes, folder: Path) -> bool:
    rows = parse_json(read_text(write(folder, "run.json", data), "run.json"), log_file="run.json", repeat=3)
    assert rows
    return True


def run_log_rows(data: bytes, folder: Path) -> bool:
    """A table, and the JSON of the same run."""
    log, _, result = data.partition(BETWEEN)
    read = read_rows(write(folder, "run.log", log), write(folder, "run.json", result), log_file="run.log", repeat=3)
    assert read
    for note in read[0].notes:
        check_harmless(note)
    return True


def run_metrics_csv(data: bytes, folder: Path) -> bool:
    rows = read_metrics_csv(write(folder, "rows.csv", data))
    assert rows
    return True


def run_output(data: bytes, folder: Path) -> bool:
    """What a run printed: never refused, only counted."""
    summary = summarize_output(io.BytesIO(data))
    assert load(OutputSummary, dump(summary), "a summary") == summary
    assert len(summary.warnings) <= 65
    for text in (*summary.warnings, summary.reason or ""):
        check_harmless(text)
        assert "\n" not in text
    return True


def run_manifest(data: bytes, folder: Path) -> bool:
    entries = read_manifest(write(folder, "manifest.json", data))
    for entry in entries:
        assert (folder / entry.log_file).resolve().is_relative_to(folder.resolve())
    return True


def run_recording(data: bytes, folder: Path) -> bool:
    """A folder of recorded logs: its manifest, one log, one config."""
    manifest, _, rest = data.partition(BETWEEN)
    log, _, config = rest.partition(BETWEEN)
    for name in ("logs", "configs"):
        (folder / name).mkdir(exist_ok=True)
    write(folder, "manifest.json", manifest)
    write(folder, f"logs/{_RUN}.log", log)
    write(folder, f"configs/{_RUN}.json", config)
    recording = read_recording(folder)
    for text in (*map(str, recording.failures.values()), *recording.unused.values()):
        check_harmless(text)
    return bool(recording.results)


def run_base_config(data: bytes, folder: Path) -> bool:
    config = read_base_config(write(folder, "config.json", data))
    assert config.base_dir.is_absolute()
    assert build_run_config(config, _POINT)["kv_h2o_enable"] is True
    return True


def _presets(*suffixes: str) -> Sequence[bytes]:
    return read_all(
        *(path for root in (PRESETS, FIXTURES / "presets") for path in root.iterdir() if path.suffix in suffixes)
    )


def _recordings() -> Sequence[bytes]:
    manifest = json.dumps(json.loads((SWEEP / "manifest.json").read_bytes())[:1]).encode()
    return [BETWEEN.join((manifest, *read_all(SWEEP / "logs" / f"{_RUN}.log", SWEEP / "configs" / f"{_RUN}.json")))]


def _logs() -> Sequence[bytes]:
    return read_all(*sorted((SWEEP / "logs").glob("*.log"))[:2], *sorted((RECORDINGS / "other").glob("*.log")))


def _results() -> Sequence[bytes]:
    whole = (RECORDINGS / "other" / "multi.json").read_bytes()
    return [whole, whole.replace(b"prefill_and_decode", b"prefill")]


def _pairs() -> Sequence[bytes]:
    log, result = (RECORDINGS / "other" / f"multi.{suffix}" for suffix in ("log", "json"))
    return [log.read_bytes() + BETWEEN + result.read_bytes()]


_BENCH = (b"|", b"\xc2\xb1", b"<br>", b"| --- |", b"prompt=512", b"MiB", b"\x1b[31m", *_NUMBERS)
_WARNINGS = (b"Drop stale per-layer pending plan", b"kv_len=", b"error: ", b"prompt file is ", b"#" * 12, b"\x1b[2J")

TEXT_TARGETS = (
    Target("preset", run_preset, lambda: _presets(".yaml", ".json"), (*_YAML, *_NUMBERS)),
    Target("preset_json", run_preset_json, lambda: _presets(".json"), _JSON),
    Target("scopes", run_scopes, lambda: read_all(SCOPES), (*_YAML, *_NUMBERS)),
    Target(
        "setting",
        run_setting,
        lambda: [b"repeat=3\nh2o_block_tokens=8,16", b"targets.lossy=3.1", b"scope=layer_ids\nlayer_ids=0,1"],
        (b"=", b".", b",", b"[", *_NUMBERS),
    ),
    Target("table", run_table, _logs, _BENCH),
    Target("result_json", run_result_json, _results, _JSON),
    Target("log_rows", run_log_rows, _pairs, (*_BENCH, *_JSON)),
    Target(
        "metrics_csv",
        run_metrics_csv,
        lambda: read_all(RECORDINGS / "h2o_metrics.expected.csv"),
        (b",", b'"', b"\r\n", *_NUMBERS),
    ),
    Target(
        "output",
        run_output,
        lambda: read_all(*sorted((RECORDINGS / "other").glob("*.stdout.txt"))),
        (*_WARNINGS, *_NUMBERS),
    ),
    Target("manifest", run_manifest, lambda: read_all(SWEEP / "manifest.json"), (b"../", b"/", b"\\", *_JSON)),
    Target("recording", run_recording, _recordings, (b"../", b"/", BETWEEN, *_BENCH, *_JSON)),
    Target("base_config", run_base_config, lambda: read_all(RECORDINGS / "base_config.json"), (b"../", b"/", *_JSON)),
)

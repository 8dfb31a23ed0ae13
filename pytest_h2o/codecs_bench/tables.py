"""A comparison of codecs as JSON and Markdown."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from typing import Any

import pytest_h2o
from pytest_h2o.codecs_bench.measure import BenchSettings, Result, StreamSizes, ratio

SCHEMA = "pytest-h2o/codecs-bench/1"


def summarize(
    results: Sequence[Result],
    settings: BenchSettings,
    *,
    dump: str,
    missing: Mapping[str, str],
    one_thread: bool,
    load_1min: float | None,
) -> dict[str, Any]:
    """Everything that was measured, as built-in types.

    Parameters
    ----------
    dump : str
        What was measured, as the reader knows it.
    missing : mapping of str to str
        Contenders that could not take part, with the reason.
    one_thread : bool
        Whether libraries below numpy are known to have been held to one thread.
    load_1min : float or None
        Load average of the machine before the run: above 1 a CPU was shared with other work.
    """
    kept = [result for result in results if result.failure is None]
    return {
        "schema": SCHEMA,
        "dump": dump,
        "settings": asdict(settings),
        "units": {
            "ratio": "raw fp16 bytes / encoded bytes, higher is better",
            "speed": "10**6 raw bytes / processor second, median",
        },
        "environment": {
            "machine": platform.machine(),
            "system": platform.system(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "one_thread": one_thread,
            "load_1min": load_1min,
            "versions": {"pytest-h2o": pytest_h2o.__version__}
            | {n: metadata.version(n) for n in ("numpy", "zstandard")},
        },
        "raw_bytes": sum(s.raw_bytes for s in kept[0].sizes) if kept else 0,
        "streams": len(kept[0].sizes) if kept else 0,
        "contenders": [_contender(result, settings) for result in kept],
        "missing": dict(missing) | {r.contender.name: r.failure for r in results if r.failure is not None},
    }


def render_json(summary: Mapping[str, Any]) -> str:
    return json.dumps(summary, indent=2, allow_nan=False) + "\n"


def render_markdown(summary: Mapping[str, Any]) -> str:
    """Tables: all contenders, then each layer."""
    settings, environment = summary["settings"], summary["environment"]
    front = f"front {settings['front_layers']}"
    lines = [
        f"# Codecs on {summary['dump']}",
        "",
        f"{summary['raw_bytes'] / 1e6:.2f} MB of raw fp16 in {summary['streams']} streams. Ratio is raw bytes / encoded"
        " bytes (higher is better).",
        f"Online: chunks of {settings['chunk_tokens']} tokens, each coded alone, {settings['framing_bytes']} bytes of"
        " framing a chunk and tensor counted. Aggregate: streams coded whole.",
        "Speed: MB (10^6 raw bytes) a processor second on online chunks, those of a stream decoded together; median of"
        f" {settings['rounds']} interleaved rounds{', one thread' if environment['one_thread'] else ''}."
        " Every decode was compared bit for bit.",
        "",
        *_table(
            [
                *("codec", f"online, {front}", "online, all", "online, K", "online, V"),
                *(f"aggregate, {front}", "aggregate, all", "encode MB/s", "decode MB/s"),
            ],
            [_overview_row(contender) for contender in summary["contenders"]],
        ),
        "",
        "By layer, online, K / V:",
        "",
        *_split_table(summary["contenders"], "layers", "layer"),
        "",
        "By run, online, K / V:",
        "",
        *_split_table(summary["contenders"], "runs", "run"),
    ]
    peers = [c for c in summary["contenders"] if c["kind"] == "peer"]
    if peers:
        lines += ["", "Peers: " + "; ".join(f"{c['name']} {c['version']} ({c['settings']})" for c in peers) + "."]
    if summary["missing"]:
        lines += ["", "Not measured:", "", *(f"- {name}: {reason}" for name, reason in summary["missing"].items())]
    load = "" if environment["load_1min"] is None else f" load {environment['load_1min']:.1f} before the run,"
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    lines += [
        "",
        f"{environment['system']} {environment['machine']}, {environment['cpus']} CPUs,"
        f"{load} Python {environment['python']}, {versions}.",
    ]
    return "\n".join(lines) + "\n"


def _contender(result: Result, settings: BenchSettings) -> dict[str, Any]:
    return {
        "name": result.contender.name,
        "kind": result.contender.kind,
        "settings": result.contender.settings,
        "version": result.contender.version,
        "online": _ratios(result, settings, online=True),
        "aggregate": _ratios(result, settings, online=False),
        "encode_mb_per_s": _speed(result, result.encode_s),
        "decode_mb_per_s": _speed(result, result.decode_s),
        "verified_chunks": result.verified_chunks,
        "streams": [asdict(sizes) for sizes in result.sizes],
    }


def _ratios(result: Result, settings: BenchSettings, *, online: bool) -> dict[str, Any]:
    def by_tensor(chosen: Callable[[StreamSizes], bool]) -> dict[str, float | None]:
        wanted = [sizes for sizes in result.sizes if chosen(sizes)]
        return {
            "kv": ratio(wanted, online=online),
            **{tensor: ratio([s for s in wanted if s.tensor == tensor], online=online) for tensor in ("k", "v")},
        }

    layers, runs = (sorted({getattr(s, name) for s in result.sizes}) for name in ("layer", "run_id"))
    return {
        "front": by_tensor(lambda sizes: sizes.layer < settings.front_layers),
        "all": by_tensor(lambda sizes: True),
        "layers": {str(layer): by_tensor(lambda sizes, layer=layer: sizes.layer == layer) for layer in layers},  # type: ignore[misc]
        "runs": {run: by_tensor(lambda sizes, run=run: sizes.run_id == run) for run in runs},  # type: ignore[misc]
    }


def _speed(result: Result, rounds_s: Sequence[float]) -> dict[str, Any]:
    return {
        "median": result.mb_per_s(rounds_s),
        "rounds": [result.mb_per_s([round_s]) for round_s in rounds_s],
    }


def _overview_row(contender: Mapping[str, Any]) -> list[str]:
    online, aggregate = contender["online"], contender["aggregate"]
    ratios = [online["front"]["kv"], online["all"]["kv"], online["all"]["k"], online["all"]["v"]]
    ratios += [aggregate["front"]["kv"], aggregate["all"]["kv"]]
    speeds = [contender[f"{way}_mb_per_s"]["median"] for way in ("encode", "decode")]
    return [contender["name"], *map(_ratio, ratios), *map(_mb_per_s, speeds)]


def _split_table(contenders: Sequence[Mapping[str, Any]], by: str, label: str) -> list[str]:
    """Online ratios K / V of all contenders, a column for each layer or run."""
    columns = list(contenders[0]["online"][by]) if contenders else []
    rows = [
        [
            c["name"],
            *(f"{_ratio(c['online'][by][name]['k'])} / {_ratio(c['online'][by][name]['v'])}" for name in columns),
        ]
        for c in contenders
    ]
    return _table(["codec", *(f"{label} {name}" for name in columns)], rows)


def _mb_per_s(speed: float) -> str:
    return f"{speed:.3g}" if speed < 100 else f"{speed:.0f}"


def _ratio(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.3f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown table, numbers to the right; a pipe in a cell is escaped."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]

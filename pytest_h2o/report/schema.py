"""JSON schemas of ``summary.json`` and of a line of ``journal.jsonl``: what every number means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from pytest_h2o.gate.metrics import METRICS, TARGET_OPTIONS
from pytest_h2o.report.summary import Summary

SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class NumberField(NamedTuple):
    """A number of an artifact."""

    path: str
    unit: str
    origin: str
    whole: bool = False


def _fields(text: str) -> tuple[NumberField, ...]:
    rows = (line.split(" | ") for line in text.strip().splitlines())
    return tuple(NumberField(path, unit.rstrip("#"), origin, unit.endswith("#")) for path, unit, origin in rows)


_COMPARISON = """
{at}counts.<state> | figures# | this run against the earlier one
{at}changes[].then | unit of the metric, in figures.json | the earlier run in `run`
{at}changes[].now | unit of the metric, in figures.json | row in `row`
{at}changes[].percent | percent of `then` | then and now
{at}changes[].allowed_percent | percent of `then` | --h2o-compare-fail
{at}headlines[].then | unit of the metric, in figures.json | the earlier run in `run`
{at}headlines[].now | unit of the metric, in figures.json | row in `row`
{at}headlines[].percent | percent of `then` | then and now
{at}headlines[].allowed_percent | percent of `then` | --h2o-compare-fail
"""

_TARGETS = "\n".join(
    f"data.presets.<preset>.targets.{metric.key} | {metric.target_unit} | "
    f"option, {'scope, ' * (metric.of == 'scope')}preset, ini key or default"
    for metric in (METRICS[name] for name in TARGET_OPTIONS)
)

_PAIR_SIDES = "\n".join(
    f"data.comparisons.<preset>.pairs[].{side}.decode_tok_per_s | tok/s | decode/logs of its run id\n"
    f"data.comparisons.<preset>.pairs[].{side}.elapsed_s | s | its launch"
    for side in ("baseline", "candidate")
)

JOURNAL_NUMBERS = _fields(
    f"""
version | number of the format# | this version of pytest-h2o
settings.<option>.value | as the option says | `origin` beside it
location[] | line of the file in the same list, from 0# | pytest
duration_s | s | pytest
comparisons[].value | as `unit` says | row, run or scope in `source`
comparisons[].std | as `unit` says | over the repeats of that run, as the bench printed it
comparisons[].target | as `unit` says | `target_origin`
comparisons[].margin | as `unit` says | value and target
comparisons[].interval.low | as `unit` says | data.comparisons, as `basis` says
comparisons[].interval.high | as `unit` says | data.comparisons, as `basis` says
{_COMPARISON.strip().format(at="comparison.")}
data.points[].index | place in the sweep, from 1# | the preset
data.points[].manifest.<field> | that of the preset key: tokens, ratio or number | the preset
data.points[].result.repeat | repeats# | the preset
data.points[].result.output.warnings.<kind> | lines# | stdout_path
data.points[].result.output.max_kv_len | tokens# | stdout_path
data.points[].result.returncode | exit status# | its launch
data.points[].result.elapsed_s | s | its launch
data.failed[].index | place in the sweep, from 1# | the preset
data.failed[].manifest.<field> | that of the preset key: tokens, ratio or number | the preset
data.failed[].return_code | exit status# | its launch
data.scopes.<scope>.target | ratio | the scope, or --h2o-lossless-target
data.scopes.<scope>.result.<field> | docs/artifacts.md, offline_lossless_<scope>.json | the dump and the scope
data.presets.<preset>.model_layers | layers# | base config, preset or --h2o-set
data.presets.<preset>.h2o_layer_start | number of a layer# | the preset
data.presets.<preset>.h2o_layer_end | number of a layer# | the preset
{_TARGETS}
data.presets.<preset>.baseline_tok_per_s | tok/s | `baseline_origin`
data.comparisons.<preset>.version | number of the format# | this version of pytest-h2o
data.comparisons.<preset>.seed | none# | drawn before the first pair
data.comparisons.<preset>.planned_pairs | pairs# | --h2o-decode-budget or the preset
data.comparisons.<preset>.elapsed_s | s | its launches
{_PAIR_SIDES}
"""
)


def make_schema(artifact: str) -> dict[str, Any]:
    """The JSON schema of ``summary`` (the file) or ``journal`` (one line of it), every number with `unit` and `from`.

    It is open: other fields may be there, as a later version adds some.
    """
    if artifact == "summary":
        return {"$schema": SCHEMA_DIALECT, **TypeAdapter(Summary).json_schema()}
    required = ["version", "item", "kind", "name", "outcome", "comparisons", "duration_s"]
    root: dict[str, Any] = {"$schema": SCHEMA_DIALECT, "type": "object", "required": required}
    for field in JOURNAL_NUMBERS:
        node = root
        for step in _steps(field.path):
            node = _child(node, step)
        node.update({"unit": field.unit, "from": field.origin})
        if "<" not in field.path.rpartition(".")[2] and not field.path.startswith("settings."):
            # What is not finite stands as text; and a place is a file and a line.
            text = [] if field.whole and not field.path.endswith("location[]") else ["string"]
            node["type"] = ["integer" if field.whole else "number", *text, "null"]
    root["properties"]["version"]["const"] = 1
    return root


def _steps(path: str) -> Iterator[str]:
    for part in path.split("."):
        yield part.removesuffix("[]")
        if part.endswith("[]"):
            yield "[]"


def _child(node: dict[str, Any], step: str) -> dict[str, Any]:
    if step == "[]":
        node["type"] = ["array", "null"]
        child = node.setdefault("items", {})
    elif step.startswith("<"):
        node["type"] = ["object", "null"]
        child = node.setdefault("additionalProperties", {})
    else:
        node.setdefault("type", ["object", "null"])
        child = node.setdefault("properties", {}).setdefault(step, {})
    found: dict[str, Any] = child
    return found

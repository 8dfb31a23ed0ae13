"""A dump scope as a section of the report: its ratio, by layer and plane, and what the codec chose. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_h2o.report.chart_data import Dot, Rule, Series, ShareChart, XYChart
from pytest_h2o.report.document import Block, Bullets, Cell, Figure, Link, Section, Table, Text
from pytest_h2o.report.links import Links
from pytest_h2o.report.page_changes import change_blocks
from pytest_h2o.report.page_rows import show

MAX_FINDINGS = 40
_PLANES = (("both planes", "ink", "o"), ("hi plane", "c1", "^"), ("lo plane", "c2", "v"))
_STREAMS = (("K hi", "k_hi"), ("K lo", "k_lo"), ("V hi", "v_hi"), ("V lo", "v_lo"))


def scope_section(
    name: str, scope: Mapping[str, Any], result: Mapping[str, Any] | None, section_id: str, links: Links
) -> Section:
    """Everything the page says of one scope.

    Parameters
    ----------
    name : str
    scope : mapping
        Its part of the summary.
    result : mapping or None
        Its lossless result; None if it was not measured.
    section_id : str
    links : Links
    """
    title = f"KV dump scope {name}"
    if result is None:
        reasons = tuple(str(reason) for reason in scope.get("reasons", ()))
        blocks: list[Block] = [Text("Not measured.", "bad")]
        return Section(section_id, title, (*blocks, Bullets(reasons)) if reasons else tuple(blocks))
    refused = [Text("No ratio counts: entries could not be read, and that was not allowed.", "bad")]
    facts = [*_facts(scope, result), *links.to("result as JSON", f"offline_lossless_{name}.json")]
    facts += links.to("as Markdown", f"offline_lossless_{name}.md")
    parts = [
        _layers_section(name, section_id, result),
        _modes_section(name, section_id, result),
        _findings_section(section_id, result),
    ]
    blocks = [
        *(refused if scope.get("refused") else ()),
        _ratio_table(name, result),
        Bullets(tuple(facts)),
        *change_blocks(name, scope),
    ]
    return Section(section_id, title, tuple(blocks), tuple(part for part in parts if part is not None))


def _facts(scope: Mapping[str, Any], result: Mapping[str, Any]) -> list[str | Link]:
    target = "none: reported only" if scope["target"] is None else f">= {scope['target']:g}"
    facts: list[str | Link] = [f"target {target}{'; this scope decides' if scope['decides'] else ''}"]
    chunks = ""
    if result["online_chunks"]:
        chunks = f" in chunks of {result['online_chunk_seq']} tokens, {result['online_framing_bytes']} bytes of framing"
    layers = ", ".join(map(str, result["selected_layers"]))
    facts.append(f"codec {result['codec_mode']}, {result['entry_mode']}{chunks}")
    facts.append(f"{result['selected_entries']:,} entries of {result['selected_dumps']} dumps, layers {layers}")
    facts.append(f"{result['verified_streams']:,} of {result['encoded_streams']:,} streams decoded bit for bit")
    if result.get("dump_dir"):
        facts.append(f"read from {result['dump_dir']}")
    if result["skipped_entries"]:
        reasons = ", ".join(f"{count} {why}" for why, count in result["skip_reasons"].items())
        facts.append(f"{result['skipped_entries']} entries could not be read: {reasons}")
    return facts


def _ratio_table(name: str, result: Mapping[str, Any]) -> Table:
    rows = []
    for title, kind in (("K and V", ""), ("K", "k_"), ("V", "v_")):
        raw, coded = result[f"{kind}raw_bytes"], result[f"{kind}compressed_bytes"]
        ratio = show(result[f"{kind}lossless_ratio"], 4)
        rows.append((Cell(title), Cell(ratio), Cell(f"{raw:,}"), Cell(f"{coded:,}")))
    header = ("tensors", "lossless ratio", "raw bytes", "coded bytes")
    return Table(f"Sizes of {name}: raw fp16 bytes over coded bytes", header, tuple(rows), frozenset({1, 2, 3}))


def _ratios(layer: Mapping[str, Any], tensor: str) -> tuple[float | None, float | None, float | None]:
    """Ratio of both planes together (framing counted), of the high plane and of the low plane; a plane is half."""
    raw = layer[f"{tensor}_raw_bytes"]
    planes = [layer.get(f"{tensor}_{plane}_bytes") for plane in ("hi", "lo")]
    both = layer[f"{tensor}_compressed_bytes"]
    return (raw / both if both else None, *(raw / 2 / coded if coded else None for coded in planes))  # type: ignore[return-value]


def _layers_section(name: str, section_id: str, result: Mapping[str, Any]) -> Section | None:
    layers: Sequence[Mapping[str, Any]] = result.get("by_layer") or ()
    if not layers:
        return None
    rows = []
    for layer in layers:
        cells = [show(ratio, 4, "not told") for tensor in ("k", "v") for ratio in _ratios(layer, tensor)]
        rows.append((Cell(f"layer {layer['layer_id']}"), *map(Cell, cells)))
    header = ("layer", "K", "K hi plane", "K lo plane", "V", "V hi plane", "V lo plane")
    table = Table(f"Lossless ratio of {name} by layer", header, tuple(rows), frozenset(range(1, 7)))
    charts = tuple(_layer_chart(f"{section_id}-layers-{tensor}", tensor, layers) for tensor in ("k", "v"))
    caption = (
        "Raw over coded bytes, higher is better; 1 is no gain. The hi plane holds sign, exponent and the upper two "
        "bits of the mantissa of each fp16 value, the lo plane the other eight."
    )
    return Section(f"{section_id}-layers", "Ratio by layer", (Figure(caption, charts, table),))


def _layer_chart(chart_id: str, tensor: str, layers: Sequence[Mapping[str, Any]]) -> XYChart:
    ratios = [_ratios(layer, tensor) for layer in layers]
    series = []
    for place, (title, ink, marker) in enumerate(_PLANES):
        dots = tuple(Dot(x, y) for x, values in enumerate(ratios) if (y := values[place]) is not None)
        series.append(Series(title, ink, dots, marker, "solid"))  # type: ignore[arg-type]
    every = max(1, -(-len(layers) // 12))
    ticks = tuple((x, str(layer["layer_id"])) for x, layer in enumerate(layers) if x % every == 0)
    name = tensor.upper()
    said = "; ".join(
        f"layer {layer['layer_id']}: {show(values[0], 3)}" for layer, values in zip(layers[:40], ratios, strict=False)
    )
    return XYChart(
        chart_id,
        f"{name}: lossless ratio by layer",
        f"Both planes together, {said}.",
        "layer",
        f"lossless ratio of {name}",
        tuple(series),
        (Rule("", "quiet", 1.0, "y"),),
        ticks=ticks,
        y_from_zero=True,
    )


def _modes_section(name: str, section_id: str, result: Mapping[str, Any]) -> Section | None:
    streams = [(title, result.get(f"{key}_mode_counts") or {}) for title, key in _STREAMS]
    kinds = tuple(dict.fromkeys(str(kind) for _, counts in streams for kind in counts))
    if not any(count for _, counts in streams for count in counts.values()):
        return None
    counted = tuple(tuple(int(counts.get(kind, 0)) for kind in kinds) for _, counts in streams)
    rows = tuple(
        (Cell(title), *(Cell(f"{count:,}") for count in counts))
        for (title, _), counts in zip(streams, counted, strict=True)
    )
    header = ("stream", *kinds)
    table = Table(f"Blocks of {name} by the mode chosen for them", header, rows, frozenset(range(1, len(header))))
    said = "; ".join(
        f"{title}: {', '.join(f'{count} {kind}' for kind, count in zip(kinds, counts, strict=True) if count) or 'none'}"
        for (title, _), counts in zip(streams, counted, strict=True)
    )
    chart = ShareChart(
        f"{section_id}-modes-chart",
        "Modes chosen by stream",
        f"{said}.",
        tuple(title for title, _ in streams),
        kinds,
        counted,
        width=400,
    )
    caption = "For each block of a stream the codec takes the mode that codes it smallest."
    return Section(f"{section_id}-modes", "Modes chosen", (Figure(caption, (chart,), table),))


def _findings_section(section_id: str, result: Mapping[str, Any]) -> Section | None:
    """Entries that could not be read, and overlaps and gaps of those that could."""
    blocks: list[Block] = []
    skipped = result.get("skipped") or ()
    if skipped:
        rows = tuple(
            (Cell(str(s.get("path"))), Cell(str(s.get("reason"))), Cell(str(s.get("detail")))) for s in skipped
        )
        more = f"{len(rows) - MAX_FINDINGS} more are in the JSON" if len(rows) > MAX_FINDINGS else None
        header = ("entry", "reason", "detail")
        blocks.append(Table("Entries that could not be read", header, rows[:MAX_FINDINGS], left_out=more))
    findings = result.get("findings") or ()
    if findings:
        cells = tuple(
            (
                Cell(f"{found.get('kind')}"),
                Cell(str(found.get("run_id"))),
                Cell(str(found.get("layer_id"))),
                Cell(str(found.get("first"))),
                Cell(str(found.get("tokens"))),
            )
            for found in findings[:MAX_FINDINGS]
        )
        more = f"{len(findings) - MAX_FINDINGS} more are in the JSON" if len(findings) > MAX_FINDINGS else None
        header5 = ("kind", "dump", "layer", "first token", "tokens")
        caption = "Overlaps and gaps between entries; dumps of a runtime that tunes itself at start have some"
        blocks.append(Table(caption, header5, cells, frozenset({2, 3, 4}), more))
    title = "Entries left out, overlaps and gaps"
    return Section(f"{section_id}-findings", title, tuple(blocks), folded=not skipped) if blocks else None

"""Write the pages of docs/ that are tables of the code: options.md, commands.md and metrics.md.

``python tools/tables.py`` writes them; tests/test_docs.py fails where one differs from what the code says.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from pytest_h2o.cli.main import COMMANDS
from pytest_h2o.gate.metrics import GATE_OPTIONS, METRICS, Metric
from pytest_h2o.inputs.options import Range

DOCS = Path(__file__).parents[1] / "docs"
MADE = "<!-- made by tools/tables.py -->"

OPTIONS_HEAD = """# Options

Each option of the gate has an ini key of the same name: `--h2o-lossy-target` is `h2o_lossy_target` in `pytest.ini`,
`tox.ini` or `pyproject.toml`. The command line stands over the ini file, that over the default. Where a preset or scope
file says the same (targets, base config, timeout), it stands between command line and ini file.
"""
COMMANDS_HEAD = """# Commands

`pytest-h2o COMMAND` does one step of the gate by itself. Exit codes: 0 held, 1 a gate failed (or entries of a dump were
skipped, or a log has no row), 2 bad input or a run that could not be made, 130 interrupted.
"""
METRICS_HEAD = """# Metrics

Every number that the gate knows. Any metric of rows can be given a target under `targets:` of a preset, by the key in
the third column; those with a default target have an [option](options.md) too. `exact`: two runs of the same binary and
input give it alike to the last digit, so `--h2o-compare` lets it be worse by nothing (`in step`: where lossless
coding at run time is not asynchronous). `every row`: the worst row decides, else the best one. [Writing a
plugin](writing-a-plugin.md) adds metrics of your own.
"""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |\n" for row in lines
    )


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def options_page() -> str:
    rows = (
        (code(f"{o.flag} {o.metavar or o.name.upper()}" if o.kind != "flag" else o.flag), o.full_help)
        for o in GATE_OPTIONS
    )
    return f"{OPTIONS_HEAD}\n{table(('option', 'what it does'), rows)}"


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of one command, as `pytest_h2o.cli.main` builds it."""
    parser = argparse.ArgumentParser(prog=f"pytest-h2o {command}", add_help=False, allow_abbrev=False)
    module = importlib.import_module(f"pytest_h2o.cli.{COMMANDS[command][0]}")
    getattr(module, f"add_arguments_{command}")(parser)
    return parser


def argument_rows(parser: argparse.ArgumentParser) -> list[tuple[str, str]]:
    formatter = argparse.HelpFormatter(prog="")
    rows = []
    for action in parser._actions:
        shown = formatter._format_action_invocation(action)
        text = formatter._expand_help(action) if action.help and action.help != argparse.SUPPRESS else ""
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                rows += [(f"{code(name)} {flag}", help_text) for flag, help_text in argument_rows(sub)]
        elif action.help != argparse.SUPPRESS:
            rows.append((code(shown), text))
    return rows


def commands_page() -> str:
    parts = [
        COMMANDS_HEAD,
        table(("command", "what it does"), ((code(f"pytest-h2o {n}"), t) for n, (_, t) in COMMANDS.items())),
    ]
    for name, (_, text) in COMMANDS.items():
        rows = argument_rows(parser_of(name))
        parts.append(f"## {name}\n\n{text[0].upper()}{text[1:]}.\n\n{table(('argument', 'what it is'), rows)}")
    return "\n".join(parts)


def metric_row(metric: Metric) -> tuple[str, ...]:
    target = "" if metric.target is None else f"{'>=' if metric.higher_is_better else '<='} {metric.target:g}"
    values = "" if metric.values == Range() else metric.values.text
    over = metric.over if metric.of == "row" else metric.of
    better = {"same": "should not change"}.get(metric.better, metric.better)
    return (
        code(metric.name),
        metric.title,
        code(metric.key),
        metric.unit,
        better,
        "in step" if metric.in_step else "yes" if metric.exact else "",
        over,
        values,
        target,
    )


def metrics_page() -> str:
    head = ("name", "what it is", "key", "unit", "better", "exact", "over", "can be", "target")
    return f"{METRICS_HEAD}\n{table(head, map(metric_row, METRICS.values()))}"


PAGES = {"options.md": options_page, "commands.md": commands_page, "metrics.md": metrics_page}


def make(name: str) -> str:
    """The text of one page."""
    return f"{MADE}\n\n{PAGES[name]()}"


def main() -> None:
    for name in PAGES:
        (DOCS / name).write_text(make(name), encoding="utf-8")


if __name__ == "__main__":
    main()

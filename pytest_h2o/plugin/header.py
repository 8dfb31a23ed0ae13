"""The head of a run: what is run or read, of which model, on which machine; and how many launches that takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pytest_h2o import __version__
from pytest_h2o.bench.embedded import digest_program, is_embedded, program_command
from pytest_h2o.bench.machine import describe_machine
from pytest_h2o.errors import H2OError, one_line
from pytest_h2o.inputs.options import Settings
from pytest_h2o.report.terminal import render_header

if TYPE_CHECKING:
    from pytest_h2o.run.session import GateSession
    from pytest_h2o.run.sources import Source


def describe_run(session: GateSession) -> list[str]:
    """Lines for the head of a run: what is run or read, on what, the rule, and what figures are held against."""
    settings = session.settings
    machine = describe_machine()
    if settings["bench"] is None:
        machine += " (where the logs were recorded is not known)" if settings["logs"] is not None else ""
    models = _name_models(session.selected_sources())
    head = render_header(settings, session.run_dir, _describe_bench(settings), models, machine, session.left_out)
    return [*head, *session.describe_references()]


def _describe_bench(settings: Settings) -> str:
    bench = settings["bench"]
    if bench is not None:
        from pytest_h2o.bench.launch import ask_version

        named, said = bench, "tells no version"
        if is_embedded(bench):
            named, said = "the embedded reference bench", f"version: {__version__}"
        elif (version := ask_version(program_command(bench))) is not None:
            said = f"version: {version}"
        return f"bench {named} ({settings.origin('bench')}), sha256 {digest_program(bench)[:16]}, {said}"
    if settings["logs"] is not None:
        return f"recorded logs in {settings['logs']} ({settings.origin('logs')}); nothing is run"
    return "neither a bench nor recorded logs: sweep items cannot be measured"


def _name_models(sources: Iterable[Source]) -> list[str]:
    """Every model that is measured, once, in the order of the presets."""
    return list(dict.fromkeys(name for source in sources if (name := _name_model(source)) is not None))


def _name_model(source: Source) -> str | None:
    """The model of a preset: where its base config lies, or what the first of its recorded logs says."""
    if source.base_config is not None:
        return f"{one_line(source.base_config.base_dir.name)} (base config {source.base_config.path})"
    if source.folder is None:
        return None
    from pytest_h2o.bench.rows import read_rows

    for log in sorted([*source.folder.glob("logs/*.log"), *source.folder.glob("*.log")])[:3]:
        try:
            row = read_rows(log, None, log_file=log.name)[0]
        except (H2OError, IndexError):
            continue  # the item of that row says what is wrong with it
        named = [text for column in ("model", "modelSize") if (text := row.cells.get(column))]
        if named:
            return one_line(", ".join(named))
    return None

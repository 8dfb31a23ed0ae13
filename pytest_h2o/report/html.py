"""A page as one self-contained HTML file: no network, no script, all text escaped.

jinja2 is imported when the first page is rendered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_h2o.bench.printable import make_printable
from pytest_h2o.report.chart_data import Chart
from pytest_h2o.report.charts import ChartsMissing, render_chart
from pytest_h2o.report.document import Figure, Page, Section
from pytest_h2o.report.links import links_of
from pytest_h2o.report.page import build_page
from pytest_h2o.report.palette import DARK, LIGHT, render_variables

if TYPE_CHECKING:
    from pytest_h2o.report.collector import Collector

TEMPLATE = "report.html.j2"
PAGE_NAME = "report.html"
MAX_CHARTS = 60
"""Charts of one page, about 40 ms each; figures beyond it have their tables alone."""


def render_run(
    summary: Mapping[str, Any], collector: Collector, run: Mapping[str, Any], page_path: Path | None = None
) -> str:
    """The page of a run, from what its folder has.

    Parameters
    ----------
    summary, run : mapping
        As `summary.json` and `run.json` have them.
    collector : Collector
        Every record of the run; its folder is where links lead.
    page_path : Path, optional
        Where the page will lie; in the run folder if not given.
    """
    as_kept = json.loads(json.dumps(summary)), json.loads(json.dumps(run))  # so that a page made later is the same
    return render_html(build_page(as_kept[0], collector, as_kept[1], links_of(collector.run_dir, page_path)))


def _printable(value: object) -> object:
    """Text of other people without what a browser or editor would act on; markup of the template stays as it is."""
    return make_printable(value) if type(value) is str else value


def render_html(page: Page) -> str:
    """The page; equal pages give equal text, with the same versions of jinja2 and matplotlib.

    Where matplotlib is missing the page says so and has its tables alone.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    charts: dict[str, Markup] = {}
    missing = None
    try:
        for chart in _charts_of(page.sections)[:MAX_CHARTS]:
            charts[chart.id] = Markup(render_chart(chart))
    except ChartsMissing as error:
        charts, missing = {}, str(error)
    environment = Environment(
        loader=PackageLoader("pytest_h2o.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.get_template(TEMPLATE)
    return template.render(
        page=page,
        charts=charts,
        charts_missing=missing,
        max_charts=MAX_CHARTS,
        light=Markup(render_variables(LIGHT)),
        dark=Markup(render_variables(DARK)),
    )


def _charts_of(sections: tuple[Section, ...]) -> list[Chart]:
    """Every chart of a page, each once."""
    found: list[Chart] = []
    for section in sections:
        for block in section.blocks:
            if isinstance(block, Figure):
                found += [*block.charts, *block.narrow]
        found += _charts_of(section.parts)
    return found

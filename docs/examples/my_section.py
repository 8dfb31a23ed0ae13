"""A report section of one's own: which rows the verdicts rest on."""

from pytest_h2o import ReportSection, SectionTable


def deciding_rows(summary):
    rows = [
        (name, verdict["title"], verdict["source"])
        for name, preset in summary["presets"].items()
        for verdict in preset["verdicts"]
    ]
    if rows:
        yield "The rows that the verdicts rest on. A preset whose verdicts rest on several rows is worth a look."
        yield SectionTable("Deciding rows", ("preset", "threshold", "row"), rows)


def pytest_h2o_report_sections(config):
    return [ReportSection("Deciding rows", deciding_rows)]

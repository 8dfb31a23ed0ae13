"""What version 0.1 wrote is read: run folders, baselines and history; a run that it began is refused in clear words."""

import json
import shutil
from pathlib import Path

import pytest

from pytest_h2o.cli.main import main
from pytest_h2o.errors import StoreError
from pytest_h2o.inputs.options import Given
from pytest_h2o.run.history import RunRecord, read_history
from pytest_h2o.run.session import Subject
from pytest_h2o.run.store import SHARED
from tests.plugin.project import ROOT, Project, check_no_traceback, unwrapped
from tests.report.gate_items import make_session

RUN = "20261129-094717-b43607"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose run folder, history and baseline are those of 0.1."""
    project = Project(tmp_path_factory.mktemp("old"))
    shutil.unpack_archive(ROOT / "fixtures" / "run-of-0.1.zip", project.path / "h2o-runs")
    return project


def test_history_and_comparison(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    out_dir = project.path / "h2o-runs"
    (record,) = read_history(out_dir / "history.jsonl")
    assert isinstance(record, RunRecord)
    assert [(subject.title, subject.held) for subject in record.subjects] == [
        ("preset smoke", True),
        ("scope front2_chunked_128_16", True),
        ("scope front2_grouped_192_8", True),
        ("scope front2_upper", True),
    ]
    assert main(["history", "--out-dir", str(out_dir)]) == 0
    assert capsys.readouterr().out.count(RUN) == 4
    assert main(["compare", "earlier", str(out_dir / RUN), "--out-dir", str(out_dir)]) == 0
    assert "not worse: 100 equal" in capsys.readouterr().out


def test_a_gate_reads_its_logs_and_compares_with_its_baseline(project: Project) -> None:
    """The figures of today are those that 0.1 measured on the same logs and dumps; it knew six columns less."""
    result = project.run(f"--h2o-logs=h2o-runs/{RUN}", "--h2o-compare=earlier", "-k", "smoke or front2")
    check_no_traceback(result)
    assert result.ret == 0
    equal = [line.strip() for line in result.outlines if "change against earlier" in line]
    assert equal == ["change against earlier: 12 new, 40 equal", *["change against earlier: 20 equal"] * 3]
    assert "decode speed 567.80 tok/s -> 567.80 tok/s (+0.00 %), not comparable" in unwrapped(result)


def test_a_run_that_0_1_began_is_refused(tmp_path: Path) -> None:
    """What its processes shared has another form: nothing of it is taken for a measurement of this version."""
    subject = Subject("preset", "target_ratio_v3")
    make_session(tmp_path).begin(["a"], [subject])
    asked = tmp_path / "run" / SHARED / "asked.json"
    then = json.loads(asked.read_text())
    assert (then.pop("form of shared results"), len(then.pop("sha256"))) == ("4", 16)
    asked.write_text(json.dumps(then))
    session = make_session(tmp_path)
    session.settings.given["resume"] = Given(tmp_path / "run", "--h2o-resume")
    with pytest.raises(StoreError, match="or an earlier version wrote it"):
        session.begin(["a"], [subject])

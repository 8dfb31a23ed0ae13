"""What a user can get wrong: one text that says what, where and what to do, exit code 4, nothing run, no traceback."""

import json

import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.run.history import record_to_json, save_baseline
from tests.plugin.cases import BENCH, DECIDING, PRESET, Prepare, conftest, every, ini, preset, replaced, written
from tests.plugin.project import RECORDINGS, Project, refusal
from tests.plugin.test_workloads import LONG, TWO
from tests.records import make_record


def baselines(project: Project) -> None:
    """One that is good, and one of a schema to come."""
    save_baseline(project.path / "h2o-runs", "main", make_record())
    old = json.dumps({**record_to_json(make_record()), "schema": 0})
    (project.path / "h2o-runs" / "baselines" / "old.json").write_text(old)


def workloads(project: Project) -> None:
    for name in ("two", LONG):
        project.preset(name).write_text(TWO)


def hook(kind: str, body: str) -> Prepare:
    return conftest(f"def pytest_h2o_{kind}(config): {body}")


NAMED = "from pytest_h2o.gate.metrics import RowMetric"
ILL_NAMED = "def pytest_h2o_metrics(config): return [RowMetric({!r}, 'mine')]"

BODIES = ("return [3]", "return 'text'", "return {1: 2}", "1 / 0", "raise SystemExit(0)", "yield 1 / 0")
HOOKS = [*(("metrics", body) for body in BODIES), ("codecs", "1 / 0"), ("benches", "return [3]")]
REFUSED: dict[str, tuple[Prepare | None, tuple[str, ...]]] = {
    # options
    "a decode baseline of 0": (None, ("--h2o-decode-baseline=0",)),
    **{key: (ini(**{key: "9"}), ()) for key in ("h2o_lossy_targe", "H2O_LOSSY_TARGET", "h2o-lossy-target")},
    **{f"set {one}": (None, (f"--h2o-set={one}",)) for one in ("decides=true", "codec_mod=legacy")},
    "an upper bound that decides": (None, ("--h2o-set=entry_mode=aggregate",)),
    "many launches": (Project.make_bench, ("-k", PRESET, *BENCH, "--h2o-launches=999999999")),
    # benches, models, logs
    "a bench without a base config": (Project.make_bench, ("-k", PRESET, BENCH[0])),
    "no such bench": (Project.make_bench, ("--h2o-bench=build/llm_bench", BENCH[1])),
    "a backend that the embedded bench has not": (ini(), ("--h2o-backend=opencl", "-k", "embedded and lossy")),
    "a backend that the bench does not list": (
        Project.make_bench,
        ("-k", PRESET, *BENCH, "--h2o-backend=opengl", "-n2"),
    ),
    "a bench that may not be run": (None, ("--h2o-bench=pytest.ini", "-k", PRESET)),
    "an empty dump folder": (
        lambda project: (project.path / "empty").mkdir(),
        ("--h2o-dump-dir=empty", "-k", f"{DECIDING} or {PRESET}"),
    ),
    "two numbers of layers": (
        every(Project.make_bench, written("llm_config.json", '{"num_hidden_layers": 24}')),
        ("-k", f"{PRESET} and run_0001", *BENCH),
    ),
    "no such logs": (None, ("--h2o-logs=nowhere", "-n2")),  # found out late: a worker must not raise
    "logs that are a file": (None, ("--h2o-logs=gates/scopes.yaml", "-n2")),
    "a prompt for a bench that takes none": (
        every(Project.make_bench, preset("prompt_file: ../../prompt.txt"), written("prompt.txt", "Once.")),
        ("-k", f"{PRESET} and lossy", *BENCH),
    ),
    # presets, scopes, gate files
    "a key of a preset": (replaced("presets/smoke.yaml", "h2o_target_mode:", "h2o_target_mod:"), ("-k", PRESET)),
    "a preset named as a workload": (workloads, ("--collect-only", "-q")),
    "two things measured by one test": (
        written("gates/test_own.py", "def test_both(h2o_sweep, h2o_scope):\n    pass\n"),
        (),
    ),
    "health of coding that is off": (
        preset("targets: {h2o_lossless_fallback: 0}", "target_ratio"),
        ("-k", "target_ratio and lossy", "--h2o-presets=gates/presets"),
    ),
    "health that no selected preset measures": (
        ini(h2o_logs=str(RECORDINGS)),
        ("-k", "lossy and target_ratio and not v3", "--h2o-target=h2o_lossless_fallback=0"),
    ),
    # earlier runs
    "a baseline called last": (baselines, ("--h2o-save", "last")),
    "a baseline that is there": (baselines, ("--h2o-save", "main")),
    "a baseline of another schema": (baselines, ("--h2o-compare", "old")),
    "allowed and nothing to compare with": (None, ("--h2o-compare-fail", "lossless_ratio:1")),
    "rolling:2": (None, ("--h2o-compare", "rolling:2")),
    "allowed by the ini file": (
        ini(h2o_logs=str(RECORDINGS), h2o_compare="rolling:3", h2o_compare_fail="lossless_ratio:-1"),
        ("-k", "lossy"),
    ),
    # real prompts
    "no such prompt": (Project.make_demo, (*BENCH, "--h2o-demo=llm_demo", "--h2o-demo-prompts=nowhere.txt")),
    "many rounds": (Project.make_demo, (*BENCH, "--h2o-demo=llm_demo", "--h2o-demo-rounds=100")),
    "no round": (Project.make_demo, (*BENCH, "--h2o-demo=llm_demo", "--h2o-demo-rounds=0")),
    "no such llm_demo": (Project.make_demo, (*BENCH, "--h2o-demo=nowhere")),
    "prompts without an llm_demo": (None, ("--h2o-demo-prompts=p.txt",)),
    # plugins
    "no such metric": (
        conftest("from my_metric import pytest_h2o_metrics"),
        ("-k", "lossy", "--h2o-set=targets.metrics.first_tokens=1"),
    ),
    "a metric named as ours": (conftest(NAMED, ILL_NAMED.format("h2o_keep")), ()),
    "a metric of two words": (conftest(NAMED, ILL_NAMED.format("a b")), ()),
    "a hook with a class": (hook("benches", "return [dict]"), ()),
    **{f"{kind}: {body}": (hook(kind, body), ("-k", "front2 and lossless")) for kind, body in HOOKS},
    # told before anything is measured
    "a file where the run folder should be": (
        lambda project: (project.path / "out").touch(),
        ("--h2o-out-dir=out", "-k", f"{PRESET} and (bench or lossy)"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused(name: str, project: Project, snapshot: SnapshotAssertion) -> None:
    prepare, arguments = REFUSED[name]
    if prepare is not None:
        prepare(project)
    assert refusal(project, project.run(*arguments)) == snapshot


def test_an_option_in_two_words_that_hides_the_ini_file_is_refused(
    project: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """pytest would pass over all that it asks; named in one word, or beside the tests, the option hides nothing."""
    elsewhere, asked = tmp_path_factory.mktemp("logs"), ("-k", "front2_grouped and lossless")
    result = project.run("--h2o-logs", str(elsewhere), *asked, what="-q")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(
        [
            "ERROR: pytest looked for its ini file beside the value of an option*",
            f"  expected: {project.path / 'pytest.ini'}",
            f"  next: write the option as one word: --h2o-logs={elsewhere}",
        ]
    )
    assert project.run(f"--h2o-logs={elsewhere}", *asked, what="-q").ret == 0
    assert project.run("--h2o-logs", str(elsewhere), *asked).ret == 0

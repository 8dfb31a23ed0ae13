"""Each point launched several times: every launch is sound and holds its targets, and what differs is named."""

import json
import shutil
from pathlib import Path

import pytest

from tests.plugin.project import check_failed, failure_of, unwrapped
from tests.plugin.test_paired_gate import PRESET, BenchProject

CODING = "kv_lossless_enable: true\nkv_lossless_codec: gear_delta\nkv_lossless_runtime_enable: true\n"
RUN_2 = "run_0002_p512_g128_k0.28_b8_lr3.2"


@pytest.fixture
def thrice(tmp_path: Path) -> BenchProject:
    project = BenchProject(tmp_path)
    project.preset("small").write_text(PRESET + CODING + "launches: 3\ntargets: {h2o_lossless_fallback: 1}\n")
    project.set_decode(base=60, drop=0.0, spread=0.0001, seed=1)
    return project


def test_every_launch_is_made_kept_and_told(thrice: BenchProject) -> None:
    thrice.env["FAKE_CELL"] = "5:h2o_lossless_fallback=1.00 ± 0.00"
    result = thrice.run("-k", "small or front2_grouped", "--h2o-decode-baseline=60", page=True)
    assert result.ret == 0, result.outlines
    assert thrice.count("/logs/") == 0
    names = [path.name for path in sorted((thrice.run_dir() / "small").glob("*/logs/run_*.log"))]
    assert len(names) == 6
    told = f"fallbacks should be the same in every launch, and is not: from 0.00 to 1.00 over the launches of {RUN_2}"
    assert told in unwrapped(result)
    folder = thrice.run_dir()
    launched = {one["metric"]: one for one in thrice.summary()["presets"]["small"]["launched"]}
    fallback = launched["h2o_lossless_fallback"]
    assert (fallback["smallest"], fallback["largest"], fallback["row"]) == (0.0, 1.0, RUN_2)
    subjects = json.loads((folder / "figures.json").read_text())["record"]["subjects"]
    (ranges,) = (subject["launches"].values() for subject in subjects if subject["name"] == "small")
    assert [row["h2o_lossless_fallback"] for row in ranges] == [[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    assert "| runtime lossless fallbacks | 0.00 | 1.00 |" in (folder / "summary.md").read_text()
    assert "Launches of one point" in (folder / "report.html").read_text()

    kept = thrice.gate_on_its_run(h2o_decode_baseline="60")
    assert thrice.run("-k", "small").ret == 0
    assert len(list((thrice.run_dir() / "small").glob("launch-*/logs/run_*.log"))) == 6
    shutil.rmtree(thrice.path / "h2o-runs")
    shutil.rmtree(kept / "small" / "launch-3")
    result = thrice.run("-k", "small and lossy")
    assert result.ret == 1
    assert "launch 3 of each point of small is not recorded" in failure_of(result, "test_lossy[small]")


@pytest.mark.parametrize(
    ("cell", "items", "told"),
    [
        ("h2o_lossless_fallback=1.01 ± 0.00", "health joint", f"measured   1.01 ± 0.00 on {RUN_2}, launch 2\n"),
        ("h2o_keep=1.5000 ± 0.0000", "lossy quality health decode joint", "launch-2/logs/run_0002"),
    ],
)
def test_one_launch_that_is_sick_fails_what_it_concerns(thrice: BenchProject, cell: str, items: str, told: str) -> None:
    thrice.env["FAKE_CELL"] = f"5:{cell}"
    result = thrice.run("-k", "small and not consistency and not bench", "--h2o-decode-baseline=60")
    names = [f"test_{name}[small]" for name in items.split()]
    check_failed(thrice, result, *names)
    assert told in failure_of(result, names[0])


def test_recorded_launches_count_though_nobody_asks_for_them(thrice: BenchProject) -> None:
    assert thrice.run("-k", "small and lossy", "--h2o-launches=2").ret == 0
    assert len(thrice.launches()) == 3 * 2
    kept = thrice.gate_on_its_run()
    for log in (kept / "small" / "launch-2" / "logs").glob("run_*.log"):
        log.write_text(log.read_text().replace("| CPU ", "| OPENCL "))
        log.with_suffix(".json").unlink()
    thrice.preset("small").write_text(PRESET + CODING)
    result = thrice.run("-k", "small and lossy")
    told = "a launch of a point has another backend than its first"
    assert told in failure_of(result, "test_lossy[small]")
    assert thrice.run("-k", "small and lossy", "--h2o-launches=1").ret == 0


SHORT = "decode tokens num = 40"


def test_a_further_launch_that_decoded_too_few_tokens_or_is_a_copy_is_none(thrice: BenchProject) -> None:
    """Of a further launch the cells alone are kept: what it printed is held to be sound before that."""
    thrice.set_decode(base=60, drop=0.0, spread=0.02, seed=1)
    here = thrice.env.pop("FAKE_HERE")
    said = f'case "$*" in *launch-2/*run_0002*) echo "{SHORT}";; esac\n'
    script = thrice.bench.read_text()
    thrice.bench.write_text(script.replace("exec ", f"{said}exec ", 1))
    result = thrice.run("-k", "small and lossy")
    assert result.ret == 1
    told = failure_of(result, "test_lossy[small]")
    assert "fewer tokens were decoded than asked" in told
    assert f"launch-2/logs/{RUN_2}.log" in told

    thrice.bench.write_text(script)
    thrice.env["FAKE_HERE"] = here
    shutil.rmtree(thrice.path / "h2o-runs")
    assert thrice.run("-k", "small and lossy").ret == 0
    kept = thrice.gate_on_its_run(h2o_decode_baseline="60")
    output = kept / "small" / "launch-2" / "logs" / f"{RUN_2}.stdout.txt"
    sound = output.read_text()
    output.write_text(f"{SHORT}\n")
    assert "fewer tokens were decoded than asked" in failure_of(
        thrice.run("-k", "small and lossy"), "test_lossy[small]"
    )
    output.write_text(sound)
    for number, other in ((3, "launch-2"), (2, "")):
        logs = kept / "small" / f"launch-{number}" / "logs"
        shutil.copytree(kept / "small" / other / "logs", logs, dirs_exist_ok=True)
        told = failure_of(thrice.run("-k", "small and lossy"), "test_lossy[small]")
        assert f"launch {number} of run_0001_p512_g128_k0.28_b8_lr3.0 is launch {number - 1} to the last digit" in told

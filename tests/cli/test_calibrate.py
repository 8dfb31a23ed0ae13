"""A bench against itself: what is recorded, and what the gate makes of it before it spends time."""

import json
import os
import sys
from pathlib import Path

import pytest

from pytest_h2o.cli.main import main
from pytest_h2o.errors import StoreError
from pytest_h2o.files import plain
from pytest_h2o.gate.decode import Budget, Noise
from pytest_h2o.run.pairs import flag_target
from tests.plugin import warm
from tests.plugin.project import BASE_CONFIG, QUICK, ROOT
from tests.quick_bench import launch_here


def test_a_target_below_the_floor_is_flagged(tmp_path: Path) -> None:
    path = tmp_path / "noise.json"
    assert flag_target(path, Budget(), 0.08) == ()
    path.write_text(json.dumps(plain(Noise(0.12, 0.17, 0.0, 20))))
    (text,) = flag_target(path, Budget(), 0.08)
    assert text.startswith("the decode target of 8.0% is below the noise floor of this machine, ")
    assert text.endswith(
        "with 20 pairs (a launch spreads by 12.0%): expect an inconclusive verdict; more pairs lower the floor"
    )
    assert flag_target(path, Budget(pairs=50), 0.08) == ()
    assert flag_target(path, Budget(), 0.3) == ()
    assert flag_target(path, Budget(), None) == ()


SPREADS = '{{"version": 1, "launch_spread": {}, "pair_spread": {}, "drop": 0.0, "pairs": 8}}'


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"version": 2}', '{"version": 1, "launch_spread": "x"}']
    + [SPREADS.format(*spreads) for spreads in (("-0.1", "0.1"), ("0.1", "NaN"), ("Infinity", "0.1"), ("0.1", '"x"'))],
)
def test_a_damaged_calibration_is_said_and_not_used(text: str, tmp_path: Path) -> None:
    path = tmp_path / "noise.json"
    path.write_text(text)
    with pytest.raises(StoreError, match="a calibration"):
        Noise.from_json(path)
    (line,) = flag_target(path, Budget(), 0.05)
    assert line.startswith(f"the calibration {path} is not used: ")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    launch_here(monkeypatch)
    path = tmp_path / "bench.sh"
    path.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{ROOT}/tests/fake_llm_bench.py' \"$@\"\n")
    path.chmod(0o755)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FAKE_RECORDINGS", str(ROOT / "fixtures" / "recordings" / "smollm2-135m" / "target_ratio_v3"))
    monkeypatch.setenv("FAKE_LAUNCHES", str(tmp_path / "launches.txt"))
    monkeypatch.setenv("FAKE_DECODE", "base=60,drop=0.4,spread=0.12,seed=4")
    return path


def test_the_command_records_and_the_gate_flags(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["calibrate", "--llm-bench", str(bench), "--base-config", str(BASE_CONFIG), "--pairs=6", "--threads=2"]
    # A plan of 80 pairs takes seconds; floors are those of gate/test_decode.py.
    monkeypatch.setattr(Noise, "floor", lambda noise, pairs: noise.pair_spread / pairs)
    with monkeypatch.context() as busy:
        told = "others used 1.0 of {} cores"
        busy.setattr("pytest_h2o.bench.launch.find_disturbance", lambda *_, cores: told.format(cores))
        assert main(command) == 0
    assert "12 of 12 launches were disturbed (first: others used 1.0 of " in capsys.readouterr().out
    assert main(command) == 0  # its own file in the cache is replaced
    text = capsys.readouterr().out
    (path,) = (tmp_path / "cache" / "pytest-h2o" / "noise").iterdir()
    assert f"written to {path}" in text
    assert "smallest drop that is told from none (chance 80 %):" in text
    assert "[6/6] " in text
    value = json.loads(path.read_text())
    assert (value["pairs"], len(value["launched"]), value["prompt"], value["threads"]) == (6, 6, 512, 2)
    assert 0.05 < value["launch_spread"] < 0.3

    preset = tmp_path / "project" / "presets" / "small.yaml"
    preset.parent.mkdir(parents=True)
    preset.write_text("prompts: 512\ngens: 128\nh2o_block_tokens: 8\nh2o_keep_ratios: 0.28\n")
    gate = preset.parents[1] / "test_gate.py"
    gate.write_text("def test_decode(h2o_sweep, h2o_targets): assert h2o_sweep and h2o_targets\n")
    options = ["--h2o-bench", str(bench), "--h2o-base-config", str(BASE_CONFIG), "--h2o-threads", "2"]
    result = warm.Run(["--collect-only", *QUICK, *options], cwd=gate.parent, env=dict(os.environ)).finish(60)
    assert result.ret == 0
    assert "h2o: small: the decode target of 5.0% is below the noise floor of this machine, " in result.stdout.str()


def test_bad_input_is_told(bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--llm-bench", str(bench), "--base-config", str(BASE_CONFIG)]
    assert main(["calibrate", *flags, "--pairs", "5"]) == 2
    assert "--pairs is out of range\n  came: 5\n  expected: 6 to 200" in capsys.readouterr().err
    (tmp_path / "there.json").write_text("{}")
    assert main(["calibrate", *flags, "--out", str(tmp_path / "there.json")]) == 2
    assert "a file that exists would be overwritten" in capsys.readouterr().err
    assert not (tmp_path / "launches.txt").exists()

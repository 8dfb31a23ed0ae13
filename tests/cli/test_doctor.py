"""The doctor: every line ok on a sound setup, and for each line a fault that it tells, with the next step.

docs/first-gate.md shows its command.
"""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_h2o.cli import doctor
from pytest_h2o.cli.main import main
from pytest_h2o.reference.__main__ import main as reference
from tests.quick_bench import launch_here

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "reference"))
from synthetic_model import write_gguf  # noqa: E402

CRASHES = "#!/bin/sh\nkill -SEGV $$\n"


def run_bench(fault: str) -> int:
    """The reference bench with a fault."""
    argv = sys.argv[1:]
    log, config = Path(argv[argv.index("-fp") + 1]), Path(argv[argv.index("-m") + 1])
    argv[argv.index("-a") + 1] = "cpu"  # as llm_bench does with a backend that it was not built with
    if fault == "old" and "-j" in argv:
        print("error: invalid parameter for argument: -j")
        return 255
    keys = json.loads(config.read_text())
    changed = {
        "no_store": {"kv_lossless_runtime_mode": "probe"} if keys.get("kv_lossless_runtime_mode") == "store" else {},
        "idle": {"kv_h2o_enable": False},
    }
    if changed.get(fault):
        argv[argv.index("-m") + 1] = str(config.with_name("changed.json"))
        config.with_name("changed.json").write_text(json.dumps({**keys, **changed[fault]}))
    if fault == "signs" and keys.get("kv_h2o_enable"):
        print("[H2O-LOSSLESS] scatter restore failed: layer=1")
    code = reference(argv)
    if fault == "old":
        rows = [line.strip("|").split("|") for line in log.read_text().splitlines()]
        kept = [n for n, name in enumerate(rows[0]) if not re.search("queue|backpressure|async|cache", name)]
        log.write_text("".join("|" + "|".join(row[n] for n in kept) + "|\n" for row in rows))
        speed = {"off_0": "10.00", "off_1": "20.00", "off_2": "30.00"}.get(log.stem, "20.00")
        log.write_text(re.sub(r"<br>[0-9.]+ ", f"<br>{speed} ", log.read_text()))
    return code


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bench of one's own that crashes, and a tiny model, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "WATCHED_S", 0.01)
    monkeypatch.setattr("pytest_h2o.bench.machine.find_disturbance", lambda *_, **__: None)
    monkeypatch.setattr(doctor, "LOUD", 1.0)
    write_gguf(tmp_path / "llm.mnn")
    (tmp_path / "llm.mnn.weight").write_bytes(b"weights")
    (tmp_path / "config.json").write_text(json.dumps({"llm_model": "llm.mnn", "layer_nums": 4}))
    (tmp_path / "llm_bench").write_text(CRASHES)
    (tmp_path / "llm_bench").chmod(0o755)
    return tmp_path


@pytest.fixture
def sound(setup: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same with a bench that is sound, and runs in this process."""
    launch_here(monkeypatch, bench=lambda: run_bench(""))
    return setup


def examine(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code, and what was said, in one line with single blanks."""
    code = main(["doctor", "--llm-bench", "llm_bench", "--base-config", "config.json", "--threads", "1", *arguments])
    return code, " ".join(capsys.readouterr().out.split())


def test_a_sound_setup_is_ok_line_by_line(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = examine(capsys, "--dump-dir", str(ROOT / "fixtures" / "dumps" / "fp16.zip"))
    assert code == 0
    for line in (
        "ok versions pytest-h2o 0.1.0, pytest ",
        f"GiB free at {sound}",
        "ok machine quiet for 0.01 s; ",
        "ok dump 1,080 entries of 3 runs, layers 0, 1, 2, 15, 29",
        "ok weights llm_model ",
        "ok layer_nums 4",
        "ok bench runs: llm, ",
        "tok/s in 3 launches, spread ",
        "ok columns 19 of 19 H2O columns",
        "ok modes sound in probe, full, store",
        "ok backends cpu; not opencl, metal",
        "doctor: 0 wrong, 0 to be warned of, 12 ok",
    ):
        assert line in said


@pytest.mark.parametrize(
    ("fault", "code", "lines"),
    [
        ("crash", 1, ["wrong bench the bench was ended by SIGSEGV"]),
        (
            "old",  # and loud
            0,
            [
                "it takes no -j, so figures are those of its table",
                "warning noise decode 10.0 to 30.0 tok/s in 3 launches, spread 50.0% next: `pytest-h2o calibrate`",
                "warning columns 13 of 19 H2O columns; not h2o_lossless_queue_peak, ",
                "warning mode store an older binary: it has no columns of the lossless runtime mode store",
                "ok modes sound in probe",
            ],
        ),
        (
            "no_store",
            0,
            ["warning mode store lossless coding in store mode restored nothing", "ok modes sound in probe, full"],
        ),
        ("signs", 1, ["wrong mode probe the bench printed signs of a broken cache"]),
        ("idle", 1, ["wrong mode probe H2O is on but did nothing"]),
    ],
)
def test_a_fault_of_the_bench(
    fault: str,
    code: int,
    lines: list[str],
    setup: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if fault != "crash":
        launch_here(monkeypatch, bench=lambda: run_bench(fault))
    monkeypatch.setattr(doctor, "LOUD", 0.15 if fault == "old" else 1.0)
    found, said = examine(capsys)
    assert found == code
    for line in lines:
        assert line in said


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"llm_model": "gone.mnn"}, "wrong weights not there: PLACE/gone.mnn next: correct base_dir"),
        ({"llm_model": "llm.mnn.weight"}, "wrong layer_nums missing, and the model does not say how many layers"),
        ("{", "wrong config "),
        ({"llm_config": "c.json"}, "warning layer_nums missing; the model says 4, which runs are given next: "),
        (
            {"llm_model": "", "llm_weight": "", "reference_model_package": "some-model"},
            "warning weights none beside the config: those of the package some-model next: ",
        ),
    ],
)
def test_a_fault_of_the_config(config: Any, line: str, setup: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (setup / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    (setup / "c.json").write_text('{"num_hidden_layers": 4}')
    found, said = examine(capsys)
    assert (found, line.replace("PLACE", str(setup)) in said) == (1, True), said


def test_a_bench_that_is_not_there(setup: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The config beside it is examined all the same."""
    for name in ("llm_bench", "config.json"):
        (setup / name).unlink()
    code, said = examine(capsys)
    assert code == 1
    assert re.search(
        r"wrong bench the bench is not there: \S*llm_bench: .* next: what is expected: the llm_bench", said
    )
    assert re.search(r"wrong config .*config.json.* next: ", said)


def test_launches_that_would_take_too_long_are_left_out(
    sound: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "BUDGET_S", 0.0)
    code, said = examine(capsys)
    assert code == 0
    assert "warning noise not told by one launch next: `pytest-h2o calibrate`" in said
    assert "ok modes sound in probe ok backends cpu warning left out launch 2 of 3 for the noise, launch 3 of 3" in said
    assert "mode full, mode store, backend opencl, backend metal: a launch takes" in said


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("zeros", "wrong dump says nothing about a codec: run ..., layer 1, K: all "),
        ("cut", "wrong dump 1 entries cannot be read, first "),
        ("none", "wrong dump "),
    ],
)
def test_a_fault_of_the_dump(
    fault: str, line: str, setup: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_bench", lambda _: iter(()))
    dump = Path(shutil.copytree(ROOT / "fixtures" / "dumps" / "small", setup / "dump"))
    if fault == "none":
        shutil.rmtree(dump)
    if fault == "cut":
        next(dump.rglob("meta_*.json")).write_text("{")
    for path in dump.rglob("k_*.bin") if fault == "zeros" else ():
        np.zeros(path.stat().st_size, np.uint8).tofile(path)
    code, said = examine(capsys, "--dump-dir", "dump")
    assert (code, line.partition("...")[0] in said, line.rpartition("...")[2] in said) == (1, True, True), said


@pytest.mark.parametrize(("free", "state", "code"), [(50, "wrong", 1), (500, "warning", 0), (2000, "ok", 0)])
def test_room_on_the_disk_and_a_machine_that_is_not_quiet(
    free: int, state: str, code: int, setup: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(setup)._replace(free=free << 20)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr("pytest_h2o.bench.machine.find_disturbance", lambda *_, **__: "others used 1.5 of 2 cores")
    monkeypatch.setattr(doctor, "_bench", lambda _: iter(()))
    found, said = examine(capsys)
    assert (found, f"{state} run folder" in said, f"{state} scratch" in said) == (code, True, True)
    assert "warning machine others used 1.5 of 2 cores next: time when it is quiet" in said

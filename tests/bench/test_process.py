"""One child process: ends, limits, what it leaves behind. Children here are small scripts of this interpreter."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.bench.process import ChildResult, read_tail, run_child, signal_name
from pytest_h2o.errors import BenchError
from tests.plugin.broken_off import check_gone, wait_until

GRANDCHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); "
                          "print('up', flush=True); time.sleep(60)"], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
"""


def run_script(script: str, folder: Path, *, timeout_s: float = 20.0, grace_s: float = 5.0) -> ChildResult:
    return run_child(
        [sys.executable, "-c", script], stdout_path=folder / "out.txt", timeout_s=timeout_s, grace_s=grace_s
    )


@pytest.mark.parametrize(
    ("script", "end"),
    [
        ("import sys; print('to stdout', flush=True); print('to stderr', file=sys.stderr)", (0, None)),
        ("raise SystemExit(3)", (3, None)),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", (-signal.SIGSEGV, "SIGSEGV")),
    ],
)
def test_a_child_that_ends_by_itself(tmp_path: Path, script: str, end: tuple[int, str | None]) -> None:
    result = run_script(script, tmp_path)
    assert (result.returncode, result.signal_name, result.timed_out) == (*end, False)
    assert 0 < result.elapsed_s < 20
    assert end != (0, None) or result.stdout_path.read_text() == "to stdout\nto stderr\n"


@pytest.mark.parametrize(
    ("on_term", "end", "shortest_s"),
    [
        ("signal.SIG_DFL", (-signal.SIGTERM, "SIGTERM"), 0.7),
        ("signal.SIG_IGN", (-signal.SIGKILL, "SIGKILL"), 1.0),
        ("lambda *_: sys.exit(0)", (0, None), 0.7),
    ],
)
def test_a_child_that_hangs_gets_term_and_then_kill(
    tmp_path: Path, on_term: str, end: tuple[int, str | None], shortest_s: float
) -> None:
    script = f"import signal, sys, time; signal.signal(15, {on_term}); print('up', flush=True); time.sleep(60)"
    result = run_script(script, tmp_path, timeout_s=0.7, grace_s=0.3 if end[1] == "SIGKILL" else 5)
    assert (result.timed_out, result.returncode, result.signal_name) == (True, *end)
    assert shortest_s <= result.elapsed_s < 5
    assert result.stdout_path.read_text() == "up\n"


@pytest.mark.parametrize(("more", "timed_out"), [("", False), ("time.sleep(60)", True)])
def test_a_grandchild_survives_neither_a_normal_exit_nor_a_timeout(tmp_path: Path, more: str, timed_out: bool) -> None:
    result = run_script(GRANDCHILD + more, tmp_path, timeout_s=1.0 if timed_out else 20.0, grace_s=0.2)
    assert result.timed_out is timed_out
    check_gone([int(result.stdout_path.read_text())])


def test_exception_kills_the_group_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(pause_s: float) -> None:
        if (tmp_path / "out.txt").read_text():
            raise KeyboardInterrupt

    monkeypatch.setattr("pytest_h2o.bench.process.time.sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_script(GRANDCHILD + "time.sleep(60)", tmp_path)
    monkeypatch.undo()
    check_gone([int((tmp_path / "out.txt").read_text())])


def test_our_death_by_kill_kills_the_group(tmp_path: Path) -> None:
    outer = (
        "import sys; from pathlib import Path; from pytest_h2o.bench.process import run_child\n"
        f"run_child([sys.executable, '-c', {GRANDCHILD + 'time.sleep(60)'!r}],"
        f" stdout_path=Path({str(tmp_path / 'out.txt')!r}), timeout_s=60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", outer], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    out = tmp_path / "out.txt"
    wait_until(lambda: out.exists() and out.read_text().endswith("\n"), "the child never came up")
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert len(family) == 3  # the guard, the child, the grandchild
    check_gone(family)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="the environment of a process cannot be seen")
@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "raise KeyboardInterrupt"])
def test_our_end_while_the_bench_is_being_started_kills_it(tmp_path: Path, end: str) -> None:
    outer = f"""
import os, sys
from pathlib import Path
from pytest_h2o.bench import process
start = process._start
def start_and_end(*given):
    Path("pid").write_text(str(start(*given).pid))
    {end}
process._start = start_and_end
process.run_child([sys.executable, "-c", "import time; time.sleep(60)"], stdout_path=Path("out.txt"), timeout_s=60)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", outer], env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL, check=False)
    check_gone([int((tmp_path / "pid").read_text())])


def test_chatty_child_costs_no_memory(tmp_path: Path) -> None:
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = run_script("import sys\nfor _ in range(32): sys.stdout.write('x' * 2**20)", tmp_path)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    assert result.stdout_path.stat().st_size == 32 * 2**20
    assert grown_kib < 16 * 1024


def test_environment(tmp_path: Path) -> None:
    script = "import os; print(os.environ['WHO'], os.environ['MNN_KV_DUMP_DIR'])"
    run_child([sys.executable, "-c", script], stdout_path=tmp_path / "out.txt", timeout_s=20, environment={"WHO": "me"})
    assert (tmp_path / "out.txt").read_text() == "me off\n"


@pytest.mark.parametrize(
    ("data", "mode"),
    [
        (None, 0),
        (b"#!/bin/sh\n", 0o644),
        (b"\x00\x01 no program", 0o755),
        (b"#!/no/such/interpreter\n", 0o755),
        ("a folder", 0),
    ],
)
def test_a_program_that_cannot_be_started(
    tmp_path: Path, data: bytes | str | None, mode: int, snapshot: SnapshotAssertion
) -> None:
    program = tmp_path / "llm_bench"
    if isinstance(data, bytes):
        program.write_bytes(data)
        program.chmod(mode)
    elif data is not None:
        program.mkdir()
    with pytest.raises(BenchError) as caught:
        run_child([str(program), "-m", "x"], stdout_path=tmp_path / "out.txt", timeout_s=5)
    assert caught.value.argv == (str(program), "-m", "x")
    assert not (tmp_path / "out.txt").exists()
    assert str(caught.value).replace(str(tmp_path), "") == snapshot


def test_output_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out.txt").write_text("precious")
    with pytest.raises(BenchError, match="the output of a run would overwrite a file"):
        run_script("print(1)", tmp_path)
    assert (tmp_path / "out.txt").read_text() == "precious"


@pytest.mark.parametrize(
    ("data", "tail"),
    [
        (
            b"first line\n" * 1000 + b"\x1b[31mred\x07 \xff\xe2\x80\xae\n<last>\n",
            "first line\nfirst line\n\\x1b[31mred\\x07 \ufffd\\u202e\n<last>",
        ),
        ("é".encode() * 5000, "\ufffd" + "é" * 24),
        (b"", ""),
    ],
)
def test_a_tail_is_short_and_harmless(tmp_path: Path, data: bytes, tail: str) -> None:
    (tmp_path / "out.txt").write_bytes(data)
    assert read_tail(tmp_path / "out.txt", max_bytes=50 if b"\n" in data else 49) == tail
    assert read_tail(tmp_path / "missing") == ""


def test_a_signal_without_a_name_has_its_number() -> None:
    assert [signal_name(code) for code in (0, 139, -11, -99)] == [None, None, "SIGSEGV", "signal 99"]

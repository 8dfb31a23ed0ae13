"""Launches on another machine: over a real sshd on loopback, over a fake adb, and over links with a fault."""

import getpass
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.bench.machine import Place, find_disturbance, machine_lock
from pytest_h2o.errors import BenchError
from tests.plugin.broken_off import check_gone, wait_until
from tests.plugin.project import BASE_CONFIG, FAKES, SWEEP, Project, code_of, unwrapped

PRESET = "target_ratio_v3"
POINTS = ("--h2o-set=h2o_keep_ratios=0.28", "--h2o-set=h2o_block_tokens=8")
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")


@dataclass(frozen=True)
class Far:
    """A machine behind a launcher, and the folder there that takes what is copied."""

    launcher: str
    home: Path

    def cut(self) -> None:
        """End every connection."""
        subprocess.run([*self.launcher.split(), "-O", "exit"], capture_output=True, check=False)


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    """This machine by ssh, with keys, a port and a home of the test's own."""
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("there is no sshd (openssh-server)")
    folder = tmp_path_factory.mktemp("ssh")
    for name in ("host", "own"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    port = 20000 + hash(folder) % 20000
    homes = (f"{name}={folder}" for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME"))
    told = {"ListenAddress": f"127.0.0.1:{port}", "HostKey": folder / "host", "PidFile": "none", "StrictModes": "no"}
    told |= {"AuthorizedKeysFile": folder / "own.pub", "SetEnv": " ".join(homes)}
    (folder / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in told.items()))
    asked = {"HostName": "127.0.0.1", "Port": port, "User": getpass.getuser(), "IdentityFile": folder / "own"}
    asked |= {"BatchMode": "yes", "StrictHostKeyChecking": "no", "UserKnownHostsFile": "/dev/null"}
    asked |= {"LogLevel": "ERROR", "ControlMaster": "auto", "ControlPath": "/tmp/h2o-%C", "ControlPersist": 60}
    (folder / "config").write_text("Host far\n" + "".join(f"{key} {value}\n" for key, value in asked.items()))
    Path("/run/sshd").mkdir(exist_ok=True)
    far = Far(f"ssh -F {folder / 'config'} far", folder / "pytest-h2o")
    with subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=subprocess.PIPE) as server:
        server.stderr.readline()  # it listens
        yield far
        far.cut()
        server.terminate()


def write_program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def make_bench(project: Project, **env: str) -> tuple[str, ...]:
    """The fake bench and llm_demo, which need nothing of the environment; the options for the bench."""
    project.make_bench()
    project.write_ini(h2o_threads="2", h2o_set="model_layers=30", h2o_disturbed="keep", h2o_html="no")
    env = {"FAKE_RECORDINGS": str(SWEEP), "FAKE_LAUNCHES": str(project.path / "launches.txt"), **env}
    exports = "\n".join(f"export {name}='{value}'" for name, value in env.items())
    for name, fake in FAKES.items():
        write_program(project.path / name, f'{exports}\nexec {sys.executable} -ISc "{code_of(fake)}" "$@"')
    return ("--h2o-bench=llm_bench", "--h2o-base-config=model.json", *POINTS)


def artifacts(folder: Path, far: Far | None) -> dict[str, object]:
    """What the launches of a run left, by file, without timings and without what tells where it ran."""
    kept: dict[str, object] = {}
    for path in sorted(p for p in (folder / PRESET).rglob("*") if p.is_file()):
        text = path.read_text()
        kept[str(path.relative_to(folder))] = text
        if path.name == "manifest.json":
            entries = json.loads(text)
            places = {(e.pop("launcher", None), e.pop("machine", "").rpartition(" behind ")[2]) for e in entries}
            assert places == {(far.launcher, far.launcher) if far else (None, "")}
            kept[path.name] = entries
            del kept[str(path.relative_to(folder))]
        elif path.parent.name == "configs":
            kept[str(path.relative_to(folder))] = {**json.loads(text), "base_dir": ""}
        elif path.name == "pairs.json":  # who is first is drawn
            sides = [(pair["baseline"], pair["candidate"]) for pair in json.loads(text)["pairs"]]
            kept[str(path.relative_to(folder))] = [[s["decode_tok_per_s"] for s in pair] for pair in sides]
    return kept


def test_a_gate_over_ssh_leaves_what_a_local_one_leaves(far: Far, tmp_path: Path) -> None:
    found = []
    for place in (None, far):
        (tmp_path / str(bool(place))).mkdir()
        project = Project(tmp_path / str(bool(place)))
        options = make_bench(project, FAKE_DECODE="base=60,drop=0.02")
        (project.path / "llm.mnn").write_text("weights")
        selected = ("-k", f"{PRESET} and (lossy or decode) and not demo", "--h2o-decode-budget=20,0.01s")
        launcher = [f"--h2o-launcher={place.launcher}"] if place else []
        result = project.run(*options, *selected, *launcher, timeout_s=600)
        found.append((result.ret, project.failed(), artifacts(project.run_dir(), place)))
        if place is not None:
            head = unwrapped(result)
            assert "h2o: machine Linux " in head
            assert f"cores, behind {place.launcher}" in head
            configs = [json.loads(p.read_text()) for p in project.run_dir().glob(f"{PRESET}/configs/*.json")]
            assert {(Path(c["base_dir"]) / c["llm_model"]).read_text() for c in configs} == {"weights"}
            assert all(Path(c["base_dir"]).is_relative_to(place.home / "files") for c in configs)
            figures = json.loads((project.run_dir() / "figures.json").read_text())
            assert f"behind {place.launcher}" in json.dumps(figures)
    assert found[1] == found[0]
    assert len(found[0][2]) > 3 * 4 + 2


@pytest.fixture
def adb(tmp_path: Path) -> Far:
    """A phone with files below /device. Its adb joins words by blanks, and never tells the exit code."""
    root = tmp_path / "device"
    (root / "home").mkdir(parents=True)
    shell = f"""[ "$1" = shell ] || exit 1
shift
export HOME={root}/home
sh -c "$(printf '%s' "$*" | sed 's#/device/#{root}/#g')"
exit 0"""
    return Far(f"{write_program(tmp_path / 'adb', shell)} shell", root / "home" / ".cache" / "pytest-h2o")


def test_a_gate_over_adb_of_a_model_and_bench_that_are_there(
    adb: Far, project: Project, engine_recordings: Path
) -> None:
    make_bench(project, FAKE_DUMP=str(engine_recordings / "dump" / "kv.zip"))
    device = adb.home.parents[2]
    shutil.move(project.path / "llm_bench", device / "llm_bench")
    (device / "model").mkdir()
    (device / "model" / "llm.mnn").write_text("weights")
    base = {**json.loads(BASE_CONFIG.read_text()), "base_dir": "/device/model"}
    (project.path / "model.json").write_text(json.dumps(base))
    options = (
        *("--h2o-bench=/device/llm_bench", "--h2o-base-config=model.json", "--h2o-demo=llm_demo", *POINTS),
        *("-k", f"{PRESET} and (consistency or demo or lossy)", "--h2o-demo-rounds=1", "--h2o-decode-baseline=none"),
        *(f"--h2o-set=launcher={adb.launcher}", "--h2o-set=kv_lossless_block_tokens=64", "-rs"),
    )
    child = project.start(*options)
    wait_until(lambda: len(project.launches()) > 1, "nothing is launched")
    child.send_signal(signal.SIGKILL)
    child.finish()
    resume = f"--h2o-resume={project.run_dir()}"
    (device / "model" / "llm.mnn").write_text("others")
    assert f"weights of preset {PRESET}: " in unwrapped(project.run(*options, resume))
    (device / "model" / "llm.mnn").write_text("weights")
    result = project.run(*options, resume, timeout_s=600)
    assert result.ret == 0, unwrapped(result)
    preset = project.summary()["presets"][PRESET]
    assert any(note.startswith("3 samples: runtime 117,911") for note in preset["notes"])
    demo = project.run_dir() / PRESET / "demo"
    assert len(list(demo.glob("*.metrics.jsonl"))) == 6
    assert {json.loads(p.read_text())["base_dir"] for p in demo.glob("*_h2o_on.json")} == {"/device/model/"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--h2o-bench=reference",), "the embedded bench runs here alone, and a launcher is given"),
        (("--h2o-bench=llm_bench", "--h2o-dry-run"), "a dry run writes the commands of this machine, and a launcher"),
        (("--h2o-bench=/no/bench",), "a program is neither here nor on the machine behind the launcher"),
        (("--h2o-bench=llm_bench", "--h2o-launcher= "), "--h2o-launcher is no command"),
        (("--h2o-bench=llm_bench", "--h2o-launcher=no-such-program"), "the launcher cannot be started"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_runs(
    options: tuple[str, ...], says: str, adb: Far, project: Project
) -> None:
    make_bench(project)
    launcher = f"--h2o-launcher={adb.launcher}"
    result = project.run(launcher, *options, "--h2o-base-config=model.json", "-k", f"{PRESET} and lossy")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert says in unwrapped(result)
    assert not project.launches()


WORKS = 'exec sh -c "$1"'
LINKS = {
    "no route": "echo ssh: connect to host phone port 22: No route to host >&2; exit 255",
    "a terminal": 'sh -c "$1" | sed "s/$/\\r/"',
    "no tools": 'PATH="${0%/*}/bin"; exec sh -c "$1"',
    "cut before its mark": f"""
case "$1" in *"setsid env"*) sh -c "$1" | sed '/ end [0-9]/,$d'; exit 255; esac
{WORKS}""",
    "cut while results came": f"""
case "$1" in *"tar cf"*) sh -c "$1" | head -c 1000; exit 255; esac
{WORKS}""",
    "no room": f"""
case "$1" in *"tar xf - -C"*) PATH="${{0%/*}}/full:$PATH"; esac
{WORKS}""",
}


def run(place: Place, program: Path, folder: Path, timeout_s: float = 60) -> str:
    """Launch a program that writes a file and is told about it: what came back."""
    written, output = folder / "run" / "written", folder / "run" / "output"
    argv = [str(program), str(place.mirror(written))]
    child, before, after = place.run_alone(argv, brings=[written], stdout_path=output, timeout_s=timeout_s)
    assert (child.signal_name, child.timed_out) == ("SIGTERM", False)
    assert before.clock_s <= after.clock_s
    assert after.busy_s
    return output.read_text() + written.read_text()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return write_program(tmp_path / "program", "printf 'said '; printf written >$1; kill -15 $$")


@pytest.mark.parametrize("name", LINKS)
def test_a_broken_link_is_told_and_nothing_of_the_launch_is_used(
    name: str, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    link = write_program(tmp_path / "link", LINKS[name])
    (tmp_path / "bin").mkdir()
    (tmp_path / "full").mkdir()
    write_program(tmp_path / "full" / "tar", "echo tar: program: No space left on device >&2; exit 2")
    for tool in ("sh", "cat", "grep", "id", "mkdir", "uname", "nproc"):
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    with pytest.raises(BenchError) as caught:
        run(Place(str(link)), program, tmp_path)
    assert str(caught.value).replace(str(tmp_path), "…") == snapshot
    assert not (tmp_path / "run" / "written").exists()
    assert run(Place(str(write_program(link, WORKS))), program, tmp_path / "again") == "said written"


@pytest.fixture
def stubborn(tmp_path: Path) -> tuple[Path, Path]:
    """A program that does not end when it is asked to, and the file to which it writes its id."""
    pid = tmp_path / "pid"
    return write_program(tmp_path / "program", f"trap '' TERM HUP; echo $$ >{pid}; sleep 600 & wait"), pid


def test_what_was_launched_there_ends_with_its_connection(
    far: Far, stubborn: tuple[Path, Path], tmp_path: Path
) -> None:
    program, pid = stubborn

    def cut() -> None:
        wait_until(lambda: pid.exists() and bool(pid.read_text()), "it does not start")
        far.cut()

    threading.Thread(target=cut).start()
    with pytest.raises(BenchError, match="the connection behind the launcher was lost during a launch"):
        Place(far.launcher).run_alone([str(program)], stdout_path=tmp_path / "output", timeout_s=60)
    check_gone([int(pid.read_text())])


def test_what_was_launched_there_ends_at_its_time_limit(
    stubborn: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    program, pid = stubborn
    link = write_program(tmp_path / "link", WORKS)
    child, *_ = Place(str(link)).run_alone([str(program)], stdout_path=tmp_path / "output", timeout_s=0.5)
    assert child.timed_out
    check_gone([int(pid.read_text())])


def test_a_timed_run_there_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    place, waited, inside = Place(str(write_program(tmp_path / "link", WORKS))), threading.Event(), threading.Event()

    def timed() -> None:
        with place.lock(lambda _: waited.set()):
            inside.set()

    with machine_lock():
        thread = threading.Thread(target=timed)
        thread.start()
        assert waited.wait(30)
        assert not inside.is_set()
    assert inside.wait(30)
    thread.join()


def test_load_there_is_a_disturbance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counters are those that the link tells: here a second processor second of others for each of the clock."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    heat = "/sys/class/thermal/thermal_zone0/temp:81000"
    counters = f"""case "$3" in *cpufreq*) ;; *) exec /bin/grep "$@"; esac
read -r up idle </proc/uptime
echo "/proc/uptime:$up $idle"; echo "/proc/stat:cpu  $(echo $up | tr -d .) 0 0 0 0 0 0 0 0 0"; echo {heat}"""
    (tmp_path / "bin").mkdir()
    write_program(tmp_path / "bin" / "grep", counters.replace('"$3"', '"$*"'))
    link = write_program(tmp_path / "link", f"PATH={tmp_path}/bin:$PATH\n{WORKS}")
    place = Place(str(link))
    _, before, after = place.run_alone(["/bin/sleep", "0.5"], stdout_path=tmp_path / "output", timeout_s=60)
    assert (after.hottest_c, find_disturbance(before, after, cores=1)) == (
        81.0,
        "others used 1.0 of 1 cores (up to 0.3 are taken for quiet)",
    )
    assert find_disturbance(before, after, cores=16) is None

"""Every reader of this project against bytes that nobody vouches for, for as long as it is told.

    python tools/fuzz.py [--seconds 60] [--target NAME ...] [--engine plain|atheris] [--findings DIR]

Each target of ``tests/fuzz/targets.py`` runs for that many seconds in a process of its own, whose memory and time for
one input are limited. With atheris (extra `fuzz`) inputs are chosen by what they reach in the code, else they are
mutations of the seeds. A finding is printed with its error and kept as a file in DIR; moved to
``tests/fuzz/seeds/NAME`` it is run again by every run of the suite. Exit code 1 if there is any.

The process writes each input to a file before it runs it, so that one that kills the process, or runs past its time,
is a finding too.
"""

from __future__ import annotations

import argparse
import atexit
import hashlib
import importlib.util
import mmap
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

_ROOM = 1 << 21
"""Bytes for one input in the file that survives its process."""
_MEMORY = 3 << 30
_INPUT_S = 20
_MOST_FINDINGS = 20
_BEHIND = 60


class _Kept:
    """The input that runs now, in a file that outlives the process."""

    def __init__(self, path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(_ROOM)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _ROOM)

    def put(self, data: bytes) -> None:
        self._map[8 : 8 + len(data)] = data
        self._map[:8] = len(data).to_bytes(8, "little")

    @staticmethod
    def take(path: Path) -> bytes:
        data = path.read_bytes()
        return data[8 : 8 + int.from_bytes(data[:8], "little")]


def fuzz_plain(name: str, seconds: float, work: Path, findings: Path, seed: int) -> None:
    """Mutations of the seeds, and of accepted mutations, until the time is over."""
    from tests.fuzz.mutation import mutate
    from tests.fuzz.target import check
    from tests.fuzz.targets import TARGETS

    target, source = TARGETS[name], random.Random(f"{name} {seed}")
    seeds = target.seeds()
    kept = _Kept(work / "input")
    end = time.monotonic() + seconds
    runs = taken = found = 0
    queue = list(seeds)
    while time.monotonic() < end and found < _MOST_FINDINGS:
        data = queue.pop() if queue else mutate(seeds, target.tokens, source)
        runs += 1
        kept.put(data)
        signal.setitimer(signal.ITIMER_PROF, _INPUT_S)  # processor time: a busy machine is no fault of the input
        try:
            is_taken = check(target, data, _fresh(work))
        except Exception:
            found += keep(findings, name, data, traceback.format_exc())
            continue
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        taken += is_taken
        if is_taken and len(seeds) < 2000 and source.random() < 0.2:
            seeds.append(data)  # a mutation that is still sound leads further than a broken one
    tell(name, runs, taken, found)


def tell(name: str, runs: int, taken: int, found: int) -> None:
    print(f"{name:24} {runs:9,} inputs, {taken:9,} taken, {found} findings", flush=True)


def fuzz_atheris(name: str, seconds: float, work: Path, findings: Path, seed: int) -> None:
    """Inputs that libFuzzer makes; what they reach in this package guides it."""
    import atheris

    with atheris.instrument_imports(include=["pytest_h2o"]):
        from tests.fuzz.target import check
        from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    kept = _Kept(work / "input")
    corpus = work / "corpus"
    corpus.mkdir()
    for number, data in enumerate(target.seeds()):
        (corpus / f"seed{number}").write_bytes(data)
    words = work / "words"
    words.write_text("".join(_dictionary_line(word) for word in target.tokens if len(word) < 60))
    counts = {"runs": 0, "taken": 0, "found": 0}

    def run(data: bytes) -> None:
        counts["runs"] += 1
        kept.put(data)
        try:
            counts["taken"] += check(target, data, _fresh(work))
        except Exception:
            counts["found"] += keep(findings, name, data, traceback.format_exc())
            if counts["found"] >= _MOST_FINDINGS:
                raise

    atexit.register(lambda: tell(name, **counts))  # the fuzzer ends the process itself
    limits = [f"-max_total_time={int(seconds)}", f"-timeout={_INPUT_S}", "-rss_limit_mb=0", "-max_len=65536"]
    quiet = ["-verbosity=0", "-print_final_stats=0", f"-artifact_prefix={work}/", f"-seed={seed + 1}"]
    atheris.Setup([sys.argv[0], str(corpus), *limits, *quiet, f"-dict={words}"], run)
    atheris.Fuzz()


def _dictionary_line(word: bytes) -> str:
    """A token as libFuzzer reads it."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n'


def _fresh(work: Path) -> Path:
    """The folder of one input, empty."""
    folder = work / "folder"
    if folder.exists() and any(folder.iterdir()):
        shutil.rmtree(folder)
    folder.mkdir(exist_ok=True)
    return folder


def keep(findings: Path, name: str, data: bytes, why: str) -> bool:
    """Keep one finding, unless there is one that ended at the same place; True if it is new."""
    place = "".join(line for line in why.splitlines() if line.lstrip().startswith("File "))
    label = hashlib.sha256(place.encode()).hexdigest()[:12]
    folder = findings / name
    if (folder / label).exists():
        return False
    folder.mkdir(parents=True, exist_ok=True)
    (folder / label).write_bytes(data)
    (folder / f"{label}.txt").write_text(why, encoding="utf-8", errors="backslashreplace")
    print(f"FINDING in {name}, {len(data)} bytes, {folder / label}:\n{why[-1500:]}", flush=True)
    return True


def run_child(args: argparse.Namespace) -> None:
    """One target, with limits that its process cannot get away from."""
    os.environ["PYTEST_H2O_CACHE_DIR"] = ""  # nothing that an input was is remembered
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    fuzz = fuzz_atheris if args.engine == "atheris" else fuzz_plain
    fuzz(args.child, args.seconds, args.work, args.findings, args.seed)


def run_target(name: str, args: argparse.Namespace) -> bool:
    """Fuzz one target in a process of its own; True if nothing was found."""
    before = _count(args.findings, name)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as work:
        own = [sys.executable, __file__, "--child", name, "--work", work, "--engine", args.engine]
        own += ["--seconds", str(args.seconds), "--findings", str(args.findings), "--seed", str(args.seed)]
        try:
            status = subprocess.run(own, cwd=work, check=False, timeout=args.seconds + _BEHIND).returncode
        except subprocess.TimeoutExpired:
            status = -signal.SIGKILL
        if status < 0:
            signal_name = signal.Signals(-status).name
            keep(args.findings, name, _Kept.take(Path(work) / "input"), f"the process ended by {signal_name}")
        elif status:
            keep(args.findings, name, b"", f"the process ended with status {status}")
    return _count(args.findings, name) == before


def _count(findings: Path, name: str) -> int:
    return len(list((findings / name).glob("*"))) if (findings / name).is_dir() else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = "atheris" if importlib.util.find_spec("atheris") else "plain"
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target (default: 60)")
    parser.add_argument("--target", action="append", metavar="NAME", help="only this one; may come several times")
    parser.add_argument("--engine", choices=("plain", "atheris"), default=default, help=f"(default here: {default})")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"), metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.findings = args.findings.resolve()
    if args.child:
        run_child(args)
        return
    from tests.fuzz.targets import TARGETS

    names = args.target or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        raise SystemExit(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    sound = [run_target(name, args) for name in names]
    raise SystemExit(0 if all(sound) else 1)


if __name__ == "__main__":
    main()

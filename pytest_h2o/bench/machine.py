"""Machines: the lock that keeps a timed run alone on one, what disturbed it all the same, and what it is called.

First this one, then one behind a launcher (`Place`), of which the same is asked through a shell there.

Timed runs hold it for writing, heavy codec work for reading: codecs may run beside each other and never beside a timed
run. The system releases the lock if its holder dies, by KILL even. It is the reader-writer lock of filelock, whose
locks SQLite holds on a small file. Who waits for it, for reading or writing, holds the turn, a second lock: those who
come later wait for the turn, so that a writer is not starved by readers.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import mmap
import os
import platform
import re
import secrets
import shlex
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from pytest_h2o.bench.command import (
    PATH_FIELDS,
    BaseConfig,
    digest_files,
    digest_model,
    digest_program,
    needed_libraries,
)
from pytest_h2o.bench.process import NO_DUMP, ChildResult, read_tail, run_child, signal_name
from pytest_h2o.errors import BenchError, StoreError, UsageError, can_name_file, one_line
from pytest_h2o.files import digest_file, usable_cores

Wait = Callable[[float], None]
_SLICE_S = 1.0
"""How long one attempt waits before it says so and tries again."""


@contextlib.contextmanager
def machine_lock(on_wait: Wait | None = None, *, mode: Literal["write", "read"] = "write") -> Iterator[None]:
    """Hold the lock of this machine and user for the length of the block, waiting for it as long as it takes.

    It is not reentrant: a block inside a block waits for ever, unless both read.
    """
    import sqlite3

    from filelock import FileLock, ReadWriteLock  # with asyncio: a collection of items needs neither

    folder = _lock_folder()
    refused = (OSError, ValueError, sqlite3.Error)
    path = folder / "machine.db"
    started = time.monotonic()
    try:
        # Not a singleton: two threads of one process exclude each other like two processes.
        lock = ReadWriteLock(path, is_singleton=False)
        turn, timed = (FileLock(folder / name, thread_local=False) for name in ("turn.lock", _TIMED))
    except refused as error:
        raise _no_lock(path, str(error)) from error

    def acquire(attempt: Callable[[float], object]) -> None:
        while not _acquired(attempt):
            if on_wait is not None:
                on_wait(time.monotonic() - started)

    try:
        try:
            acquire(turn.acquire)
            acquire(lock.acquire_write if mode == "write" else lock.acquire_read)
            if mode == "write":
                acquire(timed.acquire)
        except refused as error:
            raise _no_lock(path, str(error)) from error
        finally:
            turn.release()
        yield
    finally:
        timed.release()
        lock.close()


_TIMED = "timed.lock"
"""Held by a timed run for its length: flock(1) of a launch from another machine takes it as well, see `Place.lock`."""


def _acquired(attempt: Callable[[float], object]) -> bool:
    """Whether an attempt of one slice got its lock."""
    from filelock import Timeout

    try:
        attempt(_SLICE_S)
    except Timeout:
        return False
    return True


def heavy_work(on_wait: Wait | None = None) -> contextlib.AbstractContextManager[None]:
    """Hold the lock for reading: for work that loads the machine and is not timed."""
    return machine_lock(on_wait, mode="read")


def _lock_folder() -> Path:
    """Folder in the system's temporary folder that only this user can write."""
    user = os.getuid()
    try:
        path = Path(tempfile.gettempdir()) / f"pytest-h2o-{user}"
    except OSError as error:
        raise _no_lock(None, error.strerror or str(error)) from error
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise _no_lock(path, error.strerror or str(error)) from error
    # The temporary folder is everybody's: somebody else may have made this name first.
    if status.st_uid != user or path.is_symlink():
        raise _no_lock(path, f"a {'link' if path.is_symlink() else 'folder'} of user {status.st_uid}")
    return path


def _no_lock(path: Path | None, came: str) -> StoreError:
    what = "the lock that keeps timed runs apart cannot be made"
    expected = "a folder of your own in the temporary folder"
    hint = "remove what stands there, or point TMPDIR to a folder of your own"
    return StoreError(what, where=None if path is None else str(path), came=came, expected=expected, hint=hint)


OTHERS_SHARE = 0.1
"""Others may use this share of all cores, whatever the bench uses."""

OTHERS_SHARE_OF_IDLE = 0.25
"""... and this share of the cores that the bench left idle: memory bandwidth and clock are shared with them."""

SWAPPED_PAGES = 64
"""More pages than this swapped in or out during a launch are no accident."""

CLOCK_CHANGE = 0.10
"""The mean clock before and after may differ by this share of the higher one."""

SHORTEST_S = 0.2
"""The counters tick every 10 ms: of a shorter launch they say too little about load."""


class MachineState(NamedTuple):
    """Counters of the machine at one moment, since start-up; None where one cannot be read."""

    clock_s: float
    """Monotonic time."""
    busy_s: float | None
    """Processor seconds that all processes of the machine have used, all cores together."""
    own_s: float
    """Processor seconds of this process and of the children that it has reaped."""
    swapped_pages: int | None = None
    throttled: int | None = None
    """How often the cores were slowed because they were hot."""
    mean_mhz: float | None = None
    """Mean present clock of the cores."""
    hottest_c: float | None = None
    """Temperature of the hottest thermal zone, degrees Celsius."""


def find_disturbance(before: MachineState, after: MachineState, *, cores: int) -> str | None:
    """Say what disturbed a launch between two states, or None.

    Load by others is what the machine was busy with, less our own processor time, as a mean number of cores. Allowed
    are a tenth of all cores and a quarter of what the bench left idle: rules of thumb, small enough for a bench that
    uses all cores, and large enough that a mostly idle machine is not called disturbed. A busy core that clocks up is
    no disturbance; one that clocks down is.
    """
    found = []
    elapsed_s = after.clock_s - before.clock_s
    if before.busy_s is not None and after.busy_s is not None and elapsed_s >= SHORTEST_S:
        own = (after.own_s - before.own_s) / elapsed_s
        others = (after.busy_s - before.busy_s) / elapsed_s - own
        allowed = OTHERS_SHARE * cores + OTHERS_SHARE_OF_IDLE * max(0.0, cores - own)
        if others > allowed:
            found.append(f"others used {others:.1f} of {cores} cores (up to {allowed:.1f} are taken for quiet)")
    pages = _rise(before.swapped_pages, after.swapped_pages)
    if pages > SWAPPED_PAGES:
        found.append(f"{pages:,} pages were swapped")
    slowed = _rise(before.throttled, after.throttled)
    hot = "" if after.hottest_c is None else f", {after.hottest_c:.0f} °C"
    if slowed > 0:
        found.append(f"the cores were slowed {slowed} times because they were hot{hot}")
    if before.mean_mhz and after.mean_mhz and not found and 1 - after.mean_mhz / before.mean_mhz > CLOCK_CHANGE:
        found.append(f"the clock fell from {before.mean_mhz:.0f} to {after.mean_mhz:.0f} MHz{hot}")
    return "; ".join(found) or None


def _rise(before: int | None, after: int | None) -> int:
    """By how much a counter rose; 0 where it cannot be read."""
    return 0 if before is None or after is None else after - before


_COUNTERS = (
    "proc/stat",
    "proc/vmstat",
    "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count",
    "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq",
    "sys/class/thermal/thermal_zone[0-9]*/temp",
)
"""Files in which Linux tells of itself."""


def read_machine(root: Path = Path("/")) -> MachineState:
    """Read the counters of this moment; `root` is where ``proc`` and ``sys`` stand."""
    times = os.times()
    found = (path for name in _COUNTERS for path in root.glob(name))
    texts = {str(path.relative_to(root)): text for path in found if (text := _text(path)) is not None}
    own_s = times.user + times.system + times.children_user + times.children_system
    state = _state_of(texts, time.monotonic(), own_s)
    return state if "proc/stat" in texts else state._replace(busy_s=_busy_from_psutil())


def _state_of(texts: Mapping[str, str], clock_s: float, own_s: float) -> MachineState:
    """What the texts of `_COUNTERS` say, by their names."""
    throttled, clocks_khz, heats_mc = (
        [int(text) for name, text in texts.items() if name.endswith(end) and text.strip().isdecimal()]
        for end in ("/core_throttle_count", "/scaling_cur_freq", "/temp")
    )
    return MachineState(
        clock_s=clock_s,
        busy_s=_busy_s(texts.get("proc/stat", "")),
        own_s=own_s,
        swapped_pages=_swapped_pages(texts.get("proc/vmstat", "")),
        throttled=sum(throttled) if throttled else None,
        mean_mhz=sum(clocks_khz) / len(clocks_khz) / 1000 if clocks_khz else None,
        hottest_c=max(heats_mc) / 1000 if heats_mc else None,
    )


def describe_sources(state: MachineState) -> str:
    """Which signs of a disturbance can be seen on this machine, in words."""
    values = (state.busy_s, state.swapped_pages, state.throttled, state.mean_mhz)
    named = dict(zip(("load by others", "swapping", "throttling", "clock"), values, strict=True))
    seen = ", ".join(name for name, value in named.items() if value is not None) or "nothing"
    unseen = ", ".join(name for name, value in named.items() if value is None)
    return f"{seen} watched" + (f"; {unseen} cannot be read here" if unseen else "")


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None


def _busy_s(stat: str) -> float | None:
    fields = stat.split("\n", 1)[0].split()
    if fields[:1] != ["cpu"] or len(fields) < 9 or not all(field.isdecimal() for field in fields[1:9]):
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[1:9])
    # Stolen time is the load of another guest on our core: it is others' as well.
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _busy_from_psutil() -> float | None:
    try:
        import psutil
    except ImportError:
        return None
    times = psutil.cpu_times()._asdict()
    return float(sum(value for name, value in times.items() if name not in ("idle", "iowait", "guest", "guest_nice")))


def _swapped_pages(vmstat: str) -> int | None:
    counters = dict(line.split(" ", 1) for line in vmstat.splitlines() if " " in line)
    try:
        return int(counters["pswpin"]) + int(counters["pswpout"])
    except (KeyError, ValueError):
        return None


@lru_cache(maxsize=1)
def describe_machine() -> str:
    """System, processor and usable cores. No host name: a baseline is committed, and machines of a farm are alike."""
    processor = _processor(_text(Path("/proc/cpuinfo")) or "") or platform.processor()
    return _described(f"{platform.system()} {platform.machine()}", processor, usable_cores())


def _described(system: str, processor: str, cores: int) -> str:
    return f"{system}, {processor or 'processor not known'}, {cores} cores"


def _processor(cpuinfo: str) -> str:
    """What /proc/cpuinfo calls the processor; empty where it does not."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "cpu model", "Hardware"):
            return " ".join(value.split())
    return ""


# -- a machine behind a launcher -------------------------------------------------------------------------------------

_TOOLS = (
    "cat",
    "cut",
    "env",
    "flock",
    "grep",
    "id",
    "mkdir",
    "mv",
    "rm",
    "setsid",
    "sha256sum",
    "sleep",
    "tar",
    "uname",
)
"""Programs that a machine must have beside its shell."""

_PROBE = b"\xff\r\n\x00\n\x04"
"""What a terminal in between would change."""

_CALL_S = 600.0
"""Seconds that a step may take there, once it has all that is sent."""

_PROGRAM = "program"

_ASK = f"""
missing=
for tool in {" ".join(_TOOLS)}; do command -v $tool >/dev/null 2>&1 || missing="$missing $tool"; done
cache=
for place in "$XDG_CACHE_HOME" "${{HOME:+$HOME/.cache}}" /data/local/tmp; do
    [ -n "$place" ] && mkdir -p "$place/pytest-h2o" 2>/dev/null && [ -w "$place/pytest-h2o" ] || continue
    cache=$place/pytest-h2o
    break
done
locks=${{TMPDIR:-/tmp}}
[ -w "$locks" ] || locks=$cache
printf '%s\\n' "missing=$missing" "cache=$cache" "locks=$locks/pytest-h2o-$(id -u)" "system=$(uname -sm)"
printf '%s\\n' "cores=$(nproc 2>/dev/null || grep -c ^processor /proc/cpuinfo)"
printf '%s\\n' "device=$(getprop ro.product.model 2>/dev/null)"
grep -e '^model name' -e '^Model' -e '^cpu model' -e '^Hardware' /proc/cpuinfo 2>/dev/null || :
printf 'probe='
cat
"""

_STATE = f"""
grep -sH -e '^cpu ' -e '^pswp' -e '^[0-9]' /proc/uptime {" ".join(f"/{name}" for name in _COUNTERS)}
times
"""
"""Prints lines ``PATH:TEXT``, and the processor times of the shell and of those that it waited for."""

_SUMS = """sums() { (cd "$1" 2>/dev/null && for name in %s; do sha256sum <"$name" | cut -c1-64; done); }"""


class Place:
    """Another machine, reached by a launcher: a command that runs one more word there, as text for a shell.

    ``ssh HOST`` and ``adb shell`` are such. Each step is one call of it, and ends with a mark: without the mark the
    connection was lost, and the step is as if it had not been. Files from here are in a cache there by their content,
    those of a run under the path that they have here.
    """

    def __init__(self, launcher: str) -> None:
        self.launcher = tuple(shlex.split(launcher))
        self._known: dict[str, str] = {}
        self._sent: set[str] = set()
        self._wanted: dict[str, dict[str, Path]] = {}

    def __str__(self) -> str:
        return shlex.join(self.launcher)

    # -- what it is ----------------------------------------------------------------------------------------------------

    @cached_property
    def _told(self) -> dict[str, str]:
        said, _, echo = self._call(_ASK, "asking what is there", lambda stream: stream.write(_PROBE)).partition(
            b"probe="
        )
        if echo != _PROBE:
            raise self._altered(f"{echo[:20]!r}, where {_PROBE!r} was sent")
        text = said.decode("utf-8", "replace")
        told = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        if unsaid := {"missing", "cache", "locks", "system", "cores", "device"} - told.keys():
            raise self._altered(f"no word of {', '.join(sorted(unsaid))}")
        if told["missing"] or not told["cache"] or not told["cores"].isdecimal():
            came = f"no {', '.join(told['missing'].split())}" if told["missing"] else "no folder that can be written"
            expected = f"{', '.join(_TOOLS)}; /proc/cpuinfo; and ~/.cache or /data/local/tmp for files"
            raise self._error("the machine behind the launcher lacks what a launch there needs", came, expected)
        return {**told, "processor": _processor(text) or told["device"]}

    @cached_property
    def machine(self) -> str:
        """The same as `describe_machine` says of this one, and how it is reached."""
        told = self._told
        return f"{one_line(_described(told['system'], told['processor'], self.cores))}, behind {self}"

    @property
    def cores(self) -> int:
        return int(self._told["cores"])

    @cached_property
    def _root(self) -> str:
        """Where the files of runs from this machine and user lie there."""
        us = hashlib.sha256(f"{platform.node()} {os.getuid()}".encode()).hexdigest()[:8]
        return f"{self._told['cache']}/runs/{us}"

    # -- what is where there -------------------------------------------------------------------------------------------

    def mirror(self, path: Path) -> Path:
        """Where a file of a run lies there: under its path here."""
        return Path(self._root + str(path.absolute()))

    def word(self, text: str) -> str:
        """A word of a command or config as it is meant there: a file that is here, by its absolute path, is copied."""
        path = Path(text)
        is_ours = path.is_relative_to(self._told["cache"])  # that machine may be this one
        is_here = path.is_absolute() and path.is_file() and not is_ours
        return self._copy({path.name: path}) + f"/{path.name}" if is_here else text

    def program(self, path: Path) -> tuple[str, dict[str, str]]:
        """A program there and what must be set for it; one that is here is copied with the libraries that it loads."""
        if not path.is_file():
            return str(path), {}
        libraries = {Path(name).name: library for name, library in needed_libraries(path).items()}
        folder = self._copy({**libraries, path.name: path})
        return f"{folder}/{path.name}", {"LD_LIBRARY_PATH": folder} if libraries else {}

    def config(self, base: BaseConfig, config: Mapping[str, Any]) -> dict[str, Any]:
        """The config of a run as it is meant there.

        A model whose folder is here is copied, its files under the names that the config has for them. A `base_dir`
        that is not here is one there, and stays as it is.
        """
        values = {key: self.word(value) if isinstance(value, str) else value for key, value in config.items()}
        if "base_dir" not in config:
            return values
        if (folder := self._model_there(base)) is not None:
            own = {key: base.values[key] for key in PATH_FIELDS if key in base.values}
            return {**values, **own, "base_dir": f"{folder.rstrip('/')}/"}
        named = {value for value in config.values() if isinstance(value, str) and value and can_name_file(value)}
        files = {
            name: path for name in named if (path := base.base_dir / name).is_file() and not Path(name).is_absolute()
        }
        if outside := [name for name in files if name.startswith("..")]:
            raise UsageError(
                "a file of the model lies outside of its folder, and is not copied to the machine behind the launcher",
                where=str(base.path),
                came=", ".join(sorted(outside)),
                expected="files below base_dir",
                hint="put the model there, and name its folder there as base_dir",
            )
        return {**values, "base_dir": self._copy(files) + "/"}

    @staticmethod
    def _model_there(base: BaseConfig) -> str | None:
        folder = str(base.values.get("base_dir", ""))
        return folder if folder.startswith("/") and not Path(folder).is_dir() else None

    def digest_program(self, path: Path) -> str:
        """SHA-256 of a program, wherever it is; UsageError if it is neither here nor there."""
        if path.is_file():
            return digest_program(path)
        if found := self._digests({_PROGRAM: str(path)}):
            return found[_PROGRAM]
        raise UsageError(
            "a program is neither here nor on the machine behind the launcher",
            where=str(path),
            came=f"no such file that may be run, behind {self}",
            expected="a path here, of a program that is copied; or a path there",
        )

    def digest_model(self, base: BaseConfig) -> dict[str, str]:
        """As of a model here; UsageError if it is neither here nor there."""
        if (folder := self._model_there(base)) is None:
            return digest_model(base)
        names = {field: str(base.values.get(field, name)) for field, name in PATH_FIELDS.items()}
        if found := self._digests({field: f"{folder}/{name}" for field, name in names.items()}):
            return digest_model(base, found)
        raise UsageError(
            "the model is neither here nor on the machine behind the launcher",
            where=f"base_dir of {base.path}",
            came=f"{folder}: no file of a model in it, behind {self}",
            expected="a folder here, of a model that is copied; or a folder there",
        )

    def _digests(self, paths: Mapping[str, str]) -> dict[str, str]:
        """SHA-256 of the files there that there are; each is read once, so that a report needs no connection."""
        new = {name: path for name, path in paths.items() if path not in self._known}
        script = ""
        for name, path in new.items():
            file, may = shlex.quote(path), "-x" if name == _PROGRAM else "-r"
            script += (
                f"if [ -f {file} ] && [ {may} {file} ]; then printf '{name} '; sha256sum <{file} | cut -c1-64; fi\n"
            )
        said = self._call(script, "reading files").decode("ascii", "replace") if new else ""
        found = dict(line.split(" ", 1) for line in said.splitlines())
        self._known |= {path: found.get(name, "") for name, path in new.items()}
        return {name: self._known[path] for name, path in paths.items() if self._known[path]}

    # -- files to there and back ---------------------------------------------------------------------------------------

    def _copy(self, files: Mapping[str, Path]) -> str:
        """The folder there that has copies of files under these names, from the next launch on."""
        name = digest_files(files.items())[:32]
        if name not in self._sent:
            self._wanted[name] = dict(files)
        return f"{self._told['cache']}/files/{name}"

    def _send_wanted(self) -> None:
        """Copy what is not there yet with the content that it has here."""
        for folder, files in tuple(self._wanted.items()):
            sums = _SUMS % " ".join(map(shlex.quote, files))
            place, want = f"{self._told['cache']}/files", "\n".join(digest_file(path) for path in files.values())
            begin = f"{sums}\nwant={shlex.quote(want)}\nmkdir -p {place}\ncd {place}\n"
            if (
                self._call(f'{begin}[ "$(sums {folder})" = "$want" ] && printf yes || :', "looking for copies")
                != b"yes"
            ):
                self._call(
                    f"""{begin}rm -rf {folder}.$$; mkdir {folder}.$$; tar xf - -C {folder}.$$
                    [ "$(sums {folder}.$$)" = "$want" ] || {{ rm -rf {folder}.$$; echo 'a damaged copy' >&2; exit 1; }}
                    exec 9>>.lock; flock 9
                    if [ "$(sums {folder})" = "$want" ]; then rm -rf {folder}.$$
                    else rm -rf {folder}; mv {folder}.$$ {folder}; fi""",
                    f"copying {', '.join(sorted(files))}",
                    lambda stream, files=files: _pack(stream, files),  # type: ignore[misc]
                )
            self._sent.add(folder)
            del self._wanted[folder]

    def _send_run(self, sends: Sequence[Path], brings: Sequence[Path]) -> None:
        """Put files of a run where they belong there, and make room for those that it writes."""
        gone = " ".join(shlex.quote(str(self.mirror(path))) for path in brings)
        rooms = " ".join(shlex.quote(str(self.mirror(path).parent)) for path in brings)
        script = f"mkdir -p {self._root}\ncd {self._root}\nrm -rf {gone}\nmkdir -p . {rooms}\ntar xf -"
        names = {str(path.absolute()).lstrip("/"): path for path in sends}
        self._call(script, "sending the config", lambda stream: _pack(stream, names))

    def _bring(self, brings: Sequence[Path]) -> None:
        """Fetch what a run wrote, whole or not at all; there it is removed."""
        names = " ".join(shlex.quote(str(path.absolute()).lstrip("/")) for path in brings)
        body = self._call(
            f"""cd {self._root}; set --
            for name in {names}; do if [ -e "$name" ]; then set -- "$@" "$name"; fi; done
            [ $# = 0 ] && exit
            tar cf .pack.$$ "$@"; sha256sum <.pack.$$ | cut -c1-64; cat .pack.$$; rm -rf .pack.$$ "$@" """,
            "fetching results",
        )
        digest, _, data = body.partition(b"\n")
        if not body:
            return
        if hashlib.sha256(data).hexdigest().encode() != digest:
            raise self._error(
                "results came damaged from the machine behind the launcher", expected="what was sent there"
            )
        with tarfile.open(fileobj=io.BytesIO(data)) as pack:
            for member in pack:
                path = Path("/", member.name)
                asked = any(path.is_relative_to(each.absolute()) for each in brings)
                if member.isfile() and asked and ".." not in path.parts and (file := pack.extractfile(member)):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(file.read())

    # -- a launch ------------------------------------------------------------------------------------------------------

    def command(self, argv: Sequence[str]) -> tuple[str, ...]:
        """The words, launcher and all, that repeat a command there."""
        program, more = self.program(Path(argv[0]))
        set_first = ("env", *(f"{name}={value}" for name, value in more.items())) if more else ()
        return (*self.launcher, *map(shlex.quote, (*set_first, program, *map(self.word, argv[1:]))))

    def run_alone(
        self,
        argv: Sequence[str],
        on_wait: Wait | None = None,
        *,
        sends: Sequence[Path] = (),
        brings: Sequence[Path] = (),
        **how: Any,
    ) -> tuple[ChildResult, MachineState, MachineState]:
        """Run a command alone on the machine there as `run_child` does, and how it was before and after.

        `sends` are files of the run that it reads, `brings` those that it writes; so is each value of its environment
        that is a path. BenchError if the connection does not last to the end.
        """
        rows = [how["rows_path"]] if how.get("rows_path") else []
        asked = [value for value in (how.get("environment") or {}).values() if isinstance(value, Path)]
        brings = [*brings, *rows, *asked]
        shown = self.command(argv)
        try:
            self._send_wanted()
            self._send_run(sends, brings)
            with self.lock(on_wait):
                found = self.run_child(argv, **how)
            if not found[0].timed_out:
                self._bring(brings)
        except BenchError as error:
            error.argv, error.returncode = shown, 255 if error.returncode is None else error.returncode
            raise
        return found

    def ask(self, argv: Sequence[str], **how: Any) -> ChildResult:
        """Run a command there that is not timed, beside whatever else runs."""
        self._send_wanted()
        return self.run_child(argv, **how)[0]

    def run_child(
        self,
        argv: Sequence[str],
        *,
        stdout_path: Path,
        timeout_s: float,
        grace_s: float = 5.0,
        rows_path: Path | None = None,
        environment: Mapping[str, str | Path] | None = None,
        folder: Path | None = None,
    ) -> tuple[ChildResult, MachineState, MachineState]:
        """Run a command there. What it prints is streamed to here; its group there ends with the connection."""
        mark = secrets.token_hex(8)
        program, more = self.program(Path(argv[0]))
        told = {**NO_DUMP, **more, **(environment or {})}
        told = {name: str(self.mirror(value)) if isinstance(value, Path) else value for name, value in told.items()}
        words = ["setsid", "env", *(f"{name}={value}" for name, value in told.items()), program]
        command = " ".join(map(shlex.quote, [*words, *map(self.word, argv[1:])]))
        place = shlex.quote(self._root if folder is None else str(self.mirror(folder)))
        rows = "" if rows_path is None else f">{shlex.quote(str(self.mirror(rows_path)))}"
        script = f"""exec 3<&0 </dev/null
            mkdir -p {place} && cd {place} || exit
            printf '\\n{mark} begin\\n'{_STATE}printf '{mark} run\\n'
            {command} 2>&1 {rows} 3<&- &
            child=$!
            setsid sh -c 'read -r gone; kill -9 -$1' watch $child <&3 >/dev/null 2>&1 &
            watch=$!
            exec 4>&2 2>/dev/null  # the shell says of each how it ended
            wait $child; code=$?
            kill -9 $watch -$child; wait $watch
            exec 2>&4
            printf '\\n{mark} end %s\\n' $code{_STATE}printf '{mark} done\\n'"""
        with tempfile.TemporaryDirectory(prefix="pytest-h2o-launch-") as scratch:
            said, noise = Path(scratch, "said"), Path(scratch, "noise")
            child = run_child(
                (*self.launcher, _shell(script)),
                stdout_path=noise,
                rows_path=said,
                timeout_s=timeout_s,
                grace_s=grace_s,
                held=True,
            )
            before, after, code = _unpack(said, mark.encode(), stdout_path)
            came = read_tail(noise)
        shown = child._replace(argv=self.command(argv), stdout_path=stdout_path)
        if code is None and not child.timed_out:
            raise self._lost("a launch", came, child.returncode, before.clock_s > 0)
        if code is not None:
            # A shell reports a signal as 128 and its number.
            code = 128 - code if 128 < code < 160 else code
            elapsed_s = after.clock_s - before.clock_s
            shown = shown._replace(returncode=code, signal_name=signal_name(code), timed_out=False, elapsed_s=elapsed_s)
        return shown, before, after

    @contextlib.contextmanager
    def lock(self, on_wait: Wait | None = None) -> Iterator[None]:
        """Hold the lock there, over a connection of its own: it is free again when that ends, whatever ends it.

        Timed runs of other launchers and those that are started there wait for it; codec work there does not.
        """
        mark, locks, started = secrets.token_hex(8), shlex.quote(self._told["locks"]), time.monotonic()
        script = f"""umask 077; mkdir -p {locks}
            [ -O {locks} ] || {{ echo {locks} is a folder of another user >&2; exit 1; }}
            exec 9>>{locks}/{_TIMED} || exit
            until flock -n 9; do printf '{mark} wait\\n'; sleep 1; done
            printf '{mark} have\\n'
            read -r gone"""
        with tempfile.TemporaryFile() as noise:
            child = self._start(script, subprocess.PIPE, noise)
            try:
                assert child.stdout is not None
                for line in child.stdout:
                    if line.strip() == f"{mark} have".encode():
                        break
                    if line.strip() == f"{mark} wait".encode() and on_wait is not None:
                        on_wait(time.monotonic() - started)
                else:
                    raise self._lost("waiting for its turn", _tail(noise), child.wait(), True)
                yield
                if child.poll() is not None:
                    raise self._lost("a launch, and with it the lock that keeps others away", _tail(noise), 255, True)
            finally:
                _end(child)

    # -- a step --------------------------------------------------------------------------------------------------------

    def _call(self, script: str, doing: str, send: Callable[[IO[bytes]], object] | None = None) -> bytes:
        """Run a script there: what it printed, whole; BenchError if it failed or the connection was lost."""
        mark = secrets.token_hex(8)
        text = f"printf '\\n{mark} begin\\n'\n(set -e\n{script}\n)\nprintf '\\n{mark} end %s\\n' $?"
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as noise:
            child = self._start(text, out, noise)
            try:
                assert child.stdin is not None
                with contextlib.suppress(BrokenPipeError):
                    if send is not None:
                        send(child.stdin)
                    child.stdin.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(_CALL_S)
            finally:
                code = child.poll()
                _end(child)
            out.seek(0)
            said, came = out.read(), _tail(noise)
        if said.startswith(f"\r\n{mark} begin\r".encode()):
            raise self._altered("ends of lines of a terminal")
        _, begun, said = said.partition(f"\n{mark} begin\n".encode())
        body, ended, status = said.rpartition(f"\n{mark} end ".encode())
        if not (begun and ended and status.strip().isdigit()):
            raise self._lost(doing, came, code, bool(begun))
        if status.strip() != b"0":
            raise self._error(f"{doing}: this failed on the machine behind the launcher", came=came or None)
        return body

    def _start(self, script: str, stdout: int | IO[bytes], noise: IO[bytes]) -> subprocess.Popen[bytes]:
        command = (*self.launcher, _shell(script))
        try:
            # Of a session of its own: it asks no terminal for a password.
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stdout, stderr=noise, start_new_session=True)
        except (OSError, ValueError) as error:
            came, expected = getattr(error, "strerror", None) or str(error), "a program that is installed here"
            raise self._error("the launcher cannot be started", came=came, expected=expected) from error

    def _lost(self, doing: str, came: str, code: int | None, begun: bool) -> BenchError:
        ended = "it does not end" if code is None else f"it ended with exit code {code}"
        if begun:
            what, hint = (
                f"the connection behind the launcher was lost during {doing}",
                "what it had measured is not used",
            )
        else:
            what, hint = "the launcher does not reach its machine", f"try it by hand: {self} true"
        expected = "a connection that lasts until the step there has ended"
        return self._error(what, came=": ".join(filter(None, (ended, one_line(came)))), expected=expected, hint=hint)

    def _altered(self, came: str) -> BenchError:
        hint = "have it make no terminal: ssh without -t; an adb shell of Android 7 or newer"
        return self._error("the launcher changes bytes on their way", came, "bytes as they are", hint)

    def _error(
        self, what: str, came: str | None = None, expected: str | None = None, hint: str | None = None
    ) -> BenchError:
        return BenchError(what, where=str(self), came=came, expected=expected, hint=hint)


def _shell(script: str) -> str:
    """A script as one word for whatever shell is there."""
    return f"sh -c {shlex.quote(script)}"


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a call of the launcher, which ends its part there: that waits for nothing but its standard input."""
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
    try:
        child.wait(5)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _tail(noise: IO[bytes]) -> str:
    noise.seek(max(0, noise.seek(0, os.SEEK_END) - 2000))
    return noise.read().decode("utf-8", "replace").strip()


def _pack(stream: IO[bytes], files: Mapping[str, Path]) -> None:
    """Write files under their names as a tar archive that every tar reads."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = ""
        return member

    try:
        with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT, dereference=True) as pack:
            for name, path in files.items():
                pack.add(path, arcname=name, filter=plain)
    except BrokenPipeError:
        raise
    except OSError as error:
        what, came = "a file cannot be sent to the machine behind the launcher", error.strerror or str(error)
        raise UsageError(
            what, where=str(error.filename or ""), came=came, expected="a file that can be read"
        ) from error


def _unpack(said: Path, mark: bytes, output: Path) -> tuple[MachineState, MachineState, int | None]:
    """Write what a command printed to a file of its own; the machine before and after it, and its exit code.

    The exit code is None, and what it printed cut short, where the mark of its end is missing.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with said.open("rb") as file, output.open("xb") as printed:
        if not os.fstat(file.fileno()).st_size:
            return _read_state(b""), _read_state(b""), None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            begin, run = b"\n%s begin\n" % mark, b"%s run\n" % mark
            first, start = text.find(begin), text.find(run)
            if first < 0 or start < 0:
                return _read_state(b""), _read_state(b""), None
            before = _read_state(text[first + len(begin) : start])
            end = re.search(rb"\n%s end (\d+)\n(.*)%s done\n\Z" % (mark, mark), text[-_MOST_STATE:], re.DOTALL)
            length = len(text) - (len(end[0]) if end else 0)
            printed.write(text[start + len(run) : length])
            return (before, _read_state(end[2]), int(end[1])) if end else (before, _read_state(b""), None)


_MOST_STATE = 1 << 20
"""Bytes of what `_STATE` prints, at most."""


def _read_state(said: bytes) -> MachineState:
    """The machine as `_STATE` told of it; nothing of it is known, and its clock is 0, if there is nothing to read."""
    texts: dict[str, str] = {}
    own_s = 0.0
    for line in said.decode("utf-8", "replace").splitlines():
        name, colon, text = line.partition(":")
        if colon and name.startswith("/"):
            texts[name[1:]] = texts.get(name[1:], "") + text + "\n"
        for minutes, seconds in re.findall(r"(\d+)m(\d+[.,]?\d*)s", "" if colon else line):
            own_s += 60 * int(minutes) + float(seconds.replace(",", "."))
    up_s = re.match(r"\d+(\.\d+)?", texts.get("proc/uptime", ""))
    return _state_of(texts, float(up_s[0]) if up_s else 0.0, own_s)

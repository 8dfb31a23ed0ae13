"""The folder of an unfinished run: what its processes share, what they were asked, and how another run goes on with it.

A shared result is JSON under a key, made under a lock of that key by whoever asks first; everyone else waits and reads.
The store is in use from the first question on until the process ends, by KILL even: see `is_in_use`. What was measured
under one bench, config, preset, scope or dump must never be joined with what is measured under another, so what a run
is asked is written down before anything is measured, and held against what is asked when it goes on.

For the display of progress, whoever works writes ``now-PID.json``, replaced as a whole, and appends a line to
``done.jsonl`` when a step ends. Nothing of it decides anything: a file that cannot be written or read is passed over.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pytest_h2o.bench.command import PATH_FIELDS, digest_files, digest_model, digest_program
from pytest_h2o.bench.demo import find_prompts
from pytest_h2o.bench.machine import Place, describe_machine
from pytest_h2o.errors import (
    CodecError,
    H2OError,
    OptedOut,
    StoreError,
    UsageError,
    can_name_file,
    error_from_json,
    error_to_json,
)
from pytest_h2o.files import digest_file, list_files, load, make_folder, plain, write_new_json
from pytest_h2o.gate.metrics import METRICS
from pytest_h2o.inputs.options import Given, Settings

if TYPE_CHECKING:
    from pytest_h2o.bench.command import BaseConfig
    from pytest_h2o.inputs.presets import Preset
    from pytest_h2o.inputs.scope import Scope

T = TypeVar("T")

SHARED = ".results"
"""Folder in an unfinished run for what its processes share: what was measured, by key."""

PROGRESS = f"{SHARED}/progress"
"""Folder for what they are doing right now."""

JOURNAL_NAME = "journal.jsonl"

ITEMS = "items"
"""Node id of every item of the gate -> kind and name of the preset or scope that it is about, beside what is shared."""

ASKED = "asked"
"""Key of what a run was asked first."""

HEADER = "header"
"""Key of the lines for the head of a run, which a worker leaves for the controller."""

_IN_USE = "in-use.lock"


class OnceStore:
    """Results that several processes need and one of them makes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[str, dict[str, Any]] = {}
        self._is_marked = False

    def use(self) -> None:
        """Hold the mark of use as one of many until this process ends; StoreError if the folder cannot be written."""
        if not self._is_marked:
            try:
                make_folder(self._folder)
                descriptor = os.open(self._folder / _IN_USE, os.O_WRONLY | os.O_CREAT, 0o666)
                weakref.finalize(self, os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                self._is_marked = True
            except OSError as error:
                raise _closed(self._folder, error) from error

    def once(self, key: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The object of `key`, computed if nobody has; an exception of `compute` is not stored.

        What the system refuses `compute` is an error about that file and not about the store.
        """
        if key in self._seen:
            return self._seen[key]
        path = self._folder / f"{key}.json"
        self.use()
        with _locked(path):
            # Through JSON for everyone, so that the first to ask sees what the others see.
            if not path.exists():
                try:
                    made = compute()
                except OSError as error:
                    raise StoreError(
                        f"what is kept as {key} cannot be made: the system refuses something that it needs",
                        where=None if error.filename is None else str(error.filename),
                        came=error.strerror or str(error),
                        hint="the run folder is not the reason; mend the file, folder or limit that is named",
                    ) from error
                write_new_json(path, {**made, _SEAL: _digest(made)})
            result = _read_sealed(path)
        self._seen[key] = result
        return result

    def keep(
        self, key: str, kind: type[T], make: Callable[[], T], files: Callable[[T], Iterable[Path]] = lambda _: ()
    ) -> T:
        """What `make` gave whoever asked first; an error of ours is kept too, and raised for everyone who asks.

        `files` are those that it rests on: it is made again where a run goes on and one of them was changed.
        """

        def attempt() -> dict[str, Any]:
            try:
                made = make()
                return {"value": plain(made), "files": {str(path): digest_file(path) for path in files(made)}}
            except H2OError as error:
                return {"error": error_to_json(error)}

        return self._value(self.once(key, attempt), key, kind)

    def kept(self, key: str, kind: type[T]) -> T | None:
        """What `keep` has of a key; None if nobody has made it yet, or it is an error."""
        path = self._folder / f"{key}.json"
        if key not in self._seen and not path.exists():
            return None

        def vanished() -> dict[str, Any]:
            raise StoreError("a shared result has vanished", where=str(path))

        found = self.once(key, vanished)
        return None if "error" in found else self._value(found, key, kind)

    def _value(self, kept: dict[str, Any], key: str, kind: type[T]) -> T:
        if "error" in kept:
            raise error_from_json(kept["error"])
        where = str(self._folder / f"{key}.json")
        return load(kind, kept.get("value"), "a shared result", where=where, hint="start a new run folder")


_SEAL = "sha256"
"""Key of the digest of all the rest of what is kept: what was changed since it was measured was not measured."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a shared result; StoreError if its folder, or the lock, cannot be had."""
    from filelock import FileLock

    lock = FileLock(f"{path}.lock")
    try:
        make_folder(path.parent)
        lock.acquire()
    except OSError as error:
        raise _closed(path.parent, error) from error
    except NotImplementedError as error:
        raise _closed(path.parent, OSError(errno.ENOSYS, str(error))) from error
    try:
        yield
    finally:
        lock.release()


def _closed(folder: Path, error: OSError) -> StoreError:
    expected = "a folder that can be written, with room on its disk"
    if error.errno in _NO_LOCKS:
        expected = "a folder on a file system that has locks; some network shares have none"
    hint = "--h2o-out-dir DIR puts the run folder elsewhere"
    what, came = "the run folder cannot be written", error.strerror or str(error)
    return StoreError(what, where=str(folder), came=came, expected=expected, hint=hint)


def _read_sealed(path: Path) -> dict[str, Any]:
    """What is kept in a file; StoreError if it cannot be read, or is not what was written."""
    kept = load(dict[str, Any], path, "a shared result")
    seal = kept.pop(_SEAL, None)
    if seal == _digest(kept):
        return kept
    came = "no digest beside it" if seal is None else f"a content of digest {_digest(kept)}, beside {seal}"
    raise StoreError(
        "a shared result was changed after it was written, or an earlier version wrote it",
        where=str(path),
        came=came,
        expected="a file that nobody edits",
        hint="start a new run; of what a file here keeps that is removed, --h2o-resume measures it again",
    )


def is_in_use(folder: Path) -> bool:
    """Whether a process that lives has asked the store in a folder for anything; OSError if that cannot be told."""
    try:
        with (folder / _IN_USE).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


# -- what a run is asked ----------------------------------------------------------------------------------------------

_FREE = frozenset({"resume", "out-dir", "save", "overwrite", "html", "strict"})
"""Options that may change when a run goes on: they say what is kept of it, not what is measured or asked."""

_PACKAGES = ("pytest-h2o", "numpy", "zstandard")
"""What figures depend on besides."""

_FORM = "4"
"""Changes when what processes share is written in another form than before."""


def describe_asked(
    settings: Settings,
    nodeids: Sequence[str],
    presets: Sequence[tuple[Preset, BaseConfig | None, Place | None]],
    scopes: Sequence[tuple[Scope, Path]],
    code: Iterable[Path] = (),
) -> dict[str, str]:
    """Describe what a run is asked, part by part, contents by their digest; `code` is that of the gate files."""
    asked = {
        f"--h2o-{name}": json.dumps(given["value"], ensure_ascii=False)
        for name, given in settings.to_json().items()
        if name not in _FREE
    }
    asked["items"] = f"{len(nodeids)} ({_digest(sorted(nodeids))})"
    asked["gate files"] = digest_files((path.name, path) for path in code)[:16]
    for name in ("bench", "baseline-bench", "demo"):
        if settings[name] is not None:
            asked[name.replace("-", " ")] = digest_program(settings[name])[:16]
    for preset, base, place in presets:
        if place is not None:
            asked[f"machine of preset {preset.name}"] = place.machine
            programs = (name for name in ("bench", "baseline-bench", "demo") if settings[name] is not None)
            asked |= {f"{name} of preset {preset.name}": place.digest_program(settings[name])[:16] for name in programs}
        asked[f"preset {preset.name}"] = _digest(preset.model_dump(mode="json", exclude={"path"}))
        if base is not None:
            asked[f"base config of preset {preset.name}"] = digest_file(base.path)[:16]
            model = digest_model(base) if place is None else place.digest_model(base)
            asked |= {f"{part} of preset {preset.name}": digest for part, digest in model.items()}
        said = {} if settings["demo"] is None else find_prompts(settings["demo-prompts"] or (), preset.prompt_file)
        if texts := [*_texts(preset, base), *said.items()]:
            asked[f"texts of preset {preset.name}"] = digest_files(texts)[:16]
    dumps = {root: _digest_folder(root) for root in {root for _, root in scopes}}
    for scope, root in scopes:
        asked[f"scope {scope.name}"] = _digest(repr(replace(scope, path=None)))
        asked[f"dump of scope {scope.name}"] = dumps[root]
    made_by = _plugins((preset for preset, *_ in presets), (scope for scope, _ in scopes))
    asked |= {part: digest for part, thing in made_by if (digest := _digest_code(thing)) is not None}
    asked |= {f"version of {name}": version(name) for name in _PACKAGES}
    return {**asked, "machine": describe_machine(), "form of shared results": _FORM}


def refuse_changes(then: Mapping[str, str], now: Mapping[str, str], run_dir: Path, resume: Given) -> None:
    """Hold what a process is asked against what its run was asked first; UsageError with each part that differs."""
    parts = sorted({*then, *now}, key=lambda part: (part not in now, part))
    changes = [f"{p}: {then.get(p, 'none')} then, {now.get(p, 'none')} now" for p in parts if then.get(p) != now.get(p)]
    if not changes:
        return
    if resume.value is None:
        raise UsageError(
            "the processes of this run are not asked the same",
            where=str(run_dir),
            came="; ".join(changes),
            expected="one bench, config, preset, scope and dump for all of them, unchanged while the run lasts",
        )
    raise UsageError(
        f"{resume.origin}: what is asked has changed since the run was broken off",
        where=str(run_dir),
        came="; ".join(changes),
        expected="the same bench, config, presets, scopes, dumps, options and items",
        hint="give what the run was given, or leave the option out to start a new run",
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _digest_folder(root: Path) -> str:
    """Digest of all files of a dump, by content, under their names; and of what cannot be seen of it."""
    if not root.is_dir():
        return digest_file(root)[:16]
    files, unseen = list_files(root, deep=True, hidden=True)
    return _digest([digest_files((str(path.relative_to(root)), path) for path in files), sorted(map(str, unseen))])


def _digest_code(made_by: object) -> str | None:
    """Digest of the code of a plugin's class or function; None for one of ours.

    Of one in a package all modules count, of one in a conftest that file.
    """
    name = str(getattr(made_by, "__module__", ""))
    top, module = sys.modules.get(name.partition(".")[0]), sys.modules.get(name)
    if top is None or top.__name__ == __name__.partition(".")[0]:
        return None
    files = [Path(file)] if (file := getattr(module, "__file__", None)) else []
    for folder in map(Path, getattr(top, "__path__", ())):
        files += list_files(folder, (".py", ".so"), deep=True).files
    return digest_files((str(path), path) for path in set(files))[:16]


def _plugins(presets: Iterable[Preset], scopes: Iterable[Scope]) -> Iterator[tuple[str, object]]:
    """What plugins may have a hand in: the benches, codecs and metrics that a run asks for."""
    from pytest_h2o.bench.adapter import get_adapter
    from pytest_h2o.codecs.registry import BUILT_IN, codec_class

    yield from ((f"code of bench {preset.bench}", type(get_adapter(preset.bench))) for preset in presets)
    for scope in scopes:
        name = str(scope.codec["id"] if isinstance(scope.codec, Mapping) else scope.codec).partition(":")[0]
        if name not in BUILT_IN:  # those would import numpy for nothing
            with contextlib.suppress(CodecError):  # the item of the scope says it
                yield f"code of codec {name}", codec_class(name)
    yield from ((f"code of metric {name}", metric.value) for name, metric in METRICS.items() if metric.added)


def _texts(preset: Preset, base: BaseConfig | None) -> list[tuple[str, Path]]:
    """Prompts and other files that a preset or its base config names beside the files of the model."""
    named = [] if preset.prompt_file is None else [("prompt_file", preset.prompt_file)]
    if base is not None:
        words = {key: value for key, value in base.values.items() if isinstance(value, str) and can_name_file(value)}
        files = {key: base.base_dir / value.replace("\\", "/") for key, value in words.items()}
        named += [(key, path) for key, path in files.items() if key not in PATH_FIELDS and path.is_file()]
    return named


# -- going on with a run ----------------------------------------------------------------------------------------------

_DERIVED = (
    "*/manifest.json",
    "*/h2o_metrics.csv",
    "*/decode/pairs.json",
    "offline_lossless_*.json",
    "offline_lossless_*.md",
    "figures.json",
    "summary.json",
    "summary.md",
    "report.html",
)
"""Artifacts that a run makes at its end, from what it has measured."""


def reopen_run(settings: Settings) -> str:
    """The name of the run to go on with below ``out-dir``, made ready for that."""
    resume = settings.given["resume"]
    if settings["dry-run"]:
        raise UsageError(f"{resume.origin} and --h2o-dry-run exclude each other: a dry run measures nothing")
    run_dir: Path = resume.value
    _check(run_dir, resume)
    try:
        make_ready(run_dir)
    except OSError as error:
        raise StoreError(
            "the folder of a run cannot be made ready to go on",
            where=str(error.filename or run_dir),
            came=error.strerror or str(error),
            expected="a folder that can be written",
        ) from error
    return run_dir.name


def _check(run_dir: Path, resume: Given) -> None:
    """Refuse what cannot be gone on with."""
    where = f"{resume.origin} {run_dir}"
    if (run_dir / "run.json").exists():
        raise UsageError(
            "the run in this folder came to its end: there is nothing to go on with",
            where=where,
            hint=f"start a new run without {resume.origin}, or look at this one: pytest-h2o report {run_dir}",
        )
    if not (run_dir / SHARED).is_dir():
        came = "a file" if run_dir.exists() else "no such folder"
        if run_dir.is_dir():
            came = "a folder that has " + (", ".join(sorted(p.name for p in run_dir.iterdir())[:8]) or "nothing")
        raise UsageError(
            "this is no folder of a run that was broken off",
            where=where,
            came=came,
            expected=f"a folder with {SHARED}/, as a run of the gate has one until it ends",
        )
    if is_in_use(run_dir / SHARED):
        raise UsageError("the run in this folder is still going on", where=where, hint="wait for its end, or end it")


def make_ready(run_dir: Path) -> None:
    """Take away what a run that was broken off leaves besides its measurements; OSError if the folder is read-only."""
    if (run_dir / JOURNAL_NAME).exists():
        _set_aside(run_dir / JOURNAL_NAME, "journal.{}.jsonl")
    derived = (path for pattern in _DERIVED for path in run_dir.glob(pattern))
    for path in [*derived, *run_dir.rglob(".*.tmp"), *_failures(run_dir / SHARED)]:
        path.unlink(missing_ok=True)
    # Whether rows can share a run is found out anew, from the rows that there are: a probe may have failed.
    shutil.rmtree(run_dir / SHARED / "fold", ignore_errors=True)


def _set_aside(path: Path, name: str) -> None:
    """Keep a file or folder under the first free name."""
    path.rename(next(free for n in count(1) if not (free := path.with_name(name.format(n))).exists()))


def _failures(results: Path) -> Iterator[Path]:
    """Results that remember a failure, or that are not as they were written, or whose files are not: measured again.

    What was left out on purpose is no failure. What a run was asked is not asked again, whatever stands there.
    """
    for path in results.rglob("*.json"):
        if path != results / f"{ASKED}.json" and path.parent.name != Path(PROGRESS).name:
            try:
                kept = _read_sealed(path)
                error, files = kept.get("error"), kept.get("files", {})
                failed = error is not None and error.get("kind") != OptedOut.__name__
                is_lost = failed or any(digest_file(Path(name)) != digest for name, digest in files.items())
            except (StoreError, AttributeError):
                is_lost = True
            if is_lost:
                yield path
                yield path.parent.with_name(f"{path.parent.name}.json")  # what was made of several, of pairs say


_WAIT_SHOWN_S = 3.0
"""A step that said so long ago that it waits does so no more: it says so about once a second."""

_REWRITE_S = 0.5


class Plan(NamedTuple):
    """Steps that a run will take, known before it starts."""

    what: str
    """What the steps are of: a preset, or its decode verdict."""
    total: int
    """How many; of a verdict that may end early, at most."""
    at_most_s: float | None = None
    """Seconds that all of them may take."""


class Activity(NamedTuple):
    """What one process is doing."""

    what: str
    """A preset, its verdict or a scope."""
    label: str
    """Which part of it."""
    unit: str
    """What is counted: ``run``, ``pair``; empty for an amount."""
    total: int
    """How many of the unit there are at most; 0 where that is not known."""
    number: int | None
    """Which of them this is; None: the one after those that ended."""
    since: float
    """Start of the work, or of waiting, in seconds since the epoch."""
    waits: bool = False
    """Whether it waits for the machine."""
    share: float | None = None
    """The part of an amount that is done, from 0 to 1."""


class Board(NamedTuple):
    """All that is known at one moment."""

    activities: tuple[Activity, ...] = ()
    spent_s: Mapping[str, Sequence[float]] = {}
    """What -> seconds of each step that ended."""
    finished: frozenset[str] = frozenset()
    plan: tuple[Plan, ...] = ()


class ProgressWriter:
    """Writes what this process is doing, one step at a time; `on_wait` is told too of every second that it waits."""

    def __init__(self, folder: Path, on_wait: Callable[[float], None] | None = None) -> None:
        self._folder = folder
        self._on_wait = on_wait
        self._now: Activity | None = None
        self._waited_until: float | None = None
        self._written = 0.0

    def write_plan(self, plan: Sequence[Plan]) -> None:
        """Tell what the run will take; every process comes to the same plan."""
        self._put(self._folder / "plan.json", plan)

    @contextlib.contextmanager
    def step(
        self, what: str, label: str, *, unit: str = "", total: int = 0, number: int | None = None
    ) -> Iterator[None]:
        """Show a step for the length of the block, and how long it took from then on."""
        self._now, self._waited_until = Activity(what, label, unit, total, number, time.time()), None
        self._show()
        try:
            yield
        finally:
            started, self._now = self._waited_until or self._now.since, None
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
            self._append({"what": what, "s": round(time.time() - started, 3)})

    def finish(self, what: str) -> None:
        """Tell that no more steps of this come, however many were planned."""
        self._append({"what": what, "s": None})

    def wait(self, waited_s: float) -> None:
        """Take the seconds waited so far for the machine; called about once a second."""
        if self._on_wait is not None:
            self._on_wait(waited_s)
        if self._now is not None:
            self._waited_until = time.time()
            self._show()

    def amount(self, done: int, to_do: int) -> None:
        """Take how much of the step is done, in any unit; as often as one likes."""
        if self._now is not None and to_do and time.time() - self._written > _REWRITE_S:
            self._now = self._now._replace(share=done / to_do)
            self._show()

    @property
    def _path(self) -> Path:
        return self._folder / f"now-{os.getpid()}.json"

    def _show(self) -> None:
        self._written = time.time()
        self._put(self._path, [self._now, self._waited_until])

    def _put(self, path: Path, value: object) -> None:
        beside = path.with_suffix(f".{os.getpid()}.tmp")
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps(value), encoding="utf-8")
            beside.replace(path)

    def _append(self, value: object) -> None:
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / "done.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(value) + "\n")


def read_board(folder: Path, now: float | None = None) -> Board:
    """Read what all processes wrote; what cannot be read, or is of a process that is gone, is passed over."""
    at = time.time() if now is None else now
    activities: list[Activity] = []
    spent: dict[str, list[float]] = {}
    finished: set[str] = set()
    plan: tuple[Plan, ...] = ()
    passed_over = contextlib.suppress(KeyError, TypeError, ValueError)
    for path in sorted(folder.glob("now-*.json")):
        for value in _read_lines(path) if _is_alive(path.stem.removeprefix("now-")) else ():
            with passed_over:
                activities.append(_activity(value, at))
    for value in _read_lines(folder / "done.jsonl"):
        with passed_over:
            if value["s"] is None:
                finished.add(value["what"])
            else:
                spent.setdefault(value["what"], []).append(value["s"])
    for value in _read_lines(folder / "plan.json"):
        with passed_over:
            plan = tuple(Plan(*one) for one in value)
    return Board(tuple(activities), spent, frozenset(finished), plan)


def _activity(value: Any, now: float) -> Activity:
    activity, waited_until = Activity(*value[0]), value[1]
    if waited_until is None:
        return activity
    if now - waited_until < _WAIT_SHOWN_S:
        return activity._replace(waits=True)
    return activity._replace(since=waited_until)


def _read_lines(path: Path) -> Iterator[Any]:
    """The JSON values in the lines of a file, as far as they can be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        with contextlib.suppress(ValueError):
            yield json.loads(line)


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True

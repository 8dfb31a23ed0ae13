"""What the processes of a run are doing right now: small files in the run folder, which the controller reads.

Whoever works writes ``now-PID.json``, replaced as a whole, and appends a line to ``done.jsonl`` when a step ends.
Nothing of it decides anything: a file that cannot be written or read is passed over, and only the display is poorer.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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

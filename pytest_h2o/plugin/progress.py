"""Shows progress on the terminal while items run: one line that is rewritten, or a plain line now and then.

pytest redirects file descriptor 1 while a test runs, so what is shown goes to a copy of it that was made before. On a
terminal the line stands below the cursor, which is put back where pytest left it: pytest's own output is not touched.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_h2o.errors import one_line
from pytest_h2o.run.store import Activity, Board, Plan, read_board


def render_progress(board: Board, now: float) -> list[str]:
    """One line for each process that works, and nothing where none does; what is left is on the first."""
    busy_first = sorted(board.activities, key=lambda activity: activity.waits)
    lines = [_render_activity(activity, board, now) for activity in busy_first]
    left_s = estimate_left_s(board, now)
    if lines and left_s is not None:
        lines[0] += f"; about {render_duration(left_s)} left"
    return lines


def _render_activity(activity: Activity, board: Board, now: float) -> str:
    elapsed_s = max(0.0, now - activity.since)
    head, label = one_line(activity.what), one_line(activity.label)
    if activity.waits:
        return f"{head} ({label}) waits for a timed run on this machine, {render_duration(elapsed_s)}"
    if activity.unit and activity.number is not None:
        head += f": {activity.unit} {activity.number} of at most {activity.total}"
    elif activity.unit:
        number = min(len(board.spent_s.get(activity.what, ())) + 1, activity.total)
        head += f": {activity.unit} {number} of {activity.total}"
    head += f" ({label})"
    if activity.share is not None:
        head += f", {activity.share:.0%}"
    text = f"{head}, {render_duration(elapsed_s)}"
    if activity.share is not None and 0.02 < activity.share < 1:
        text += f", about {render_duration(elapsed_s * (1 / activity.share - 1))} to go"
    return text


def estimate_left_s(board: Board, now: float) -> float | None:
    """Seconds of launches still to come, from those that ended so far; None before the first has.

    A verdict that may end early counts with all its pairs, but with no more seconds than it may take.
    """
    launches = [seconds for plan in board.plan for seconds in board.spent_s.get(plan.what, ())]
    if not launches:
        return None
    running = {activity.what: activity for activity in board.activities if not activity.waits}
    return sum(_left_of(plan, board, launches, running.get(plan.what), now) for plan in board.plan)


def _left_of(plan: Plan, board: Board, launches: Sequence[float], running: Activity | None, now: float) -> float:
    if plan.what in board.finished:
        return 0.0
    spent = board.spent_s.get(plan.what, ())
    known = spent or launches
    mean_s = math.fsum(known) / len(known)
    count = plan.total - len(spent)
    if running is not None and running.number is not None:  # launches that were made again count for nothing
        count = plan.total - 2 * running.number + 2 - (len(spent) > 2 * running.number - 2)
    left = max(0, count) * mean_s
    if running is not None:
        left -= min(max(0.0, now - running.since), mean_s)
    if plan.at_most_s is not None:
        left = min(left, plan.at_most_s - sum(spent))
    return max(0.0, left)


def render_duration(seconds: float) -> str:
    """``12 s``, ``3 min 5 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole < 600 and whole % 60 else "")
    return f"{whole // 3600} h {whole % 3600 // 60} min"


REWRITE_S = 1.0
"""Seconds between two states of the line on a terminal."""

FIRST_LINE_S, LINE_S = 5.0, 20.0
"""Without a terminal: seconds until the first plain line (or later, as soon as something is done), and between two."""


class ProgressDisplay:
    """A thread that shows what the processes of a run write into `folder`, from `start` to `stop`."""

    def __init__(self, reporter: Any, folder: Path) -> None:
        self._writer = reporter._tw
        self._reporter = reporter
        self._folder = folder
        self._shown = False
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="h2o-progress", daemon=True)
        self._descriptor: int | None = None
        self._is_terminal = False

    def start(self) -> None:
        """Begin; nothing is shown where the terminal reporter writes to no file of the system."""
        try:
            file = self._writer._file
            self._descriptor = os.dup(file.fileno())
            self._is_terminal = file.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        except (AttributeError, OSError, ValueError):
            return
        self._thread.start()

    def stop(self) -> None:
        """End, and leave no trace on a terminal."""
        if self._descriptor is None:
            return
        self._end.set()
        self._thread.join()
        self.clear()
        os.close(self._descriptor)
        self._descriptor = None

    def clear(self) -> None:
        """Take the line off a terminal, since pytest is about to write."""
        with self._lock:
            if self._shown:
                self._write_below("")
                self._shown = False

    def _run(self) -> None:
        next_s = time.monotonic() + (REWRITE_S if self._is_terminal else FIRST_LINE_S)
        while not self._end.wait(max(0.05, next_s - time.monotonic())):
            lines = render_progress(read_board(self._folder), time.time())
            with self._lock:
                if self._is_terminal:
                    self._show(lines)
                elif lines:
                    self._print(lines)
            next_s = time.monotonic() + (LINE_S if lines and not self._is_terminal else REWRITE_S)

    def _show(self, lines: list[str]) -> None:
        if lines or self._shown:
            width = shutil.get_terminal_size().columns
            text = " | ".join(lines)
            self._write_below(text if len(text) < width else text[: width - 2] + "…")
            self._shown = bool(lines)

    def _write_below(self, text: str) -> None:
        """Write into the line below the cursor, and put the cursor back."""
        column = self._writer.width_of_current_line % max(1, shutil.get_terminal_size().columns)
        back = f"\r\x1b[A\x1b[{column}C" if column else "\r\x1b[A"
        self._put(f"\n\r\x1b[2K{text}{back}")

    def _print(self, lines: list[str]) -> None:
        """Plain lines; what pytest had on its line goes on below."""
        start = "\n" if self._writer.width_of_current_line else ""
        self._put(start + "".join(f"h2o: {line}\n" for line in lines))
        self._writer._current_line = ""  # else it takes what follows for the end of a longer line
        if getattr(self._reporter, "currentfspath", None) == -2:
            self._reporter.currentfspath = None  # the line was ended already

    def _put(self, text: str) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.write(self._descriptor, text.encode("utf-8", "replace"))

"""Progress as one line of text: what runs, how much of it is done, how long is left. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pytest_h2o.bench.printable import one_line
from pytest_h2o.progress import Activity, Board, Plan


def render_progress(board: Board, now: float) -> list[str]:
    """One line for each process that works, and nothing where none does; what is left is on the first.

    Parameters
    ----------
    board : Board
    now : float
        Seconds since the epoch.
    """
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
    planned = {plan.what for plan in board.plan}
    launches = [seconds for what in planned for seconds in board.spent_s.get(what, ())]
    if not launches:
        return None
    running = {activity.what: activity for activity in board.activities if not activity.waits}
    left = 0.0
    for plan in board.plan:
        mean = _mean(board.spent_s.get(plan.what) or launches)
        left += _left_of(plan, board, mean, running.get(plan.what), now)
    return left


def _left_of(plan: Plan, board: Board, mean_s: float, running: Activity | None, now: float) -> float:
    if plan.what in board.finished:
        return 0.0
    spent = board.spent_s.get(plan.what, ())
    launches = plan.total - len(spent)
    if running is not None and running.number is not None:  # launches that were made again count for nothing
        launches = plan.total - 2 * running.number + 2 - (len(spent) > 2 * running.number - 2)
    left = max(0, launches) * mean_s
    if running is not None:
        left -= min(max(0.0, now - running.since), mean_s)
    if plan.at_most_s is not None:
        left = min(left, plan.at_most_s - sum(spent))
    return max(0.0, left)


def _mean(seconds: Iterable[float]) -> float:
    values = list(seconds)
    return math.fsum(values) / len(values)


def render_duration(seconds: float) -> str:
    """``12 s``, ``3 min 5 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole < 600 and whole % 60 else "")
    return f"{whole // 3600} h {whole % 3600 // 60} min"

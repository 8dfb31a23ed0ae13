"""Work spread over threads; a thread may do it itself or have it done by a process (see `processes`)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")


def spread(
    work: Callable[[_T], _R], tasks: Iterable[_T], workers: int, give_up: Callable[[], None] = lambda: None
) -> Iterator[_R]:
    """Do `work` on every task and yield the results as they come, in any order.

    Tasks are taken from the iterable one at a time, so that a long plan is never held whole. The first error of a
    worker is raised here; then, or when the caller stops early, the others end after their current task.

    Parameters
    ----------
    work : callable
    tasks : iterable
        None of them is None.
    workers : int
        Number of threads; 1 works in the calling thread.
    give_up : callable
        Called where the work ends before its time, to end tasks in hand sooner than they would.
    """
    if workers == 1:
        yield from map(work, tasks)
        return
    todo = iter(tasks)
    turn = threading.Lock()
    stop = threading.Event()
    done: SimpleQueue[tuple[_R | None, BaseException | None, bool]] = SimpleQueue()

    def run() -> None:
        try:
            while not stop.is_set():
                with turn:
                    task = next(todo, None)
                if task is None:
                    break
                done.put((work(task), None, False))
        except BaseException as error:
            done.put((None, error, True))
        else:
            done.put((None, None, True))

    threads = [threading.Thread(target=run, name=f"h2o-codec-{n}") for n in range(workers)]
    for thread in threads:
        thread.start()
    running = workers
    try:
        while running:
            result, error, ended = done.get()
            if error is not None:
                raise error
            if ended:
                running -= 1
            else:
                yield result  # type: ignore[misc]
    finally:
        stop.set()
        if running:
            give_up()
        for thread in threads:
            thread.join()

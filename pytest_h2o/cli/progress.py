"""How far a long command is, told on standard error."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Final

VERBOSE_S: Final = 1.0
TERMINAL_S: Final = 2.0
LOG_S: Final = 30.0


class ProgressLines:
    """Tells on its own clock, so that one long stream or a slow disk is told too; a context manager.

    Parameters
    ----------
    verbose : bool
        Every second, and at the end; else every two seconds on a terminal, and every half minute elsewhere.
    """

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self._every_s = VERBOSE_S if verbose else TERMINAL_S if sys.stderr.isatty() else LOG_S
        self._entries = self._done = self._to_do = 0
        self._told = False
        self._started = self._coding_since = time.monotonic()
        self._ended = threading.Event()
        self._clock = threading.Thread(target=self._run, name="h2o-progress", daemon=True)

    def __enter__(self) -> ProgressLines:
        self._clock.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._clock.join()
        if error is None and (self._verbose or self._told):
            self._tell()

    def entries(self, count: int) -> None:
        """So many entries are indexed."""
        self._entries = count

    def coded(self, done: int, to_do: int) -> None:
        """So many raw bytes are coded, of how many."""
        if not self._to_do:
            self._coding_since = time.monotonic()
        self._done, self._to_do = done, to_do

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            self._tell()

    def _tell(self) -> None:
        self._told = True
        after = f"after {time.monotonic() - self._started:.0f} s"
        if not self._to_do:
            print(f"{self._entries:,} entries indexed {after}", file=sys.stderr, flush=True)
            return
        speed = self._done / max(time.monotonic() - self._coding_since, 1e-6) / 1e6
        told = f"{self._done / 1e6:.0f} of {self._to_do / 1e6:.0f} MB, {speed:.0f} MB/s, {after}"
        print(told, file=sys.stderr, flush=True)

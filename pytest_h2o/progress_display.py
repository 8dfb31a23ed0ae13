"""Shows progress on the terminal while items run: one line that is rewritten, or a plain line now and then.

pytest redirects file descriptor 1 while a test runs, so what is shown goes to a copy of it that was made before. On a
terminal the line stands below the cursor, which is put back where pytest left it: pytest's own output is not touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from pytest_h2o.progress import read_board
from pytest_h2o.report.progress_text import render_progress

REWRITE_S = 1.0
"""Seconds between two states of the line on a terminal."""

FIRST_LINE_S, LINE_S = 5.0, 20.0
"""Without a terminal: seconds until the first plain line, and between two."""


class ProgressDisplay:
    """A thread that shows what the processes of a run are doing, from `start` to `stop`.

    Parameters
    ----------
    reporter : terminal reporter of pytest
        Where the line is, and how wide it is.
    folder : Path
        Where `pytest_h2o.progress` writes.
    """

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
            next_s = time.monotonic() + (REWRITE_S if self._is_terminal else LINE_S)

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

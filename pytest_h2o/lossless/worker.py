"""A process that measures tasks for another one: it reads them from its standard input, and ends with it.

Whatever ends the other process, KILL included, ends its pipe, and this process with it; in the middle of a long stream
a thread notices that the parent is another one. What a codec prints goes to standard error: standard output carries
the answers.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from typing import BinaryIO

from pytest_h2o.lossless.measure import Measured, Measurement

_LOOK_S = 1.0


def main() -> None:
    """Serve the process that has started this one."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the other process ends this one
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        serve(sys.stdin.buffer, answers)
    except BrokenPipeError:
        os._exit(1)  # nobody is there to be told


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)


def serve(asked: BinaryIO, answers: BinaryIO) -> None:
    """Read a `Measurement` and answer None, or why it cannot be had; then answer each task until the input ends."""
    try:
        measurement: Measurement = pickle.load(asked)
    except Exception as error:  # whatever the import of somebody's codec raises
        _answer(answers, f"{type(error).__name__}: {error}")
        return
    _answer(answers, None)
    while True:
        try:
            task = pickle.load(asked)
        except EOFError:
            return
        answer: Measured | BaseException
        try:
            answer = measurement(task)
        except BaseException as error:
            answer = error
        _answer(answers, answer)


def _answer(answers: BinaryIO, answer: Measured | BaseException | str | None) -> None:
    try:
        packed = pickle.dumps(answer)
    except Exception:  # an error of somebody's codec may hold anything
        packed = pickle.dumps(RuntimeError(f"{type(answer).__name__}: {answer}"))
    answers.write(packed)
    answers.flush()

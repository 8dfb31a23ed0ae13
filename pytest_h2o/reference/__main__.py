"""``python -m pytest_h2o.reference``: the bench.

Exit status: 0 measured, 2 bad input (one message on standard error, no file touched), 255 a command line that cannot
be read (usage on standard output, as llm_bench does).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from pytest_h2o.errors import H2OError
from pytest_h2o.reference.config import USAGE, ArgumentsError, check_arguments, parse_arguments, read_config

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
SPIN_VARIABLE = "OPENBLAS_THREAD_TIMEOUT"
SHORT_SPIN = "4"
"""Base-2 logarithm of the cycles that an idle thread of OpenBLAS spins before it sleeps; it would be 26."""


def main(argv: Sequence[str]) -> int:
    """Run the bench; the exit status."""
    try:
        arguments = parse_arguments(argv)
    except ArgumentsError as error:
        print(f"{error}\n{USAGE}", end="")
        return 255
    if arguments.help:
        print(USAGE, end="")
        return 0
    try:
        config = read_config(check_arguments(arguments))
        _set_threads(arguments.threads)
        from pytest_h2o.reference.bench import run_bench

        run_bench(arguments, config)
    except H2OError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _set_threads(threads: int) -> None:
    """Set the threads of the linear algebra, which reads the environment once, when numpy is first imported."""
    if "numpy" not in sys.modules:
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
        # Spinning threads starve each other on a machine that is not idle: decoding a 135M model with two of them
        # beside other work was four times faster with threads that sleep.
        os.environ.setdefault(SPIN_VARIABLE, SHORT_SPIN)
        return
    try:
        from threadpoolctl import threadpool_limits  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        print(f"warning: numpy was imported before; -t {threads} has no effect", file=sys.stderr)
        return
    threadpool_limits(threads)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

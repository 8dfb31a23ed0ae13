"""``pytest-h2o``: the gate's steps as commands. Each command is a module of `commands`, loaded when it is called.

Exit codes: 0 held, 1 a gate failed (or entries of a dump were skipped), 2 bad input or a run that could not be made.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TextIO, cast

from pytest_h2o import __version__
from pytest_h2o.errors import H2OError, StoreError, UsageError, make_printable
from pytest_h2o.files import refuse_existing

COMMANDS: dict[str, str] = {
    "sweep": "run a preset or an ad-hoc grid on a bench; configs, logs and manifest into a folder",
    "parse": "make a CSV of recorded logs",
    "lossless": "encode, size and verify the streams of a KV dump",
    "analyze": "hold a CSV and lossless results against the targets",
    "eval": "parse, upper bound, online simulation and gate in one go",
    "calibrate": "measure this machine's noise: a bench against itself",
    "codecs": "list the codecs, or measure them on a dump beside others",
    "report": "make summary.md and report.html of a run again, from what its folder has",
    "compare": "hold every figure of one run against those of another",
    "history": "list the recorded runs, and how a figure went",
    "schema": "print the JSON schema of preset or scope files, for editors",
    "init": "copy the starter gates/ into your repository",
}

PLACES = {
    "sweep": "sweep",
    "calibrate": "sweep",
    "parse": "rows",
    "analyze": "rows",
    "eval": "rows",
    "lossless": "lossless",
    "codecs": "codecs",
    "report": "runs",
    "compare": "runs",
    "history": "runs",
    "schema": "init",
    "init": "init",
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command names; each command adds its own flags when it is called."""
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="pytest-h2o",
        usage="pytest-h2o COMMAND [flags]",
        description=f"commands:\n{listing}",
        epilog="pytest-h2o COMMAND --help shows its flags. The gate itself: pytest gates/",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"pytest-h2o {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help=argparse.SUPPRESS)
    return parser


class _Harmless:
    """A stream to a terminal: no command can forget that what it prints may come from a log or a file name."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(make_printable(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    out, err = (cast(TextIO, _Harmless(stream)) for stream in (sys.stdout, sys.stderr))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        return _run(argv)


def _run(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    name = parser.parse_args(arguments[:1] or ["--help"]).command
    module = importlib.import_module(f"pytest_h2o.cli.{PLACES[name]}")
    command = argparse.ArgumentParser(prog=f"pytest-h2o {name}", description=COMMANDS[name], allow_abbrev=False)
    (getattr(module, f"add_arguments_{name}", None) or module.add_arguments)(command)
    args = command.parse_args(arguments[1:])
    try:
        code: int = (getattr(module, f"run_{name}", None) or module.run)(args)
    except H2OError as error:
        print(f"pytest-h2o {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"pytest-h2o {name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 2
    return code


if __name__ == "__main__":
    sys.exit(main())


def check_outputs(*outputs: Path, inputs: Iterable[Path | None] = (), overwrite: bool) -> None:
    """Refuse outputs that cannot all be written, before anything is."""
    read = [path for path in inputs if path is not None]
    for number, path in enumerate(outputs):
        if any(_is_same(path, other) for other in read):
            raise UsageError(
                "an output is a file that is read, which would be lost",
                where=str(path),
                hint="choose another output; --overwrite does not cover inputs",
            )
        if any(_is_same(path, other) for other in outputs[:number]):
            raise UsageError("two outputs are the same file", where=str(path), hint="name another file for one of them")
    try:
        refuse_existing(*outputs, overwrite=overwrite)
    except StoreError as error:
        error.hint = "--overwrite replaces it; or choose another output"
        raise


def _is_same(path: Path, other: Path) -> bool:
    if path.resolve() == other.resolve():
        return True
    return path.exists() and other.exists() and path.samefile(other)


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

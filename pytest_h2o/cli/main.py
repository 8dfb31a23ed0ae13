"""``pytest-h2o``: the gate's steps as commands, and what several of them share.

The module of a command is loaded when the command is called. Exit codes: 0 held, 1 a gate failed (or entries of a dump
were skipped, or a log has no row), 2 bad input or a run that could not be made.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import gc
import importlib
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO, cast

from pytest_h2o import __version__
from pytest_h2o.errors import H2OError, StoreError, UsageError, as_ours, make_printable

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_h2o.inputs.options import Option

COMMANDS: dict[str, tuple[str, str]] = {
    "sweep": ("sweep", "run a preset or an ad-hoc grid on a bench; configs, logs and manifest into a folder"),
    "parse": ("rows", "make a CSV of recorded logs"),
    "lossless": ("lossless", "encode, size and verify the streams of a KV dump"),
    "analyze": ("rows", "hold a CSV and lossless results against the targets"),
    "eval": ("rows", "parse, upper bound, online simulation and gate in one go"),
    "calibrate": ("sweep", "measure this machine's noise: a bench against itself"),
    "doctor": ("doctor", "check bench, model, dump and machine before a sweep, a line each, in a minute"),
    "import": ("importing", "make a KV dump of safetensors: K and V by layer, as other runtimes save them"),
    "codecs": ("codecs", "list the codecs, or measure them on a dump beside others"),
    "report": ("runs", "make summary.md and report.html of a run again, from what its folder has"),
    "compare": ("runs", "hold every figure of one run against those of another"),
    "history": ("runs", "list the recorded runs, and how a figure went"),
    "schema": ("runs", "print the JSON schema of preset or scope files, for editors"),
    "init": ("runs", "copy the starter gates/ into your repository"),
}
"""Name -> module beside this one, with ``add_arguments_NAME`` and ``run_NAME``; and what the command does."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command names; each command adds its own flags when it is called."""
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items())
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
    atexit.register(gc.freeze)  # or the end of the process walks once more what numpy has made: 30 ms
    out, err = (cast(TextIO, _Harmless(stream)) for stream in (sys.stdout, sys.stderr))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        return _run(list(sys.argv[1:] if argv is None else argv))


def _run(arguments: list[str]) -> int:
    name = build_parser().parse_args(arguments[:1] or ["--help"]).command
    place, text = COMMANDS[name]
    module = importlib.import_module(f"pytest_h2o.cli.{place}")
    _own_flags.clear()
    command = argparse.ArgumentParser(prog=f"pytest-h2o {name}", description=text, allow_abbrev=False)
    getattr(module, f"add_arguments_{name}")(command)
    try:
        return int(getattr(module, f"run_{name}")(command.parse_args(arguments[1:])))
    except H2OError as error:
        told = re.sub(r"--h2o-([a-z0-9-]+)", lambda flag: _own_flags.get(flag[1], flag[0]), str(error))
        print(f"pytest-h2o {name}: {told}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"pytest-h2o {name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 2
    except Exception as error:
        expected, hint = f"arguments as pytest-h2o {name} --help says", "look at the files and folders that were named"
        ours = as_ours(error, "the command has failed", expected=expected, hint=hint)
        print(f"pytest-h2o {name}: {ours}", file=sys.stderr)
        return 2


# -- what several commands share


def path(text: str) -> Path:
    """A path as argparse takes it; `pathlib` costs a tenth of ``--help``."""
    from pathlib import Path

    return Path(text)


_own_flags: dict[str, str] = {}
"""Option of the gate -> how the command that runs calls it: an error names what can be given here."""

_TYPES: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "path": path}


def add_option(parser: argparse.ArgumentParser, option: str | Option, flag: str = "", **changed: Any) -> None:
    """Give a command an option of the gate as ``--NAME`` or `flag`: kind, default, check and help are the table's."""
    from pytest_h2o.inputs.options import BY_NAME  # half as long to load as `pytest-h2o lossless --help` takes

    option = BY_NAME[option] if isinstance(option, str) else option
    flag = _own_flags[option.name] = flag or f"--{option.name}"
    keywords: dict[str, Any] = {"help": option.help}
    if option.kind == "flag":
        keywords["action"] = "store_true"
    else:
        keywords |= {"default": option.default, "metavar": option.metavar, "choices": option.choices or None}
        keywords["type"] = checked(_TYPES.get(option.kind, str), option.check, flag)
    parser.add_argument(flag, **keywords | changed)


def add_number(parser: argparse.ArgumentParser, flag: str, low: int, high: int | None = None, **keywords: Any) -> None:
    """Give a command a flag for a whole number in a range."""
    from pytest_h2o.inputs.options import limit

    expected = f"at least {low}" if high is None else f"{low} to {high:,}"
    check = limit(lambda number: low <= number and (high is None or number <= high), expected)
    parser.add_argument(flag, type=checked(int, check, flag), **keywords)


def checked(kind: Callable[[str], Any], check: Callable[[Any, str], object] | None, flag: str) -> Callable[[str], Any]:
    """A converter for argparse that also checks what it made."""

    def convert(text: str) -> Any:
        value = kind(text)
        if check is not None:
            check(value, flag)
        return value

    convert.__name__ = kind.__name__  # argparse says: invalid int value
    return convert


def check_outputs(*outputs: Path, inputs: Iterable[Path | None] = (), overwrite: bool) -> None:
    """Refuse outputs that cannot all be written, before anything is."""
    from pytest_h2o.files import refuse_existing

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
    return path.resolve() == other.resolve() or (path.exists() and other.exists() and path.samefile(other))

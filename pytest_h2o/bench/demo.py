"""llm_demo: says a prompt on with a model; run with H2O on and off, and the text read out of what it printed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_h2o.bench.process import read_tail, run_child
from pytest_h2o.errors import BenchError, TableError
from pytest_h2o.store import write_new_json

_TEXT_BEGINS = re.compile(r"^prompt file is [^\n]*\n", re.MULTILINE)
_TEXT_ENDS = re.compile(r"^#{10,}[^\n]*$", re.MULTILINE)
_WARNING = re.compile(r"(?:Drop (?:stale|invalid)|Clamp invalid) [^\n]*\n")
"""The engine prints these into the middle of words, each with its own line end: the text goes on behind it."""

MAX_OUTPUT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Demo:
    """How llm_demo is run.

    Attributes
    ----------
    program : Path
    folder : Path
        New folder for configs and outputs.
    max_tokens : int
        Tokens to generate at most.
    timeout_s : float
        Seconds that one run may take.
    """

    program: Path
    folder: Path
    max_tokens: int
    timeout_s: float

    def say(self, name: str, config: Mapping[str, Any], prompt: Path) -> str:
        """Run it on a prompt and return the text that it generated.

        Parameters
        ----------
        name : str
            Of the config and the output in `folder`.
        config : mapping
            The engine's config. The sampler is set to greedy: another would say another text each time.
        prompt : Path
            A text file.

        Raises
        ------
        BenchError
            It could not be started, did not end well or in time, or its output has no text.
        """
        path = self.folder / f"{name}.json"
        write_new_json(path, {**config, "sampler_type": "greedy"})
        argv = (str(self.program), str(path), str(prompt), str(self.max_tokens), "--prompt-file-mode=whole")
        output = self.folder / f"{name}.stdout.txt"
        child = run_child(argv, stdout_path=output, timeout_s=self.timeout_s)
        if child.returncode != 0 or child.timed_out:
            ended = f"exit code {child.returncode}" if child.signal_name is None else child.signal_name
            raise BenchError(
                f"llm_demo did not end within {self.timeout_s:g} s"
                if child.timed_out
                else f"llm_demo ended with {ended}",
                argv=argv,
                returncode=child.returncode,
                signal_name=child.signal_name,
                elapsed_s=child.elapsed_s,
                output_tail=read_tail(output),
                where=str(output),
                expected="a run that ends with exit code 0",
            )
        return read_demo_text(output)


def read_demo_text(path: Path) -> str:
    """The text that a recorded output of llm_demo holds; TableError if there is none, or the file is too large."""
    try:
        size = path.stat().st_size
        if size > MAX_OUTPUT_BYTES:
            raise TableError(
                "an output of llm_demo is too large",
                where=str(path),
                came=f"{size:,} bytes",
                expected=f"at most {MAX_OUTPUT_BYTES:,}",
            )
        return parse_demo_text(path.read_bytes().decode("utf-8", "replace"), str(path))
    except OSError as error:
        raise TableError("an output of llm_demo cannot be read", where=str(path), came=error.strerror) from error


def parse_demo_text(output: str, where: str) -> str:
    """Cut the generated text out of an output: between the line of the prompt's file and the line of ``#``.

    Warnings of the engine are cut out by their pattern, up to their line ends, wherever they stand.

    Raises
    ------
    TableError
        One of the two lines is missing: the run was cut short, or this is another program's output.
    """
    output = output.replace("\r\n", "\n")
    begins = _TEXT_BEGINS.search(output)
    ends = None if begins is None else _TEXT_ENDS.search(output, begins.end())
    if begins is None or ends is None:
        missing = "line 'prompt file is …'" if begins is None else "line of # behind the text"
        raise TableError("an output of llm_demo has no text", where=where, came=f"no {missing}", expected="both lines")
    return _WARNING.sub("", output[begins.end() : ends.start()]).removesuffix("\n")


def find_prompts(given: Path | None, shipped: Path) -> Sequence[Path]:
    """The prompts to say on: the one that is given, else every text that comes with the plugin."""
    return (given,) if given is not None else tuple(sorted(shipped.glob("*.txt")))

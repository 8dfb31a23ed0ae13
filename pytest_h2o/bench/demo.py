"""llm_demo says a prompt on with a model: what is run, and what it said and measured, read out of its output."""

from __future__ import annotations

import itertools
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from pytest_h2o.bench.command import shipped
from pytest_h2o.bench.launch import run_alone
from pytest_h2o.bench.machine import Place
from pytest_h2o.bench.output import ENGINE_LINE, Advise, check_signs
from pytest_h2o.errors import BenchError, H2OError, TableError, UsageError, can_name_file, one_line
from pytest_h2o.files import TooLarge, is_folder, list_files, load, read_regular, read_regular_text, write_new_json

_TEXT_BEGINS = re.compile(r"^prompt file is [^\n]*\n", re.MULTILINE)
_TEXT_ENDS = re.compile(r"^#{10,}[^\n]*$", re.MULTILINE)

MAX_OUTPUT_BYTES = 16 * 1024 * 1024

# -- prompts --------------------------------------------------------------------------------------------------------

PATH_KEYS = ("prompt_file", "prompt_path", "file", "path", "filename", "name")
"""What a line of a manifest may call the path of its prompt, relative to the manifest."""

_LONGEST_END = "_200_h2o_off.broken-off-99.metrics.jsonl"
"""Put behind the name of a prompt for the files of its launches."""

_MAX_PROMPT_BYTES = 16 * 1024 * 1024


def find_prompts(paths: Iterable[Path], of_preset: Path | None = None) -> dict[str, Path]:
    """Prompts by name, in order: files, the ``*.txt`` of folders, and what manifests (``*.jsonl``) list.

    Where no path is given that of the preset, else those that are shipped. UsageError for what cannot be said.
    """
    found: dict[str, Path] = {}
    for path in list(paths) or [of_preset or shipped("prompts") / "demo"]:
        for file in _prompt_files(path):
            if found.setdefault(file.stem, file) != file:
                what, came = f"two prompts are called {file.stem}", f"{found[file.stem]} and {file}"
                raise UsageError(what, came=came, expected="each name once: files of a run are called by it")
            try:
                text = read_regular_text(file, _MAX_PROMPT_BYTES)
            except (OSError, ValueError) as error:
                what, came = "a prompt cannot be read", getattr(error, "strerror", None) or str(error)
                raise UsageError(what, where=str(file), came=came, expected="a text in UTF-8") from None
            if not text.strip():
                raise UsageError("a prompt is empty", where=str(file), expected="a text to go on from")
            if not can_name_file(f"{file.stem}{_LONGEST_END}"):
                what, expected = "the name of a prompt is too long", "room for what is put behind it"
                raise UsageError(what, where=str(file), came=f"{len(file.stem)} characters", expected=expected)
    return found


def _prompt_files(path: Path) -> list[Path]:
    if path.suffix == ".jsonl":
        return [path.parent / _listed_path(line, f"{path}:{number}") for number, line in _lines(path)]
    if not is_folder(path):
        return [path]
    files, unseen = list_files(path, (".txt",))
    if unseen or not files:
        came = next(iter(unseen.values()), "no *.txt")
        raise UsageError("there are no prompts in a folder", where=str(path), came=came, expected="*.txt files")
    return sorted(files)


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = read_regular_text(path)
    except (OSError, ValueError) as error:
        what, came = "a manifest of prompts cannot be read", getattr(error, "strerror", None) or str(error)
        raise UsageError(what, where=str(path), came=came, expected="JSON lines") from None
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise UsageError("a manifest of prompts is empty", where=str(path), expected='lines like {"path": "a.txt"}')
    return lines


def _listed_path(line: str, where: str) -> str:
    entry = load(dict[str, Any], line, "a line of a manifest of prompts", where=where)
    named = next((entry[key] for key in PATH_KEYS if isinstance(entry.get(key), str) and entry[key]), None)
    if named is None:
        came, expected = one_line(line), f"an object with one of {', '.join(PATH_KEYS)}"
        raise UsageError("a line of a manifest names no prompt", where=where, came=came, expected=expected)
    return str(named)


# -- a launch -------------------------------------------------------------------------------------------------------


_ENDS = (".json", ".stdout.txt", ".metrics.jsonl")
"""Of the names of a launch's files."""


@dataclass(frozen=True)
class DemoLaunch:
    """What one launch of llm_demo measured."""

    name: str
    """Of its files."""
    prompt_tokens: int
    decode_tokens: int
    """Tokens that were really decoded: the model may end its text before it has said all that it may."""
    prefill_s: float
    decode_tok_per_s: float
    elapsed_s: float = 0.0
    disturbance: str | None = None
    told: Mapping[str, float] | None = None
    """What H2O did, by the columns of llm_bench; None where the build does not tell it."""
    evicted_tokens: int | None = None
    """Tokens evicted from all layers together; None where the build does not tell it."""


@dataclass(frozen=True)
class Demo:
    """How llm_demo is run; `folder` takes its configs and outputs."""

    program: Path
    folder: Path
    max_tokens: int
    timeout_s: float
    on_wait: Callable[[float], None] | None = None
    allow_signs: Mapping[str, int] | None = None
    advise: Advise = lambda: None
    place: Place | None = None
    """The machine that it runs on, if it is not this one; configs are then meant for that."""

    def files(self, name: str) -> list[Path]:
        """The files that a launch of this name left."""
        return [path for end in _ENDS if (path := self.folder / f"{name}{end}").exists()]

    def _move_aside(self, name: str) -> None:
        """Keep what a launch left that was broken off or failed before, under the first free name."""
        free = (f"{name}.broken-off-{n}" for n in itertools.count(1))
        kept = next(other for other in free if not self.files(other))
        for path in self.files(name):
            path.rename(self.folder / path.name.replace(name, kept, 1))

    def say(self, name: str, config: Mapping[str, Any], prompt: Path) -> tuple[DemoLaunch, str]:
        """Run it on a prompt, alone on the machine and in a scratch folder: what it measured, and the text."""
        path, output = self.folder / f"{name}.json", self.folder / f"{name}.stdout.txt"
        metrics = self.folder / f"{name}.metrics.jsonl"
        self._move_aside(name)
        write_new_json(path, {**config, "sampler_type": "greedy"})
        told = path if self.place is None else self.place.mirror(path)
        argv = (str(self.program), str(told), str(prompt), str(self.max_tokens), "--prompt-file-mode=whole")
        with tempfile.TemporaryDirectory(prefix="pytest-h2o-demo-") as scratch:
            # A build that has --metrics-jsonl takes the variable as well, and an older one passes it over.
            written = {"LLM_DEMO_METRICS_JSONL": metrics, "LLM_DEMO_TMP_PATH": Path(scratch)}
            child, disturbance, printed = run_alone(
                argv,
                self.on_wait,
                has_text=True,
                place=self.place,
                sends=(path,),
                stdout_path=output,
                timeout_s=self.timeout_s,
                environment=written,
                folder=Path(scratch),
            )
        if child.returncode != 0 or child.timed_out:
            ended = f"ended with {child.signal_name or f'exit code {child.returncode}'}"
            what = f"llm_demo {f'did not end within {self.timeout_s:g} s' if child.timed_out else ended}"
            came, expected = printed.reason, "a run that ends with exit code 0"
            raise BenchError(what, where=str(output), came=came, expected=expected, **child.facts())
        check_signs(printed, output, self.allow_signs or {}, self.advise, **child.facts())
        try:
            return read_demo(name, output, metrics, elapsed_s=child.elapsed_s, disturbance=disturbance)
        except TableError as error:
            vars(error).update(child.facts())
            raise


def read_demo(
    name: str, output: Path, metrics: Path, *, elapsed_s: float = 0.0, disturbance: str | None = None
) -> tuple[DemoLaunch, str]:
    """What a launch measured, of its metrics or else of what it printed, and the text; TableError if one is lacking."""
    printed = _read_output(output)
    text, summary = _split(printed, str(output))
    if not any(sign.isalnum() for sign in text):
        raise TableError(
            "llm_demo said not a single word",
            where=str(output),
            came=f"a text without a letter or digit: {one_line(text)!r}",
            expected="a text of words",
            hint="NaN logits say one token for ever; a model that ends at once needs another prompt",
        )
    told = _read_metrics(metrics) if metrics.exists() else {}
    speeds = _told_speeds(told) or _printed_speeds(summary)
    if speeds is None:
        raise TableError(
            "llm_demo ended with exit code 0 and without a summary",
            where=str(output),
            came=one_line(summary) or "nothing behind its text",
            expected="prompt tokens, decode tokens and their times, printed or in its metrics",
            hint="the model was not loaded, or the build is another program",
        )
    columns = {name: value / divisor for key, (name, divisor) in _TOLD.items() if (value := told.get(key)) is not None}
    evicted = told.get("h2o_total_evict_tokens")
    launch = DemoLaunch(
        name, *speeds, elapsed_s, disturbance, columns or None, None if evicted is None else int(evicted)
    )
    return launch, text


_MIB = 1024.0 * 1024.0
_RENAMED = {
    "h2o_keep_ratio": "h2o_keep",
    "h2o_lossy_ratio": "h2o_lossy",
    "h2o_lossless_ratio": "h2o_lossless",
    "h2o_lossless_compress_us": "h2o_lossless_comp_us",
    "h2o_lossless_decompress_us": "h2o_lossless_decomp_us",
    "h2o_lossless_queue_depth_peak": "h2o_lossless_queue_peak",
    "h2o_lossless_fallback_count": "h2o_lossless_fallback",
}
_ALIKE = ("backpressure_skip", "async_queue_peak", "async_wait_us", "decode_cache_hit", "decode_cache_miss")
_TOLD: Mapping[str, tuple[str, float]] = {
    **{key: (column, 1.0) for key, column in _RENAMED.items()},
    "h2o_lossless_raw_bytes": ("h2o_lossless_raw_mb", _MIB),
    "h2o_lossless_compressed_bytes": ("h2o_lossless_comp_mb", _MIB),
    **{f"h2o_lossless_{name}": (f"h2o_lossless_{name}", 1.0) for name in _ALIKE},
}
"""Field of the metrics -> the column of llm_bench that says the same, and the number to divide by."""


def _read_metrics(path: Path) -> dict[str, float]:
    """The numbers of the last object of a metrics file: a run appends to it."""
    try:
        lines = read_regular_text(path, MAX_OUTPUT_BYTES).split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        values = load(dict[str, Any], last, "the metrics of llm_demo", where=str(path))
    except (OSError, ValueError) as error:
        what, came = "the metrics of llm_demo cannot be read", getattr(error, "strerror", None) or str(error)
        raise TableError(what, where=str(path), came=came, expected="JSON lines") from None
    except H2OError as error:
        raise TableError(error.what, where=error.where, came=error.came, expected="one JSON object a prompt") from None
    numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
    return {key: float(value) for key, value in numbers.items() if not isinstance(value, bool)}


_MOST = 1e15
"""Above this a count or a time in microseconds is none."""


def _told_speeds(told: Mapping[str, float]) -> tuple[int, int, float, float] | None:
    """Tokens of the prompt, tokens decoded, seconds of prefill and decode speed, as the metrics have them."""
    prompt, decoded, prefill_us, decode_us = (
        told.get(name, 0.0) for name in ("prompt_tokens", "decode_tokens", "prefill_us", "decode_us")
    )
    if not all(0 < number < _MOST for number in (prompt, decoded, prefill_us, decode_us)):
        return None
    return int(prompt), int(decoded), prefill_us / 1e6, decoded / decode_us * 1e6


def _printed_speeds(summary: str) -> tuple[int, int, float, float] | None:
    """The same, as they are printed behind the text in every age of the program."""
    asked = {"prompt tokens num": "", "decode tokens num": "", "prefill time": " s", "decode speed": " tok/s"}
    found = [
        re.search(rf"^ *{name} = (\d{{1,15}}(?:\.\d+)?){unit}\s*$", summary, re.MULTILINE)
        for name, unit in asked.items()
    ]
    prompt, decoded, prefill_s, speed = (0.0 if match is None else float(match[1]) for match in found)
    return (int(prompt), int(decoded), prefill_s, speed) if min(prompt, decoded, speed) > 0 else None


def _read_output(path: Path) -> str:
    try:
        return read_regular(path, MAX_OUTPUT_BYTES).decode("utf-8", "replace").replace("\r\n", "\n")
    except TooLarge as error:
        what, expected = "an output of llm_demo is too large", f"at most {MAX_OUTPUT_BYTES:,}"
        raise TableError(what, where=str(path), came=error.strerror, expected=expected) from None
    except OSError as error:
        raise TableError("an output of llm_demo cannot be read", where=str(path), came=error.strerror) from error


def _split(output: str, where: str) -> tuple[str, str]:
    """The generated text of an output, between the line of the prompt's file and the line of ``#``; and what follows.

    Lines of the engine are cut out by their pattern, wherever they stand.
    """
    begins = _TEXT_BEGINS.search(output)
    ends = None if begins is None else _TEXT_ENDS.search(output, begins.end())
    if begins is None or ends is None:
        missing = "line 'prompt file is …'" if begins is None else "line of # behind the text"
        raise TableError("an output of llm_demo has no text", where=where, came=f"no {missing}", expected="both lines")
    text = ENGINE_LINE.sub("", output[begins.end() : ends.start()]).removesuffix("\n")
    return text, output[ends.end() :]


def read_demo_text(path: Path) -> str:
    """The text that a recorded output of llm_demo holds; TableError if there is none, or the file is too large."""
    return _split(_read_output(path), str(path))[0]


# -- texts ----------------------------------------------------------------------------------------------------------

_SHARE = 0.9
"""Of the words of a text: from here on it is one word over and over."""

_ON_END = 10
"""So many times the same word on end are that too, whatever stands around them."""


@dataclass(frozen=True)
class TextPair:
    """Two texts of one prompt, with eviction off and on; the prefix is what both begin with."""

    prompt: str
    prefix_words: int
    prefix_chars: int
    words_off: int
    words_on: int
    similarity: float
    """Share of words that stand in both in the same order, 0 to 1: twice the matching words over all words of both
    (Ratcliff and Metzener 1988, as Python's difflib has it)."""
    degenerate: str | None = None
    """What there is to say of texts that are one word over and over."""

    def render(self) -> str:
        said = "" if self.degenerate is None else f"; {self.degenerate}"
        return (
            f"{self.prompt}: {self.words_off} words with H2O off, {self.words_on} with H2O on; the first "
            f"{self.prefix_words} words ({self.prefix_chars} characters) are the same, "
            f"similarity {self.similarity:.3f}{said}"
        )


def compare_texts(prompt: str, off: str, on: str) -> TextPair:
    """Compare the text with eviction off and the one with eviction on."""
    words_off, words_on = off.split(), on.split()
    return TextPair(
        prompt=prompt,
        prefix_words=_common(words_off, words_on),
        prefix_chars=_common(off, on),
        words_off=len(words_off),
        words_on=len(words_on),
        similarity=SequenceMatcher(None, words_off, words_on, autojunk=False).ratio(),
        degenerate=_describe_degenerate(off=words_off, on=words_on),
    )


def _describe_degenerate(**texts: Sequence[str]) -> str | None:
    """Which of the texts are one word, or one over and over, and how often it stands there."""
    said = []
    for state, words in texts.items():
        word, times = Counter(words).most_common(1)[0] if words else ("", 0)
        on_end = max((len(list(same)) for _, same in itertools.groupby(words)), default=0)
        if words and (len(words) == 1 or times >= _SHARE * len(words) or on_end >= _ON_END):
            said.append(f"{word[:20]!r} is {times} of {len(words)} words with H2O {state}")
    return f"degenerate text: {', '.join(said)}" if said else None


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(first), len(second)))

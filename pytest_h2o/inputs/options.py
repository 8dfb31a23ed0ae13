"""The table of options, and the settings that come of them.

Every option exists once: its command-line name, the same-named ini key, its type, its default and its help. Those that
set a target come from the table of metrics, which puts them between these.
Only the standard library is imported: this module is loaded by every pytest run of its environment. That is also why
its values are named tuples: a dataclass takes several times as long to define.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pytest_h2o.errors import UsageError, did_you_mean

Kind = Literal["text", "path", "paths", "flag", "int", "float", "texts", "numbers"]


class Range(NamedTuple):
    """What a number may be: `least` and `most` are of it, `above` and `below` are not."""

    word: str = "a number"
    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    note: str = ""

    def holds(self, value: float) -> bool:
        return math.isfinite(value) and self.least <= value <= self.most and self.above < value < self.below

    @property
    def ends(self) -> tuple[float, float]:
        """The lower and the upper end, whether they are of it or not; infinite where there is none."""
        return max(self.least, self.above), min(self.most, self.below)

    @property
    def text(self) -> str:
        """``a fraction from 0 to below 1``."""
        high = f"below {self.below:g}" if self.below < math.inf else f"{self.most:g}" if self.most < math.inf else ""
        if self.least > -math.inf:
            bounds = f" from {self.least:g} to {high}" if high else f" of at least {self.least:g}"
        else:
            bounds = f" above {self.above:g}" if self.above > -math.inf else ""
            bounds += f"{' and' if bounds else ' of'} at most {high}" if high else ""
        return self.word + bounds + self.note


ANY_NUMBER = Range()


def limit(holds: Callable[[Any], bool], expected: str) -> Callable[[Any, str], object]:
    """A check of a number: UsageError, naming where it was said, unless it holds."""

    def check(value: Any, origin: str) -> None:
        if not holds(value):
            raise UsageError(f"{origin} is out of range", came=str(value), expected=expected)

    return check


def parse_baseline(text: str, origin: str) -> float:
    """Read a decode baseline in tok/s; UsageError unless it is a positive finite number."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise UsageError(
            f"{origin} takes paired, a decode speed or none",
            came=repr(text),
            expected="paired; tok/s with H2O off, above 0, as 56.02; or none to leave the decode threshold out",
        )
    return number


LEAST_DECODE_PAIRS = 5
"""Fewer can never give a verdict, however clear they are: a pass or a fail is not wrong more often than once in 20."""

CODEC_TIMEOUT_S = 600.0
"""Seconds that a codec of a plugin has for one call."""

MAX_LAUNCHES = 1000
"""Launches of one point, at most."""

MAX_DECODE_PAIRS = 200
"""The longest comparison that the critical values are computed for."""


def parse_launcher(text: str, origin: str) -> tuple[str, ...]:
    """The words of a launcher; UsageError if there are none."""
    import shlex

    try:
        words, came = tuple(shlex.split(text)), repr(text)
    except ValueError as error:
        words, came = (), f"{text!r}: {error}"
    if not words:
        raise UsageError(f"{origin} is no command", came=came, expected='a command such as "ssh HOST" or "adb shell"')
    return words


def parse_budget(text: str, origin: str) -> tuple[int | None, float | None]:
    """Read a decode budget: pairs and seconds, either one None where it is not said."""
    words = [word.strip() for word in text.split(",")]
    try:
        pairs = [int(word) for word in words if word.isdecimal()]
        times_s = [float(word[:-1]) for word in words if word.endswith("s")]
        is_sound = len(pairs) + len(times_s) == len(words) and max(len(pairs), len(times_s)) == 1
    except ValueError:
        is_sound = False
    example = f"for example 20 (pairs, {LEAST_DECODE_PAIRS} to {MAX_DECODE_PAIRS}), 60s or 20,60s"
    if is_sound and any(1 <= n < LEAST_DECODE_PAIRS for n in pairs):
        what = f"{origin}: so few pairs can never give a verdict, however clear they are"
        raise UsageError(what, came=repr(text), expected=example)
    if not (is_sound and all(1 <= n <= MAX_DECODE_PAIRS for n in pairs) and all(0 < s < math.inf for s in times_s)):
        raise UsageError(f"{origin} takes pairs, seconds or both", came=repr(text), expected=example)
    return next(iter(pairs), None), next(iter(times_s), None)


CORES = "cores"
"""Those of this machine."""

_DASK = r"dask://((?:\[[0-9A-Fa-f:.%]+\]|[^\s/:\[\]]+):([0-9]{1,5}))"


def dask_address(name: str, origin: str) -> str | None:
    """``HOST:PORT`` of a dask scheduler, or None for the cores of this machine; UsageError, naming `origin`, else."""
    if name == CORES:
        return None
    match = re.fullmatch(_DASK, name)
    if match is None or not 0 < int(match[2]) < 1 << 16:
        raise UsageError(f"{origin} does not know this executor", came=repr(name), expected="cores or dask://HOST:PORT")
    return match[1]


class Option(NamedTuple):
    """One row of the table: ``--h2o-NAME`` and ini key ``h2o_NAME``."""

    name: str
    kind: Kind
    help: str
    default: Any = None
    choices: tuple[str, ...] = ()
    metavar: str | None = None
    check: Callable[[Any, str], object] | None = None
    """Takes a value and where it was said; UsageError if it cannot be."""

    @property
    def flag(self) -> str:
        return f"--h2o-{self.name}"

    @property
    def key(self) -> str:
        return "h2o_" + self.name.replace("-", "_")

    @property
    def is_list(self) -> bool:
        return self.kind in ("paths", "texts", "numbers")

    @property
    def full_help(self) -> str:
        """The help with the default, where there is one to speak of."""
        return self.help if self.default is None or self.default is False else f"{self.help} (default: {self.default})"

    def argparse_keywords(self) -> dict[str, Any]:
        """How the option is declared on a command line; not given is None, so that the ini file can be asked."""
        keywords: dict[str, Any] = {"dest": self.key, "default": None, "help": self.full_help}
        if self.kind == "flag":
            return {**keywords, "action": "store_true"}
        keywords["metavar"] = self.metavar or self.name.upper()
        return {**keywords, "action": "append"} if self.is_list else keywords


OPTIONS: tuple[Option, ...] = (
    # what runs
    Option(
        "bench",
        "path",
        "the llm_bench binary to run, or reference for the embedded one (default: that, unless logs are read)",
        metavar="PATH|reference",
    ),
    Option(
        "launcher",
        "text",
        "run bench and llm_demo on another machine: a command that runs one more word there as text for a shell",
        metavar="CMD",
        check=lambda text, origin: parse_launcher(text, origin),
    ),
    Option(
        "base-config",
        "path",
        "the model's config.json that every run starts from (default: the embedded model, for the embedded bench)",
        metavar="FILE",
    ),
    Option(
        "demo", "path", "the llm_demo binary: real prompts, their speed and text with H2O on and off", metavar="PATH"
    ),
    Option(
        "demo-prompts",
        "paths",
        "prompts for llm_demo: text files, folders of *.txt, or manifests in JSON lines (default: prompt_file of the "
        "preset, or three that are shipped, of about 128, 512 and 2,048 tokens)",
        metavar="PATH",
    ),
    Option(
        "demo-rounds",
        "int",
        "pairs of launches on each prompt, at most; fewer than 5 a length give no verdict on it",
        8,
        metavar="N",
        check=limit(lambda count: 1 <= count <= MAX_DECODE_PAIRS, f"1 to {MAX_DECODE_PAIRS}"),
    ),
    Option("backend", "text", "backend given to the bench", "cpu"),
    Option(
        "threads",
        "int",
        "threads given to the bench (default: 4, or the number of cores if fewer; the embedded bench: 1)",
        check=limit(lambda count: count >= 1, "at least 1"),
    ),
    Option("attention-option", "int", "-qatten of the bench; anything but 0 switches H2O off there", 0),
    Option(
        "bench-timeout",
        "float",
        "seconds that one run of the bench may take",
        1800.0,
        metavar="S",
        check=limit(lambda elapsed_s: 0 < elapsed_s < math.inf, "seconds above 0"),
    ),
    Option(
        "logs",
        "path",
        "gate on logs recorded before in this folder, ours or that of the original scripts; nothing is run",
        metavar="DIR",
    ),
    Option(
        "disturbed",
        "text",
        "a launch for the decode verdict that others disturbed: again (measured again) or keep (only marked)",
        "again",
        ("again", "keep"),
    ),
    Option(
        "launches",
        "int",
        "how often each point of a sweep is launched: every launch must be sound (default: 1)",
        metavar="N",
        check=limit(lambda count: 1 <= count <= MAX_LAUNCHES, f"1 to {MAX_LAUNCHES}"),
    ),
    Option("no-fold", "flag", "run also the points that the runtime cannot tell apart", False),
    Option(
        "fast",
        "flag",
        "launch no point that cannot meet its lossy target by arithmetic (floor, whole blocks): the gate is incomplete",
        False,
    ),
    Option("dry-run", "flag", "write configs and the list of runs, run nothing", False),
    # what is read
    Option(
        "presets",
        "paths",
        "preset files or folders (default: presets/ beside the gate file); WORD=PATH puts WORD- before their names",
        metavar="[WORD=]PATH",
    ),
    Option("scopes", "path", "file of dump scopes (default: scopes.yaml beside the gate file)", metavar="FILE"),
    Option("dump-dir", "path", "KV dump (folder or .zip) in place of every scope's own root", metavar="DIR"),
    Option("allow-skips", "flag", "let a scope pass although entries of its dump could not be read", False),
    Option(
        "codec-timeout",
        "float",
        "seconds that a codec of a plugin may take for one call, of a stream or of several",
        CODEC_TIMEOUT_S,
        metavar="S",
        check=limit(lambda elapsed_s: 0 < elapsed_s <= 10**6, "seconds above 0, at most 1000000"),
    ),
    Option("set", "texts", "set one key of every preset or scope for this run, KEY=VALUE", metavar="KEY=VALUE"),
    # what is asked
    Option(
        "rule", "text", "joint: one row meets every target; best-of: best of each column", "joint", ("joint", "best-of")
    ),
    Option(
        "target",
        "numbers",
        "target of any metric, as targets: of a preset has it: h2o_lossless_fallback=0",
        metavar="METRIC=VALUE",
    ),
    Option(
        "margin-note",
        "float",
        "note each target that is held with less than this fraction of it to spare; 0: none",
        0.15,
        metavar="FRACTION",
        check=limit(lambda share: 0 <= share < math.inf, "a fraction of at least 0"),
    ),
    Option(
        "decode-baseline",
        "text",
        "what decode speed is held against: paired (launched beside, H2O off), tok/s with H2O off, or none to leave it "
        "out (default: paired when a bench runs, the recorded pairs or row when logs are read)",
        metavar="paired|TOK_S|none",
        check=lambda text, origin: text in ("paired", "none") or parse_baseline(text, origin),
    ),
    Option("baseline-bench", "path", "another build to pair with, same config, in place of H2O off", metavar="PATH"),
    Option(
        "decode-budget",
        "text",
        "pairs and seconds that the decode verdict of a preset may take: 20, 60s or 20,60s (default: 20 pairs; on the "
        "embedded bench 20,60s)",
        metavar="PAIRS,SECONDSs",
        check=parse_budget,
    ),
    Option(
        "inconclusive",
        "text",
        "an inconclusive decode verdict: warn (the item passes, the gate is inconclusive) or fail",
        "warn",
        ("warn", "fail"),
    ),
    Option(
        "strict",
        "flag",
        "exit code 1 unless the verdict of the gate is PASS: one that is inconclusive or incomplete fails, too",
        False,
    ),
    # what is kept
    Option("out-dir", "path", "parent of the run folders, the history and the baselines", "h2o-runs", metavar="DIR"),
    Option(
        "resume",
        "path",
        "go on with the run in this folder, which was broken off: give the other options as it had them",
        metavar="RUN_DIR",
    ),
    Option("save", "text", "save the figures of this run as a baseline", metavar="NAME"),
    Option("overwrite", "flag", "let --h2o-save replace a baseline of that name", False),
    Option(
        "compare",
        "text",
        "fail where a figure is worse than in a baseline, than in the last run, or a timing than in the last N runs",
        metavar="NAME|last|rolling:N",
    ),
    Option("compare-fail", "texts", "let a metric be worse by this much, lossless_ratio:0.5", metavar="METRIC:PERCENT"),
    # where it runs
    Option(
        "executor",
        "text",
        "where streams of dumps are coded",
        CORES,
        metavar="cores|dask://HOST:PORT",
        check=dask_address,
    ),
    Option("html", "text", "write report.html: yes or no", "yes", ("yes", "no"), metavar="yes|no"),
)

NOT_REPEATED = frozenset({"save", "overwrite", "resume", "strict"})
"""Options that the command which repeats an item leaves out: it saves, replaces and resumes nothing, and is no gate."""

BY_NAME: Mapping[str, Option] = {option.name: option for option in OPTIONS}
EMBEDDED_BENCH = Path(__file__).parents[1] / "reference" / "__main__.py"
"""Stands for the bench that comes with the plugin wherever a bench is named by its path."""

EMBEDDED_WORD = "reference"
"""What names it on a command line and in the ini file."""

DEFAULT_THREADS = min(4, os.cpu_count() or 1)
"""What the bench takes by itself is 4; more threads than cores only add noise."""

EMBEDDED_THREADS = 1
"""The embedded model is so small that a second thread gains it nothing, and costs it dearly beside other work."""


def usual_threads(bench: Path | None) -> int:
    """How many threads a bench is given where nobody says it."""
    return EMBEDDED_THREADS if bench == EMBEDDED_BENCH else DEFAULT_THREADS


class Given(NamedTuple):
    """A resolved option value and where it was said: the flag, the ini key, or ``default``."""

    value: Any
    origin: str

    @property
    def on_command_line(self) -> bool:
        return self.origin.startswith("--")


class Settings:
    """Every option resolved: command line before ini before default; paths absolute."""

    def __init__(self, given: Mapping[str, Given]) -> None:
        self.given = given

    def __getitem__(self, name: str) -> Any:
        return self.given[name].value

    def origin(self, name: str) -> str:
        return self.given[name].origin

    def numbers(self, name: str) -> dict[str, Given]:
        """What an option of ``NAME=VALUE`` settings says: each number, and whether command line or ini file says it."""
        return {key: Given(number, origin) for key, number, origin in self.given[name].value or ()}

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Built-in types only, for run.json."""

        def plain(value: Any) -> Any:
            if isinstance(value, Path):
                return str(value)
            return [plain(v) for v in value] if isinstance(value, tuple) else value

        return {name: {"value": plain(g.value), "origin": g.origin} for name, g in self.given.items()}

    def command_line(self) -> list[str]:
        """The flags that repeat this run: those that were given on the command line, paths absolute."""
        flags: list[str] = []
        for name, given in self.given.items():
            if not given.on_command_line or name in NOT_REPEATED:
                continue
            if given.value is True:
                flags.append(f"--h2o-{name}")
            else:
                values = given.value if isinstance(given.value, tuple) else (given.value,)
                if name in BY_NAME and BY_NAME[name].kind == "numbers":
                    values = tuple(f"{key}={number!r}" for key, number, origin in values if origin == given.origin)
                named = (EMBEDDED_WORD if value == EMBEDDED_BENCH else value for value in values)
                flags.extend(f"--h2o-{name}={value}" for value in named)
        return flags


def refuse_unknown_keys(config: Any, options: Iterable[Option]) -> None:
    """Refuse an ini key that begins like ours and is none: a misspelt target would silently not be asked for.

    ``H2O_LOSSY_TARGET`` and ``h2o-lossy-target`` begin like ours, too.
    """
    known = {option.key for option in options}
    for key in ini_keys(config):
        meant = re.sub(r"[^a-z0-9]+", "_", key.lower())
        if meant.startswith("h2o_") and key not in known:
            hint = did_you_mean(meant, known) or "see pytest --help"
            raise UsageError(f"the ini file has an unknown key {key}", hint=hint)


def ini_keys(config: Any) -> tuple[str, ...]:
    """Every key of the ini file; pytest 9.1 deprecates what tells those that nothing has declared, and has no other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tuple(getattr(config, "inicfg", ()))


LABEL = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*)=(/.*)", re.DOTALL)
"""What may stand before an absolute path of presets: their names begin with it."""


def _labelled_path(folder: Path, text: str) -> Path:
    """An absolute path, behind its label if it has one; a file whose name looks like both is no label."""
    label, sign, rest = text.partition("=")
    labelled = f"{label}={os.path.abspath(folder / rest)}"  # noqa: PTH100
    is_label = sign and rest and LABEL.match(labelled) and not os.path.lexists(folder / text)
    return Path(labelled if is_label else os.path.abspath(folder / text))  # noqa: PTH100


def _named_number(text: str, origin: str) -> tuple[str, float, str]:
    name, _, number = (part.strip() for part in text.partition("="))
    try:
        return name, float(number), origin
    except ValueError:
        example = "for example h2o_lossless_fallback=0"
        raise UsageError(f"{origin} takes NAME=VALUE, VALUE a number", came=repr(text), expected=example) from None


def _convert(option: Option, raw: Any, folder: Path, origin: str) -> Any:
    if option.kind == "numbers":
        return tuple(_named_number(item, origin) for item in ([raw] if isinstance(raw, str) else raw))
    if option.kind in ("paths", "texts"):
        items = [raw] if isinstance(raw, str | os.PathLike) else list(raw)
        return tuple(_labelled_path(folder, str(item)) if option.kind == "paths" else str(item) for item in items)
    if option.kind == "flag":
        if isinstance(raw, bool):
            return raw
        lowered = str(raw).strip().lower()
        if lowered in ("1", "true", "yes", "on"):
            return True
        if lowered in ("0", "false", "no", "off", ""):
            return False
        raise UsageError(f"{origin} takes yes or no", came=repr(raw), expected="true or false")
    text = str(raw).strip()
    if option.kind == "path":
        if option.name in ("bench", "baseline-bench") and text == EMBEDDED_WORD:
            return EMBEDDED_BENCH
        return Path(os.path.abspath(folder / Path(text).expanduser()))  # noqa: PTH100
    if option.kind in ("int", "float"):
        try:
            number: int | float = int(text) if option.kind == "int" else float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            kind = "a whole number" if option.kind == "int" else "a number"
            raise UsageError(
                f"{origin} takes {kind}", came=repr(text), expected=f"{option.flag}={option.metavar or 'N'}"
            )
        return number
    if option.choices and text not in option.choices:
        raise UsageError(f"{origin} does not know {text!r}", came=text, expected=" or ".join(option.choices))
    return text


def resolve_settings(
    options: Iterable[Option],
    *,
    command_line: Callable[[str], Any],
    ini: Callable[[str], Any],
    invocation_dir: Path,
    ini_dir: Path,
) -> Settings:
    """Resolve every option."""
    options = tuple(options)
    given: dict[str, Given] = {}
    for option in options:
        raw, of_ini, key = command_line(option.key), ini(option.key), f"ini key {option.key}"
        if raw is not None and raw != []:
            value = _convert(option, raw, invocation_dir, option.flag)
            if option.kind in ("texts", "numbers") and of_ini:  # settings add up, the later one standing
                value = (*_convert(option, of_ini, ini_dir, key), *value)
            given[option.name] = Given(value, option.flag)
            continue
        if of_ini not in (None, "", []):
            given[option.name] = Given(_convert(option, of_ini, ini_dir, key), key)
            continue
        value = option.default
        if option.kind == "path" and value is not None:
            value = invocation_dir / value
        given[option.name] = Given(value, "default")
    if given["resume"].value is not None:
        given["out-dir"] = Given(given["resume"].value.parent, given["resume"].origin)

    for option in options:
        value, origin = given[option.name]
        if option.check is not None and value is not None:
            option.check(value, origin)
    settings = _check_sources(Settings(given))
    if settings["threads"] is None:
        return Settings({**settings.given, "threads": Given(usual_threads(settings["bench"]), "default")})
    return settings


def _check_sources(settings: Settings) -> Settings:
    """A bench on the command line stands over logs from the ini file; both on one level exclude each other.

    Where neither is named the embedded bench runs.
    """
    bench, logs = settings.given["bench"], settings.given["logs"]
    if settings["baseline-bench"] is not None:
        _check_baseline_bench(settings)
    if bench.value is None and logs.value is None:
        if settings.given["base-config"].on_command_line:  # else a forgotten bench would run another model
            raise UsageError(
                f"{settings.origin('base-config')} names a model, and nothing names the bench that runs it",
                expected="--h2o-bench PATH beside it, or --h2o-bench reference for the embedded bench",
            )
        bench = Given(EMBEDDED_BENCH, "default")
    if bench.value == EMBEDDED_BENCH and settings["demo"] is not None:
        raise UsageError(
            "llm_demo says nothing about the embedded bench",
            came=f"{settings.origin('demo')} {settings['demo']}",
            expected="--h2o-bench PATH of the same build beside it",
            hint="leave it out: the embedded bench measures perplexity itself",
        )
    if settings["demo"] is None and settings.given["demo-prompts"].on_command_line:
        raise UsageError(
            f"{settings.origin('demo-prompts')} names prompts, and nothing says them", expected="--h2o-demo PATH"
        )
    if bench.value is None:
        _refuse_launch_options(settings)
        return settings
    if logs.value is None:
        return Settings({**settings.given, "bench": bench})
    if bench.on_command_line == logs.on_command_line:
        raise UsageError(
            "a bench to run and logs to read were both given",
            came=f"{bench.origin} {bench.value} and {logs.origin} {logs.value}",
            expected="one of the two",
            hint="leave out --h2o-logs to run the bench, or --h2o-bench to gate on the logs",
        )
    loser = "logs" if bench.on_command_line else "bench"
    winner = "bench" if loser == "logs" else "logs"
    return Settings({**settings.given, loser: Given(None, f"left out for {settings.origin(winner)}")})


def _check_baseline_bench(settings: Settings) -> None:
    """Another build is paired with the bench: it needs one, and no other baseline."""
    other, baseline = settings.given["baseline-bench"], settings.given["decode-baseline"]
    if settings["bench"] is None:
        raise UsageError(
            "a build to compare with was given, and no bench",
            came=f"{other.origin} {other.value}",
            expected="--h2o-bench PATH, the build that is judged",
        )
    if baseline.value not in (None, "paired"):
        raise UsageError(
            "a build to compare with and another decode baseline were both given",
            came=f"{other.origin} {other.value} and {baseline.origin} {baseline.value}",
            expected="one of the two",
        )


def _refuse_launch_options(settings: Settings) -> None:
    """Where logs are read an option about launching would do nothing, and the user believe that it did."""
    launching = ("base-config", "backend", "threads", "attention-option", "bench-timeout", "no-fold")
    names = (*launching, "launcher", "disturbed", "baseline-bench", "decode-budget", "demo", "demo-rounds")
    given = [settings.origin(name) for name in names if settings.given[name].on_command_line]
    if given:
        raise UsageError(
            f"{', '.join(given)} says how to run a bench, and recorded logs are read",
            where=settings.origin("logs"),
            expected="--h2o-bench PATH beside it",
            hint="leave the option out to gate on the logs",
        )

"""How a bench is started: its program (the embedded one, or a path), its settings, the files and the config of one run.

The engine opens ``base_dir + field`` for its six files. A config written elsewhere must therefore carry an
absolute `base_dir` that ends in ``/``, and each file as a path relative to it.

A program's shared libraries are those that the dynamic loader resolves (ld.so(8)); nothing is run. Read are the dynamic
sections of ELF files: DT_NEEDED, and the folders that DT_RPATH, LD_LIBRARY_PATH, DT_RUNPATH and the loader's cache
name, in this order. Libraries of the system, below /lib and /usr/lib, are those of the machine.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shlex
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from pytest_h2o.errors import BenchError, StoreError, UsageError, can_name_file
from pytest_h2o.files import TooLarge, digest_file, open_regular, read_regular, read_regular_text, unique_keys
from pytest_h2o.inputs.options import EMBEDDED_BENCH, EMBEDDED_WORD

if TYPE_CHECKING:
    from pytest_h2o.inputs.presets import Point


def is_embedded(bench: Path | None) -> bool:
    """Whether a bench is the one that comes with the plugin."""
    return bench == EMBEDDED_BENCH


def parse_bench(text: str) -> Path:
    """The bench that a word of a command line names: ``reference``, or a path."""
    return EMBEDDED_BENCH if text == EMBEDDED_WORD else Path(text)


def program_command(bench: Path) -> tuple[str, ...]:
    """The words that start a bench, before its flags; a bare name is a file here, not in PATH."""
    return (sys.executable, "-m", "pytest_h2o.reference") if is_embedded(bench) else (str(bench.absolute()),)


def digest_program(bench: Path) -> str:
    """SHA-256 of a bench, hexadecimal: of its file and the libraries beside it, or of the modules of our own."""
    files = program_files(bench)
    return digest_file(bench) if files == (bench,) else digest_files((path.name, path) for path in files)


def program_files(bench: Path) -> tuple[Path, ...]:
    """The files that a bench is made of: itself, and the shared libraries that it loads from outside the system.

    Of a script they are those too of the executables that it names, and so on; what it finds by other ways is not seen.
    """
    if is_embedded(bench):
        return tuple(sorted(bench.parent.glob("*.py")))
    programs = [bench]
    for program in programs:  # grows
        programs += (path for path in _named_programs(program) or () if path not in programs)
    return tuple(dict.fromkeys([*programs, *(library for each in programs for library in find_libraries(each))]))


_MOST_SCRIPT_BYTES = 1024 * 1024


def describe_script(program: Path) -> str | None:
    """What is not known of a program that is a script; None of another one."""
    found = _named_programs(program)
    if found is None:
        return None
    named = ", ".join(path.name for path in found) or "none"
    return f"{program.name} is a script, which may start anything: of that the executables it names are known ({named})"


def _named_programs(script: Path) -> list[Path] | None:
    """The executables that a script names behind its first line, by path or name in its folder; None of no script."""
    try:
        with open_regular(script) as file:
            head, _, text = file.read(_MOST_SCRIPT_BYTES).partition(b"\n")
    except OSError:
        return None
    if not head.startswith(b"#!"):
        return None
    words = re.findall(rb"[\w.+/-]+", text)
    names = {os.fsdecode(word) for word in words if len(word) < _MOST_TEXT}
    home = Path(os.path.realpath(script)).parent
    # Most words are no path and in no folder: a look at each of them takes a tenth of a second.
    there = {path.name.casefold() for path in home.iterdir()}
    named = {each for name in names for each in (name, name.rstrip("/").rpartition("/")[2])}
    places = {Path(os.path.realpath(home / each)) for each in named if "/" in each or each.casefold() in there}
    return sorted(path for path in places if path.is_file() and os.access(path, os.X_OK))


def digest_files(files: Iterable[tuple[str, Path]]) -> str:
    """SHA-256 of several files under their names, hexadecimal: wherever they lie."""
    return _digest_named((name, digest_file(path)) for name, path in files)


def _digest_named(digests: Iterable[tuple[str, str]]) -> str:
    text = "".join(f"{name} {digest}\n" for name, digest in sorted(digests))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def embedded_base_config() -> Path:
    """The base config of the embedded model."""
    return shipped("models") / "embedded" / "config.json"


def shipped(name: str) -> Path:
    """A folder of data that comes with the plugin; in a source checkout, that in fixtures/."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "shipped" / name, package.parent / "fixtures" / name):
        if folder.is_dir():
            return folder
    raise StoreError(f"this installation has no {name}", where=str(package), hint="install pytest-h2o again")


@dataclass(frozen=True)
class BenchSettings:
    """How the bench is launched."""

    command: tuple[str, ...]
    """The program, and arguments that come before ours (``python -m module``)."""
    backend: str = "cpu"
    """cpu, opencl or metal."""
    threads: int = 4
    attention_option: int = 0
    """``-qatten``; other than 0 this engine quantises the cache and switches H2O off."""
    timeout_s: float = 1800.0
    """After which a run is ended."""
    grace_s: float = 5.0
    """That it then has to end by itself."""
    program: Path | None = None
    """The bench where `command` does not begin with it."""
    sha256: str | None = None
    """Digest of a program that is on another machine."""
    with_json: bool = True
    """Whether llm_bench is asked for its rows as JSON too; older ones refuse that."""

    @classmethod
    def for_program(cls, program: Path, **settings: Any) -> BenchSettings:
        """Settings for a program by its path, which is made absolute: a bare name is a file here, not in PATH."""
        return cls(program_command(program), program=program, **settings)

    @property
    def digest(self) -> str:
        """SHA-256 of the bench, hexadecimal."""
        return self.sha256 or digest_program(self.program or Path(self.command[0]))


def again_folder(number: int | str) -> str:
    """In the folder of a preset: configs and logs of further launches of its points, from number 2."""
    return f"launch-{number}"


@dataclass(frozen=True)
class RunFiles:
    """The files of one run in the folder of its sweep."""

    directory: Path
    run_id: str

    @property
    def config_file(self) -> str:
        """The config that the run reads, as the manifest names it: relative to the folder of the sweep."""
        return f"configs/{self.run_id}.json"

    @property
    def log_file(self) -> str:
        """Its table (``-fp``), as rows and the manifest name it."""
        return f"logs/{self.run_id}.log"

    @property
    def output_file(self) -> str:
        """All that it prints besides, as the manifest names it."""
        return f"logs/{self.run_id}.stdout.txt"

    @property
    def config(self) -> Path:
        return self.directory / self.config_file

    @property
    def log(self) -> Path:
        return self.directory / self.log_file

    @property
    def stdout(self) -> Path:
        return self.directory / self.output_file

    @property
    def json(self) -> Path:
        """Its results as JSON (``-j``)."""
        return self.log.with_name(f"{self.run_id}.json")

    @property
    def marker(self) -> Path:
        """Stands while the run is launched; one that nobody launches any more tells of a process that died."""
        return self.log.with_name(f".{self.run_id}.launching")

    @property
    def outputs(self) -> tuple[Path, ...]:
        return (self.config, self.log, self.stdout, self.json)

    def refuse_existing(self) -> None:
        """Check that the run would not write over, or append to, what is there."""
        for path in self.outputs:
            if path.exists() or path.is_symlink():
                raise BenchError(
                    f"{self.run_id} has been run into this folder before",
                    where=str(path),
                    expected="no such file: the bench appends to its log, and nothing here is overwritten",
                    hint="choose another output folder, or move the old files away",
                )

    def move_broken_off(self, *, unmarked: bool = False) -> str | None:
        """Move what a launch left whose process died to other names; nothing is deleted.

        Call it only where no other process can be launching this run.
        """
        is_broken_off = self.marker.exists() or (unmarked and any(path.exists() for path in self.outputs))
        return self.move_aside("broken-off") if is_broken_off else None

    def move_aside(self, why: str) -> str:
        """Move what a launch left to other names, ``RUN_ID.WHY-1`` say, and return that; StoreError if it cannot be."""
        names = (replace(self, run_id=f"{self.run_id}.{why}-{number}") for number in itertools.count(1))
        moved = next(files for files in names if not any(path.exists() for path in files.outputs))
        try:
            for source, target in zip(self.outputs, moved.outputs, strict=True):
                if source.exists():
                    source.rename(target)
        except OSError as error:
            what, came = f"what a launch left ({why}) cannot be moved aside", error.strerror or str(error)
            hint = "choose another output folder"
            raise StoreError(what, where=str(self.directory), came=came, hint=hint) from error
        return moved.run_id


def plain_path(path: Path) -> str:
    """A path that llm_bench takes whole: absolute if it can be, else relative to where we are."""
    absolute = str(path.absolute())
    relative = os.path.relpath(absolute)
    relative = relative if relative.startswith("..") else f"./{relative}"
    for name in (absolute, relative):
        if not re.search(r"[\s,]", name):
            return name
    raise BenchError(
        "the bench cannot be given this path",
        where=absolute,
        came="a path with a blank or a comma, where the bench cuts its arguments",
        expected="a path without them",
        hint="choose another output folder, or start from inside the folder whose name has them",
    )


def repeat_command(argv: Sequence[str]) -> str:
    """Return a shell line that repeats a run with its table on the terminal: nothing is written or appended."""
    written = {place + more for place, word in enumerate(argv) if word in ("-fp", "-j") for more in (0, 1)}
    return shlex.join(word for place, word in enumerate(argv) if place not in written)


PATH_FIELDS: Mapping[str, str] = {
    "llm_config": "llm_config.json",
    "llm_model": "llm.mnn",
    "llm_weight": "llm.mnn.weight",
    "embedding_file": "embeddings_bf16.bin",
    "tokenizer_file": "tokenizer.txt",
    "context_file": "context.json",
}
"""The fields that the engine opens under `base_dir`, with the names that it uses if they are absent."""

LOSSLESS_DEFAULTS: Mapping[str, object] = {
    "kv_lossless_enable": False,
    "kv_lossless_scope": "front_n",
    "kv_lossless_front_n": 2,
    "kv_lossless_codec": "none",
    "kv_lossless_runtime_enable": False,
    "kv_lossless_block_tokens": 128,
    "kv_lossless_hot_recent_tokens": 256,
    "kv_lossless_hot_sink_tokens": 16,
    "kv_lossless_codec_runtime": "fp16_gear_predictive_v3",
    "kv_lossless_predictors_k": "raw,delta_seq,xor_seq,pair_delta",
    "kv_lossless_predictors_v": "raw,delta_seq,xor_seq",
    "kv_lossless_async_threads": 1,
    "kv_lossless_max_queue": 256,
    "kv_lossless_decode_cache_blocks": 64,
    "kv_lossless_strict_roundtrip_check": False,
}
"""The lossless keys that every generated config sets, in this order, with the engine's defaults."""

_MAX_CONFIG_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class BaseConfig:
    """The config JSON of a model as the user has it."""

    path: Path
    """The file, absolute."""
    values: Mapping[str, Any]
    """Its keys and values, in the file's order."""
    source: str
    """Who named it, for messages: an option, an ini key, a preset."""
    added: Mapping[str, Any] = field(default_factory=dict)
    """What stands in `values` and not in the file."""

    @property
    def base_dir(self) -> Path:
        """Folder that the model's files are relative to: absolute, symbolic links resolved.

        A relative `base_dir` is relative to the folder of the config; an absent or empty one is that folder.
        """
        folder = self.path.parent / str(self.values.get("base_dir", "")).replace("\\", "/")
        return Path(os.path.realpath(folder))


def read_base_config(path: str | os.PathLike[str], source: str = "base config") -> BaseConfig:
    """Read the base config of a model."""
    file = Path(path).absolute()
    values = _read_object(file, source)
    base_dir = values.get("base_dir", "")
    if not isinstance(base_dir, str) or not can_name_file(base_dir):
        raise _refusal(file, source, f"base_dir is {base_dir!r}", "a folder name as text")
    return BaseConfig(file, values, source)


def build_run_config(base: BaseConfig, point: Point) -> dict[str, Any]:
    """Build the config of one run: the base config with the model's place, and every H2O and lossless key set.

    Of a baseline H2O, lossless and its runtime are switched off, and nothing else is set. Key order is that of the base
    config, then base_dir, the kv_h2o_* keys, the kv_lossless_* keys (listed ones first, then others that the preset
    names), then the model files that the base config left to their defaults.
    """
    base_dir = base.base_dir
    config = {**base.values, "base_dir": base_dir.as_posix().rstrip("/") + "/"}
    for name in PATH_FIELDS:
        value = config.get(name)
        if isinstance(value, str) and value:
            if not can_name_file(value):
                raise _refusal(base.path, base.source, f"{name} is {value!r}", "a file name")
            # Resolved first: ".." behind a symbolic link would lead the engine into another folder than it led us.
            target = os.path.realpath(base_dir / value.replace("\\", "/"))
            config[name] = os.path.relpath(target, base_dir).replace(os.sep, "/")
    switched_off = dict.fromkeys(("kv_h2o_enable", "kv_lossless_enable", "kv_lossless_runtime_enable"), False)
    config |= point_keys(point) if point.compressed else switched_off
    return config | {field: name for field, name in PATH_FIELDS.items() if field not in config}


def point_keys(point: Point) -> dict[str, Any]:
    """Give every H2O and lossless key that the config of a point sets, in order, whatever the model."""
    h2o = {
        "kv_h2o_enable": True,
        "kv_h2o_layer_start": point.h2o_layer_start,
        "kv_h2o_layer_end": point.h2o_layer_end,
        "kv_h2o_block_tokens": point.block_tokens,
        "kv_h2o_sink_tokens": point.sink_tokens,
        "kv_h2o_recent_tokens": point.recent_tokens,
        "kv_h2o_target_keep_ratio": point.keep_ratio,
        "kv_h2o_target_mode": point.h2o_target_mode,
        "kv_h2o_target_lossy_ratio": point.h2o_target_lossy_ratio,
        "kv_h2o_ema_alpha": point.ema_alpha,
        "kv_h2o_update_interval": point.update_interval,
        "kv_h2o_trigger_min_tokens": point.trigger_min_tokens,
        "kv_h2o_log_stats": point.h2o_log_stats,
    }
    return {**h2o, **LOSSLESS_DEFAULTS, **point.lossless}


def coding_mode(lossless: Mapping[str, Any]) -> str | None:
    """``probe``, ``full`` or ``store``: how ``kv_lossless_*`` keys have cold tokens coded; None where nothing is."""
    told = {**LOSSLESS_DEFAULTS, **lossless}
    if not (told["kv_lossless_enable"] and told["kv_lossless_runtime_enable"]) or told["kv_lossless_scope"] == "none":
        return None
    return told.get("kv_lossless_runtime_mode") or "probe"


def is_asynchronous(lossless: Mapping[str, Any]) -> bool:
    """Whether how much is coded depends on timing: threads of their own code beside the decoding one."""
    threads = {**LOSSLESS_DEFAULTS, **lossless}["kv_lossless_async_threads"]
    return coding_mode(lossless) in ("full", "store") and threads > 0


def without_quality(base: BaseConfig) -> BaseConfig:
    """The same model, with nothing measured beside speed: a launch that is timed against another."""
    return replace(base, values={key: value for key, value in base.values.items() if not key.startswith("quality_")})


def model_files(base: BaseConfig) -> dict[str, Path]:
    """The model's own files that are there, by field: weights, embedding, tokenizer and what it says of itself."""
    names = {field: base.values.get(field, name) for field, name in PATH_FIELDS.items()}
    named = {field: name for field, name in names.items() if isinstance(name, str) and name and can_name_file(name)}
    folder = base.base_dir
    files = {field: folder / name.replace("\\", "/") for field, name in named.items()}
    return {field: path for field, path in files.items() if path.is_file()}


_WEIGHTS = ("llm_model", "llm_weight", "embedding_file")


def digest_model(base: BaseConfig, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """The first 16 digits of the SHA-256 of a model's weights, and of its other files; of what is there.

    `known`: the digests of its files by field, where they are on another machine.
    """
    found = {field: digest_file(path) for field, path in model_files(base).items()} if known is None else known
    parts = {"weights": _WEIGHTS, "model files": PATH_FIELDS.keys() - set(_WEIGHTS)}
    named = {part: [(field, found[field]) for field in fields if field in found] for part, fields in parts.items()}
    return {part: _digest_named(each)[:16] for part, each in named.items() if each}


ADDED_KEYS = ("layer_nums", "launcher", "machine")
"""Keys of a manifest that tell of the model or of where it ran, and of no point of a sweep. The first one may stand in
a generated config of us alone."""

_COUNT_KEYS = ("layer_nums", "num_hidden_layers", "n_layer", "num_layers", "n_layers")
_LAYER_NAME = re.compile(rb"(?:layers|blocks|blk)[./](\d{1,4})[./]")
_MAX_DESCRIPTION_BYTES = 64 * 1024 * 1024


def layer_count(base: BaseConfig) -> int | None:
    """The layers of a model as config and llm_config count them, else as its weights name them; None if unknown."""
    values = {**_llm_config(base), **base.values}
    found = {values[key] for key in _COUNT_KEYS if type(values.get(key)) is int and values[key] > 0}
    if found or "layer_nums" in values:
        return found.pop() if len(found) == 1 else None
    weights = model_files(base).get("llm_model")
    described = () if weights is None else (weights.with_name(f"{weights.name}.json"), weights)
    return next((count for path in described if (count := _count_named_layers(path)) is not None), None)


def _count_named_layers(path: Path) -> int | None:
    """How many layers a description of weights names: those from 0 on, all of them; None if it is not certain."""
    try:
        names = set(_LAYER_NAME.findall(read_regular(path, _MAX_DESCRIPTION_BYTES)))
    except OSError:
        return None
    return len(names) if len(names) > 1 and {int(name) for name in names} == set(range(len(names))) else None


def with_layer_nums(base: BaseConfig, layers: int | None, source: str) -> BaseConfig:
    """The config of a model with the ``layer_nums`` that it lacks, where the number of layers is known."""
    said = layer_count(base)
    if None not in (layers, said) and layers != said:
        raise UsageError(
            "two numbers of layers are said of one model",
            where=f"{source} and {base.path}",
            came=f"model_layers {layers}, and {said} in what the model says",
            expected="one of them: the engine keeps its state by layer_nums",
            hint="correct model_layers, or layer_nums in the config of the model",
        )
    if (count := layers or said) is None or advise_layer_nums(base) is None:
        return base
    return replace(base, values={**base.values, "layer_nums": count}, added={"layer_nums": count})


def advise_layer_nums(base: BaseConfig | None, layers: int | None = None) -> str | None:
    """Say what to add where a config lacks ``layer_nums``, by which llm_bench keeps its state; None if it has it."""
    if base is None or "layer_nums" in {**_llm_config(base), **base.values}:
        return None
    count = layers or layer_count(base) or "N"
    return (
        "the config of the model has no layer_nums, so the engine counts 32 layers and applies plans to the wrong "
        f'ones: add "layer_nums": {count} to it' + (", N being the number of its layers" if count == "N" else "")
    )


def rope_theta(base: BaseConfig) -> float | None:
    """Read the base of RoPE's frequencies, ``rope_theta``, from the model's llm_config."""
    values = _llm_config(base)
    theta = values.get("rope_theta")
    if isinstance(theta, bool) or not isinstance(theta, int | float) or not 1 <= theta <= 1e12:
        return None
    return None if values.get("rope_scaling") else float(theta)


def _llm_config(base: BaseConfig) -> dict[str, Any]:
    """What the model says of itself; nothing where that cannot be read."""
    path = model_files(base).get("llm_config")
    try:
        return {} if path is None else _read_object(path, "llm_config")
    except UsageError:
        # The engine itself says what is wrong with that file when it is launched; here it only means: not known.
        return {}


def _read_object(path: Path, source: str) -> dict[str, Any]:
    """Read a JSON file that holds one object, each key once."""
    where, what, expected = str(path), "is not JSON", "a JSON object"
    try:
        text = read_regular_text(path, _MAX_CONFIG_BYTES)
        value = json.loads(text, object_pairs_hook=unique_keys, parse_constant=_no_constant)
        if isinstance(value, dict):
            return value
        kinds: dict[type, str] = {str: "text", list: "list"}
        kind = kinds.get(type(value)) or f"value {json.dumps(value)[:40]}"
        what, came, expected = "cannot be used", f"a JSON {kind}", "a JSON object, { … }"
    except UnicodeDecodeError as error:
        came = f"a byte that is not UTF-8 at offset {error.start}"
        what, expected = "cannot be used", "JSON text in UTF-8"
    except TooLarge as error:
        what, came, expected = "cannot be used", str(error.strerror), f"a config of at most {_MAX_CONFIG_BYTES} bytes"
    except OSError as error:
        what, came, expected = "cannot be read", error.strerror or str(error), "a file that can be read"
    except json.JSONDecodeError as error:
        where, came = f"{path}:{error.lineno}:{error.colno}", error.msg
    except RecursionError:
        came = "values nested too deeply"
    except ValueError as error:
        came = str(error)
    raise _refusal(where, source, came, expected, what=what)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"the value {name}, which JSON does not have")


def _refusal(where: Path | str, source: str, came: str, expected: str, *, what: str = "cannot be used") -> UsageError:
    what, hint = f"the config of the model ({source}) {what}", "give the config.json of an exported model"
    return UsageError(what, where=str(where), came=came, expected=expected, hint=hint)


_NEEDED, _STRTAB, _STRSZ, _RPATH, _RUNPATH = 1, 5, 10, 15, 29
_LOAD, _DYNAMIC = 1, 2
_MOST_BYTES = 16 * 1024 * 1024
_MOST_LIBRARIES = 512
_MOST_TEXT = 4096
_SYSTEM = ("/lib/", "/lib32/", "/lib64/", "/usr/lib/", "/usr/lib32/", "/usr/lib64/")
_ORIGIN = re.compile(r"\$(?:ORIGIN\b|\{ORIGIN\})")
_CACHE = Path("/etc/ld.so.cache")
_CACHE_MAGIC = b"glibc-ld.so.cache1.1"


@dataclass(frozen=True)
class _Object:
    """What the dynamic section of a program or library says."""

    path: Path
    kind: bytes
    """Class, byte order and machine: the loader passes over a library that differs in them."""
    needed: tuple[str, ...] = ()
    rpath: tuple[str, ...] = ()
    runpath: tuple[str, ...] = ()
    loaded_by: _Object | None = None

    def searched(self, environment: Mapping[str, str]) -> Iterator[str]:
        """The folders in which the libraries that it needs are looked for, before those of the cache."""
        this: _Object | None = None if self.runpath else self
        while this is not None:
            yield from this.rpath
            this = this.loaded_by
        if path := environment.get("LD_LIBRARY_PATH"):
            yield from (folder or "." for folder in re.split("[:;]", path))
        yield from self.runpath


def find_libraries(program: Path, environment: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """The libraries that a program loads from outside the system's folders, sorted; none of what is no ELF file."""
    return tuple(sorted(set(needed_libraries(program, environment).values())))


def needed_libraries(program: Path, environment: Mapping[str, str] = os.environ) -> dict[str, Path]:
    """The same by the names under which they are needed, links resolved."""
    found: dict[str, Path] = {}
    first = _read(Path(os.path.realpath(program)))
    waiting = [] if first is None else [first]
    cache = dict(_read_cache()) if waiting else {}
    for this in waiting:  # grows: the loader goes breadth first
        preloaded = re.split("[: ]", environment.get("LD_PRELOAD", "")) if this is first else []
        for name in filter(None, (*preloaded, *this.needed)):
            if name in found or len(found) >= _MOST_LIBRARIES:
                continue
            folders = [""] if "/" in name else this.searched(environment)
            places = [Path(folder, name) for folder in folders]
            places += [Path(path) for path in cache.get(name, ())]
            library = next((each for path in places if (each := _read(path, this)) and each.kind == this.kind), None)
            if library is not None:
                found[name] = library.path
                waiting.append(library)
    real = {name: Path(os.path.realpath(path)) for name, path in found.items()}
    home = Path(os.path.realpath(program)).parent
    return {n: path for n, path in real.items() if path.is_relative_to(home) or not str(path).startswith(_SYSTEM)}


def _read(path: Path, loaded_by: _Object | None = None) -> _Object | None:
    """The dynamic section of an ELF file; None of another file, or of one that is damaged."""
    try:
        with open_regular(path) as file:
            return _parse(file, path, loaded_by)
    except (OSError, ValueError, LookupError, ArithmeticError, struct.error):
        return None


def _parse(file: BinaryIO, path: Path, loaded_by: _Object | None) -> _Object | None:
    head = file.read(64)
    if head[:4] != b"\x7fELF":
        return None
    is_wide, order = head[4] == 2, "<" if head[5] == 1 else ">"
    place, (size, count) = (32, (54, 56)) if is_wide else (28, (42, 44))
    (start,) = struct.unpack_from(f"{order}{'Q' if is_wide else 'I'}", head, place)
    size, count = (struct.unpack_from(f"{order}H", head, at)[0] for at in (size, count))
    layout, offset, address, length = (f"{order}IIQQQQ", 2, 3, 5) if is_wide else (f"{order}IIIII", 1, 2, 4)
    table = _read_at(file, start, size * count)
    segments = [struct.unpack_from(layout, table, number * size) for number in range(count)]
    kind = head[4:6] + head[18:20]
    dynamic = [each for each in segments if each[0] == _DYNAMIC]
    if not dynamic:
        return _Object(path, kind, loaded_by=loaded_by)
    data = _read_at(file, dynamic[0][offset], dynamic[0][length])
    entries = list(takewhile(lambda entry: entry[0], struct.iter_unpack(f"{order}{'qQ' if is_wide else 'iI'}", data)))
    values = dict(entries)
    (home, *_) = (each for each in segments if each[0] == _LOAD and 0 <= values[_STRTAB] - each[address] < each[length])
    strings = _read_at(file, values[_STRTAB] - home[address] + home[offset], values[_STRSZ])

    def texts(tag: int) -> list[str]:
        starts = [value for each, value in entries if each == tag][:_MOST_LIBRARIES]
        return [os.fsdecode(strings[at : strings.index(b"\0", at, at + _MOST_TEXT)]) for at in starts]

    def folders(tag: int) -> tuple[str, ...]:
        home, named = str(path.absolute().parent), (text.split(":") for text in texts(tag))
        return tuple(_ORIGIN.sub(lambda _: home, folder) for folder in chain.from_iterable(named) if folder)

    runpath = folders(_RUNPATH)
    return _Object(path, kind, tuple(texts(_NEEDED)), () if runpath else folders(_RPATH), runpath, loaded_by)


def _read_at(file: BinaryIO, start: int, length: int) -> bytes:
    if length > _MOST_BYTES:
        raise ValueError("a section that is too long")
    file.seek(start)
    return file.read(length)


def _read_cache() -> Iterator[tuple[str, Sequence[str]]]:
    """Name -> paths of the loader's cache, as glibc writes it; nothing where there is none."""
    try:
        data = read_regular(_CACHE, _MOST_BYTES)
        data = data[max(0, data.find(_CACHE_MAGIC)) :]  # an older form may stand before it
        (count,) = struct.unpack_from("=I", data, len(_CACHE_MAGIC))
        found: dict[str, list[str]] = {}
        for number in range(count):
            key, value = struct.unpack_from("=II", data, 48 + 24 * number + 4)
            name, path = (os.fsdecode(data[at : data.index(b"\0", at)]) for at in (key, value))
            found.setdefault(name, []).append(path)
        yield from found.items()
    except (OSError, ValueError, struct.error):
        return

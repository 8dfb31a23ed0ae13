"""Whole gate folders with one random fault each: what can be wrong with logs, configs, presets, plugins and the rest.

`make_template` measures a small gate once, which passes. `break_gate` copies it and puts one fault in, by a seed. A
fault of `FATAL` means that something which the verdict rests on is damaged, contradicts itself, is missing or was not
asked: such a gate must not end with exit code 0 and PASS. The others may be harmless, by what they hit or by definition
(a comment, a file that nobody reads); like all they must end without a traceback, in bounded time.
"""

import json
import os
import random
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.plugin import broken_off
from tests.plugin.project import SWEEP as RECORDED
from tests.plugin.project import Project

SCOPES = """scopes:
  tiny:
    root: dump
    scope: front_n
    front_n: 2
    entry_mode: chunked_grouped
    online_chunk_seq: 192
    online_framing_bytes: 8
    target: 1.2
    decides: true
  upper:
    root: dump
    scope: layer_ids
    layer_ids: [1]
    entry_mode: aggregate
"""
GATES = Path("gates")
PRESET = GATES / "presets" / "small.yaml"
SMALL = Path("rec", "small")


def make_template(path: Path) -> Project:
    """A gate on recorded runs, pairs and dumps of its own, all small, that passes."""
    project, options = broken_off.small_project(path)
    preset = path / PRESET
    preset.write_text(preset.read_text().replace("[3.0, 3.2, 3.4]", "[3.2, 3.4]"))
    project.env |= {"FAKE_DECODE": "base=60,drop=-0.02,spread=0.002", "PYTHONDONTWRITEBYTECODE": ""}
    project.launch_here()
    dump = project.copy_dump()
    for folder in [*dump.iterdir(), *(dump / "prose").iterdir()]:
        if folder.name not in ("prose", "layer_0", "layer_1"):
            shutil.rmtree(folder)
    for meta in dump.glob("prose/*/meta_*.json"):
        entry = json.loads(meta.read_text())
        behind = entry["seq_start"] - (440 if entry["layer_id"] else 433)  # tokens of decode: few are soon copied
        if entry["stage"] == "decode" and entry["seq_start"] > 3 and behind not in (0, 1):
            for name in (meta.name, entry["k_file"], entry["v_file"]):
                (meta.parent / name).unlink()
    dump.rename(path / GATES / "dump")
    (path / GATES / "scopes.yaml").write_text(SCOPES)
    result = project.run(*(option for option in options if "scope" not in option), "-k", "small")
    assert result.ret == 0, "\n".join(result.outlines)
    project.run_dir().rename(path / "rec")
    for name in ("h2o-runs", "tmp", "rec/small/consistency"):
        shutil.rmtree(path / name, ignore_errors=True)
    for log in (path / SMALL / "logs").glob("run_*.log"):
        head, rule, row = log.read_text().splitlines()
        log.write_text(f"{head} quality_ppl_rise |\n{rule}:--|\n{row} 0.01 |\n")
        log.with_suffix(".json").unlink()
    project.write_ini(h2o_logs="rec", h2o_html="no")
    return project


@dataclass
class Gate:
    """A copy of the template that gets a fault."""

    path: Path
    rng: random.Random
    arguments: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    is_fatal: bool = True
    """Whether it must not pass; a fault may take it back where what it hit does not matter."""

    def file(self, pattern: str) -> Path:
        """One of the files that match."""
        return self.rng.choice(sorted(self.path.glob(pattern)))

    def write(self, place: str | Path, text: str) -> None:
        path = self.path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def conftest(self, text: str) -> None:
        self.write(GATES / "conftest.py", f"{text}\n")

    def change_json(self, path: Path, change: Callable[[Any], object]) -> None:
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    def update(self, path: Path, place: int | None = None, **fields: object) -> None:
        """Other fields in an object of JSON, or in the one at a place of a list."""
        self.change_json(path, lambda value: (value if place is None else value[place]).update(fields))

    def replace(self, place: str | Path, old: str, new: str) -> None:
        path = self.path / place
        text = path.read_text()
        assert re.search(old, text, re.MULTILINE), (old, path)
        path.write_text(re.sub(old, lambda _: new, text, count=1, flags=re.MULTILINE))


FAULTS: dict[str, Callable[[Gate], object]] = {}
KINDS: dict[str, str] = {}
"""Name of a fault -> what it damages."""
FATAL: set[str] = set()


def parts_of(table: str) -> list[str]:
    """The entries of a table, a line of it or a part between ``;;``."""
    return [part for line in table.strip("\n").split("\n") for part in line.split(" ;; ")]


def choose(gate: Gate, table: str) -> str:
    return gate.rng.choice(parts_of(table))


def choose_pair(gate: Gate, table: str) -> tuple[str, str]:
    left, _, right = choose(gate, table).partition(" => ")
    return left, right


def fault(kind: str, *, fatal: bool = True) -> Callable[[Callable[[Gate], object]], Callable[[Gate], object]]:
    def add(make: Callable[[Gate], object]) -> Callable[[Gate], object]:
        FAULTS[make.__name__], KINDS[make.__name__] = make, kind
        if fatal:
            FATAL.add(make.__name__)
        return make

    return add


def fault_of(seed: int) -> str:
    """Each fault in turn, in an order that is another in every round."""
    names = sorted(FAULTS)
    random.Random(seed // len(names)).shuffle(names)
    return names[seed % len(names)]


def break_gate(template: Path, path: Path, seed: int) -> tuple[Gate, str, str]:
    """A copy of the template at `path` with the fault of a seed; the fault's name, and what it did."""
    shutil.copytree(template, path, symlinks=True)
    rng, name = random.Random(seed), fault_of(seed)
    gate = Gate(path, rng, is_fatal=name in FATAL)
    what = str(FAULTS[name](gate))
    if rng.random() < 0.02 and not gate.env:
        gate.arguments.append("-n1")
        gate.is_fatal &= "def pytest_runtestloop" not in what  # a worker has its own, which comes before it
    return gate, name, what


# -- what any file can have --------------------------------------------------------------------------------------------

JUNK: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[: len(data) // 2],
    "cut at the end": lambda data: data[:-2],
    "binary": lambda data: bytes(range(256)) * 4,
    "NUL inside": lambda data: data[: len(data) // 3] + b"\0" + data[len(data) // 3 :],
    "no UTF-8": lambda data: data.replace(b"e", b"\xff", 1),
    "UTF-16": lambda data: data.decode("utf-8", "replace").encode("utf-16"),
    "twice": lambda data: data + data,
}
"""A way to damage a text -> what becomes of its bytes."""
TEXTS = ("", " \n\n", "{}", "[1]", "null", "NaN", '{"a": "\\ud800"}', "1" * 99_999, "[" * 99_999)
INSTEAD: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "link to itself": lambda path: path.symlink_to(path),
    "sparse": lambda path: (path.touch(), os.truncate(path, 3 << 30)),
    "gone": lambda path: None,
}


def spoil(gate: Gate, path: Path) -> str:
    """Damage a file as a whole."""
    kind = gate.rng.choice([*JUNK, *TEXTS, *INSTEAD])
    if kind in INSTEAD:
        path.unlink()
        INSTEAD[kind](path)
    else:
        path.write_bytes(JUNK[kind](path.read_bytes()) if kind in JUNK else kind.encode())
    return f"{path.relative_to(gate.path)}: {kind!r:.20}"


def flip(gate: Gate, path: Path) -> str:
    """Change some bytes of a file."""
    data = bytearray(path.read_bytes())
    places = [gate.rng.randrange(len(data)) for _ in range(gate.rng.choice((1, 1, 3, 20)))]
    for place in places:
        data[place] = gate.rng.randrange(256)
    path.write_bytes(data)
    return f"{path.relative_to(gate.path)}: bytes {places}"


def places_of(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every key of every object and list in a JSON value, with its holder."""
    keys: Any = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places_of(value[key])


ODD = (None, True, [], {}, "", "x", "\0", "1", -1, 0, 1e308, 10**400, 0.5, "../../..", [[]], "９", -(2**63), "nan")


def change_a_place(gate: Gate, path: Path) -> str:
    """Give one place of a JSON file an odd value, or take it out."""
    value = json.loads(path.read_text())
    holder, key = gate.rng.choice(list(places_of(value)))
    new = gate.rng.choice((*ODD, *["taken out"] * 4))
    holder[key] = new
    if new == "taken out":
        del holder[key]
    path.write_text(json.dumps(value))
    return f"{path.relative_to(gate.path)}: {key} {new!r:.20}"


ANY_FILE = """
rec/small/logs/*.log ;; rec/small/logs/*.stdout.txt ;; rec/small/configs/*.json ;; rec/small/manifest.json
rec/small/decode/pairs.json ;; rec/small/decode/logs/* ;; rec/small/decode/configs/* ;; gates/presets/*.yaml
gates/scopes.yaml ;; gates/dump/prose/layer_0/meta_*.json ;; gates/dump/prose/layer_1/*.bin
"""


@fault("any file", fatal=False)
def any_file_is_spoilt(gate: Gate) -> str:
    return spoil(gate, gate.file(choose(gate, ANY_FILE)))


@fault("any file", fatal=False)
def bytes_of_any_file_are_changed(gate: Gate) -> str:
    return flip(gate, gate.file(choose(gate, ANY_FILE)))


def any_json(gate: Gate) -> Path:
    return gate.file(gate.rng.choice([place for place in parts_of(ANY_FILE) if place.endswith("json")]))


@fault("any file", fatal=False)
def a_place_in_any_json_is_odd(gate: Gate) -> str:
    return change_a_place(gate, any_json(gate))


# -- logs --------------------------------------------------------------------------------------------------------------

LOGS = "rec/small/logs/run_*.log"
DECISIVE = ("speed(tok/s)", "h2o_keep", "h2o_lossy", "quality_ppl_rise", "h2o_floor_keep", "h2o_quantized_keep")
NO_NUMBERS = "| |n/a|-|nan|NaN ± NaN|inf|-inf|50%|0,5|1_000|0x10|１２|1e999|-1.0"
IMPOSSIBLE = {"h2o_keep": "1.5 0 -0.1 0.00001 1e-300", "h2o_lossy": "0 -3 99", "quality_ppl_rise": "-0.99 -1 -2 -1e9"}


def set_cell(log: Path, column: str, cell: str | None) -> str:
    """Another cell in a column of the last row of a log, which may be a new column; with None it is gone from all."""
    rows = [line.strip().strip("|").split("|") for line in log.read_text().splitlines()]
    if not any(head.strip() == column for head in rows[0]):
        rows = [[*row, more] for row, more in zip(rows, (column, ":--", ""), strict=True)]
    place = [head.strip() for head in rows[0]].index(column)
    rows[-1][place] = f" {cell} "
    kept = [[text for n, text in enumerate(row) if n != place or cell is not None] for row in rows]
    log.write_text("".join(f"|{'|'.join(row)}|\n" for row in kept))
    return f"{log.name}: {column} {cell!r}"


@fault("logs")
def a_cell_is_no_number(gate: Gate) -> str:
    return set_cell(gate.file(LOGS), gate.rng.choice(DECISIVE), gate.rng.choice(NO_NUMBERS.split("|")))


@fault("logs")
def a_value_is_impossible(gate: Gate) -> str:
    column = gate.rng.choice(sorted(IMPOSSIBLE))
    return set_cell(gate.file(LOGS), column, f"{gate.rng.choice(IMPOSSIBLE[column].split())} ± 0.01")


WRONG_COLUMNS = """
decode_tokens => nan ;; decode_tokens => n/a ;; quality_ppl_evicted => nan ;; quality_top1_agreement => nan
quality_evictions => 0 ;; quality_tokens => 0 ;; quality_cache_ratio => 1.0 ;; quality_ppl_full => 0.5
quality_ppl_full => 1e30 ;; quality_bits_per_byte_full => 0 ;; quality_cache_ratio => 1e9 ;; quality_tokens => 0.5
h2o_lossless_decode_cache_hit => 1e12 ;; quality_evictions => 1e15
quality_top1_agreement => 0.0 ;; decode_tokens => 9999 ;; speed(tok/s) => 1e300 ± 1<br>61 ± 1
speed(tok/s) => 300 ± 1<br>1e300 ± 1 ;; h2o_evict_us => 1e30 ;; h2o_lossless_decomp_us => 1e12
quality_bits_per_byte_evicted => -inf ;; h2o_evict_us => nan ;; h2o_keep => 0.9 ± 0.9 ;; quality_ppl_rise => 0.005 ± 5
"""


@fault("logs")
def a_column_says_nonsense(gate: Gate) -> str:
    return set_cell(gate.file(LOGS), *choose_pair(gate, WRONG_COLUMNS))


@fault("logs")
def a_column_is_gone(gate: Gate) -> str:
    return set_cell(gate.file(LOGS), gate.rng.choice(DECISIVE[:4]), None)


@fault("logs")
def a_log_has_no_one_row(gate: Gate) -> str:
    log = gate.file(LOGS)
    head, rule, row = log.read_text().splitlines(keepends=True)
    text = gate.rng.choice([head + rule, head + rule + row * 2, head + rule + row[: len(row) // 2], "", head, None])
    log.unlink()
    if text is not None:
        log.write_text(text)
    return f"{log.name}: {text!r:.20} {len(text or '')}"


OTHER_RUNS = r"prompt=512 => prompt=128 ;; decode=128 => decode=16 ;; prompt=512 => tg ;; \| +CPU => | CUDA"


@fault("logs")
def a_run_was_not_as_asked(gate: Gate) -> str:
    log = gate.file(LOGS)
    old, new = choose_pair(gate, OTHER_RUNS)
    gate.replace(log, old, new)
    gate.is_fatal = "CUDA" not in new  # nobody said on which backend the recorded runs were
    return f"{log.name}: {new}"


ENDS = ["stdout.txt", "log", "stderr.txt", "err"]
SIGNS = ("double free or corruption (out)", "scatter restore failed", "MNN_ERROR: logits are NaN")


@fault("logs")
def an_output_shows_a_broken_cache(gate: Gate) -> str:
    output, sign = gate.file(LOGS).with_suffix(f".{gate.rng.choice(ENDS)}"), gate.rng.choice(SIGNS)
    encoding = gate.rng.choice(["utf-8", "utf-16", "utf-16-be"])
    output.write_bytes(f"{output.read_text() if output.exists() else ''}\n{sign}\n".encode(encoding))
    return f"{output.name}: {sign} in {encoding}"


@fault("logs")
def an_output_is_gone(gate: Gate) -> str:
    output = gate.file("rec/small/logs/run_*.stdout.txt")
    output.unlink()
    return output.name


@fault("logs")
def a_json_beside_a_table_is_damaged(gate: Gate) -> str:
    path = gate.file(LOGS).with_suffix(".json")
    path.write_text("{")
    what = spoil(gate, path) if gate.rng.random() < 0.7 else "cut"
    gate.is_fatal = os.path.lexists(path)
    return what


@fault("logs")
def a_further_launch_is_worse(gate: Gate) -> str:
    """In all points, or another one decides."""
    shutil.copytree(gate.path / SMALL / "logs", gate.path / SMALL / "launch-2" / "logs")
    column, value = gate.rng.choice([("h2o_lossy", "2.9"), ("quality_ppl_rise", "0.02"), ("quality_ppl_rise", "nan")])
    gate.arguments += gate.rng.choice([["--h2o-launches=2"], []])
    return set_cells(gate, "launch-2/logs/run_*.log", column, value)


def set_cells(gate: Gate, logs: str, column: str, cell: str) -> str:
    return " ".join(set_cell(log, column, cell) for log in gate.path.glob(f"{SMALL}/{logs}"))


@fault("logs")
def h2o_did_nothing(gate: Gate) -> str:
    names = ("h2o_keep", "h2o_lossy", "h2o_floor_keep")
    return " ".join(set_cells(gate, "logs/run_*.log", name, "1.0000 ± 0.0000") for name in names)


# -- configs and manifests ---------------------------------------------------------------------------------------------


@fault("configs")
def a_config_is_of_another_run(gate: Gate) -> str:
    config = gate.file("rec/small/configs/run_*.json")
    values = json.loads(config.read_text())
    names = [name for name in values if name.startswith("kv_h2o_") and not isinstance(values[name], str)]
    name = gate.rng.choice(sorted(set(names) - {"kv_h2o_log_stats"}))
    new = not values[name] if isinstance(values[name], bool) else values[name] + 1
    gate.update(config, **{name: new})
    return f"{config.name}: {name} {values[name]} -> {new}"


@fault("configs")
def a_config_is_of_another_model(gate: Gate) -> str:
    config = gate.file("rec/small/configs/run_*.json")
    name = gate.rng.choice(["base_dir", "llm_model", "llm_weight", "precision"])
    gate.update(config, **{name: "other"})
    return f"{config.name}: {name}"


@fault("configs")
def a_json_says_a_key_twice(gate: Gate) -> str:
    """What came last would hold for us, what came first for the engine."""
    path = any_json(gate)
    text, key = path.read_text(), gate.rng.choice(["kv_h2o_sink_tokens", "candidate", "return_code", "layer_id"])
    path.write_text(text.replace("{", f'{{"{key}": 7, "{key}": 8, ', 1))
    return f"{path.relative_to(gate.path)}: {key}"


@fault("manifests")
def logs_are_exchanged(gate: Gate) -> str:
    def exchange(entries: Any) -> None:
        entries[0][name], entries[1][name] = entries[1][name], entries[0][name]

    name = gate.rng.choice(["log", "config"])
    gate.change_json(gate.path / SMALL / "manifest.json", exchange)
    return name


@fault("manifests")
def a_manifest_contradicts_its_preset(gate: Gate) -> str:
    names = "prompt_len gen_len block_tokens sink_tokens trigger_min_tokens layer_nums not_launched"
    name = gate.rng.choice(names.split())
    gate.update(gate.path / SMALL / "manifest.json", 0, **{name: 7})
    return name


@fault("logs")
def a_log_is_a_copy(gate: Gate) -> str:
    logs = sorted(gate.path.glob(LOGS))
    gate.rng.shuffle(logs)
    shutil.copy(*logs)
    return logs[1].name


@fault("manifests")
def a_manifest_lacks_a_key(gate: Gate) -> str:
    """Or says it otherwise."""
    key = gate.rng.choice(["run_id", "log", "config", "output", "return_code"])
    others = [key.replace("_", ""), key.upper(), f"{key}s", f"{key} ", key[:-1]]
    new = gate.rng.choice(others) if key == "output" else gate.rng.choice([None, *others])
    entries = json.loads((gate.path / SMALL / "manifest.json").read_text())
    entry = gate.rng.choice(entries)
    entry |= {} if new is None else {new: entry[key]}
    gate.is_fatal = new != key
    if new != key:
        del entry[key]
    gate.write(SMALL / "manifest.json", json.dumps(entries))
    return f"{key} {new}"


@fault("manifests")
def a_manifest_says_that_a_run_failed(gate: Gate) -> str:
    code, place = gate.rng.choice([1, -11, 255]), gate.rng.choice([0, 1])
    gate.update(gate.path / SMALL / "manifest.json", place, return_code=code)
    return str(code)


# -- pairs -------------------------------------------------------------------------------------------------------------

PAIRS = "rec/small/decode/pairs.json"
WRONG_PAIRS: dict[str, tuple[int, list[Any]]] = {
    "candidate": (0, ["", "run_0009", None, 1]),
    "pairs": (0, [[], None, {}, 3, "the first again", "all but the last"]),
    "notes": (0, [[1, {}]]),
    "planned_pairs": (0, [6, 7, 9, 0, 10**9]),
    "seed": (0, [1, -1]),
    "baseline": (0, ["H2O off", ""]),
    "order": (1, ["AA", "", None, 3]),
    "decode_tok_per_s": (2, [None, -5, 0, "60", 1e9, [], True]),
}
"""Key -> whether it is one of all, of a pair or of a side of it, and what cannot stand there."""


@fault("pairs")
def pairs_are_no_pairs(gate: Gate) -> str:
    def change(value: Any) -> None:
        pair = gate.rng.choice(value["pairs"])
        others = {"the first again": value["pairs"][:1] * len(value["pairs"]), "all but the last": value["pairs"][:-1]}
        holders = (value, pair, pair[gate.rng.choice(["baseline", "candidate"])])
        holders[place][key] = others.get(new, new) if isinstance(new, str) else new

    key = gate.rng.choice(sorted(WRONG_PAIRS))
    place, values = WRONG_PAIRS[key]
    new = gate.rng.choice(values)
    gate.change_json(gate.path / PAIRS, change)
    return f"{key} {new!r}"


@fault("pairs")
def pairs_ran_otherwise_than_the_row(gate: Gate) -> str:
    column, value = gate.rng.choice([("threads", "8"), ("model", "other"), ("backend", "CUDA"), ("precision", "High")])
    return set_cells(gate, "decode/logs/pair_*.log", column, value)


OTHER_COUNTS = (
    "quality_tokens => 9999 ;; quality_tokens => 64 ;; quality_evictions => 1e12 ;; quality_greedy_prefix => 33"
)


@fault("configs")
def a_row_has_other_counts_than_its_config_asks(gate: Gate) -> str:
    """Of the quality run."""
    asked = {"quality_tokens": 32, "quality_windows": 4, "quality_greedy_tokens": 32}
    for config in gate.path.glob("rec/small/**/configs/*.json"):
        gate.update(config, **asked)
    return set_cell(gate.file(LOGS), *choose_pair(gate, OTHER_COUNTS))


@fault("pairs")
def pairs_are_slower_in_their_logs(gate: Gate) -> str:
    for log in gate.path.glob("rec/small/decode/logs/pair_*_candidate.log"):
        gate.replace(log, r"<br>[\d.]+", "<br>11.00")
    return "11 tok/s"


# -- dumps -------------------------------------------------------------------------------------------------------------

METAS = "gates/dump/prose/layer_*/meta_t0_*.json"


@fault("dumps")
def words_say_nothing(gate: Gate) -> str:
    kind, tensor = gate.rng.choice([0, 0x7E00, 0x7C00, 0x3C00, 0x7BFF]), gate.rng.choice("kv")
    layer = gate.rng.choice("01")
    for path in gate.path.glob(f"gates/dump/prose/layer_{layer}/{tensor}_*.bin"):
        path.write_bytes(struct.pack("<H", kind) * (path.stat().st_size // 2))
    return f"layer {layer}, {tensor}: {kind:#x}"


def narrow(data: bytes) -> bytes:
    """Words of 8 bits that were made 16 again."""
    return bytes(byte if place % 2 else 0 for place, byte in enumerate(data))


@fault("dumps")
def words_are_those_of_another_tensor(gate: Gate) -> str:
    """In all files or in one; or they have lost half of their bits."""
    to, source = gate.rng.choice([("layer_1/k", "layer_0/k"), ("layer_0/v", "layer_0/k"), ("layer_1/v", "")])
    paths = sorted((gate.path / "gates/dump/prose").glob(f"{to}_*.bin"))
    paths = gate.rng.choice([paths, [path for path in paths if gate.rng.random() < 0.5] or paths[:1]])
    for path in paths:
        other = gate.path / f"gates/dump/prose/{source}{path.name[1:]}"
        path.write_bytes(other.read_bytes() if source and other.exists() else narrow(path.read_bytes()))
    return f"{to} from {source or 'its high bytes'}: {', '.join(path.name for path in paths)}"


@fault("dumps")
def a_file_is_written_over_another(gate: Gate) -> str:
    """Of the same layer, but for the tuning pass, whose tokens are all alike."""
    layer = gate.path / "gates/dump/prose" / gate.rng.choice(["layer_0", "layer_1"])
    tensors = gate.rng.choice(["kv", "vk"])
    first, second = sorted(layer.glob(f"{tensors[0]}_t4*_*.bin"))
    to = second if layer.name == "layer_1" else second.with_name(f"{tensors[1]}{second.name[1:]}")
    shutil.copy(first, to)
    return f"{layer.name}: {first.name} -> {to.name}"


@fault("dumps")
def an_entry_says_nothing(gate: Gate) -> str:
    path = gate.file("gates/dump/prose/layer_?/?_t*.bin")
    kind = gate.rng.choice([b"\0\0", b"\0\x3c", None])
    data = path.read_bytes()
    path.write_bytes(narrow(data) if kind is None else kind * (len(data) // 2))
    return f"{path.relative_to(gate.path)}: {kind!r}"


OTHER_SHAPES: list[dict[str, Any]] = [
    {"kv_heads": 64, "head_dim": 3},
    {"kv_heads": 1, "head_dim": 192},
    {"dtype": "bf16"},
    {"head_dim": 32, "bytes_per_elem": 4, "dtype": "fp32"},
]


@fault("dumps")
def metas_contradict_each_other(gate: Gate) -> str:
    """One with the others of its layer, or all of a layer with those of the other."""
    changes = gate.rng.choice([*OTHER_SHAPES, {"k_file": "v_t0_1.bin"}, {"v_file": "k_t3_4.bin"}])
    one = gate.file("gates/dump/prose/layer_?/meta_*.json")
    metas = gate.rng.choice([[one], sorted(one.parent.glob("meta_*.json"))])
    for meta in metas:
        gate.update(meta, **changes)
    return f"{one.relative_to(gate.path)}{' and others' * (len(metas) > 1)}: {changes}"


@fault("dumps")
def a_part_of_an_entry_is_gone(gate: Gate) -> str:
    """Its meta, its data, K or V; or the decode of a layer, all of it, with its metas."""
    meta = gate.file("gates/dump/prose/layer_?/meta_*.json")
    span = meta.stem.removeprefix("meta_")
    lost = gate.rng.choice([("meta_",), ("k_", "v_"), ("k_",), ("v_",), ("meta_", "v_"), None])
    names = [f"{name}{span}.*" for name in lost] if lost else ["*_t43[34]_43?.*", "*_t44[01]_44?.*"]
    for path in [path for name in names for path in meta.parent.glob(name)]:
        path.unlink()
    return f"{meta.parent.name}: {', '.join(names)}"


@fault("dumps")
def a_layer_ends_early(gate: Gate) -> str:
    meta = gate.file(METAS)
    fields = json.loads(meta.read_text())
    rows = fields["seq_len"] - gate.rng.choice([1, 10, max(1, fields["seq_len"] // 2)])
    for name in ("k_file", "v_file"):
        data = (meta.parent / fields[name]).read_bytes()
        (meta.parent / fields[name]).write_bytes(data[: len(data) // fields["seq_len"] * rows])
    gate.update(meta, seq_len=rows, seq_end_exclusive=fields["seq_start"] + rows)
    return f"{meta.relative_to(gate.path)}: {rows} of {fields['seq_len']}"


@fault("dumps")
def a_file_of_a_dump_has_another_size(gate: Gate) -> str:
    path = gate.file("gates/dump/prose/layer_*/*.bin")
    data = path.read_bytes()
    path.write_bytes(gate.rng.choice([b"", data[:-1], data[:-2], data + b"\0\0", data * 2]))
    return f"{path.name}: {len(data)} -> {path.stat().st_size}"


@fault("dumps")
def a_meta_is_unsound(gate: Gate) -> str:
    meta = gate.file(METAS)
    fields = json.loads(meta.read_text())
    names = "layer_id seq_start seq_len seq_end_exclusive kv_heads head_dim bytes_per_elem stage k_file v_file"
    name = gate.rng.choice(names.split())
    new = gate.rng.choice([None, -1, 0, 10**30, "x", [], "../../scopes.yaml", "/etc/passwd", "\0", 1.5])
    gate.is_fatal = fields[name] != new
    gate.update(meta, **{name: new})
    return f"{meta.name}: {name} {new!r}"


@fault("dumps")
def a_layer_is_missing(gate: Gate) -> str:
    layer = gate.rng.choice("01")
    shutil.rmtree(gate.path / f"gates/dump/prose/layer_{layer}")
    return layer


@fault("dumps")
def entries_are_there_twice(gate: Gate) -> str:
    shutil.copytree(gate.path / "gates/dump/prose/layer_0", gate.path / "gates/dump/prose/layer_0_copy")
    return "layer 0"


@fault("dumps", fatal=False)
def a_dump_is_a_damaged_archive(gate: Gate) -> str:
    shutil.make_archive(str(gate.path / "gates" / "packed"), "zip", gate.path / "gates" / "dump")
    gate.write(GATES / "scopes.yaml", SCOPES.replace("root: dump", "root: packed.zip"))
    packed = gate.path / "gates" / "packed.zip"
    return gate.rng.choice([spoil, flip])(gate, packed)


# -- presets and scopes ------------------------------------------------------------------------------------------------

WRONG_KEYS = """
h2o_block_tokens: [0] ;; h2o_block_tokens: [.nan] ;; h2o_block_tokens: {} ;; repeat: 1e400 ;; repeat: [3]
prompts: [] ;; gens: [-1] ;; unknown: 1 ;; targets: {lossy: .nan} ;; targets: {lossy: 0}
targets: {consistency: 0} ;; targets: {similarity: 0.9} ;; targets: {lossy: 1.5, h2o_lossy: 1.5}
targets: {lossles: 2} ;; targets: [] ;; targets: {metrics: {no: 1}} ;; targets: {decode_drop: -2}
h2o_target_mode: maybe ;; bench: none ;; bench_options: {a: 1} ;; timeout_s: -1 ;; timeout_s: yes
allow_signs: {x: 1} ;; h2o_keep_ratios: [2] ;; &a a: *a ;; ? [a] ;; TABx: 1 ;; - 3
!!python/object:os.system {} ;; extends: small ;; h2o_ema_alphas: ['0.9']
description: "NULL" ;; base_config: 3 ;; prompts: [512, 512]
"""
"""What a preset may say that no preset can; ``TAB`` and ``NULL`` stand for these signs."""


@fault("presets")
def a_preset_says_nonsense(gate: Gate) -> str:
    line = choose(gate, WRONG_KEYS).replace("TAB", "\t").replace("NULL", "\\0")
    key = line.split(":")[0]
    path = gate.path / PRESET
    kept = [one for one in path.read_text().splitlines() if one.split(":")[0] != key]
    path.write_text("\n".join([*kept, line, ""]))
    gate.is_fatal = not line.startswith(("description", "prompts: [512"))
    return line[:40]


WRONG_SCOPES = r"""
target: 1.2 => target: 0 ;; target: 1.2 => target: .nan ;; target: 1.2 => target: 9 ;; target: 1.2 => targt: 1
decides: true => decides: false ;; decides: true => decides: maybe ;; root: dump => root: nowhere
root: dump => root: /dev/zero ;; root: dump => root: ''
front_n: 2 => front_n: 3 ;; front_n: 2 => front_n: 0 ;; front_n: 2 => front_n: 2|codec: no_such
layer_ids: \[1\] => layer_ids: [7] ;; layer_ids: \[1\] => layer_ids: []
online_chunk_seq: 192 => online_chunk_seq: -1 ;;   tiny: =>   upper:
front_n: 2 => front_n: 2|codec: {id: zstd, level: 99} ;; front_n: 2 => front_n: 2|rope: {theta: 0}
front_n: 2 => front_n: 2|stage: decode|layer_ids: [3] ;; online_framing_bytes: 8 => online_framing_bytes: -8
front_n: 2 => front_n: 2|min_seq_len: 100000 ;; scopes: => scope: ;; entry_mode: aggregate => entry_mode: all
"""
"""A line of the scopes => what stands there instead; ``|`` begins another line."""


@fault("scopes")
def a_scope_says_nonsense(gate: Gate) -> str:
    old, new = choose_pair(gate, WRONG_SCOPES)
    gate.replace(GATES / "scopes.yaml", old, new.replace("|", "\n    "))
    return new


@fault("presets")
def two_presets_have_one_name(gate: Gate) -> str:
    ending = gate.rng.choice(["more/small.yaml", "small.yml", "small.json"])
    text = (gate.path / PRESET).read_text()
    gate.write(GATES / "presets" / ending, "{}" if ending.endswith("json") else text)
    return ending


UNSEEN: dict[str, Callable[[Path], object]] = {
    "more": lambda path: path.symlink_to(path.parent / "nowhere"),
    "more.yaml": lambda path: path.symlink_to(path),
    "back": lambda path: path.symlink_to(path.parent),
    "pipe.yaml": os.mkfifo,
    "more.YAML": lambda path: shutil.copy(path.with_name("small.yaml"), path),
}


@fault("presets")
def presets_cannot_be_listed(gate: Gate) -> str:
    name = gate.rng.choice(sorted(UNSEEN))
    UNSEEN[name](gate.path / GATES / "presets" / name)
    gate.arguments += ["-k", "more or small or tiny or upper"] * (name == "more.YAML")
    return name


# -- options and selections --------------------------------------------------------------------------------------------


SELECTIONS = """
-k small_and_not_lossy ;; -k small_and_not_bench ;; -k tiny_and_not_roundtrip ;; -k joint ;; -k not_decode
-k small ;; --deselect=gates/test-sweep.py::test-joint ;; --ignore=gates/test-dumps.py ;; --ignore=gates/test-sweep.py
-m not_h2o ;; --collect-only ;; --h2o-dry-run ;; --maxfail=1 -k bench ;; -p no:h2o ;; --setup-only ;; --setup-plan
--deselect=gates/test-dumps.py::test-lossless ;; -k upper ;; -k tiny_or_upper ;; -k nothing_at_all ;; --sw ;; --lf
-p no:h2o-controller
"""


@fault("selection")
def not_everything_is_asked(gate: Gate) -> str:
    chosen = [word.replace("_", " ").replace("test-", "test_") for word in choose(gate, SELECTIONS).split()]
    gate.arguments += chosen
    return " ".join(chosen)


WRONG_OPTIONS = """
logs=nowhere logs=/dev/zero logs=gates scopes=nowhere.yaml scopes=/dev/zero presets=nowhere set=x
set=unknown=1 set=repeat=nan lossy-target=x lossy-target=inf lossy-target=-1 decode-baseline=x rule=x
decode-baseline=-1 decode-baseline=inf compare=nothing compare=../x save=../x resume=nowhere resume=rec
dump-dir=nowhere dump-dir=/dev/zero dump-dir=rec out-dir=pytest.ini out-dir=/proc/x out-dir=/dev/null
base-config=nowhere executor=x executor=dask://x compare-fail=x bench=nowhere bench=/dev/zero decode-pairs=0
target=h2o_lossless_fallback=-1 inconclusive=x threads=0 lossless-target=0
lossy-target=3.5 lossless-target=1.7 decode-drop-target=-0.5 quality-target=0.005 lossy-target=nan
"""


@fault("options")
def an_option_says_nonsense(gate: Gate) -> str:
    option = gate.rng.choice(WRONG_OPTIONS.split())
    gate.arguments.append(f"--h2o-{option}")
    return option


WRONG_INI = "h2o_lossy_targe=9 ;; H2O_LOSSY_TARGET=9 ;; h2o-lossy-target=9 ;; h2o_lossy_target=x ;; h2o_rule=x"


@fault("options")
def an_ini_key_says_nonsense(gate: Gate) -> str:
    line = choose(gate, WRONG_INI)
    gate.write("pytest.ini", f"[pytest]\nh2o_logs = rec\n{line}\n")
    return line


@fault("earlier runs", fatal=False)
def what_earlier_runs_left_is_damaged(gate: Gate) -> str:
    """A history, a baseline, a run folder: `--h2o-compare` reads them."""
    runs = gate.path / "h2o-runs"
    shutil.copytree(gate.path / "rec", runs / "20200101-000000-abcdef")
    figures = json.loads((gate.path / "rec" / "figures.json").read_text())["record"]
    gate.write("h2o-runs/history.jsonl", json.dumps(figures) + "\n")
    gate.write("h2o-runs/baselines/main.json", (gate.path / "rec" / "figures.json").read_text())
    hit = gate.rng.choice(["h2o-runs/history.jsonl", "h2o-runs/baselines/main.json", "h2o-runs/2*/journal.jsonl"])
    name = gate.rng.choice(["last", "main", "20200101-000000-abcdef", "rec"])
    gate.arguments.append(f"--h2o-compare={name}")
    path = gate.file(hit)
    how = gate.rng.choice([spoil, flip] + [change_a_place] * (path.suffix == ".json"))
    return f"{name}; {how(gate, path)}"


@fault("earlier runs", fatal=False)
def a_run_that_goes_on_is_damaged(gate: Gate) -> str:
    shutil.copytree(gate.path / "rec", gate.path / "h2o-runs" / "20200101-000000-abcdef")
    (gate.path / "h2o-runs/20200101-000000-abcdef/run.json").unlink()
    gate.arguments.append("--h2o-resume=20200101-000000-abcdef")
    path = gate.file("h2o-runs/2*/journal.jsonl")
    return gate.rng.choice([spoil, flip])(gate, path)


# -- a bench that is launched ------------------------------------------------------------------------------------------


def launch(gate: Gate, **env: str) -> None:
    """Measure the gate again, on the bench that replays recordings."""
    gate.write("pytest.ini", "[pytest]\nh2o_threads = 2\nh2o_set = model_layers=30\nh2o_disturbed = keep\n")
    gate.arguments += ["--h2o-bench=llm_bench", "--h2o-base-config=model.json", "--h2o-decode-budget=8"]
    (gate.path / "launches.txt").touch()
    gate.env = {"FAKE_RECORDINGS": str(RECORDED), "FAKE_DECODE": "base=60,drop=-0.02,spread=0.002", **env}
    gate.env["FAKE_LAUNCHES"] = str(gate.path / "launches.txt")
    if not env:
        gate.env["FAKE_HERE"] = str(gate.path / "llm_bench")


@fault("benches")
def a_bench_misbehaves(gate: Gate) -> str:
    mode = gate.rng.choice(["crash", "truncated", "no_h2o", "wrong_backend", "exit3", "idle", *SIGNS])
    launch(gate, **({"FAKE_PRINTS": mode} if mode in SIGNS else {"FAKE_MODE": mode}))
    return mode


@fault("benches", fatal=False)
def a_base_config_is_hostile(gate: Gate) -> str:
    launch(gate)
    return gate.rng.choice([spoil, flip, change_a_place])(gate, gate.path / "model.json")


# -- plugins -----------------------------------------------------------------------------------------------------------

LEAVES = """
1 / 0 ;; raise SystemExit(0) ;; import os; os._exit(0) ;; import pytest; pytest.exit('x', returncode=0)
raise KeyboardInterrupt ;; raise RecursionError ;; raise MemoryError
raise type('E', (Exception,), {'__str__': lambda self: 1 / 0})() ;; raise BaseException('x')
raise GeneratorExit ;; import os, signal; os.kill(os.getpid(), signal.SIGTERM)
import os; os.execvp('true', ['true']) ;; import posix; posix._exit(0)
import ctypes; ctypes.CDLL(None)._exit(0) ;; import ctypes; ctypes.CDLL(None)['quick_exit'](0)
import pytest; pytest.skip('x') ;; import pytest; pytest.xfail('x') ;; import pytest; pytest.fail('x')
assert False ;; raise StopIteration
"""
GIVES = """
None ;; -3 ;; [3] ;; 'x' ;; [None] ;; {} ;; float('nan') ;; True ;; [[]] ;; object() ;; (n for n in [1])
b'x'
"""


def misbehave(gate: Gate) -> str:
    """The body of a function that leaves, or gives something odd."""
    return gate.rng.choice([*parts_of(LEAVES), *(f"return {given}" for given in parts_of(GIVES))])


CODEC = """
from dataclasses import dataclass
import numpy as np, zlib
from pytest_h2o import Codec
kept = []
@dataclass(frozen=True)
class Mine(Codec):
    id = "mine"
    def encode(self, stream):
        {encode}
        return zlib.compress(stream.words.tobytes(), 1)
    def decode(self, payload, side):
        {decode}
        return np.frombuffer(zlib.decompress(payload), np.uint16).reshape(side.shape)
    {more}
def pytest_h2o_codecs(config):
    return [Mine]
"""


def use_codec(gate: Gate, encode: str = "pass", decode: str = "pass", more: str = "pass") -> None:
    gate.conftest(CODEC.format(encode=encode, decode=decode, more=more))
    gate.replace(GATES / "scopes.yaml", "front_n: 2", "front_n: 2\n    codec: mine")


@fault("plugins")
def a_codec_misbehaves(gate: Gate) -> str:
    where = gate.rng.choice(["encode", "decode", "modes", "plane_bytes", "config", "encode_many", "decode_many"])
    body = misbehave(gate)
    is_inside = where in ("encode", "decode")
    use_codec(gate, **({where: body} if is_inside else {"more": f"def {where}(self, *given):\n        {body}"}))
    gate.is_fatal = not (where in ("modes", "plane_bytes") and body == "return {}")
    return f"{where}: {body}"


CHEATS = """
kept.append(stream.words.copy()); return bytes([len(kept) - 1]) => return kept[payload[0]]
import os; os.environ['k'] = 'x'; return b'x' * 9 => return np.zeros(side.shape, np.uint16)
w = stream.words; w &= 0xF000; return w.tobytes() => return np.frombuffer(payload, np.uint16).reshape(side.shape)
return b'x' => return type('A', (np.ndarray,), {'__eq__': lambda *a: True})(side.shape, 'H')
return b'' => return np.zeros(side.shape, np.uint16)
return type('B', (bytes,), {'__len__': lambda s: 1})(stream.words) => return np.frombuffer(payload, 'H')
stream.words.setflags(write=True); stream.words[:] = 7; return b'x' => return np.full(side.shape, 7, np.uint16)
"""
"""What encode does => what decode does."""


@fault("plugins")
def a_codec_deceives(gate: Gate) -> str:
    encode, decode = choose_pair(gate, CHEATS)
    use_codec(gate, encode, decode)
    gate.is_fatal = "__len__" not in encode  # its real length is counted, and decodes
    return encode


WRONG_FIELDS = "fmt='q' ;; fmt=3 ;; key='lossy' ;; unit=None ;; head=4 ;; over='x' ;; of='x' ;; short=3 ;; values=3"
METRIC = """
from pytest_h2o import Metric
def made(row):
    {body}
def pytest_h2o_metrics(config):
    return [Metric("mine", "mine", "higher", target=1.0, value=made{more})]
"""


@fault("plugins")
def a_metric_misbehaves(gate: Gate) -> str:
    body, more = "return 2.0", ""
    if gate.rng.random() < 0.7:
        body = misbehave(gate)
    else:
        more = f", {choose(gate, WRONG_FIELDS)}"
    gate.conftest(METRIC.format(body=body, more=more))
    with (gate.path / GATES / "test_sweep.py").open("a") as file:
        file.write("\n\ndef test_mine(h2o_sweep, h2o_targets):\n")
        file.write("    assert h2o_sweep.best('mine') >= h2o_targets.metric('mine')\n")
    return body + more


@fault("plugins")
def a_metric_spoils_its_row(gate: Gate) -> str:
    body = gate.rng.choice(["row.cells.clear(); return 2.0", "row.cells['h2o_lossy'] = '99'; return 2.0"])
    gate.conftest(METRIC.format(body=body, more=""))
    gate.arguments.append("--h2o-lossy-target=9")
    return body


@fault("plugins")
def a_hook_of_ours_misbehaves(gate: Gate) -> str:
    name = gate.rng.choice(["codecs", "benches", "metrics", "report_sections"])
    body = misbehave(gate)
    gate.conftest(f"def pytest_h2o_{name}(config):\n    {body}")
    gate.is_fatal = body != "return None"
    return f"{name}: {body}"


SECTION = """
from pytest_h2o import ReportSection
def made(summary):
    {body}
def pytest_h2o_report_sections(config):
    return [ReportSection({title}, made)]
"""


@fault("plugins")
def a_section_misbehaves(gate: Gate) -> str:
    body, title = misbehave(gate), "'mine'"
    if gate.rng.random() < 0.1:
        body, title = "return ['text']", gate.rng.choice(["None", "3", "'\\0'", "''"])
    gate.conftest(SECTION.format(body=body, title=title))
    harmless = ("None", "{}", "[[]]", "'x'", "['text']", "b'x'")
    gate.is_fatal = body not in [f"return {given}" for given in harmless]
    return f"{title}: {body}"


HOOKS = """
runtest_setup(item) ;; runtest_call(item) ;; runtest_teardown(item) ;; pyfunc_call(pyfuncitem)
runtest_makereport(item, call) ;; runtest_logreport(report) ;; runtest_logstart(nodeid)
collection_modifyitems(items) ;; collection_finish(session)
generate_tests(metafunc) ;; runtest_protocol(item) ;; fixture_setup(fixturedef) ;; collectreport(report)
"""
OVER = "sessionstart(session) ;; sessionfinish(session) ;; terminal_summary(terminalreporter) ;; unconfigure(config)"
"""Hooks that harm no gate: nothing is measured yet, or all is over."""


@fault("plugins", fatal=False)
def a_hook_of_pytest_misbehaves(gate: Gate) -> str:
    """Its traceback is pytest's own; that of a hook that has nothing to do with us is told as pytest tells it."""
    hook, body = gate.rng.choice(parts_of(HOOKS) + parts_of(OVER)), choose(gate, LEAVES)
    gate.conftest(f"def pytest_{hook}:\n    {body}")
    gate.is_fatal = hook in parts_of(HOOKS)
    return f"{hook}: {body}"


SWALLOWING_HOOKS = """
runtest_protocol(item): return True if "lossy" in item.name else None ;; runtest_protocol(item): return True
pyfunc_call(pyfuncitem): return True ;; collection_modifyitems(items): items.clear()
collection_modifyitems(items): items[:] = [i for i in items if "joint" not in i.name]
collection_modifyitems(items): del items[3:] ;; collection_finish(session): del session.items[3:]
runtestloop(session): return True
"""
CHANGED_REPORT = """
import pytest
@pytest.hookimpl(wrapper=True, tryfirst={first})
def pytest_runtest_makereport(item, call):
    r = yield
    {change}
    return r
"""
CHANGES = """
r.user_properties.clear() ;; r.user_properties = [("h2o", "{}")]
r.user_properties = [(n, v[: len(v) // 2]) for n, v in r.user_properties]
r.outcome = "failed" if "lossy" in item.name else r.outcome
"""
SWALLOWS = """
import pytest
class Yes:
    def __getattr__(self, name): return self
    def __call__(self, *given): return self
    __ge__ = __le__ = lambda self, other: True
@pytest.fixture
def h2o_sweep(request): return Yes()
---
import pytest
@pytest.fixture
def h2o_targets():
    return type("T", (), {"__getattr__": lambda s, n: 0})()
---
import pytest
@pytest.fixture(autouse=True)
def skip():
    pytest.skip("x")
---
def pytest_collection_finish(session):
    session.config.pluginmanager.unregister(name="h2o-controller")
---
def pytest_sessionfinish(session):
    session.exitstatus = 0
def pytest_runtest_call(item):
    assert "lossy" not in item.name
---
collect_ignore = ["test_sweep.py"]
---
collect_ignore = ["test_dumps.py"]
"""


@fault("plugins")
def a_plugin_swallows_items(gate: Gate) -> str:
    hook, change = choose(gate, SWALLOWING_HOOKS), choose(gate, CHANGES)
    report = CHANGED_REPORT.format(first=gate.rng.random() < 0.7, change=change)
    text = gate.rng.choice([f"def pytest_{hook}", report, gate.rng.choice(SWALLOWS.strip().split("\n---\n"))])
    gate.is_fatal = "def h2o_targets" not in text  # a target of a gate file is anybody's to choose
    gate.conftest(text)
    return text

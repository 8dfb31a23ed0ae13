"""A bench adapter: llama-bench of llama.cpp, whose KV cache may have quantised types.

`llama-bench -o json` prints one object a test: a prompt test (n_gen 0) or a generation test (n_prompt 0). Tests that
are alike in all else make one row: prompt length and prefill speed of the one, generated length and decode speed of the
other. Its lossy ratio is a fact of the block formats: 16 bits an fp16 value over the bits of K and V.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from pytest_h2o import BenchRow, TableError

BITS = {
    "f32": 32.0,
    "f16": 16.0,
    "bf16": 16.0,
    "q8_0": 34 * 8 / 32,  # blocks of 32 values: 2 bytes of scale, 32 of values
    "q5_1": 24 * 8 / 32,
    "q5_0": 22 * 8 / 32,
    "q4_1": 20 * 8 / 32,
    "q4_0": 18 * 8 / 32,
    "iq4_nl": 18 * 8 / 32,
}
"""Bits a value of each type that llama.cpp takes for K or V, the scales of its blocks counted."""

TEXTS = ("model_type", "backends", "type_k", "type_v")
COUNTS = ("model_size", "n_threads", "n_prompt", "n_gen")
CONDITIONS = (
    *("n_depth", "n_batch", "n_ubatch", "n_gpu_layers", "flash_attn", "no_kv_offload"),
    *("cpu_info", "gpu_info", "build_commit", "model_filename"),
)
"""What two tests must have alike, besides the type of the cache, before their speeds are compared."""

OBJECTS = re.compile(r"(?m)^(?:\[\s*\{|\{)")
"""Where a list of objects or an object begins, at the start of a line."""


@dataclass(frozen=True)
class LlamaBench:
    """The adapter. Its settings are `type_k` and `type_v`; a baseline has both f16."""

    name: str = "llama-bench"
    uncompressed: str = "an f16 cache"
    rows_on_stdout: bool = True

    def check_options(self, options):
        if unknown := sorted(set(options) - {"type_k", "type_v"}):
            return f"{', '.join(unknown)}; it has type_k and type_v"
        wrong = {name: value for name, value in options.items() if value not in BITS}
        return f"{wrong}; types are {', '.join(BITS)}" if wrong else None

    def run_config(self, base, point):
        model = Path(base.path.parent, str(base.values.get("model", "model.gguf")))
        types = dict(zip(("type_k", "type_v"), self._types(point), strict=True))
        return {"model": str(model), **types, "n_prompt": point.prompt_len, "n_gen": point.gen_len}

    def argv(self, settings, files, point, config):
        options = {"-m": config["model"], "-ctk": config["type_k"], "-ctv": config["type_v"]}
        options |= {"-p": point.prompt_len, "-n": point.gen_len, "-r": point.repeat, "-t": settings.threads}
        words = [str(word) for option in options.items() for word in option]
        return (*settings.command, *words, "-fa", "1", "-o", "json")

    def recognises(self, text):
        return '"avg_ts"' in text and '"n_gen"' in text

    def parse(self, text, *, log_file, repeat=None):
        groups = {}
        for number, test in enumerate(_tests(text, log_file), 1):
            _check_test(test, f"{log_file}, test {number}")
            key = tuple((name, test.get(name)) for name in (*TEXTS, "model_size", "n_threads", *CONDITIONS))
            groups.setdefault(key, []).append(test)
        return tuple(
            _row(prompt, gen, log_file, repeat)
            for tests in groups.values()
            for prompt in tests
            for gen in tests
            if prompt["n_gen"] == 0 and gen["n_prompt"] == 0
        )

    def is_row_of(self, row, point):
        types = (row.cells["type_k"], row.cells["type_v"])
        return (*types, row.prompt_len, row.gen_len) == (*self._types(point), point.prompt_len, point.gen_len)

    def check(self, row, point, settings=None):
        if not self.is_row_of(row, point):
            came = ", ".join(f"{name} {row.cells[name]}" for name in ("type_k", "type_v", "llm_demo"))
            raise TableError("the row is of another configuration than asked", where=row.log_file, came=came)
        if settings is not None and row.threads != settings.threads:
            came, asked = f"{row.threads} threads", f"{settings.threads}"
            raise TableError("the bench ran with another number of threads", came=came, expected=asked)

    def _types(self, point):
        options = point.bench_options if point.compressed else {}
        return options.get("type_k", "f16"), options.get("type_v", "f16")


def _tests(text, log_file):
    """The objects of -o json or -o jsonl; lines of other kinds around them are passed over."""
    decoder, end, tests = json.JSONDecoder(), 0, []
    while begin := OBJECTS.search(text, end):
        try:
            value, end = decoder.raw_decode(text, begin.start())
        except ValueError as error:
            where = f"{log_file}:{text.count(chr(10), 0, begin.start()) + 1}"
            hint = "run it to its end: JSON that was cut off is no measurement"
            raise TableError("the JSON of llama-bench is damaged", where=where, came=str(error), hint=hint) from None
        tests += value if isinstance(value, list) else [value]
    return tests


def _check_test(test, where):
    """Refuse a test that lacks what a row needs, or has no sound speed."""
    fields = {**dict.fromkeys(TEXTS, str), **dict.fromkeys(COUNTS, int), "avg_ts": (int, float)}
    for name, kind in fields.items():
        value = test.get(name) if isinstance(test, dict) else None
        if not isinstance(value, kind) or isinstance(value, bool):
            raise TableError(f"a test of llama-bench has no {name}", where=where, came=repr(value))
    if not (math.isfinite(test["avg_ts"]) and test["avg_ts"] > 0):
        raise TableError("a test of llama-bench has no sound speed", where=where, came=f"avg_ts {test['avg_ts']}")
    if unknown := {test["type_k"], test["type_v"]} - BITS.keys():
        raise TableError("a cache type that is not known", where=where, came=str(unknown), expected=", ".join(BITS))


def _row(prompt, gen, log_file, repeat):
    speeds = [f"{test['avg_ts']} ± {test.get('stddev_ts', 'nan')}" for test in (prompt, gen)]
    bits = BITS[gen["type_k"]] + BITS[gen["type_v"]]
    cells = {
        "model": gen["model_type"],
        "modelSize": f"{gen['model_size'] / 2**30:.2f} GiB",
        "backend": gen["backends"],
        "threads": str(gen["n_threads"]),
        "llm_demo": f"prompt={prompt['n_prompt']}<br>decode={gen['n_gen']}",
        "speed(tok/s)": "<br>".join(speeds),
        "h2o_lossy": repr(32 / bits),
        "type_k": gen["type_k"],
        "type_v": gen["type_v"],
        "cache_bits": repr(bits / 2),
        "conditions": ", ".join(f"{name} {gen.get(name)}" for name in CONDITIONS),
    }
    return BenchRow.from_cells(cells, log_file=log_file, repeat=repeat or len(gen.get("samples_ts", ())) or None)


def pytest_h2o_benches(config):
    return [LlamaBench()]

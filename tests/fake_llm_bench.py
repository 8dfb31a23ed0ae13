#!/usr/bin/env python3
"""A stand-in for llm_bench that replays recorded runs. Standard library only, so that it starts fast.

It takes the bench's flags and config, and these of the environment:

FAKE_RECORDINGS
    Folder of a recorded sweep. The log in its ``logs/`` is found by lengths, keep ratio, block and lossy target; a
    config with H2O off gets ``baseline_h2o_off.log``.
FAKE_MODE
    ok (the default), no_json, crash, hang, hang_ignoring_term, grandchild, chatter, truncated, no_h2o, wrong_backend,
    exit3, idle (H2O did nothing).
FAKE_MODES
    JSON: a mode for runs whose id begins so, in place of FAKE_MODE.
FAKE_SAID
    File to which each launch appends its flags.
FAKE_LAUNCHES
    File to which each launch that gets past its command line appends the path of its config.
FAKE_DECODE
    ``base=60,drop=0.2,spread=0.05,seed=1``: decode speed in tok/s with H2O off, the fraction of it that H2O costs
    (``drop_long``: on prompts above 512 tokens), and the lognormal spread of a launch. Drawn anew for each launch, by
    its number in FAKE_LAUNCHES.
FAKE_ANY_LENGTH
    Where no recording has the lengths, one with other lengths is replayed.
FAKE_SPANS
    File to which each launch appends ``in`` when it begins and ``out`` when it ends.
FAKE_KILL_PARENT
    The launch of this number kills the process that launched it, and hangs.
FAKE_SLEEP_S
    Each launch that gets past its command line takes so many seconds longer.
FAKE_KV_LEN
    A launch with H2O on prints a warning that names this kv_len.
FAKE_CELL
    ``5:h2o_keep=0.5``: the launch of this number has this text in this cell.
FAKE_PRINTS
    A launch prints this text besides.
FAKE_CELLS
    JSON of columns and the cells that a launch with H2O on prints in them; null leaves a column out.
FAKE_CELLS_AT_1
    The same of a launch with one repeat.
FAKE_DUMP
    A launch that is not told off writes a dump: this archive, into the folder that is asked for, else into that where
    it is launched. One that is asked for prints the text beside it too.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

USAGE = "usage: llm_bench [options]\n\noptions:\n  -h, --help\n  -m, --model <filename>    (default: ./config.json)\n"
USAGE += "  -a, --backends <cpu,opencl,metal>         (default: cpu)\n"
DEVICE = "The device supports: i8sdot:0, fp16:0, i8mm: 0, sve2: 0, sme2: 0\n"
FLAGS = {"-m", "-a", "-t", "-p", "-n", "-rep", "-kv", "-qatten", "-fp", "-c", "-j"}
LEVELS = {"Normal": 0, "High": 1, "Low": 2}
JSON_NAMES = {"h2o_keep": "h2o_keep_ratio", "h2o_lossy": "h2o_lossy_ratio", "h2o_lossless": "h2o_lossless_ratio"}
IDLE = {"h2o_keep": "1.0000 ± 0.0000", "h2o_lossy": "1.000 ± 0.000", "h2o_floor_keep": "1.0000 ± 0.0000"}


def parse_arguments(arguments: list[str], mode: str) -> dict[str, str]:
    known = FLAGS - {"-j"} if mode == "no_json" else FLAGS
    options: dict[str, str] = {}
    words = iter(arguments)
    for word in words:
        if word not in known:
            print(f"error: invalid parameter for argument: {word}\n{USAGE}Parse arguments error")
            sys.exit(255)
        options[word] = next(words)
        if word == "-fp":  # made while the command line is read, as the real one does
            Path(options["-fp"]).touch()
    return options


def find_log(config: dict, options: dict[str, str]) -> Path:
    logs = Path(os.environ["FAKE_RECORDINGS"]) / "logs"
    if not config.get("kv_h2o_enable"):
        return logs / "baseline_h2o_off.log"
    keep, block = config["kv_h2o_target_keep_ratio"], config["kv_h2o_block_tokens"]
    lossy = config["kv_h2o_target_lossy_ratio"]
    end = f"_p{options['-p']}_g{options['-n']}_k{keep}_b{block}_lr{lossy}.log"
    found = [path for path in sorted(logs.iterdir()) if path.name.startswith("run_") and path.name.endswith(end)]
    if os.environ.get("FAKE_ANY_LENGTH"):
        found += sorted(logs.glob(f"run_*_k{keep}_b{block}_lr{lossy}.log"))
    if found:
        return found[0]
    print(f"Unable to open recording: *{end}")
    sys.exit(4)


def split_row(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def change_cells(text: str, config: dict, options: dict[str, str], mode: str) -> dict[str, str]:
    """The cells of the recorded row, with what this launch and mode make of them."""
    header, _, row = (split_row(line) for line in text.splitlines()[:3])
    cells = dict(zip(header, row, strict=True))
    cells["threads"] = options["-t"]
    cells["llm_demo"] = f"prompt={options['-p']}<br>decode={options['-n']}"
    if mode == "wrong_backend":
        cells["backend"] = "OPENCL"
    if mode == "idle":
        cells.update(IDLE)
    if config.get("kv_h2o_enable"):
        changed = json.loads(os.environ.get("FAKE_CELLS", "{}"))
        if options["-rep"] == "1":
            changed |= json.loads(os.environ.get("FAKE_CELLS_AT_1", "{}"))
        cells = {name: cell for name, cell in {**cells, **changed}.items() if cell is not None}
    if os.environ.get("FAKE_DECODE"):
        prefill, decode = draw_speeds(bool(config.get("kv_h2o_enable")), int(options["-p"]))
        cells["speed(tok/s)"] = f"{prefill:.2f} ± 1.00<br>{decode:.2f} ± 0.50"
    number, _, cell = os.environ.get("FAKE_CELL", "").partition(":")
    if number and int(number) == count_launches():
        column, value = cell.split("=")
        cells[column] = value
    if mode == "no_h2o":
        cells = {name: cell for name, cell in cells.items() if not name.startswith("h2o_")}
    return cells


def count_launches() -> int:
    """The number of this launch, from 1; launches run one at a time."""
    return len(Path(os.environ["FAKE_LAUNCHES"]).read_text(encoding="utf-8").splitlines())


def draw_speeds(with_h2o: bool, prompt: int) -> tuple[float, float]:
    """Prefill and decode speed of this launch."""
    import random

    given = {key: float(value) for key, value in (part.split("=") for part in os.environ["FAKE_DECODE"].split(","))}
    chance, spread = random.Random(f"{given.get('seed', 0):g} {count_launches()}"), given.get("spread", 0.0)
    drop = given.get("drop", 0.0) if prompt <= 512 else given.get("drop_long", given.get("drop", 0.0))
    decode = given["base"] * (1 - drop * with_h2o) * chance.lognormvariate(0, spread)
    return 300 * chance.lognormvariate(0, spread), decode


def to_table(cells: dict[str, str]) -> str:
    lines = (list(cells), ["-" * len(name) for name in cells], list(cells.values()))
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def to_pair(cell: str) -> tuple[float, float]:
    mean, _, std = cell.partition(" ± ")
    return float(mean), float(std)


def to_json(cells: dict[str, str]) -> dict:
    prompt, gen = (int(part.split("=")[1]) for part in cells["llm_demo"].split("<br>"))
    prefill, decode = (to_pair(part) for part in cells["speed(tok/s)"].split("<br>"))
    result: dict = {"type": "prefill_and_decode", "prompt_len": prompt, "generate_len": gen}
    result.update(prefill_tps=prefill[0], prefill_std=prefill[1], decode_tps=decode[0], decode_std=decode[1])
    for name, cell in cells.items():
        if name.startswith("h2o_"):
            key = JSON_NAMES.get(name, name)
            result[key], result[key + "_std"] = to_pair(cell)
    return {
        "model": cells["model"],
        "modelSize": float(cells["modelSize"].split()[0]) / 1024,
        "backend": cells["backend"],
        "threads": int(cells["threads"]),
        "useMmap": False,
        "precision": LEVELS[cells["precision"]],
        "results": [result],
    }


def misbehave(mode: str, config: str) -> None:
    """Modes that end, or hang, before there is any result."""
    if mode == "crash":
        name = Path(config).name  # the whole path has another length in each temporary folder, and texts are cut
        print(f"Unable to open config file: {name}\nError: No such file or directory (errno: 2)", flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if mode == "hang_ignoring_term":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if mode in ("hang", "hang_ignoring_term"):
        print("hanging", flush=True)
        time.sleep(600)
    if mode == "exit3":
        print("Load module failed")
        sys.exit(3)


def print_output(mode: str, recorded: Path) -> None:
    """What is printed besides the table."""
    if mode == "grandchild":
        import subprocess

        code = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
        print("grandchild", subprocess.Popen([sys.executable, "-c", code]).pid, flush=True)
    if mode == "chatter":
        for _ in range(2):
            sys.stdout.write("chatter chatter chatter chatter\n" * 32768)
    sys.stdout.write(recorded.read_text(encoding="utf-8") if recorded.exists() else DEVICE)


def write_dump(archive: Path, folder: str | None) -> None:
    import shutil

    if folder == "off":
        return
    target = Path(folder or "exp/distribution/dumps")
    shutil.unpack_archive(archive, target)
    if folder:
        (target / "bench").rename(target / os.environ["MNN_KV_DUMP_RUN_ID"])
        print(archive.with_name("console.txt").read_text(encoding="utf-8"))


def append(variable: str, line: str) -> None:
    if os.environ.get(variable):
        with Path(os.environ[variable]).open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def mode_of(arguments: list[str]) -> str:
    name = Path(arguments[arguments.index("-m") + 1]).name if "-m" in arguments else ""
    modes = json.loads(os.environ.get("FAKE_MODES", "{}"))
    return next((modes[start] for start in modes if name.startswith(start)), os.environ.get("FAKE_MODE", "ok"))


def main() -> None:
    mode = mode_of(sys.argv[1:])
    options = parse_arguments(sys.argv[1:], mode)
    append("FAKE_SAID", " ".join(sys.argv[1:]))
    append("FAKE_LAUNCHES", options["-m"])
    append("FAKE_SPANS", "in")
    if os.environ.get("FAKE_KILL_PARENT") == str(count_launches()):
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
    time.sleep(float(os.environ.get("FAKE_SLEEP_S", "0")))
    misbehave(mode, options["-m"])
    config = json.loads(Path(options["-m"]).read_text(encoding="utf-8"))
    log = find_log(config, options)
    print_output(mode, log.with_name(log.stem + ".stdout.txt"))
    if os.environ.get("FAKE_KV_LEN") and config.get("kv_h2o_enable"):
        print(f"Drop stale per-layer pending plan: layer=3 kv_len={os.environ['FAKE_KV_LEN']}.")
    print(os.environ.get("FAKE_PRINTS", ""), end="")
    if os.environ.get("FAKE_DUMP"):
        write_dump(Path(os.environ["FAKE_DUMP"]), os.environ.get("MNN_KV_DUMP_DIR"))
    cells = change_cells(log.read_text(encoding="utf-8"), config, options, mode)
    table = to_table(cells)
    with Path(options["-fp"]).open("a", encoding="utf-8") as file:
        file.write(table[: -len(table) // 20] if mode == "truncated" else table)
    if "-j" in options and mode != "truncated":
        Path(options["-j"]).write_text(json.dumps(to_json(cells)), encoding="utf-8")
    append("FAKE_SPANS", "out")


if __name__ == "__main__":
    main()

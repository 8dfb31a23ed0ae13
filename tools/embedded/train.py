"""Train the embedded model from public-domain text; see fixtures/models/README.md for what came of it.

    python -m pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu
    python -m pip install tokenizers gguf numpy zstandard
    python tools/embedded/train.py train --work build/embedded
    python tools/embedded/train.py export --work build/embedded --model m.gguf --text heldout.txt
    python tools/embedded/train.py evaluate --model m.gguf --text heldout.txt --work build/embedded

Text comes from Debian packages (text.py), so this runs on Debian or Ubuntu with apt. A stopped run goes on
from its last checkpoint when the same command is given again.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from context_model import context_model_bits
from evaluation import bits_per_byte, zstd_bits
from model_file import read_model, write_model
from net import Net, NetConfig
from text import Split, read_split
from tokenizer import encode, save_tokenizer, train_tokenizer
from tokenizers import Tokenizer
from training import Plan, Worker, train

VOCAB = 2048
STEPS = 1500
DEVELOPMENT_BYTES = 60_000
CONTEXTS = (64, 128, 256, 512, 1024, 2048)


def prepare(work: Path) -> tuple[Split, Tokenizer]:
    """Text and tokenizer, the latter learned once and kept in ``work``."""
    work.mkdir(parents=True, exist_ok=True)
    split = read_split(work)
    path = work / "tokenizer.json"
    if not path.exists():
        save_tokenizer(train_tokenizer(split.train, VOCAB), path)
    return split, Tokenizer.from_file(str(path))


def run_worker(rank: int, world: int, work: Path, plan: Plan) -> None:
    """Body of one training process."""
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{work.resolve()}/rendezvous", rank=rank, world_size=world)
    saved = torch.load(work / "tokens.pt")
    config = NetConfig(vocab=VOCAB)
    train(config, plan, saved["train"], saved["development"], Worker(rank, world, work))
    if world > 1:
        dist.destroy_process_group()


def run_training(arguments: argparse.Namespace) -> None:
    """Tokenise the text and start the processes."""
    work: Path = arguments.work
    split, tokenizer = prepare(work)
    tokens = {
        "train": torch.from_numpy(encode(tokenizer, split.train)),
        "development": torch.from_numpy(encode(tokenizer, split.development[:DEVELOPMENT_BYTES])),
    }
    torch.save(tokens, work / "tokens.pt")
    print(f"{len(split.train)} bytes, {len(tokens['train'])} tokens to learn from", flush=True)
    (work / "rendezvous").unlink(missing_ok=True)
    plan = replace(Plan(steps=arguments.steps), seed=arguments.seed, compiled=not arguments.no_compile)
    mp.spawn(run_worker, args=(arguments.processes, work, plan), nprocs=arguments.processes)


def run_export(arguments: argparse.Namespace) -> None:
    """Write the net of the last checkpoint and the held-out text."""
    split, tokenizer = prepare(arguments.work)
    net = Net(NetConfig(vocab=VOCAB))
    saved = torch.load(arguments.work / "checkpoint.pt")
    net.load_state_dict(saved["net"])
    write_model(arguments.model, net, tokenizer)
    arguments.text.write_bytes(split.held_out)
    print(f"step {saved['step']}, {saved['elapsed_s']:.0f} s: {arguments.model.stat().st_size} bytes")


def run_evaluation(arguments: argparse.Namespace) -> None:
    """Print bits a byte of the model as it is in the file, and of the yardsticks."""
    split, tokenizer = prepare(arguments.work)
    text: bytes = arguments.text.read_bytes()
    tokens = torch.from_numpy(encode(tokenizer, text))
    net = read_model(arguments.model)
    print(f"{len(text)} bytes, {len(tokens)} tokens, {len(text) / len(tokens):.3f} bytes a token", flush=True)
    for window in CONTEXTS:
        print(f"context {window:5d}: {bits_per_byte(net, tokens, len(text), window):.4f}", flush=True)
    print(f"zstd -19: {zstd_bits(text):.4f}; with the training text: {zstd_bits(text, split.train):.4f}", flush=True)
    print(f"order 4: {context_model_bits(text):.4f}", flush=True)
    if arguments.primed:
        print(f"order 4 after the training text: {context_model_bits(text, split.train):.4f}", flush=True)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    training = commands.add_parser("train", help="train, or go on from the last checkpoint")
    training.add_argument("--work", type=Path, required=True, help="folder for packages, checkpoints and the log")
    training.add_argument("--steps", type=int, default=STEPS)
    training.add_argument("--seed", type=int, default=1)
    training.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    training.add_argument("--no-compile", action="store_true", help="run without a C++ compiler, slower")
    training.set_defaults(run=run_training)
    for name, run, about in (
        ("export", run_export, "write GGUF and held-out text from the last checkpoint"),
        ("evaluate", run_evaluation, "bits a byte of a GGUF model by context length, beside zstd and order 4"),
    ):
        command = commands.add_parser(name, help=about)
        command.add_argument("--work", type=Path, required=True)
        command.add_argument("--model", type=Path, required=True)
        command.add_argument("--text", type=Path, required=True)
        command.add_argument("--primed", action="store_true", help="order 4 after the training text too (minutes)")
        command.set_defaults(run=run)
    return parser.parse_args()


if __name__ == "__main__":
    chosen = parse_arguments()
    chosen.run(chosen)

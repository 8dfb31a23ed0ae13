"""Training loop of the embedded model: processes of one thread each that average their gradients.

One thread a process because two processes that meet once a step lose less on a busy machine than threads that meet at
every operation. Every draw follows from seed, phase and step, so a resumed run sees what an unbroken one would.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from net import Net, NetConfig
from torch import Tensor
from torch.nn import functional

BEGIN_TOKEN = 0


@dataclass(frozen=True)
class Plan:
    """How long and how fast; a step is ``sequences * 512`` tokens in each process.

    ``phases``: sequence length and the share of the steps up to which it is used. The learning rate rises over
    ``warmup`` steps, is constant to ``flat`` of all steps and falls in a line to zero at the end.
    """

    steps: int
    seed: int = 1
    sequences: int = 8
    phases: tuple[tuple[int, float], ...] = ((512, 0.75), (1024, 0.93), (2048, 1.0))
    learning_rate: float = 3e-3
    warmup: int = 40
    flat: float = 0.45
    weight_decay: float = 0.1
    dropout: float = 0.1
    compiled: bool = True

    def phase_of(self, step: int) -> int:
        """Index of the phase that ``step`` is in."""
        return next(i for i, (_, until) in enumerate(self.phases) if step < until * self.steps)

    def rate(self, step: int) -> float:
        """Factor on the learning rate at ``step``."""
        done = step / self.steps
        return min(1.0, (step + 1) / self.warmup, (1.0 - done) / (1.0 - self.flat))


@dataclass(frozen=True)
class Worker:
    """Which of ``world`` processes this is, and where checkpoints and the log go."""

    rank: int
    world: int
    folder: Path


class Batches:
    """Shuffled chunks of a phase; each pass over the text starts at another offset."""

    def __init__(self, tokens: Tensor, plan: Plan, worker: Worker) -> None:
        self.tokens, self.plan, self.worker = tokens, plan, worker
        self._order: tuple[tuple[int, int], Tensor, int] | None = None

    def at(self, step: int) -> Tensor:
        """Tokens ``[batch, seq + 1]`` of this process at ``step``, each row with the begin mark in front."""
        phase = self.plan.phase_of(step)
        seq = self.plan.phases[phase][0]
        batch = max(1, self.plan.sequences * 512 // seq)
        first = math.ceil(self.plan.phases[phase - 1][1] * self.plan.steps) if phase else 0
        start = ((step - first) * self.worker.world + self.worker.rank) * batch
        rows = [self._chunk(phase, seq, number) for number in range(start, start + batch)]
        return functional.pad(torch.stack(rows), (1, 0), value=BEGIN_TOKEN)

    def _chunk(self, phase: int, seq: int, number: int) -> Tensor:
        chunks = len(self.tokens) // seq - 1
        turn = number // chunks
        if self._order is None or self._order[0] != (phase, turn):
            draw = torch.Generator().manual_seed(self.plan.seed * 1_000_003 + phase * 1009 + turn)
            offset = int(torch.randint(0, seq, (1,), generator=draw))
            self._order = ((phase, turn), torch.randperm(chunks, generator=draw), offset)
        at = int(self._order[1][number % chunks]) * seq + self._order[2]
        return self.tokens[at : at + seq]


def optimizers(net: Net, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al., 2024) for the matrices inside layers, AdamW for the embedding and the norms."""
    matrices = [p for name, p in net.named_parameters() if p.ndim == 2 and name.startswith("blk.")]
    others = [p for name, p in net.named_parameters() if p.ndim != 2 or not name.startswith("blk.")]
    rate = plan.learning_rate
    return [
        torch.optim.Muon(matrices, rate, weight_decay=plan.weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def mean_loss(net: Net, tokens: Tensor, dropout: float) -> Tensor:
    """Mean cross-entropy in nats a token of ``tokens`` ``[batch, seq + 1]``."""
    logits = net(tokens[:, :-1], dropout)
    return functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())


def average_gradients(net: Net, world: int) -> float:
    """Average over the processes, clip to norm 1; return the norm before."""
    grads = [p.grad for p in net.parameters() if p.grad is not None]
    if world > 1:
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat)
        flat /= world
        for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            grad.copy_(part.view_as(grad))
    return float(torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0))


def train(config: NetConfig, plan: Plan, tokens: Tensor, development: Tensor, worker: Worker) -> None:
    """Run from the last checkpoint in the folder, if there is one, to the end of the plan."""
    torch.set_num_threads(1)
    torch.manual_seed(plan.seed)
    net = Net(config, torch.bfloat16)
    steppers = optimizers(net, plan)
    first, elapsed_s = _restore(worker.folder / "checkpoint.pt", net, steppers)
    loss_of = torch.compile(mean_loss, dynamic=False) if plan.compiled else mean_loss
    batches, began = Batches(tokens, plan, worker), time.monotonic() - elapsed_s
    torch.manual_seed(plan.seed + 7919 * worker.rank + first)
    for step in range(first, plan.steps):
        loss = loss_of(net, batches.at(step), plan.dropout)
        loss.backward()
        norm = average_gradients(net, worker.world)
        for stepper in steppers:
            for group in stepper.param_groups:
                group["lr"] = plan.learning_rate * plan.rate(step)
            stepper.step()
            stepper.zero_grad()
        if worker.rank == 0:
            record: dict[str, Any] = {"step": step, "loss": float(loss.detach()), "norm": norm}
            if (step + 1) % 100 == 0 or step + 1 == plan.steps:
                record["development_loss"] = development_loss(net, development)
            _log(worker.folder, record | {"elapsed_s": time.monotonic() - began})
            if (step + 1) % 50 == 0 or step + 1 == plan.steps:
                _save(worker.folder / "checkpoint.pt", net, steppers, step + 1, time.monotonic() - began)


def development_loss(net: Net, tokens: Tensor, seq: int = 512) -> float:
    """Mean loss in nats a token over chunks of ``seq`` tokens of the development text."""
    with torch.no_grad():
        losses = [float(mean_loss(net, rows, 0.0)) for rows in _rows(tokens, seq, 8)]
    return sum(losses) / len(losses)


def _rows(tokens: Tensor, seq: int, batch: int) -> Iterator[Tensor]:
    count = len(tokens) // (seq * batch)
    for part in tokens[: count * seq * batch].view(count, batch, seq):
        yield functional.pad(part, (1, 0), value=BEGIN_TOKEN)


def _log(folder: Path, record: dict[str, Any]) -> None:
    with (folder / "log.jsonl").open("a") as log:
        log.write(json.dumps(record) + "\n")


def _save(path: Path, net: Net, steppers: list[torch.optim.Optimizer], step: int, elapsed_s: float) -> None:
    beside = path.with_suffix(".part")
    state = {"net": net.state_dict(), "steppers": [s.state_dict() for s in steppers]}
    torch.save(state | {"step": step, "elapsed_s": elapsed_s}, beside)
    beside.replace(path)


def _restore(path: Path, net: Net, steppers: list[torch.optim.Optimizer]) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    state = torch.load(path)
    net.load_state_dict(state["net"])
    for stepper, saved in zip(steppers, state["steppers"], strict=True):
        stepper.load_state_dict(saved)
    return state["step"], state["elapsed_s"]

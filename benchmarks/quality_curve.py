"""Perplexity against keep ratio: scores, recent tokens alone, and chance, each with as many kept tokens.

    python benchmarks/quality_curve.py measure --config fixtures/models/embedded/config.json --windows 8 \
        --out benchmarks/results/quality/austen-5m.json
    python benchmarks/quality_curve.py overlap --config fixtures/models/embedded/config.json --windows 8
    python benchmarks/quality_curve.py draw benchmarks/results/quality/*.json \
        --out benchmarks/results/quality/quality.svg

A window of held-out text is 512 tokens of prompt and 128 that are predicted, teacher-forced. After 16 of them every
layer of the range plans once, at 528 held tokens, and cuts itself to the keep ratio; then it grows on. All rankings
protect the same first and last tokens and keep the same number, so only the choice differs. Two kinds of score are
measured: that of the engine, a moving average (0.9) of the attention of decoded tokens, which rests on the last dozen
tokens; and the sum of the attention of all tokens, those of the prompt included, as the paper of H2O has it, which the
engine has no setting for. A measurement that was
stopped goes on where it was: windows that the file has are not measured again.

`overlap` tells how far the engine's score is another choice at all: of the blocks that it keeps beyond the protected
ones, the share that recent tokens alone would keep too, and the share that chance would.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from pytest_h2o.reference.bench import predict_decoded, predict_full, read_text
from pytest_h2o.reference.cache import EvictingCache, Watcher
from pytest_h2o.reference.config import PolicySettings, read_config
from pytest_h2o.reference.gguf import GgufFile
from pytest_h2o.reference.model import Model, Tokens, read_tokenizer
from pytest_h2o.reference.policy import Plan, Scores

Ranking = Literal["h2o", "recent", "random"]
ROOT = Path(__file__).resolve().parents[1]
PROMPT, PREDICTED = 512, 128
RATIOS = (0.05, 0.1, 0.2, 0.35, 0.6)
BLOCK, SINK, RECENT, INTERVAL, LAYER_START = 8, 4, 16, 16, 2
EMA_ALPHA, SUM_ALPHA = 0.9, 0.999
"""Weight of the past in the engine's score; one so near to 1 that the score is about a sum over all tokens."""

LABELS = {
    "h2o": "H2O as the engine scores",
    "h2o_prompt": "H2O, attention of the prompt counted",
    "recent": "recent tokens alone",
    "random": "chance",
}


def policy(ratio: float, layers: int, alpha: float = EMA_ALPHA) -> PolicySettings:
    """One plan a layer: the trigger is the prompt, which no layer reaches again after the cut."""
    return PolicySettings(BLOCK, SINK, RECENT, ratio, PROMPT, alpha, INTERVAL, LAYER_START, layers - 1)


class CurveCache(EvictingCache):
    """Takes over what another cache holds after the prompt, and scores if there are any.

    What makes a block worth keeping: ``h2o`` its score, ``recent`` its place, ``random`` chance, by `seed`.
    """

    def __init__(self, *args: Any, ranking: Ranking = "h2o", seed: int = 0, **options: Any) -> None:
        self._ranking, self._random = ranking, np.random.RandomState(seed)
        super().__init__(*args, clock="layer", **options)

    def rank(self, layer: int) -> Scores:
        blocks = len(self.scores[layer])
        if self._ranking == "recent":
            return np.arange(blocks, dtype=np.float64)
        if self._ranking == "random":
            return self._random.random_sample(blocks)
        return self.scores[layer]

    def take_over(self, prefilled: EvictingCache, scores: list[Scores] | None = None) -> None:
        self.clear()
        for mine, other in zip(self.layers, prefilled.layers, strict=True):
            mine.append(*(held.transpose(1, 0, 2) for held in (other.keys, other.values)), 0)
        self.advance(prefilled.next_position)
        if scores is not None:
            self.scores = [one.copy() for one in scores]

    def score_prompt(self, model: Model, prompt: Tokens) -> list[Scores]:
        """Decode a prompt token by token, and give the scores: an attention call each, where a prefill has none."""
        self.clear()
        for token in prompt:
            model.decode(int(token), self)
        return self.scores


def windows_of(model: Model, tokens: list[int], count: int) -> Iterator[tuple[int, Tokens]]:
    """Windows spread evenly over the text, each with its number."""
    length = PROMPT + PREDICTED
    starts = np.linspace(0, len(tokens) - length, count).astype(int)
    for number, start in enumerate(starts):
        yield number, np.array(tokens[start : start + length], dtype=np.int64)


def measure(arguments: argparse.Namespace) -> None:
    """Measure window by window; the file is written after each."""
    config = read_config(arguments.config)
    file = GgufFile(config.model_path())
    model, tokens = Model(file), read_tokenizer(file).encode(read_text(arguments.text, "text"))
    found: dict[str, Any] = {"model": file.path.stem, "text": arguments.text.name, "windows": {}}
    if arguments.out.exists():
        found = json.loads(arguments.out.read_text("utf-8"))
    for number, window in windows_of(model, tokens, arguments.windows):
        key = f"{number} of {arguments.windows}"
        if key in found["windows"]:
            continue
        found["windows"][key] = measure_window(model, window, number)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        print(key, found["windows"][key], flush=True)


def measure_window(model: Model, window: Tokens, seed: int) -> dict[str, Any]:
    """Bits a token, with the full cache and for each ranking by keep ratio."""
    prompt, targets = window[:PROMPT], window[PROMPT:]
    layers = model.hyper.layers
    full, _ = predict_full(model, window, PREDICTED, EvictingCache(model.hyper, len(window)))
    prefilled = EvictingCache(model.hyper, PROMPT)
    logits = model.logits(model.prefill(prompt, prefilled)[-1])
    never = replace(policy(1.0, layers, SUM_ALPHA), trigger_min_tokens=2 * PROMPT)
    prompt_scores = CurveCache(model.hyper, PROMPT, policy=never).score_prompt(model, prompt)
    evicted: dict[str, dict[str, float]] = {}
    for name in LABELS:
        counts_prompt = name == "h2o_prompt"
        evicted[name] = {}
        for ratio in RATIOS:
            cache = CurveCache(
                model.hyper,
                len(window),
                policy=policy(ratio, layers, SUM_ALPHA if counts_prompt else EMA_ALPHA),
                ranking=cast(Ranking, "h2o" if counts_prompt else name),
                seed=seed,
            )
            cache.take_over(prefilled, prompt_scores if counts_prompt else None)
            bits, _ = predict_decoded(model, logits, targets, cache)
            expected = layers - LAYER_START
            if cache.evictions != expected:
                raise SystemExit(f"{cache.evictions} evictions at keep ratio {ratio}, expected {expected}")
            evicted[name][str(ratio)] = bits / PREDICTED
    return {"full": full / PREDICTED, **evicted}


class Plans(Watcher):
    """Keeps every plan that was applied."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []

    def evicted(self, layer: int, plan: Plan) -> None:
        self.plans.append(plan)


def overlap(arguments: argparse.Namespace) -> None:
    """Print, by keep ratio, how many of the chosen blocks are the most recent ones; means over layers and windows."""
    config = read_config(arguments.config)
    file = GgufFile(config.model_path())
    model, tokens = Model(file), read_tokenizer(file).encode(read_text(arguments.text, "text"))
    shares: dict[float, list[tuple[float, float]]] = {ratio: [] for ratio in RATIOS}
    for _, window in windows_of(model, tokens, arguments.windows):
        prefilled = EvictingCache(model.hyper, PROMPT)
        model.prefill(window[:PROMPT], prefilled)
        for ratio in RATIOS:
            seen = Plans()
            settings = policy(ratio, model.hyper.layers)
            cache = CurveCache(model.hyper, len(window), policy=settings, watchers=[seen])
            cache.take_over(prefilled)
            for token in window[PROMPT : PROMPT + INTERVAL + 1]:
                model.decode(int(token), cache)
            shares[ratio] += [share for plan in seen.plans if (share := shared_blocks(plan)) is not None]
    print(f"{file.path.stem}, {arguments.windows} windows")
    print("| keep ratio | " + " | ".join(str(ratio) for ratio in RATIOS) + " |\n| --- |" + " ---: |" * len(RATIOS))
    for place, label in enumerate(("chosen by both", "by chance")):
        means = [np.mean([share[place] for share in shares[ratio]]) if shares[ratio] else np.nan for ratio in RATIOS]
        print(f"| {label} | " + " | ".join(f"{100 * mean:.0f} %" for mean in means) + " |")


def shared_blocks(plan: Plan) -> tuple[float, float] | None:
    """Share of the chosen blocks that are the most recent ones, and what it is by chance; None without a choice."""
    target = plan.target
    free = range(target.sink_blocks, target.recent_block)
    chosen = set(plan.blocks) & set(free)
    recent = set(free[len(free) - len(chosen) :])
    return (len(chosen & recent) / len(chosen), len(chosen) / len(free)) if chosen else None


def rises(found: dict[str, Any], ranking: str) -> list[float]:
    """Rise of perplexity in percent at each keep ratio, over all windows together."""
    windows = list(found["windows"].values())
    mean_full = np.mean([window["full"] for window in windows])
    return [100 * (2 ** (np.mean([w[ranking][str(r)] for w in windows]) - mean_full) - 1) for r in RATIOS]


def draw(arguments: argparse.Namespace) -> None:
    """Draw the figure and print its numbers as a Markdown table."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "quality", "font.size": 9})
    figure, axes = plt.subplots(1, len(arguments.files), figsize=(4.2 * len(arguments.files), 3.6), squeeze=False)
    for axis, path in zip(axes[0], arguments.files, strict=True):
        found = json.loads(path.read_text("utf-8"))
        windows = found["windows"].values()
        ppl = 2 ** float(np.mean([window["full"] for window in windows]))
        print(f"\n{found['model']}: {len(windows)} windows, perplexity {ppl:.2f} with the full cache\n")
        print("| keep ratio | " + " | ".join(str(ratio) for ratio in RATIOS) + " |\n| --- |" + " ---: |" * len(RATIOS))
        for ranking, label in LABELS.items():
            values = rises(found, ranking)
            axis.plot(RATIOS, values, marker="o", markersize=3, label=label)
            print(f"| {label} | " + " | ".join(f"{value:+.2f} %" for value in values) + " |")
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.set(title=f"{found['model']}, {len(windows)} windows", xlabel="keep ratio", ylabel="rise of perplexity, %")
        axis.set_xscale("log")
        axis.set_xticks(RATIOS, [f"{ratio:g}" for ratio in RATIOS])
        axis.minorticks_off()
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="lower center", ncols=2)
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    figure.savefig(arguments.out, metadata={"Date": None})


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, run, told in (("measure", measure, "measure one model"), ("overlap", overlap, "compare the choices")):
        command = commands.add_parser(name, help=told)
        command.add_argument("--config", type=Path, required=True)
        command.add_argument("--text", type=Path, default=ROOT / "fixtures/text/heldout.txt")
        command.add_argument("--windows", type=int, default=8)
        if run is measure:
            command.add_argument("--out", type=Path, required=True)
        command.set_defaults(run=run)
    drawing = commands.add_parser("draw", help="draw what was measured")
    drawing.add_argument("files", type=Path, nargs="+")
    drawing.add_argument("--out", type=Path, required=True)
    drawing.set_defaults(run=draw)
    return parser.parse_args()


if __name__ == "__main__":
    chosen = parse_arguments()
    chosen.run(chosen)

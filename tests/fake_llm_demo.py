#!/usr/bin/env python3
"""A stand-in for llm_demo: says text, and tells speeds as the real one does. Standard library only.

``$FAKE_DEMO`` is JSON of how it behaves; every key may be left out:

tokens
    Tokens of the prompt, by the stem of its file; else the number at the end of the stem.
drop
    Fraction of decode speed that H2O costs, by the same number, or one for all.
decoded
    Tokens decoded with H2O on; 96 with it off.
text
    What it says with H2O on; with it off ten words.
metrics
    Fields of the metrics with H2O on beside the usual ones; ``null``: a build without metrics.
idle
    H2O evicts nothing.
prints
    Text that it prints into the middle of what it says, with H2O on.
hang
    The launch of this name never ends.
summary, exit
    ``false``: no summary behind the text. The exit code.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path

SAID = "one two three four five six seven eight nine ten"


def main() -> int:
    config, prompt, _, mode = sys.argv[1:]
    assert mode == "--prompt-file-mode=whole", sys.argv
    assert Path(os.environ["LLM_DEMO_TMP_PATH"]).samefile(Path.cwd()), "no scratch folder of its own"
    assert os.environ["MNN_KV_DUMP_DIR"] == "off"
    Path("tmp").mkdir()  # fails where another launch left its own
    values = json.loads(Path(config).read_text(encoding="utf-8"))
    assert values["sampler_type"] == "greedy"
    told = json.loads(os.environ.get("FAKE_DEMO", "{}"))
    if "hang" in told and told["hang"] in os.environ["LLM_DEMO_METRICS_JSONL"]:
        time.sleep(600)
    on, stem = values["kv_h2o_enable"], Path(prompt).stem
    tokens = told.get("tokens", {}).get(stem) or int(re.findall(r"\d+", stem)[-1])
    drop = told.get("drop", 0.0)
    drop = drop.get(str(tokens), 0.0) if isinstance(drop, dict) else drop
    decoded = told.get("decoded", 96) if on else 96
    speed = 50.0 * (1 - drop) if on else 50.0
    evicts = on and tokens >= values["kv_h2o_trigger_min_tokens"] and not told.get("idle")
    text = told.get("text", SAID) if on else SAID
    middle = len(text) // 2
    text = text[:middle] + (told.get("prints", "") if on else "") + text[middle:]
    print(f"config path is {config}\nprompt file is {prompt}\n{text}\n{'#' * 33}")
    if told.get("summary", True):
        print(f"prompt tokens num = {tokens}\ndecode tokens num = {decoded}\n vision time = 0.00 s")
        print(f"prefill time = {tokens / 200:.2f} s\n decode time = {decoded / speed:.2f} s")
        print(f"prefill speed = 200.00 tok/s\n decode speed = {speed:.2f} tok/s\n{'#' * 34}")
    if told.get("metrics", {}) is not None and told.get("summary", True):
        ratios = {"h2o_lossy_ratio": 3.1 if evicts else 1, "h2o_lossless_ratio": 1.3 if evicts else 1}
        fields = {
            "prompt_tokens": tokens,
            "decode_tokens": decoded,
            "prefill_us": tokens * 5000,
            "decode_us": round(decoded / speed * 1e6),
            **ratios,
            "h2o_lossless_decompress_us": 1400 if evicts else 0,
            "h2o_lossless_fallback_count": 0,
            "h2o_lossless_decode_cache_hit": 2 if evicts else 0,
            "h2o_lossless_decode_cache_miss": 5 if evicts else 0,
            "h2o_total_evict_tokens": 9000 if evicts else 0,
        }
        with Path(os.environ["LLM_DEMO_METRICS_JSONL"]).open("a", encoding="utf-8") as file:
            file.write(json.dumps({**fields, **(told.get("metrics", {}) if on else {})}) + "\n")
    return int(told.get("exit", 0))


if __name__ == "__main__":
    sys.exit(main())

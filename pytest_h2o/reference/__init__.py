"""A bench of our own: a Llama-style language model in numpy, with a KV cache under H2O eviction.

``python -m pytest_h2o.reference`` takes the flags of ``llm_bench`` and its config, and prints its table. It is no
fast engine; it is one that can be read, and that can tell whether the model still works after eviction.

The data walks through the modules in this order: `arguments` (command line), `settings` (config), `gguf_file`,
`model` and `tokenizer` (the model file), `policy` (pure decisions), `cache` and `eviction` (what the decisions do to
a cache), `runtime_lossless` and `dump_writer` (who watch the cache), `bench` (repeats and rows), `table` (text).
`quality` measures what eviction costs the model, `consistency` whether a run and its dumps tell the same sizes.

Where it differs from the engine whose bench it stands in for:

- The cache is cleared between repeats, and a layer is always itself: the engine's cache grows on with H2O, and its
  layer cursor drifts. So every repeat here has the same deterministic columns, whatever ``-rep`` is.
- Prompts are real text unless ``prompt_token`` asks for a repeated token; text is tokenised by the merges of the
  model's vocabulary (the engine takes the longest match: 433 tokens where these are 436). No chat template. The best
  token is fed back, without sampling and without an end.
- A cache of fp16 (``-c 2``) is fp32 numbers that were rounded to fp16: sizes and dumps are those of fp16, speed is not.
- ``kv_lossless_runtime_mode`` ``store`` is not known. Samples are coded in the decoding thread: the figures of queues
  and of the cache of decoded blocks are 0, and a miss is counted for each sample that the strict check decodes.
- Of two blocks with equal scores the earlier one is kept. ``h2o_evict_us`` is the time to make the last plan,
  ``h2o_codec_us`` that of coding the last sample.
- Another backend than ``cpu``, ``-qatten`` 1 and 2, and a missing or broken model are errors with exit status 2, where
  the engine runs on the CPU in silence, switches H2O off, or crashes. ``loadingTime(s)`` is shown only when asked for.
- Results are written at the end of the launch, the JSON by renaming; a launch that fails writes none.
- A dump is made by the first repeat, which is not measured. Further cases of a launch get run ids of their own.
- ``reference_clock`` ``layer`` lets every layer of the range evict; see `eviction` for why the engine's does not.

Nothing is imported here: threads must be set in the environment before numpy is imported.
"""

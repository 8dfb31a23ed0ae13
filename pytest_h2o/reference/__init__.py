"""A bench of our own: a Llama-style language model in numpy, with a KV cache under H2O eviction.

``python -m pytest_h2o.reference`` takes the flags of ``llm_bench`` and its config, and prints its table. It is no
fast engine; it is one that can be read, and that can tell whether the model still works after eviction.

The data walks through the modules in this order: `arguments` (command line), `settings` (config), `gguf_file`,
`model` and `tokenizer` (the model file), `policy` (pure decisions), `cache` and `eviction` (what the decisions do to
a cache), `runtime_lossless` and `dump_writer` (who watch the cache), `bench` (repeats and rows), `table` (text).
`quality` measures what eviction costs the model, `consistency` whether a run and its dumps tell the same sizes.

Where it differs from the engine whose bench it stands in for is told in docs/reference-bench.md.

Nothing is imported here: threads must be set in the environment before numpy is imported."""

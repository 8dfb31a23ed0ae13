"""A bench of our own: a Llama-style language model in numpy, with a KV cache under H2O eviction.

``python -m pytest_h2o.reference`` takes the flags of ``llm_bench`` and its config, and prints its table. It is no
fast engine; it is one that can be read, and that can tell whether the model still works after eviction.

The modules in the order of the data: `config` (command line, config and environment), `gguf` (the model file), `policy`
(pure decisions), `cache` (what they do to a cache), `model`, `lossless` and `dump` (who watch the cache), `bench`
(a launch, its table, and what eviction costs the model).

Where it differs from the engine whose bench it stands in for is told in docs/reference-bench.md.

Nothing is imported here: threads must be set in the environment before numpy is imported."""

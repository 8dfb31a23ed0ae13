"""pytest-h2o: a regression gate for KV-cache compression in LLM runtimes."""

__version__ = "0.1.0"

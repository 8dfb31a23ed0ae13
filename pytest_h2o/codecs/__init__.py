"""Lossless codecs for fp16 KV streams: see `base` for the contract."""

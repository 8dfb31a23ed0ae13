"""Byte planes of fp16 words, what makes them smaller, and the zstd frames that they go into."""

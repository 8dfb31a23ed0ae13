"""The offline evaluation: KV dumps, cut into streams, coded, counted and decoded again.

`evaluate_lossless` is the whole of it. Ratios are raw fp16 bytes over coded bytes, every byte of framing counted;
higher is better. What is counted is the length of bytes that were really written, and with ``verify`` they are decoded
and compared bit for bit."""

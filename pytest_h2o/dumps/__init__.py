"""KV dumps: a folder (or a .zip of one) of recorded K and V tensors, indexed and checked, then read piece by piece.

A dump holds, anywhere under its root, ``meta_*.json`` files; each describes one entry, a run of tokens of one
layer, and names two data files beside it: K and V, little-endian, C order ``[seq_len, kv_heads, head_dim]``, fp16 or
fp32. The usual layout is ``RUN_ID/layer_{L}/meta_t{a}_{b}.json`` with ``k_t{a}_{b}.bin`` and ``v_t{a}_{b}.bin``: one
entry a layer for the prompt, one a token for decoding. ``packed_meta_*.json`` files are not read.

`index_dump` reads the metas and checks them against the data files without opening those; `read.read_pieces` gives the
numbers. Where a dump tries to lead outside its root it is refused as a whole; an entry that merely cannot be read is
listed as skipped, for the caller to judge.
"""

from __future__ import annotations

from pytest_h2o.dumps.entry import DumpEntry, DumpIndex, Finding, SkippedEntry
from pytest_h2o.dumps.index import find_overlaps_and_gaps, index_dump

__all__ = ["DumpEntry", "DumpIndex", "Finding", "SkippedEntry", "find_overlaps_and_gaps", "index_dump"]

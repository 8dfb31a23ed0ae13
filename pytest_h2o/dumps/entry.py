"""The values of an index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import mmap

Tensor = Literal["k", "v"]


class DumpRoot(Protocol):
    """Where data files are: a folder or an archive."""

    def read_into(self, location: str, offset: int, buffer: memoryview, *, is_end: bool) -> None:
        """Fill `buffer` with the bytes of the data file at `location` from `offset` on.

        Raises
        ------
        DumpError
            There are not that many bytes, or more although this should be the end, or they cannot be read.
        """

    def map_file(self, location: str, size: int, *, is_end: bool) -> mmap.mmap | None:
        """The first `size` bytes of the data file as read-only memory; None if it cannot be mapped.

        Raises
        ------
        DumpError
            It is shorter by now, or longer although this should be the end, or cannot be opened.
        """


class DumpEntry(NamedTuple):
    """One entry: K and V of some tokens of one layer.

    A named tuple, not a dataclass: a dump can hold a hundred thousand, and these are made six times faster.

    Attributes
    ----------
    meta : str
        Path of its meta file below the root, with ``/``.
    layer_id, seq_start, seq_len : int
        Layer; position of the first token; number of tokens, at least 1.
    kv_heads, head_dim : int
        At least 1 each.
    bytes_per_elem : int
        2 for fp16, 4 for fp32.
    stage : str
        ``prefill`` or ``decode``.
    run_id : str or None
        None if the meta has none.
    k_location, v_location : str
        What `root` needs to find the data files.
    root : DumpRoot
    """

    meta: str
    layer_id: int
    seq_start: int
    seq_len: int
    kv_heads: int
    head_dim: int
    bytes_per_elem: int
    stage: str
    run_id: str | None
    k_location: str
    v_location: str
    root: DumpRoot

    def location(self, tensor: Tensor) -> str:
        return self.k_location if tensor == "k" else self.v_location

    @property
    def row_elements(self) -> int:
        """Elements of one token of K or of V."""
        return self.kv_heads * self.head_dim


class SkippedEntry(NamedTuple):
    """An entry that cannot be read.

    Attributes
    ----------
    path : str
        Its meta file, below the root.
    reason : str
        ``meta_parse_error``, ``meta_invalid_numeric_fields``, ``meta_invalid_text_fields``, ``invalid_shape``,
        ``missing_k_or_v_file`` (the meta names none), ``missing_k_or_v_binary`` (it is not there),
        ``binary_read_error`` (size or permission), ``unsupported_bytes_per_elem_N``, ``unsupported_dtype`` or
        ``skip_fp32_strict``.
    detail : str
        What exactly, for a person.
    layer_id, seq_len, stage : int or str or None
        Where they are known, so that a selection can pass over it; None selects it.
    """

    path: str
    reason: str
    detail: str
    layer_id: int | None = None
    seq_len: int | None = None
    stage: str | None = None


@dataclass(frozen=True)
class Finding:
    """Something worth telling about a dump that can be read all the same.

    Attributes
    ----------
    kind : "overlap" or "gap"
        Some positions come more than once, or not at all between the first and the last.
    run_id, layer_id
        Where.
    tokens : int
        How many positions are affected.
    first : int
        The first of them.
    """

    kind: Literal["overlap", "gap"]
    run_id: str | None
    layer_id: int
    tokens: int
    first: int


@dataclass(frozen=True)
class DumpIndex:
    """What a dump holds.

    Attributes
    ----------
    root : str
        As it was given.
    entries : tuple of DumpEntry
        In path order: by path component, as plain strings.
    skipped : tuple of SkippedEntry
        In path order.
    """

    root: str
    entries: tuple[DumpEntry, ...]
    skipped: tuple[SkippedEntry, ...]

    @property
    def scanned_entries(self) -> int:
        """Number of meta files that were found."""
        return len(self.entries) + len(self.skipped)

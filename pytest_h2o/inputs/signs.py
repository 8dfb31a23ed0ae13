"""Lines that tell of a broken cache or a missing backend, exit code 0 all the same, and what they mean."""

from __future__ import annotations

from typing import Literal, NamedTuple

LOST = "tokens of the cache are lost or in the wrong place"
NO_BACKEND = "the backend that was asked for is not there, and the CPU ran under its name"
BUILD = "build the engine with that backend (MNN_SEP_BUILD=OFF, or preload its library), or give --h2o-backend cpu"
HEAP = "memory of the process was overwritten: nothing that it computed can be trusted"
OUT_OF_BOUNDS = "memory was read or written where none is: nothing that the process computed can be trusted"


class Sign(NamedTuple):
    """A message that says something about the cache, wherever it stands in a line, in capitals or not."""

    name: str
    """How ``allow_signs:`` of a preset names it."""
    text: str
    meaning: str
    severity: Literal["fatal", "counted", "harmless"] = "fatal"
    """fatal fails the launch; counted is shown with the warnings; harmless is not even counted."""
    cause: str = ""
    """What is at fault and what to do, where the config of the model has no part in it."""
    may_be_said: bool = False
    """A model may say it in a text that it generates: there it is no sign."""
    also: tuple[str, ...] = ()
    """Other wordings of the same."""


_NO_NUMBERS = tuple(
    words.format(odd)
    for odd in ("NaN", "inf")
    for words in (
        *(
            "logits are {}",
            "logits is {}",
            "logits have {}",
            "logits has {}",
            "logits contain {}",
            "logits contains {}",
        ),
        *("{} in logits", "{} in the logits", "{} found in logits", "{} logits"),
    )
)

SIGNS = (
    Sign("scatter_restore", "scatter restore failed", f"coded tokens could not be put back: {LOST}"),
    Sign("zero_kv_range", "zeroKvRange failed", f"a range of the cache could not be cleared: {LOST}"),
    Sign("encoded_range", "invalid encoded range", f"a coded block is of no range of the cache: {LOST}"),
    Sign("target_cache", "missing target KV cache manager", f"there was no cache to restore to: {LOST}"),
    Sign("async_counters", "async counters out-of-sync", "coding jobs were lost, or counted twice"),
    Sign("kv_realloc", "Invalid KV realloc", f"the cache was resized to an impossible size: {LOST}"),
    Sign("kv_reserve", "Invalid KV reserve", f"the cache was reserved at an impossible size: {LOST}"),
    Sign("kv_sync", "KVMeta::sync got", f"the lengths of the cache and its records disagree: {LOST}"),
    Sign("kv_length", "KV length/meta previous mismatch", f"the lengths of the cache and its records disagree: {LOST}"),
    Sign(
        "corrupted_size",
        "corrupted size",
        HEAP,
        may_be_said=True,
        also=("corrupted double-linked list", "stack smashing detected"),
    ),
    Sign("double_free", "double free", HEAP, may_be_said=True),
    Sign("munmap_chunk", "munmap_chunk", HEAP, may_be_said=True, also=("mremap_chunk",)),
    Sign(
        "invalid_free",
        "free(): invalid",
        HEAP,
        may_be_said=True,
        also=(
            *("malloc(): corrupted", "malloc(): invalid", "malloc(): unaligned", "malloc(): unsorted"),
            *("malloc_consolidate():", "realloc(): invalid", "free(): corrupted", "free(): unaligned"),
            *("break adjusted to free malloc space", "sysmalloc: Assertion"),
        ),
    ),
    Sign(
        "crash",
        "Segmentation fault",
        "the process was ended by a fault of its own",
        may_be_said=True,
        also=("Aborted (core dumped)", "Bus error", "Illegal instruction", "terminate called after throwing"),
    ),
    Sign(
        "address_sanitizer",
        "AddressSanitizer:",
        OUT_OF_BOUNDS,
        may_be_said=True,
        also=("MemorySanitizer:", "ThreadSanitizer:", "UndefinedBehaviorSanitizer:"),
    ),
    Sign("nan_logits", _NO_NUMBERS[0], "the model computes no numbers", may_be_said=True, also=_NO_NUMBERS[1:]),
    Sign("no_backend", "Can't Find type=", NO_BACKEND, cause=BUILD),
    Sign("opencl_init", "OpenCL init error", NO_BACKEND, cause=BUILD),
    Sign("opencl_symbols", "parsing symbols error", NO_BACKEND, cause=BUILD),
    Sign("back_to_cpu", "Turn back to cpu", "the backend that was asked for cannot run the model", cause=BUILD),
    Sign("stale_plan", "Drop stale per-layer pending plan", "the eviction plan of a layer was thrown away", "counted"),
    Sign("clamp_remove", "Clamp invalid meta remove", "more was to be removed than the cache holds", "counted"),
    Sign("floor_keep", "floor-keep dominates target", "the protected tokens alone met the target", "harmless"),
)

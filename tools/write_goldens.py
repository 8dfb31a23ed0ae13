"""Write golden encodings that are missing; none that exists is ever written again.

    python tools/write_goldens.py                 every built-in codec, default settings
    python tools/write_goldens.py zstd:level=19 --note level19
    python tools/write_goldens.py --words         the words and their index, once

A golden that no longer decodes is a bug in the decoder, not in the golden: give a changed format a new codec id.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "codecs")]

from goldens import GOLDENS, cases_of, digest, read_index, read_members  # noqa: E402

from pytest_h2o.cli.codecs_bench import streams  # noqa: E402
from pytest_h2o.codecs.base import Rope, Stream  # noqa: E402
from pytest_h2o.codecs.registry import BUILT_IN, parse_codec, render_codec  # noqa: E402


def make_cases() -> dict[str, Stream]:
    """Some tokens of real K and V, words that break assumptions, and nothing."""
    real = {
        (dumped.run_id, dumped.layer, dumped.stream.tensor): dumped.stream
        for dumped in streams(ROOT / "fixtures" / "dumps" / "fp16.zip")
    }
    k, v = real["prose", 15, "k"], real["code", 0, "v"]
    span = slice(64, 112)
    more = slice(64, 184)  # enough tokens for codecs that refer to earlier ones; one head, to stay small
    near_k, near_v = real["code", 0, "k"], real["code", 1, "v"]
    rng = np.random.default_rng(2024)
    odd = rng.integers(0, 1 << 16, (23, 3, 10), dtype=np.uint16)
    odd[5:9] = odd[2]
    odd[9:13] = 0x8000
    odd[13:17] = rng.integers(0x7C00, 0x8000, (4, 3, 10))
    odd[17:20] = rng.integers(0, 0x0400, (3, 3, 10))
    odd[20] = 0xFC00
    cases = {
        "k": Stream(k.words[span], "k", k.positions[span], Rope(100_000.0)),
        "v": Stream(v.words[span], "v", v.positions[span]),
        "odd": Stream(odd, "k", rng.integers(0, 5000, 23), Rope(10_000.0, "interleaved")),
        "unknown": Stream(k.words[span], "k"),
        "rows_k": Stream(near_k.words[more, :1], "k", near_k.positions[more], Rope(100_000.0)),
        "rows_v": Stream(near_v.words[more, :1], "v", near_v.positions[more]),
        "empty": Stream(np.empty((0, 3, 64), np.uint16), "v"),
    }
    odd_bf16 = odd.copy()
    odd_bf16[13:17] = rng.integers(0x7F80, 0x8000, (4, 3, 10))  # NaN, and infinities below
    odd_bf16[17:20] = rng.integers(0, 0x0080, (3, 3, 10))
    odd_bf16[20] = 0xFF80
    for name, stream in [*cases.items()]:
        words = odd_bf16 if name == "odd" else to_bf16(stream.words)
        cases[f"{name}_bf16"] = replace(stream, words=words, dtype="bf16")
    return cases


def to_bf16(words: np.ndarray) -> np.ndarray:
    """fp16 words as bf16, rounded to even."""
    bits = words.view(np.float16).astype(np.float32).view(np.uint32)
    return (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16)


def write_new(root: Path, archive: str, name: str, data: bytes) -> None:
    """Add a member to an archive, unless it is there."""
    member = f"{archive}/{name}.bin"
    if name in read_members(root, archive):
        print(f"kept     {member}")
        return
    with zipfile.ZipFile(root / f"{archive}.zip", "a") as file:
        file.writestr(zipfile.ZipInfo(f"{name}.bin"), data)
    print(f"written  {member}  {len(data)} bytes")


def write_words(root: Path) -> None:
    cases = {}
    for name, stream in make_cases().items():
        cases[name] = {
            "tensor": stream.tensor,
            "shape": list(stream.words.shape),
            "positions": None if stream.positions is None else stream.positions.tolist(),
            "rope": None if stream.rope is None else {"theta": stream.rope.theta, "pairing": stream.rope.pairing},
            "sha256": digest(stream.words),
            **({"dtype": "bf16"} if stream.dtype == "bf16" else {}),
        }
        write_new(root, "words", name, stream.words.astype("<u2").tobytes())
    write_index(root, {"notes": read_index(root)["notes"], "cases": cases})


def write_index(root: Path, index: dict[str, dict[str, object]]) -> None:
    """A line a note and a case."""
    parts = (
        f"  {json.dumps(part)}: {{\n"
        + ",\n".join(f"    {json.dumps(name)}: {json.dumps(value)}" for name, value in entries.items())
        + "\n  }"
        for part, entries in index.items()
    )
    (root / "index.json").write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codecs", nargs="*", help="codecs, with settings if not the default")
    parser.add_argument("--note", help="part of the file name, after the case and two dashes")
    parser.add_argument("--words", action="store_true", help="write the words of the cases")
    parser.add_argument("--root", type=Path, default=GOLDENS, help="folder of the goldens (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.words:
        write_words(arguments.root)
        return
    ending = f"--{arguments.note}" if arguments.note else ""
    index = read_index(arguments.root)
    for codec in map(parse_codec, arguments.codecs or BUILT_IN):
        text = render_codec(codec)
        if (index["notes"].setdefault(arguments.note, text) if arguments.note else codec.id) != text:
            parser.error(f"{text} needs a --note of its own")
        for name, case in cases_of(codec, arguments.root).items():
            write_new(arguments.root, codec.id, f"{name}{ending}", codec.encode(case.stream))
    write_index(arguments.root, index)


if __name__ == "__main__":
    main()

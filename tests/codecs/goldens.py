"""Golden encodings: bytes that were written once and must decode for ever.

``fixtures/goldens/index.json`` describes the cases and the settings that a note in a file name stands for;
``words/<case>.bin`` holds the words of a case (uint16, little-endian, ``[seq_len, kv_heads, head_dim]``),
``<codec>/<case>.bin`` or ``<codec>/<case>--<note>.bin`` a payload of them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pytest_h2o.codecs.base import Codec, Rope, Stream, Words
from pytest_h2o.codecs.registry import get_codec, parse_codec

GOLDENS = Path(__file__).parents[2] / "fixtures" / "goldens"


@dataclass(frozen=True)
class Golden:
    """One case: its stream, and the digest that the words had when it was made."""

    name: str
    stream: Stream
    sha256: str


def digest(words: Words) -> str:
    """SHA-256 of the words, little-endian, C order, as hexadecimal."""
    return hashlib.sha256(words.astype("<u2").tobytes()).hexdigest()


def read_index(root: Path = GOLDENS) -> dict[str, dict[str, Any]]:
    index: dict[str, dict[str, Any]] = json.loads((root / "index.json").read_text("utf-8"))
    return index


def read_cases(root: Path = GOLDENS) -> dict[str, Golden]:
    """The cases of the index, in its order."""
    cases = {}
    for name, case in read_index(root)["cases"].items():
        words = np.fromfile(root / "words" / f"{name}.bin", "<u2").astype(np.uint16).reshape(case["shape"])
        positions = None if case["positions"] is None else np.array(case["positions"], np.int64)
        rope = None if case["rope"] is None else Rope(**case["rope"])
        cases[name] = Golden(name, Stream(words, case["tensor"], positions, rope), case["sha256"])
    return cases


def decode_goldens(codec_id: str, root: Path = GOLDENS) -> dict[str, Words]:
    """The words of every golden of a codec, by the name of its file without the ending."""
    cases, notes = read_cases(root), read_index(root)["notes"]
    decoded = {}
    for file in sorted((root / codec_id).glob("*.bin")):
        case, _, note = file.stem.partition("--")
        codec: Codec = parse_codec(notes[note]) if note else get_codec(codec_id)
        assert codec.id == codec_id, f"the note {note} is of {codec.id}"
        decoded[file.stem] = codec.decode(file.read_bytes(), cases[case].stream.side_info())
    return decoded


def check_goldens(codec_id: str, root: Path = GOLDENS) -> int:
    """Every case has its payload, and every payload gives back its case; gives how many there were."""
    cases, decoded = read_cases(root), decode_goldens(codec_id, root)
    missing = set(cases) - set(decoded)
    assert not missing, f"no golden of {codec_id} for {sorted(missing)}: run tools/write_goldens.py {codec_id}"
    for name, words in decoded.items():
        case = cases[name.partition("--")[0]]
        assert np.array_equal(words, case.stream.words), f"{codec_id}/{name}.bin decodes to other words"
        assert digest(words) == case.sha256, f"the words of {case.name} are not those of the index"
    return len(decoded)

"""Golden encodings: bytes that were written once and must decode for ever.

``fixtures/goldens/index.json`` describes the cases and the settings that a note in a file name stands for;
``words.zip`` holds ``<case>.bin``, the words of a case (uint16, little-endian, ``[seq_len, kv_heads, head_dim]``),
``<codec>.zip`` ``<case>.bin`` or ``<case>--<note>.bin``, a payload of them.
"""

import hashlib
import json
import zipfile
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
    return json.loads((root / "index.json").read_text("utf-8"))


def read_members(root: Path, name: str) -> dict[str, bytes]:
    """The members of an archive by their names without the ending; none where there is no archive."""
    path = root / f"{name}.zip"
    if not path.exists():
        return {}
    with zipfile.ZipFile(path) as archive:
        return {Path(member).stem: archive.read(member) for member in sorted(archive.namelist())}


def read_cases(root: Path = GOLDENS) -> dict[str, Golden]:
    """The cases of the index, in its order."""
    cases, stored = {}, read_members(root, "words")
    for name, case in read_index(root)["cases"].items():
        words = np.frombuffer(stored[name], "<u2").astype(np.uint16).reshape(case["shape"])
        positions = None if case["positions"] is None else np.array(case["positions"], np.int64)
        rope = None if case["rope"] is None else Rope(**case["rope"])
        stream = Stream(words, case["tensor"], positions, rope, case.get("dtype", "fp16"))
        cases[name] = Golden(name, stream, case["sha256"])
    return cases


def cases_of(codec: Codec, root: Path = GOLDENS) -> dict[str, Golden]:
    """The cases that a codec can code."""
    return {name: case for name, case in read_cases(root).items() if case.stream.dtype in codec.dtypes}


def decode_goldens(codec_id: str, root: Path = GOLDENS) -> dict[str, Words]:
    """The words of every golden of a codec, by the name of its file without the ending."""
    cases, notes = read_cases(root), read_index(root)["notes"]
    decoded = {}
    for name, payload in read_members(root, codec_id).items():
        case, _, note = name.partition("--")
        codec: Codec = parse_codec(notes[note]) if note else get_codec(codec_id)
        assert codec.id == codec_id, f"the note {note} is of {codec.id}"
        decoded[name] = codec.decode(payload, cases[case].stream.side_info())
    return decoded


def check_goldens(codec_id: str, root: Path = GOLDENS) -> int:
    """Every case has its payload, and every payload gives back its case; gives how many there were."""
    cases, decoded = read_cases(root), decode_goldens(codec_id, root)
    missing = set(cases_of(get_codec(codec_id), root)) - set(decoded)
    assert not missing, f"no golden of {codec_id} for {sorted(missing)}: run tools/write_goldens.py {codec_id}"
    for name, words in decoded.items():
        case = cases[name.partition("--")[0]]
        assert np.array_equal(words, case.stream.words), f"{name}.bin of {codec_id} decodes to other words"
        assert digest(words) == case.sha256, f"the words of {case.name} are not those of the index"
    return len(decoded)

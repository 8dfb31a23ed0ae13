"""Golden encodings: bytes that were written once and must decode for ever.

``fixtures/goldens/index.json`` describes the cases, ``words/<case>.bin`` holds their words (uint16, little-endian,
``[seq_len, kv_heads, head_dim]``), ``<codec>/<case>.h2o`` or ``<codec>/<case>--<note>.h2o`` a container of them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pytest_h2o.codecs.base import Rope, Stream, Words
from pytest_h2o.codecs.container import decode_container, read_container

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


def read_cases(root: Path = GOLDENS) -> dict[str, Golden]:
    """The cases of the index, in its order."""
    cases = {}
    for name, case in json.loads((root / "index.json").read_text("utf-8")).items():
        words = np.fromfile(root / "words" / f"{name}.bin", "<u2").astype(np.uint16).reshape(case["shape"])
        positions = None if case["positions"] is None else np.array(case["positions"], np.int64)
        rope = None if case["rope"] is None else Rope(**case["rope"])
        cases[name] = Golden(name, Stream(words, case["tensor"], positions, rope), case["sha256"])
    return cases


def check_goldens(codec_id: str, root: Path = GOLDENS) -> int:
    """Every case has its container, and every container gives back its case; gives how many there were."""
    cases = read_cases(root)
    files = sorted((root / codec_id).glob("*.h2o"))
    missing = set(cases) - {file.stem for file in files}
    assert not missing, f"no golden of {codec_id} for {sorted(missing)}: run tools/write_goldens.py {codec_id}"
    for file in files:
        case = cases[file.stem.partition("--")[0]]
        container = read_container(file.read_bytes())
        assert container.codec.id == codec_id
        assert container.side == case.stream.side_info()
        assert container.rope == case.stream.rope
        assert np.array_equal(container.positions, case.stream.positions)
        words = decode_container(file.read_bytes())
        assert np.array_equal(words, case.stream.words), f"{file} decodes to other words"
        assert digest(words) == case.sha256, f"the words of {case.name} are not those of the index"
    return len(files)

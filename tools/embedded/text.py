"""Text for the embedded model: four public-domain works out of Debian packages, cleaned to plain ASCII paragraphs.

The packages are downloaded with ``apt-get download`` and unpacked with ``dpkg -x`` into a work folder; nothing is
installed and no root rights are needed (``apt-get update`` must have run once).

========================  =====================================================  =====================================
package                   what is taken                                          status of the text
========================  =====================================================  =====================================
r-cran-janeaustenr        six novels of Jane Austen (1811 to 1817)               public domain (package code: MIT)
bible-kjv(-text)          King James Bible (1611)                                public domain
dict-jargon               the Jargon File 4.4.7                                  public domain, says its own notice
dict-devil                Ambrose Bierce, The Devil's Dictionary (1911)          public domain
========================  =====================================================  =====================================
"""

from __future__ import annotations

import gzip
import re
import struct
import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("r-cran-janeaustenr", "bible-kjv", "bible-kjv-text", "dict-jargon", "dict-devil")
HELD_OUT_NOVEL = "NORTHANGER ABBEY"
HELD_OUT_BOOKS = ("Ruth", "Est")  # as the bible program abbreviates Ruth and Esther
HELD_OUT_NOVEL_BYTES = 112_000
R_STRING_VECTOR = 16
R_NA_LENGTH = 0xFFFFFFFF
ASCII_OF = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u00b4": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "--"}
    | {"\u00a0": " ", "\u2026": "...", "\u00e9": "e", "\u00e8": "e", "\u00ea": "e", "\u00ef": "i", "\u00e0": "a"}
    | {"\u00fc": "u", "\u00f6": "o", "\u00e4": "a", "\u00e6": "ae", "\u0153": "oe", "\u00a3": "L", "\u00e7": "c"}
)


@dataclass(frozen=True)
class Split:
    """The three parts of the text, each ASCII bytes; no paragraph is in two of them.

    ``train`` is learned from, ``development`` chooses between settings, ``held_out`` gives the figures of the card.
    """

    train: bytes
    development: bytes
    held_out: bytes


def unpack_packages(folder: Path) -> Path:
    """Download and unpack the packages below ``folder`` unless that was done before; return the unpacked root."""
    root = folder / "packages"
    if (root / "complete").exists():
        return root
    root.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", *PACKAGES], cwd=root, check=True)
    for deb in sorted(root.glob("*.deb")):
        subprocess.run(["dpkg", "-x", deb.name, "."], cwd=root, check=True)
    (root / "complete").touch()
    return root


def to_ascii(text: str) -> str:
    """Curly quotes, dashes and common accents to ASCII; what is left beyond ASCII is dropped."""
    return text.translate(ASCII_OF).encode("ascii", "ignore").decode("ascii")


def join_paragraphs(lines: list[str]) -> str:
    """Undo the line breaks inside paragraphs: one line a paragraph, an empty line between two."""
    blocks = re.split(r"\n\s*\n", "\n".join(line.rstrip() for line in lines))
    joined = (re.sub(r"\s+", " ", block).strip() for block in blocks)
    return "\n\n".join(block for block in joined if block) + "\n\n"


def parse_r_strings(serialized: bytes) -> list[str]:
    """Read one string vector of R's XDR serialisation, version 3.

    Header: ``X\\n``, three big-endian int32 (format, writer, minimal reader), length and name of the encoding; then a
    flag word with type 16, the count, and for each string a flag word, its length in bytes and the bytes.

    Raises
    ------
    ValueError
        If the bytes are of another format or type.
    """
    if not serialized.startswith(b"X\n") or struct.unpack_from(">i", serialized, 2)[0] != 3:
        raise ValueError("not an R serialisation of version 3: the janeaustenr package has changed its format")
    at = 14
    at += 4 + struct.unpack_from(">i", serialized, at)[0]
    flags, count = struct.unpack_from(">ii", serialized, at)
    if flags & 0xFF != R_STRING_VECTOR:
        raise ValueError(f"R object of type {flags & 0xFF}, expected a string vector (16)")
    at += 8
    strings = []
    for _ in range(count):
        length = struct.unpack_from(">I", serialized, at + 4)[0]
        at += 8
        length = 0 if length == R_NA_LENGTH else length
        strings.append(serialized[at : at + length].decode("utf-8"))
        at += length
    return strings


def read_novels(root: Path) -> dict[str, str]:
    """Title in capitals to text. The file is a row of blocks: 4-byte big-endian length, then a zlib stream."""
    data = (root / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    novels = {}
    while data:
        stream = zlib.decompressobj()
        lines = parse_r_strings(stream.decompress(data[4:]))
        novels[lines[0].upper()] = to_ascii(join_paragraphs(lines))
        data = stream.unused_data
    return novels


def read_bible(root: Path) -> dict[str, str]:
    """Abbreviated book name to text: a heading a chapter, then one verse a line without its number."""
    argv = [str(root / "usr/bin/bible"), "-f", "-l0", "-p", f"{root}/usr/lib/", "Gen1:1-Rev22:21"]
    verses = subprocess.run(argv, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
    books: dict[str, str] = {}
    for line in verses.splitlines():
        found = re.fullmatch(r"(\d?[A-Za-z]+)(\d+):(\d+) (.*)", line)
        if not found:
            continue
        book, chapter, verse, text = found.groups()
        heading = f"\n{book} {chapter}\n\n" if verse == "1" else ""
        books[book] = books.get(book, "") + heading + to_ascii(text.strip()) + "\n"
    return books


def read_dictionary(path: Path, first_entry: str) -> str:
    """Entries of a dictd file as paragraphs, from the line that starts with ``first_entry`` on."""
    text = gzip.decompress(path.read_bytes()).decode("utf-8")
    text = text[text.index("\n" + first_entry) :]
    return to_ascii(join_paragraphs(re.sub(r"\{\s*([^}]*)\}", r"\1", text).splitlines()))


def read_split(folder: Path) -> Split:
    """Text of all packages, divided: one novel and two books of the Bible are never learned from.

    The held-out text is the first 112 kB of that novel, up to a paragraph's end, and both books; the rest of the
    novel is for development.
    """
    root = unpack_packages(folder)
    novels, books = read_novels(root), read_bible(root)
    novel = novels.pop(HELD_OUT_NOVEL)
    cut = novel.index("\n\n", HELD_OUT_NOVEL_BYTES) + 2
    held_out = novel[:cut] + "".join(books.pop(name) for name in HELD_OUT_BOOKS)
    devil = read_dictionary(root / "usr/share/dictd/devil.dict.dz", "ABASEMENT")
    jargon = read_dictionary(root / "usr/share/dictd/jargon.dict.dz", "(TM)")
    train = "".join([*books.values(), jargon, devil, *novels.values()])
    return Split(train.encode(), novel[cut:].encode(), held_out.encode())

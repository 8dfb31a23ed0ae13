"""A file to text that a YAML parser can take: its size, encoding and characters checked, JSON checked to be JSON."""

from __future__ import annotations

import json
import re
import stat
from difflib import get_close_matches
from pathlib import Path

from pytest_h2o.errors import Fault, PresetError

MAX_FILE_BYTES = 1_000_000
MAX_DEPTH = 8

_NOT_YAML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_JSON_ESCAPE = re.compile(r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|.)", re.DOTALL)


def read_text(path: Path) -> str:
    """Text of a file of at most `MAX_FILE_BYTES`, UTF-8, a byte order mark left out.

    Raises
    ------
    PresetError
        The file is missing, is no regular file, cannot be read, is too large, or is not UTF-8.
    """
    return _decode(path, _read_bytes(path))


def refusal(fault: Fault) -> PresetError:
    """The error of a file in which nothing more can be looked for."""
    return PresetError.from_faults([fault])


def _read_bytes(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # to open a pipe would wait for its writer
            raise refusal(Fault("is not a regular file", str(path), expected="a YAML or JSON file"))
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise refusal(Fault("no such file", str(path), hint=_near_files(path))) from None
    except OSError as error:
        raise refusal(Fault("cannot be read", str(path), came=error.strerror)) from None
    except ValueError:
        raise refusal(Fault("cannot be read", str(path), came="a name with a NUL")) from None
    if len(data) > MAX_FILE_BYTES:
        raise refusal(Fault("file is too large", str(path), expected=f"at most {MAX_FILE_BYTES:,} bytes"))
    return data


def _near_files(path: Path) -> str:
    folder = path.parent
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return f"there is no folder {folder} either"
    near = get_close_matches(path.name, names, n=3, cutoff=0.6)
    near = near or [name for name in names if name.endswith((".yaml", ".yml", ".json"))][:3]
    return f"in that folder: {', '.join(near)}" if near else f"no YAML or JSON file in {folder}"


def _decode(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8", "replace")
        line, column = _line_column(before, len(before))
        came = f"byte 0x{data[error.start]:02x}"
        fault = Fault("is not UTF-8", str(path), "", line, column, came, hint="save the file as UTF-8 text")
        raise refusal(fault) from None


def _line_column(text: str, offset: int) -> tuple[int, int]:
    start = text.rfind("\n", 0, offset) + 1
    return text.count("\n", 0, offset) + 1, offset - start + 1


def check_characters(text: str, name: str) -> None:
    """Refuse what no YAML text may hold (control characters, lone surrogates)."""
    if found := _NOT_YAML.search(text):
        line, column = _line_column(text, found.start())
        came = f"U+{ord(found[0]):04X}"
        raise refusal(Fault("a control character", name, "", line, column, came, "printable text"))


def json_as_yaml(text: str, name: str) -> str:
    """Check that `text` is JSON and rewrite the two things in which JSON is not YAML, lines and columns kept."""
    try:
        json.loads(text, parse_int=str, parse_float=str)
    except json.JSONDecodeError as error:
        if not text.strip():
            return text
        raise refusal(Fault(f"JSON syntax: {error.msg}", name, "", error.lineno, error.colno)) from None
    except RecursionError:
        raise refusal(Fault("nested too deep", name, expected=f"at most {MAX_DEPTH} levels")) from None
    text = text.replace("\t", " ")  # strict JSON has tabs between tokens only; not every YAML scanner takes them
    if "\\u" not in text:
        return text
    return _JSON_ESCAPE.sub(lambda m: _join_surrogates(m[1], m[2]) if m[1] else m[0], text)


def _join_surrogates(high: str, low: str) -> str:
    return chr(0x10000 + ((int(high, 16) - 0xD800) << 10) + int(low, 16) - 0xDC00)

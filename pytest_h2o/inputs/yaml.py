"""Preset and scope files, YAML or JSON, to plain data with the place of every key.

Read is the part of YAML 1.2 that such a file needs: mappings with text keys, lists, text, whole numbers, numbers,
``true``/``false`` and ``null``. Anchors, aliases and tags are refused (an alias can make a small file huge, a tag
can name a type), as are a second document, duplicate keys and deep nesting. What YAML 1.1 would take for a boolean
(``yes``, ``on``), an octal (``010``) or a number of base 60 (``1:30``) is text here. JSON is a part of this
YAML; a file that ends in ``.json`` must also be strict JSON.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from pytest_h2o.errors import Fault, PresetError

MAX_FILE_BYTES = 1_000_000
MAX_DEPTH = 8
_NOT_YAML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_JSON_ESCAPE = re.compile(r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|.)", re.DOTALL)


def read_text(path: Path) -> str:
    """Text of a file of at most `MAX_FILE_BYTES`, UTF-8, a byte order mark left out."""
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


KeyPath = tuple[str | int, ...]


class Place(NamedTuple):
    """Line and column, from 1."""

    line: int
    column: int


class _Refused:
    """Stands where a value was refused, so that the rest of the file can still be checked."""

    def __repr__(self) -> str:
        return "<refused>"


REFUSED: Final = _Refused()


@dataclass(frozen=True)
class Source:
    """Plain data and where each part of it stands.

    Attributes
    ----------
    name : str
        What a fault calls it: the file as it was named, or the option that gave the data.
    data : dict
        Built-in types; `REFUSED` where a value was refused.
    places, key_places : mapping of key path to Place
        Where each value, and each key, begins.
    faults : tuple of Fault
        What the reader refused; the file is not sound if there is any.
    """

    name: str
    data: dict[str, Any]
    places: Mapping[KeyPath, Place] = field(default_factory=dict)
    key_places: Mapping[KeyPath, Place] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()

    def fault(
        self,
        what: str,
        path: KeyPath = (),
        *,
        at_key: bool = False,
        came: str | None = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> Fault:
        """A fault at `path`, at its key if `at_key`, with the nearest place that the text has for it."""
        place = self.key_places.get(path) if at_key else None
        for length in range(len(path), -1, -1):
            place = place or self.places.get(path[:length])
        line, column = place or (None, None)
        return Fault(what, self.name, render_key(path), line, column, came, expected, hint)


def render_key(path: KeyPath) -> str:
    """``('targets', 'lossy')`` as ``targets.lossy``, ``('gens', 1)`` as ``gens[1]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_source(path: Path) -> Source:
    """Read one YAML or JSON file."""
    text = read_text(path)
    return parse_source(text, str(path), strict_json=path.suffix.lower() == ".json")


def parse_source(text: str, name: str, *, strict_json: bool = False) -> Source:
    """Parse the text of a file that messages call `name`; see `read_source`."""
    if strict_json:
        text = json_as_yaml(text, name)
    check_characters(text, name)
    builder = _Builder(text, name)
    try:
        data = builder.document()
    except yaml.MarkedYAMLError as error:
        raise PresetError.from_faults([*builder.faults, _syntax_fault(error, text, name)]) from None
    return Source(name, data, builder.places, builder.key_places, tuple(builder.faults))


def resolve_scalar(text: str) -> Any:
    """What a plain (unquoted) scalar means: null, a truth value, a whole number, a finite number, else text."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and math.isfinite(value := float(text)):
        return value
    return text


# Forty digits are more than any range here and keep int() away from its own limit.
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,39})")
_FLOAT = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")

_CONSTANTS: dict[str, bool | None] = dict.fromkeys(("", "~", "null", "Null", "NULL")) | {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}

_SURROGATE = re.compile("[\ud800-\udfff]")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _syntax_fault(error: yaml.MarkedYAMLError, text: str, name: str) -> Fault:
    mark = error.problem_mark or error.context_mark
    line_number, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
    what = "YAML syntax: " + ", ".join(part for part in (error.context, error.problem) if part)
    lines = text.splitlines()
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    indented_by_tab = "\t" in line[: len(line) - len(line.lstrip())]
    hint = "the line is indented with a tab: YAML takes spaces only" if indented_by_tab else None
    if hint is None and mark and error.context_mark and error.context_mark.line < mark.line:
        hint = f"it begins in line {error.context_mark.line + 1}"
    return Fault(what, name, "", line_number, column, hint=hint)


class _Builder:
    """Plain data from the events of the YAML parser, in one pass, no deeper than `MAX_DEPTH`."""

    def __init__(self, text: str, name: str) -> None:
        self._loader = _LOADER(text)
        self._name = name
        self.places: dict[KeyPath, Place] = {}
        self.key_places: dict[KeyPath, Place] = {}
        self.faults: list[Fault] = []

    def document(self) -> dict[str, Any]:
        """The one mapping that the text holds."""
        self._next()  # start of the stream
        if isinstance(start := self._next(), yaml.StreamEndEvent):
            raise self._stop("the file is empty", start, (), expected="a mapping of keys")
        event = self._next()
        if not isinstance(event, yaml.MappingStartEvent):
            kind = "a list" if isinstance(event, yaml.SequenceStartEvent) else "a single value"
            raise self._stop("not a mapping", event, (), came=kind, expected="a mapping of keys")
        self._check_plain(event, ())
        self.places[()] = _place(event)
        data = self._mapping(())
        self._next()  # end of the document
        if not isinstance(after := self._next(), yaml.StreamEndEvent):
            raise self._stop("a second document", after, (), expected="one document a file")
        return data

    def _next(self) -> Any:
        return self._loader.get_event()

    def _stop(self, what: str, event: Any, path: KeyPath, *, expected: str, came: str | None = None) -> PresetError:
        """The error for text that cannot be read on; it carries what was refused before."""
        fault = Fault(what, self._name, render_key(path), *_place(event), came, expected)
        return PresetError.from_faults([*self.faults, fault])

    def _check_plain(self, event: Any, path: KeyPath) -> None:
        if event.anchor is not None:
            self._refuse(f"anchor &{event.anchor}", event, path, "the value alone: anchors are not read")
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._refuse(f"tag {tag}", event, path, "the value alone: tags are not read")
        text = getattr(event, "value", "")
        if not text.isascii() and _SURROGATE.search(text):  # could be neither printed nor written
            self._refuse("half of a surrogate pair", event, path, "whole characters")

    def _refuse(self, what: str, event: Any, path: KeyPath, expected: str) -> _Refused:
        self.faults.append(Fault(what, self._name, render_key(path), *_place(event), expected=expected))
        return REFUSED

    def _value(self, event: Any, path: KeyPath) -> Any:
        self.places[path] = _place(event)
        if isinstance(event, yaml.AliasEvent):
            return self._refuse(f"alias *{event.anchor}", event, path, "the value written out: aliases are not read")
        self._check_plain(event, path)
        if isinstance(event, yaml.ScalarEvent):
            value = resolve_scalar(event.value) if event.implicit[0] else event.value
        elif len(path) >= MAX_DEPTH:
            raise self._stop("nested too deep", event, path[:3], expected=f"at most {MAX_DEPTH} levels")
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(path)
        else:
            value = self._mapping(path)
        return REFUSED if event.tag is not None else value

    def _sequence(self, path: KeyPath) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            values.append(self._value(event, (*path, len(values))))
        return values

    def _mapping(self, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self._stop("a key that is not text", event, path, expected="a name, such as `prompts`")
            key_path = (*path, event.value)
            self._check_plain(event, key_path)
            if event.value in values:
                first = self.key_places[key_path].line
                self._refuse("duplicate key", event, key_path, f"each key once; line {first} has it already")
            self.key_places[key_path] = _place(event)
            values[event.value] = self._value(self._next(), key_path)
        return values


def _place(event: Any) -> Place:
    mark = event.start_mark
    return Place(mark.line + 1, mark.column + 1)

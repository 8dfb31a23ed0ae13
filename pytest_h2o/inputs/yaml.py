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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from pytest_h2o.errors import Fault, PresetError, near_names
from pytest_h2o.files import TooLarge, read_regular

MAX_FILE_BYTES = 1_000_000
MAX_DEPTH = 8

KeyPath = tuple[str | int, ...]


class _Refused:
    """Stands where a value was refused, so that the rest of the file can still be checked."""

    def __repr__(self) -> str:
        return "<refused>"


REFUSED: Final = _Refused()


class Place(NamedTuple):
    """Line and column, from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Source:
    """Plain data of a file or an option called `name`, where each value and key begins, and what was refused in it."""

    name: str
    data: dict[str, Any]
    places: Mapping[KeyPath, Place] = field(default_factory=dict)
    key_places: Mapping[KeyPath, Place] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()

    def fault(self, what: str, path: KeyPath = (), *, at_key: bool = False, **more: Any) -> Fault:
        """A fault at `path`, at its key if `at_key`, with the nearest place that the text has for it."""
        place = self.key_places.get(path) if at_key else None
        for length in range(len(path), -1, -1):
            place = place or self.places.get(path[:length])
        return Fault(what, self.name, render_key(path), *(place or (None, None)), **more)


def render_key(path: KeyPath) -> str:
    """``('targets', 'lossy')`` as ``targets.lossy``, ``('gens', 1)`` as ``gens[1]``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def read_source(path: Path) -> Source:
    """Read one YAML or JSON file of at most `MAX_FILE_BYTES`, UTF-8, a byte order mark left out."""
    name = str(path)
    try:
        data = read_regular(path, MAX_FILE_BYTES)
    except FileNotFoundError:
        raise _refusal("no such file", name, hint=_near_files(path)) from None
    except TooLarge:
        raise _refusal("file is too large", name, expected=f"at most {MAX_FILE_BYTES:,} bytes") from None
    except OSError as error:
        raise _refusal("cannot be read", name, came=error.strerror, expected="a YAML or JSON file") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = _place_after(data[: error.start].decode("utf-8", "replace"))
        came = f"byte 0x{data[error.start]:02x}"
        raise _refusal("is not UTF-8", name, place, came=came, hint="save the file as UTF-8 text") from None
    return parse_source(text, name, strict_json=path.suffix.lower() == ".json")


def _refusal(
    what: str,
    name: str,
    place: tuple[int | None, int | None] = (None, None),
    *,
    came: str | None = None,
    expected: str | None = None,
    hint: str | None = None,
) -> PresetError:
    """The error of a file in which nothing more can be looked for."""
    return PresetError.from_faults([Fault(what, name, "", *place, came, expected, hint)])


def _near_files(path: Path) -> str:
    folder = path.parent
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return f"there is no folder {folder} either"
    if near := near_names(path.name, names, most=3):
        return f"in that folder: {', '.join(near)}"
    return f"nothing in {folder} is called alike; pytest-h2o init makes gates with presets and scopes to start from"


def _place_after(text: str) -> Place:
    return Place(text.count("\n") + 1, len(text) - text.rfind("\n"))


_NOT_YAML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse_source(text: str, name: str, *, strict_json: bool = False) -> Source:
    """Parse the text of a file that messages call `name`; see `read_source`."""
    if strict_json:
        text = _json_as_yaml(text, name)
    if found := _NOT_YAML.search(text):
        place, came = _place_after(text[: found.start()]), f"U+{ord(found[0]):04X}"
        raise _refusal("a control character", name, place, came=came, expected="printable text")
    reader = _Reader(text, name)
    try:
        data = reader.document()
    except yaml.MarkedYAMLError as error:
        raise PresetError.from_faults([*reader.faults, _syntax_fault(error, text, name)]) from None
    return Source(name, data, reader.places, reader.key_places, tuple(reader.faults))


_JSON_ESCAPE = re.compile(r"\\(?:(u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|.)", re.DOTALL)


def _json_as_yaml(text: str, name: str) -> str:
    """Check that `text` is JSON and rewrite the two things in which JSON is not YAML, lines kept."""
    try:
        json.loads(text, parse_int=str, parse_float=str)
    except json.JSONDecodeError as error:
        if text.strip():
            raise _refusal(f"JSON syntax: {error.msg}", name, (error.lineno, error.colno)) from None
    except RecursionError:
        raise _refusal("nested too deep", name, expected=f"at most {MAX_DEPTH} levels") from None
    text = text.replace("\t", " ")  # strict JSON has tabs between tokens only; not every YAML scanner takes them
    # YAML escapes have no surrogate pairs.
    return _JSON_ESCAPE.sub(lambda found: json.loads(f'"{found[0]}"') if found[1] else found[0], text)


def _syntax_fault(error: yaml.MarkedYAMLError, text: str, name: str) -> Fault:
    mark = error.problem_mark or error.context_mark
    what = "YAML syntax: " + ", ".join(part for part in (error.context, error.problem) if part)
    if mark is None:
        return Fault(what, name)
    line = (*text.splitlines(), *[""] * (mark.line + 1))[mark.line]
    hint = None
    if "\t" in line[: len(line) - len(line.lstrip())]:
        hint = "the line is indented with a tab: YAML takes spaces only"
    elif error.context_mark and error.context_mark.line < mark.line:
        hint = f"it begins in line {error.context_mark.line + 1}"
    return Fault(what, name, "", mark.line + 1, mark.column + 1, hint=hint)


# Forty digits are more than any range here and keep int() away from its own limit.
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,39})")
_FLOAT = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def resolve_scalar(text: str) -> Any:
    """What a plain (unquoted) scalar means: null, a truth value, a whole number, a finite number, else text."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) and math.isfinite(float(text)) else text


class _Reader:
    """Plain data from the events of the YAML parser, in one pass, no deeper than `MAX_DEPTH`.

    PyYAML's own composer is of no use here: its nodes do not say whether they had an anchor.
    """

    def __init__(self, text: str, name: str) -> None:
        self._loader = _LOADER(text)
        self._name = name
        self.places: dict[KeyPath, Place] = {}
        self.key_places: dict[KeyPath, Place] = {}
        self.faults: list[Fault] = []

    def document(self) -> dict[str, Any]:
        """The one mapping that the text holds."""
        self._loader.get_event()  # start of the stream
        if isinstance(start := self._loader.get_event(), yaml.StreamEndEvent):
            raise self._stop("the file is empty", start, (), expected="a mapping of keys")
        event = self._loader.get_event()
        if not isinstance(event, yaml.MappingStartEvent):
            came = "a list" if isinstance(event, yaml.SequenceStartEvent) else "a single value"
            raise self._stop("not a mapping", event, (), came=came, expected="a mapping of keys")
        data = self._value(event, ())
        self._loader.get_event()  # end of the document
        if not isinstance(after := self._loader.get_event(), yaml.StreamEndEvent):
            raise self._stop("a second document", after, (), expected="one document a file")
        return dict(data)

    def _value(self, event: Any, path: KeyPath) -> Any:
        self.places[path] = _place_of(event)
        if isinstance(event, yaml.AliasEvent):
            self._refuse(f"alias *{event.anchor}", event, path, "the value written out: aliases are not read")
            return REFUSED
        self._check_plain(event, path)
        if isinstance(event, yaml.ScalarEvent):
            value = resolve_scalar(event.value) if event.implicit[0] else event.value
        elif len(path) >= MAX_DEPTH:
            raise self._stop("nested too deep", event, path[:3], expected=f"at most {MAX_DEPTH} levels")
        elif isinstance(event, yaml.SequenceStartEvent):
            value = [self._value(item, (*path, i)) for i, item in enumerate(self._until(yaml.SequenceEndEvent))]
        else:
            value = self._mapping(path)
        return value if event.tag is None or not path else REFUSED

    def _mapping(self, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for event in self._until(yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self._stop("a key that is not text", event, path, expected="a name, such as `prompts`")
            key_path = (*path, event.value)
            self._check_plain(event, key_path)
            if event.value in values:
                first = self.key_places[key_path].line
                self._refuse("duplicate key", event, key_path, f"each key once; line {first} has it already")
            self.key_places[key_path] = _place_of(event)
            values[event.value] = self._value(self._loader.get_event(), key_path)
        return values

    def _until(self, end: type[yaml.Event]) -> Iterator[Any]:
        while not isinstance(event := self._loader.get_event(), end):
            yield event

    def _check_plain(self, event: Any, path: KeyPath) -> None:
        if event.anchor is not None:
            self._refuse(f"anchor &{event.anchor}", event, path, "the value alone: anchors are not read")
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._refuse(f"tag {tag}", event, path, "the value alone: tags are not read")
        text = getattr(event, "value", "")
        if not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):  # could not be printed
            self._refuse("half of a surrogate pair", event, path, "whole characters")

    def _refuse(self, what: str, event: Any, path: KeyPath, expected: str) -> None:
        self.faults.append(Fault(what, self._name, render_key(path), *_place_of(event), expected=expected))

    def _stop(self, what: str, event: Any, path: KeyPath, *, expected: str, came: str | None = None) -> PresetError:
        """The error for text that cannot be read on; it carries what was refused before."""
        return PresetError.from_faults(
            [*self.faults, Fault(what, self._name, render_key(path), *_place_of(event), came, expected)]
        )


def _place_of(event: Any) -> Place:
    return Place(event.start_mark.line + 1, event.start_mark.column + 1)

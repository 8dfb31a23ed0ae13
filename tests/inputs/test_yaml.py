"""What the reader of preset and scope files takes, and the whole text of what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.errors import PresetError
from pytest_h2o.inputs import yaml as yaml_source
from pytest_h2o.inputs.yaml import MAX_DEPTH, parse_source, read_source, resolve_scalar
from tests.told import error_text

LOADERS = [loader for name in ("CSafeLoader", "SafeLoader") if (loader := getattr(yaml, name, None))]


@pytest.fixture(params=LOADERS, ids=lambda loader: loader.__name__)
def any_loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_source, "_LOADER", request.param)


def refusal_of(text: str, name: str = "a.yaml") -> str:
    try:
        faults = parse_source(text, name, strict_json=name.endswith(".json")).faults
    except PresetError as error:
        faults = error.faults
    return "\n".join(map(str, faults))


SCALARS = {
    "12": 12,
    "-1": -1,
    "+3": 3,
    "0": 0,
    "0.5": 0.5,
    ".5": 0.5,
    "3.": 3.0,
    "1e-05": 1e-05,
    "1E5": 1e5,
    "true": True,
    "False": False,
    "": None,
    "~": None,
    "null": None,
}
TEXTS = ("none", "yes", "on", "010", "0x10", "1:30", "1_000", "1e999", ".inf", "NaN", "9" * 5000)


@pytest.mark.parametrize(("text", "value"), [*SCALARS.items(), *((text, text) for text in TEXTS)])
def test_plain_scalars(text: str, value: object) -> None:
    found = resolve_scalar(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.usefixtures("any_loader")
def test_quoted_scalars_stay_text_and_every_part_has_its_place() -> None:
    source = parse_source("a: '12'\nb:\n  - 1\n  - {c: \"true\"}\n", "a.yaml")
    assert source.data == {"a": "12", "b": [1, {"c": "true"}]}
    assert source.places[("a",)] == (1, 4)
    assert source.places[("b", 1, "c")] == (4, 9)
    assert source.key_places[("b", 1, "c")] == (4, 6)


REFUSED = [
    *("", "# only this\n", "- 1\n", "3", "*a", "a: 1\n---\nb: 1\n", "a: 1\nb: 2\na: 3\n", "a: {b: 1, b: 2}"),
    *("a: &x 1", "a: [*x]", "a: !!int 3", "a: !x [1]", "!!map {a: 1}", "a: !!python/name:os.system x", "!!str a: 3"),
    *("? [a]\n: 1", "a: " + "[" * 900, "a: 1\nb: \x07", "a: &x 1\nb: *x\nb: !y [1, {c: 1, c: 2}]\n"),
]


@pytest.mark.usefixtures("any_loader")
def test_refusals(snapshot: SnapshotAssertion) -> None:
    assert {text[:40]: refusal_of(text) for text in REFUSED} == snapshot(name="of both loaders")


@pytest.mark.usefixtures("any_loader")
def test_nesting_beyond_the_parser_is_refused_by_whoever_sees_it_first() -> None:
    """Newer libyaml has a limit of its own, 1000 levels, and meets it before the first event is out."""
    told = refusal_of("a: " + "[" * 100_000)
    assert "nested too deep\n  expected: at most 8 levels" in told or "exceeded maximum nesting depth" in told


def test_refusals_of_one_file_come_together(snapshot: SnapshotAssertion) -> None:
    assert refusal_of("a: &x 1\nb: *x\nb: [1\n").splitlines()[::2] == snapshot


@pytest.mark.usefixtures("any_loader")
def test_tab_as_indentation() -> None:
    first, hint = refusal_of("a:\n\t- 1\n").splitlines()
    assert first.startswith("a.yaml:2:1: YAML syntax: while scanning for the next token, found character ")
    assert hint == "  next: the line is indented with a tab: YAML takes spaces only"


def test_aliases_do_not_multiply() -> None:
    bomb = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert refusal_of(bomb).startswith("a.yaml:1:4: a: anchor &a\n")


@pytest.mark.usefixtures("any_loader")
def test_json_with_tabs_and_escapes() -> None:
    text = '{\n\t"a":\t[1,\n\t2.5e1], "b":{"c":null,"\\u00e9\\/":"\\ud83d\\ude00 \\\\ud83d\\ude00 \\t"}\n}\n'
    # The backslash before the second one is escaped itself, which leaves the low half alone.
    assert "surrogate" in (refused := refusal_of(text, "a.json")) or "invalid Unicode" in refused
    text = text.replace("\\\\ud83d\\ude00", "\\\\ud83d")
    source = parse_source(text, "a.json", strict_json=True)
    assert source.data == json.loads(text)
    assert source.places[("a", 1)] == (3, 2)


JSON_REFUSED = ["{a: 1}", '{"a": 01}', '{"a": "\t"}', '{"a": 1, "a": 2}', '{"a": ' + "[" * 100_000, "", "[]"]
"""A comma before the closing bracket is told in different words by different versions of Python."""


def test_json_refusals(snapshot: SnapshotAssertion) -> None:
    assert refusal_of('{"a": [1,]}', "a.json").startswith("a.json:1:")
    assert {text[:40]: refusal_of(text, "a.json") for text in JSON_REFUSED} == snapshot


def test_files_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("smoke.yaml").write_text("a: 1")
    Path("latin.yaml").write_bytes(b"a: 1\nb: \xe9\n")
    Path("large.yaml").write_bytes(b"#" * 1_000_001)
    told = {}
    for name in ("smoke.yml", "no/smoke.yml", "latin.yaml", "large.yaml", "smoke.yaml/x", "a\0b", "."):
        told[name] = error_text(PresetError, read_source, Path(name))
    assert told == snapshot


def test_byte_order_mark_and_carriage_returns(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: [2]\r\n")
    assert read_source(path).data == {"a": 1, "b": [2]}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**39), 10**39) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


def depth_of(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth_of, inner), default=0)


@given(st.dictionaries(st.sampled_from("abc"), json_values), st.sampled_from([None, 1, "\t"]), st.booleans())
def test_json_is_read_as_json_reads_it(data: dict[str, Any], indent: int | str | None, ascii_only: bool) -> None:
    text = json.dumps(data, indent=indent, ensure_ascii=ascii_only)
    if depth_of(data) <= MAX_DEPTH:
        assert parse_source(text, "a", strict_json=True).data == data

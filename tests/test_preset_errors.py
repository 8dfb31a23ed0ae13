"""The whole text of what is said about a preset that breaks its schema."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from pytest_h2o.errors import Fault, PresetError
from pytest_h2o.gate.targets import target_ranges
from pytest_h2o.inputs.checking import check_source
from pytest_h2o.inputs.presets import PresetKeys, load_preset, load_presets, preset_from_flags
from pytest_h2o.inputs.scopes import ScopeFile, ScopeKeys
from pytest_h2o.inputs.yaml import Source

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _work_in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def error_of(text: str, name: str = "a.yaml") -> PresetError:
    Path(name).write_text(text, encoding="utf-8")
    with pytest.raises(PresetError) as caught:
        load_preset(name, target_ranges())
    return caught.value


MANY = """\
prompts: []
h2o_block_tokns: 8
gens: [128, true, "16", 1.5, 0]
h2o_keep_ratios: 1.2
h2o_target_mode: adaptve
h2o_recent_tokens: [1, 2, 1]
repeat: 99999999999
repeat: 3
h2o_sink_tokens: !!int 3
targets: {lossy: 0.5, losless: 1, decode_baseline: fast, quality: null}
h2o_log_stats: yes
"""
MANY_TEXT = """\
16 faults in a.yaml
a.yaml:1:10: prompts: empty list
  came: a list of 0
  expected: at least one value
a.yaml:2:1: h2o_block_tokns: unknown key
  next: did you mean h2o_block_tokens?
a.yaml:3:13: gens[1]: wrong type
  came: true (truth value)
  expected: a whole number, at least 1
a.yaml:3:19: gens[2]: wrong type
  came: "16" (text)
  expected: a whole number, at least 1
a.yaml:3:25: gens[3]: wrong type
  came: 1.5 (number)
  expected: a whole number, at least 1
a.yaml:3:30: gens[4]: out of range
  came: 0 (whole number)
  expected: a whole number, at least 1
a.yaml:4:18: h2o_keep_ratios: out of range
  came: 1.2 (number)
  expected: a number, above 0 and at most 1
a.yaml:5:18: h2o_target_mode: unknown value
  came: "adaptve" (text)
  expected: one of adaptive, static
  next: did you mean adaptive?
a.yaml:6:27: h2o_recent_tokens[2]: 1 stands twice in the list
  expected: each value once
a.yaml:8:1: repeat: duplicate key
  expected: each key once; line 7 has it already
a.yaml:9:18: h2o_sink_tokens: tag !!int
  expected: the value alone: tags are not read
a.yaml:10:18: targets.lossy: out of range
  came: 0.5 (number)
  expected: a ratio of at least 1
a.yaml:10:23: targets.losless: unknown key
  next: did you mean lossless?
a.yaml:10:52: targets.decode_baseline: not a decode baseline
  came: "fast" (text)
  expected: paired, none, or decode speed in tok/s, a number above 0
a.yaml:10:67: targets.quality: no value
  came: nothing (null)
  expected: a value, or the key left out
a.yaml:11:16: h2o_log_stats: wrong type
  came: "yes" (text)
  expected: true or false
"""


def test_all_faults_of_a_file_come_at_once() -> None:
    error = error_of(MANY)
    assert str(error) == MANY_TEXT.rstrip("\n")
    assert error.faults[1] == Fault(
        "unknown key", "a.yaml", "h2o_block_tokns", 2, 1, hint="did you mean h2o_block_tokens?"
    )
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("repeat: 99999999999", "a.yaml:1:9: repeat: out of range\n  came: 99999999999 (whole number)\n"
         "  expected: a whole number, at least 1 and at most 2147483647"),
        ("h2o_keep_ratios: [0.5, 0.50]", "a.yaml:1:24: h2o_keep_ratios[1]: 0.5 stands twice in the list\n"
         "  expected: each value once"),
        ("h2o_target_lossy_ratios: [3, 3.0]", "a.yaml:1:30: h2o_target_lossy_ratios[1]: 3.0 stands twice in the list\n"
         "  expected: each value once"),
        ("gens: {a: 1}", "a.yaml:1:7: gens: wrong type\n  came: a mapping of 1 keys\n"
         "  expected: a whole number, at least 1"),
        ("gens:", "a.yaml:1:6: gens: wrong type\n  came: nothing (null)\n  expected: a whole number, at least 1"),
        ("targets: 3", "a.yaml:1:10: targets: wrong type\n  came: 3 (whole number)\n  expected: a mapping of keys"),
        ("kv_lossless_predictors_k: [raw]", "a.yaml:1:27: kv_lossless_predictors_k: wrong type\n"
         "  came: a list of 1\n  expected: text, such as raw,delta_seq"),
        ("kv_lossless_predictors_v: raw delta", "a.yaml:1:27: kv_lossless_predictors_v: text of another form\n"
         '  came: "raw delta" (text)\n  expected: text, such as raw,delta_seq'),
        ("kv_lossless_scope: front", "a.yaml:1:20: kv_lossless_scope: unknown value\n  came: \"front\" (text)\n"
         "  expected: one of none, front_n, h2o_kept, front_n_and_h2o_kept\n  next: did you mean front_n?"),
        ('description: ""', 'a.yaml:1:14: description: empty text\n  came: "" (text)\n'
         "  expected: text, no longer than 200"),
        ('description: "a\\nb"', 'a.yaml:1:14: description: more than one line, or a control character\n'
         '  came: "a\\nb" (text)\n  expected: one line of text'),
        ("base_config: 3", "a.yaml:1:14: base_config: wrong type\n  came: 3 (whole number)\n"
         "  expected: the path of a file, as text"),
        ("prompt_file: ''", 'a.yaml:1:14: prompt_file: empty path\n  came: "" (text)\n  expected: the path of a file'),
        ("timeout_s: 0", "a.yaml:1:12: timeout_s: out of range\n  came: 0 (whole number)\n"
         "  expected: a number, above 0"),
        ("name: x", "a.yaml:1:1: name: unknown key\n"
         "  next: the nearest known key is targets; `pytest-h2o schema` lists all"),
        ("path: x", "a.yaml:1:1: path: unknown key\n"
         "  next: did you mean repeat?"),
        ('"a\\e[31m\\n": x', "a.yaml:1:1: a\\x1b[31m\\n: unknown key\n"
         "  next: the nearest known key is h2o_target_mode; `pytest-h2o schema` lists all"),
        ("h2o_layer_start: 3\nh2o_layer_end: 2", "a.yaml:2:16: h2o_layer_end: empty range of layers\n"
         "  expected: -1, or at least h2o_layer_start (3)"),
        ("model_layers: 2\nh2o_layer_end: 2", "a.yaml:1:1: h2o_layer_start: layer 2 is not in the model\n"
         "  expected: below model_layers (2)\n"
         "a.yaml:2:16: h2o_layer_end: layer 2 is not in the model\n  expected: below model_layers (2)"),
        ("h2o_target_lossy_ratio: 2\nh2o_target_lossy_ratios: 3", "a.yaml:1:25: h2o_target_lossy_ratio: "
         "2.0 is not among h2o_target_lossy_ratios\n"
         "  expected: only h2o_target_lossy_ratios, which is what is run where both are given"),
        (f"prompts: {list(range(1, 1002))}\ngens: {list(range(1, 101))}", "a.yaml:1:10: prompts: "
         "a grid of 100,100 points (prompts 1001 x gens 100)\n  expected: at most 100,000 points"),
        (f"prompts: [{'x,' * 100_001}]", "a.yaml:1:10: prompts: list too long\n  came: a list of 100001\n"
         "  expected: at most 100,000 values"),
        ("gens: [1\nrepeat: 2", "a.yaml:2:7: YAML syntax: while parsing a flow sequence, "
         "did not find expected ',' or ']'\n  next: it begins in line 1"),
    ],
    ids=range(23),
)  # fmt: skip
def test_messages(text: str, message: str) -> None:
    head, _, faults = str(error_of(text)).partition("\n")
    assert faults == message
    assert head in ("1 fault in a.yaml", "2 faults in a.yaml")


def test_json_has_lines_too() -> None:
    assert str(error_of('{\n\t"gens":\t[1,\n\t\t"2"]\n}', "a.json")) == (
        '1 fault in a.json\na.json:3:3: gens[1]: wrong type\n  came: "2" (text)\n  expected: a whole number, at least 1'
    )


@pytest.mark.parametrize("name", ["a b", "-k", ".a", "ä", "a[1]", "a+b"])
def test_names_that_cannot_be_selected(name: str) -> None:
    assert str(error_of("gens: 1", f"{name}.yaml")) == (
        f"1 fault in {name}.yaml\n{name}.yaml: the file name cannot name a test item\n  came: {name}\n"
        "  expected: letters, digits, `_`, `-` and `.`, the first one no `-` or `.`: `-k` must be able to select it"
    )


def test_names_that_are_words_of_selection() -> None:
    assert "a name that is no word of `-k` expressions (and, or, not)" in str(error_of("{}", "not.yaml"))


def test_faults_of_all_files_come_at_once_with_second_names() -> None:
    for folder in ("x", "y"):
        Path(folder).mkdir()
    for name, text in (("x/a.yaml", "gens: 0"), ("x/b.yaml", "gens: 1"), ("y/b.json", "{}"), ("y/c.yaml", "")):
        Path(name).write_text(text)
    with pytest.raises(PresetError) as caught:
        load_presets(["y", "x", "z.yaml"])
    assert str(caught.value) == (
        "4 faults in 4 files\n"
        "x/a.yaml:1:7: gens: out of range\n  came: 0 (whole number)\n  expected: a whole number, at least 1\n"
        "y/b.json: a second preset named b\n  came: the first one is x/b.yaml\n  expected: one preset a name\n"
        "y/c.yaml:1:1: the file is empty\n  expected: a mapping of keys\n"
        "z.yaml: no such file\n  next: no YAML or JSON file in ."
    )


def test_folder_without_a_preset() -> None:
    Path("empty").mkdir()
    with pytest.raises(PresetError) as caught:
        load_presets(["empty"])
    assert str(caught.value) == (
        "1 fault in empty\nempty: no preset in this folder\n  expected: a file .yaml, .yml, .json"
    )


def test_overrides_name_the_option() -> None:
    preset = load_preset(ROOT / "gates/presets/target_ratio_v3.yaml")
    with pytest.raises(PresetError) as caught:
        preset.override("h2o_blok_tokens=8", "gens=8,0", "targets.lossy=0.5", "targets=3", "name=x", "prompts.x=1")
    assert str(caught.value) == (
        "5 faults in --h2o-set for preset target_ratio_v3\n"
        "--h2o-set prompts.x=1: prompts: wrong type\n  came: a mapping of 1 keys\n"
        "  expected: a whole number, at least 1\n"
        "--h2o-set gens=8,0: gens[1]: out of range\n  came: 0 (whole number)\n  expected: a whole number, at least 1\n"
        "--h2o-set targets.lossy=0.5 --h2o-set targets=3: targets: wrong type\n  came: 3 (whole number)\n"
        "  expected: a mapping of keys\n"
        "--h2o-set h2o_blok_tokens=8: h2o_blok_tokens: unknown key\n  next: did you mean h2o_block_tokens?\n"
        "--h2o-set name=x: name: unknown key\n"
        "  next: the nearest known key is targets; `pytest-h2o schema` lists all"
    )


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("gens", "--h2o-set gens: not KEY=VALUE\n  expected: such as h2o_block_tokens=8,16"),
        ("=3", "--h2o-set =3: not KEY=VALUE\n  expected: such as h2o_block_tokens=8,16"),
        ("gens=", "--h2o-set gens=: gens[0]: wrong type\n  came: nothing (null)\n"
         "  expected: a whole number, at least 1"),
        ("h2o_layer_end=1", "--h2o-set h2o_layer_end=1: h2o_layer_end: empty range of layers\n"
         "  expected: -1, or at least h2o_layer_start (2)"),
        ("h2o_target_lossy_ratio=3.5", "--h2o-set h2o_target_lossy_ratio=3.5: h2o_target_lossy_ratio: "
         "has no effect: the preset has h2o_target_lossy_ratios\n  next: set h2o_target_lossy_ratios=3.5"),
    ],
)  # fmt: skip
def test_override_messages(assignment: str, message: str) -> None:
    preset = load_preset(ROOT / "gates/presets/target_ratio_v3.yaml")
    with pytest.raises(PresetError) as caught:
        preset.override(assignment)
    head, _, fault = str(caught.value).partition("\n")
    assert head == "1 fault in --h2o-set" + " for preset target_ratio_v3" * ("KEY=VALUE" not in message)
    assert fault == message


def test_flags_are_checked_like_a_file() -> None:
    with pytest.raises(PresetError) as caught:
        preset_from_flags(gens="8,x", prompt=[512], repeat=True)
    assert str(caught.value) == (
        "3 faults in command line\n"
        'command line: gens[1]: wrong type\n  came: "x" (text)\n  expected: a whole number, at least 1\n'
        "command line: repeat: wrong type\n  came: true (truth value)\n  expected: a whole number, at least 1\n"
        "command line: prompt: unknown key\n  next: did you mean prompts?"
    )


def test_a_flood_of_faults_is_cut_and_counted() -> None:
    error = error_of("\n".join(f"k{number}: 1" for number in range(2000)))
    assert len(error.faults) == 1001
    assert error.faults[0].what == "1000 more faults than are listed"
    assert str(error).splitlines()[-1] == "and 901 more"


scalars = st.none() | st.booleans() | st.integers(-2, 40) | st.floats() | st.sampled_from(["", "raw", "front_n", "x\0"])
values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.sampled_from(["lossy", "theta", "0"]), scalars)
preset_data = st.dictionaries(st.sampled_from([*PresetKeys.model_fields, "x"]), values, max_size=6)
scope_data = st.dictionaries(st.sampled_from([*ScopeKeys.model_fields, "x"]), values, max_size=6)
scope_file_data = st.fixed_dictionaries({"scopes": st.dictionaries(st.sampled_from("ab"), scope_data | values)})


@given(st.tuples(st.just(PresetKeys), preset_data) | st.tuples(st.just(ScopeFile), scope_file_data | preset_data))
@settings(deadline=None, max_examples=200)
def test_any_data_is_checked_or_refused_with_every_fault_named(case: tuple[type[BaseModel], dict[str, Any]]) -> None:
    model, data = case
    try:
        outcome: object = check_source(model, Source("a.yaml", data))
    except PresetError as error:
        outcome = all(fault.what and fault.file == "a.yaml" and fault.key for fault in error.faults)
    assert outcome

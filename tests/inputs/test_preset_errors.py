"""The whole text of what is said about a preset that breaks its schema."""

import pickle
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.errors import Fault, PresetError
from pytest_h2o.gate.values import target_ranges
from pytest_h2o.inputs.presets import load_preset, load_presets, preset_from_flags
from tests.told import error_text

ROOT = Path(__file__).parents[2]


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
targets: {lossy: 0.5, losless: 1, decode_baseline: fast, quality: null, lossless: 0, metrics: {h2o_keep: 2, lossy: 1}}
h2o_log_stats: yes
"""


def test_all_faults_of_a_file_come_at_once(snapshot: SnapshotAssertion) -> None:
    error = error_of(MANY)
    assert str(error) == snapshot
    assert error.faults[1] == Fault(
        "unknown key", "a.yaml", "h2o_block_tokns", 2, 1, hint="did you mean h2o_block_tokens?"
    )
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


WRONG = [
    "repeat: 99999999999",
    "h2o_keep_ratios: [0.5, 0.50]",
    "h2o_target_lossy_ratios: [3, 3.0]",
    "h2o_target_lossy_ratio: [3.2, 3.4]",
    "gens: {a: 1}",
    "gens:",
    "targets: 3",
    "kv_lossless_predictors_k: [raw]",
    "kv_lossless_predictors_v: raw delta",
    "kv_lossless_scope: front",
    'description: ""',
    'description: "a\\nb"',
    "base_config: 3",
    "prompt_file: ''",
    "timeout_s: 0",
    "name: x",
    "path: x",
    '"a\\e[31m\\n": x',
    "h2o_layer_start: 3\nh2o_layer_end: 2",
    "model_layers: 2\nh2o_layer_end: 2",
    "h2o_target_lossy_ratio: 2\nh2o_target_lossy_ratios: 3",
    f"prompts: {list(range(1, 1002))}\ngens: {list(range(1, 101))}",
    f"prompts: [{'x,' * 100_001}]",
    "gens: [1\nrepeat: 2",
]


NAMES = ("a b", "-k", ".a", "ä", "a[1]", "a+b", "not")


def test_messages(snapshot: SnapshotAssertion) -> None:
    told = {text[:60]: str(error_of(text)) for text in WRONG}
    told |= {name: str(error_of("gens: 1", f"{name}.yaml")) for name in NAMES}
    told["JSON has lines too"] = str(error_of('{\n\t"gens":\t[1,\n\t\t"2"]\n}', "a.json"))
    told["flags"] = error_text(PresetError, preset_from_flags, gens="8,x", prompt=[512], repeat=True)
    assert told == snapshot


def test_faults_of_all_files_come_at_once_with_second_names(snapshot: SnapshotAssertion) -> None:
    for folder in ("x", "y"):
        Path(folder).mkdir()
    for name, text in (("x/a.yaml", "gens: 0"), ("x/b.yaml", "gens: 1"), ("y/b.json", "{}"), ("y/c.yaml", "")):
        Path(name).write_text(text)
    assert error_text(PresetError, load_presets, ["y", "x", "z.yaml"]) == snapshot(name="of files")
    Path("empty").mkdir()
    assert error_text(PresetError, load_presets, ["empty"]) == snapshot(name="of a folder without a preset")


OVERRIDES = (
    ("h2o_blok_tokens=8", "gens=8,0", "targets.lossy=0.5", "targets=3", "name=x", "prompts.x=1"),
    *(("gens",), ("=3",), ("gens=",), ("h2o_layer_end=1",), ("h2o_target_lossy_ratio=3.5",)),
)


def test_overrides_name_the_option(snapshot: SnapshotAssertion) -> None:
    preset, told = load_preset(ROOT / "gates/presets/target_ratio_v3.yaml"), {}
    for assignments in OVERRIDES:
        told[" ".join(assignments)] = error_text(PresetError, preset.override, *assignments)
    assert told == snapshot


def test_a_flood_of_faults_is_cut_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_h2o.inputs.checking.MAX_FAULTS", 150)
    error = error_of("\n".join(f"k{number}: 1" for number in range(300)))
    assert len(error.faults) == 151
    assert error.faults[0].what == "150 more faults than are listed"
    assert str(error).splitlines()[-1] == "and 51 more"

"""What a command line asks for by name, and which presets and scopes a run has."""

from pathlib import Path

import pytest

from pytest_h2o.errors import PresetError
from pytest_h2o.inputs.checking import share_assignments
from pytest_h2o.inputs.presets import Preset
from pytest_h2o.inputs.scopes import ScopeKeys
from pytest_h2o.run.session import GateSession, Subject, names_asked_for, scopes_beside
from pytest_h2o.run.store import PROGRESS, read_board
from tests.plugin.project import BASE_CONFIG, FAKE_BENCH, FAKE_DEMO, ROOT
from tests.report.gate_items import make_session


@pytest.mark.parametrize(
    ("keyword", "arguments", "names"),
    [
        ("", ["gates"], ()),
        ("b8 and Lossy", [], ("b8", "lossy")),
        ("not smoke", [], ()),
        ("not (smoke or b8) and v3", [], ("v3",)),
        ("not (smoke or (b8 and b16)) or (v3)", [], ("v3",)),
        ("(a or not b) and c", [], ("a", "c")),
        ("", ["gates/test_sweep.py::test_lossy[target_speed]"], ("target_speed",)),
        ("", ["gates/test_sweep.py::test_lossy"], ()),
    ],
)
def test_words_that_ask_for_something(keyword: str, arguments: list[str], names: tuple[str, ...]) -> None:
    assert names_asked_for(keyword, arguments) == names


SHIPPED = {path.stem for path in (ROOT / "gates" / "presets").iterdir()}


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ((), set()),
        (("target_ratio_v3",), set()),
        (("speed",), {"target_speed", "target_speed_v3"}),
        (("smoke-run_0001_p768_g64_k0.5_b8_lr3.2",), {"smoke"}),
    ],
)
def test_presets_without_a_recording_are_left_out_unless_named(
    words: tuple[str, ...], kept: set[str], tmp_path: Path
) -> None:
    left_out = SHIPPED - {"target_ratio_v3"} - kept
    made = make_session(tmp_path)
    session = GateSession(made.settings, run_dir=tmp_path, asked_for=words)
    names = [name for _, name in session.parameters("h2o_sweep", ROOT / "gates")]
    assert session.leave_out(names) == dict.fromkeys(sorted(left_out), "no recording")


@pytest.mark.parametrize(
    ("points", "asks", "plan"),
    [
        (None, ["timed"], [("target_ratio_v3", 10), ("target_ratio_v3 decode", 40)]),
        (None, ["said"], [("target_ratio_v3", 10), ("target_ratio_v3 demo", 2 * 3 * 8)]),
        (None, [], [("target_ratio_v3", 10)]),
        ({0, 1}, [], [("target_ratio_v3", 2)]),
    ],
)
def test_the_time_left_counts_what_is_selected(
    points: set[int] | None, asks: list[str], plan: list[tuple[str, int]], tmp_path: Path
) -> None:
    session = make_session(tmp_path, bench=str(FAKE_BENCH), base_config=str(BASE_CONFIG), demo=str(FAKE_DEMO))
    subjects = [Subject("preset", "target_ratio_v3", point) for point in points or (None,)]
    session.note_selected(subjects, **{what: {"target_ratio_v3"} for what in asks})
    session.announce()
    assert [(one.what, one.total) for one in read_board(tmp_path / "run" / PROGRESS).plan] == plan


@pytest.mark.parametrize(("bench", "run"), [("reference", {"any", "embedded"}), ("llm_bench", {"any", "own"})])
def test_a_preset_says_on_which_benches_it_is_run_without_being_named(
    bench: str, run: set[str], tmp_path: Path
) -> None:
    (tmp_path / "model.json").write_text('{"llm_model": "none.gguf"}')
    (tmp_path / "llm_bench").touch(mode=0o755)
    presets = tmp_path / "gates" / "presets"
    presets.mkdir(parents=True)
    texts = {"any": "any_bench", "own": "own_bench", "embedded": "embedded", "never": "none"}
    for name, where in texts.items():
        (presets / f"{name}.yaml").write_text(f"default_on: {where}")
    made = make_session(tmp_path, tmp_path / "gates", bench=bench, base_config="model.json")
    left_out = made.leave_out(list(texts))
    assert set(texts) - set(left_out) == run
    assert set(left_out.values()) == {"run by name"}


def test_where_nothing_selected_is_recorded_nothing_is_left_out(tmp_path: Path) -> None:
    """Then the items fail as not measured, rather than be gone."""
    session = make_session(tmp_path)
    session = GateSession(session.settings, run_dir=tmp_path)
    session.parameters("h2o_sweep", ROOT / "gates")
    assert session.leave_out({"smoke", "target_speed"}) == {}


def make_gates(folder: Path, preset: str, scope: str | None = None) -> None:
    (folder / "presets").mkdir(parents=True)
    (folder / "presets" / f"{preset}.yaml").write_text("prompts: 16\n")
    if scope is not None:
        (folder / "scopes.yaml").write_text(f"scopes:\n  {scope}:\n    root: dump\n    decides: true\n")


def test_two_gate_folders_do_not_mix(tmp_path: Path) -> None:
    """Each gate file gets the presets beside it; what would be ambiguous between them is refused."""
    make_gates(tmp_path / "a", "one", "first")
    make_gates(tmp_path / "b", "two")
    make_gates(tmp_path / "c", "one")
    make_gates(tmp_path / "d", "three", "second")
    session = GateSession(make_session(tmp_path / "x").settings, run_dir=tmp_path)
    for folder, preset in (("a", "one"), ("b", "two")):
        assert [name for _, name in session.parameters("h2o_sweep", tmp_path / folder)] == [preset]
    assert [name for _, name in session.parameters("h2o_scope", tmp_path / "a")] == ["first"]
    with pytest.raises(PresetError, match=r"^two presets are called one\n"):
        session.parameters("h2o_sweep", tmp_path / "c")
    with pytest.raises(PresetError, match=r"^exactly one scope of a run decides"):
        session.parameters("h2o_sweep", tmp_path / "d")


@pytest.mark.parametrize(
    ("assignment", "place"),
    [("repeat=1", 0), ("targets.lossy=3", 0), ("zstd_level=3", 1), ("zstd_levl=3", 1), ("repeet=3", 0), ("xyz=1", 0)],
)
def test_a_setting_goes_to_what_knows_its_key_or_the_nearest(assignment: str, place: int) -> None:
    assert share_assignments([assignment], (Preset, ScopeKeys))[place] == [assignment]


@pytest.mark.parametrize("name", ["scopes.yaml", "scopes.yml", "Scopes.YAML", "scopes.json"])
def test_scopes_beside_a_gate_file_are_found_by_any_ending(tmp_path: Path, name: str) -> None:
    assert scopes_beside(tmp_path) == tmp_path / "scopes.yaml"
    (tmp_path / name).symlink_to("gone")  # is there, and what cannot be read is told when it is loaded
    assert scopes_beside(tmp_path) == tmp_path / name
    (tmp_path / "SCOPES.yml").write_text("")
    with pytest.raises(PresetError, match="several scope files"):
        scopes_beside(tmp_path)

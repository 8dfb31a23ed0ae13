"""What llm_demo said and measured, read out of outputs and metrics; its prompts; and how alike two texts are."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.bench.demo import TextPair, compare_texts, find_prompts, read_demo, read_demo_text
from pytest_h2o.errors import H2OError, TableError
from pytest_h2o.inputs.signs import SIGNS
from tests.told import error_text

OTHER = Path(__file__).parents[2] / "fixtures" / "recordings" / "other"
WARNING = "Drop stale per-layer pending plan: layer=20 pending_remove=445 kv_len=439 pending_ints=4.\n"


def recorded(name: str, state: str) -> str:
    return read_demo_text(OTHER / f"llm_demo_{name}_h2o_{state}.stdout.txt")


def test_warnings_are_cut_out_of_words_and_the_text_is_whole() -> None:
    text = recorded("prose", "on")
    assert text.startswith("\nA: The keeper moved his chair because he was not a modern engineer")
    for word in ("Drop", "Clamp", "pending", "kv_len", "###"):
        assert word not in text
    assert recorded("prose", "off").startswith("\nA: The keeper moved his chair because he was not a careless man.")


@pytest.mark.parametrize("name", ["prose", "code"])
def test_the_recorded_pairs(name: str) -> None:
    """With H2O on the text leaves the other after a few words, and stays words."""
    pair = compare_texts(name, recorded(name, "off"), recorded(name, "on"))
    expected = {"prose": (11, 52, 0.31), "code": (1, 6, 0.06)}[name]
    assert (pair.prefix_words, pair.prefix_chars, round(pair.similarity, 2)) == expected


SUMMARY = """##########
prompt tokens num = 502
decode tokens num = 96
prefill time = 2.01 s
 decode time = 2.14 s
 decode speed = 44.84 tok/s
###########
"""


def write_output(folder: Path, said: str, summary: str = SUMMARY) -> Path:
    path = folder / "out.txt"
    path.write_text(f"main, 1\nprompt file is p.txt\n{said}\n{summary}", encoding="utf-8", newline="")
    return path


LINES = [
    WARNING,
    *(f"{sign.text}: layer=3\n" for sign in SIGNS if not sign.may_be_said),
    "[H2O] floor-keep dominates target: kv=9 target=3 floor=4 (sink=1 recent=2 block=8)\n",
    "[H2O-LOSSLESS] layer=0 kv=513 start=16 tokens=32 raw=49152 mode=0 zstd=1\n",
    "[H2O] layer=15 kv=520 keep_ratio=0.3385 evict=344\n",
]


@settings(max_examples=20)
@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="#\r\n["), min_size=1, max_size=20), max_size=6),
    st.sampled_from(LINES),
    st.data(),
)
def test_lines_of_the_engine_anywhere_leave_the_text_alone(words: list[str], line: str, data: st.DataObject) -> None:
    text = " ".join(["word", *words])
    assume(not any(sign.text in text for sign in SIGNS))  # words that are a line of the engine are cut, of course
    cut = data.draw(st.integers(0, len(text)))
    with tempfile.TemporaryDirectory() as folder:
        assert read_demo_text(write_output(Path(folder), text[:cut] + line + text[cut:])) == text


def test_metrics_stand_over_what_is_printed(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    output, metrics = write_output(tmp_path, "Some words"), tmp_path / "m.jsonl"
    launch, text = read_demo("r", output, metrics)
    assert text == "Some words"
    assert launch == snapshot
    old, new = '{"prompt_tokens": 1}', {"prompt_tokens": 502, "decode_tokens": 90, "prefill_us": 2e6, "decode_us": 1e6}
    told = {"h2o_lossy_ratio": 3.1, "h2o_total_evict_tokens": 7, "h2o_lossless_fallback_count": 1, "extra": "text"}
    metrics.write_text(f"{old}\n{json.dumps({**new, **told})}\n\n")
    launch, _ = read_demo("r", output, metrics)
    assert launch == snapshot


def test_prompts_are_files_folders_and_what_a_manifest_lists(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "notes.md", "sub/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    manifest = tmp_path / "prompts.jsonl"
    manifest.write_text('{"prompt_file": "sub/c.txt", "bucket": 128}\n\n{"path": "%s"}\n' % (tmp_path / "notes.md"))
    assert list(find_prompts([tmp_path])) == ["a", "b"]
    assert list(find_prompts([manifest, tmp_path / "b.txt"])) == ["c", "notes", "b"]
    assert [(name, len(path.read_text()) > 400) for name, path in find_prompts([]).items()] == [
        ("austen_128", True), ("austen_2048", True), ("austen_512", True),
    ]  # fmt: skip


def test_similarity_of_equal_other_and_empty_texts() -> None:
    assert compare_texts("p", "a b c", "a b c") == TextPair("p", 3, 5, 3, 3, 1.0)
    assert compare_texts("p", "a b c", "x y z") == TextPair("p", 0, 0, 3, 3, 0.0)
    assert compare_texts("p", "a b c d", "a b x") == TextPair("p", 2, 4, 4, 3, pytest.approx(4 / 7))
    assert compare_texts("p", "a b", "a b c") == TextPair("p", 2, 3, 2, 3, pytest.approx(4 / 5))
    often = " ".join(["the"] * 300)  # a word that stands everywhere counts as any other
    assert (
        compare_texts("p", often, often).similarity == compare_texts("p", often, "x " + often[4:]).similarity + 1 / 300
    )


@pytest.mark.parametrize(
    ("off", "on", "told"),
    [
        ("a b c", "a b d", None),
        ("0000", "0000", "'0000' is 1 of 1 words with H2O off, '0000' is 1 of 1 words with H2O on"),
        ("a b c", "the " * 9 + "end", "'the' is 9 of 10 words with H2O on"),
        ("the " * 8 + "an end", "a b", None),
        ("a b", "x y z " * 9 + "no " * 10, "'no' is 10 of 37 words with H2O on"),
        ("x" * 99, "", f"'{'x' * 20}' is 1 of 1 words with H2O off"),
    ],
)
def test_one_word_over_and_over_is_named(off: str, on: str, told: str | None) -> None:
    pair = compare_texts("p", off, on)
    assert pair.degenerate == (told and f"degenerate text: {told}")
    assert (told or "similarity") in pair.render()


@pytest.mark.parametrize("output", [None, "", "prompt file is a.txt\ntext\n", "text\n##########\n"])
def test_an_output_without_text_is_refused(output: str | None, tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    if output is not None:
        (tmp_path / "out.txt").write_text(output)
    assert error_text(TableError, read_demo_text, tmp_path / "out.txt").replace(str(tmp_path), "") == snapshot


@pytest.mark.parametrize(
    ("said", "summary", "metrics"),
    [
        ("words", "##########\n", None),
        ("words", SUMMARY.replace("= 96", "= 0"), None),
        ("words", "##########\n", "{}"),
        ("words", SUMMARY.replace("= 502", f"= {'9' * 400}"), '{"prompt_tokens": 1e300}'),
        ("", SUMMARY, None),
        ("!!!!!!", SUMMARY, None),
        (WARNING, SUMMARY, None),
        ("words", SUMMARY, "{"),
        ("words", SUMMARY, "[1]"),
        ("words", SUMMARY, "\xff"),
    ],
)
def test_a_launch_without_words_or_speeds_is_no_measurement(
    said: str, summary: str, metrics: str | None, tmp_path: Path, snapshot: SnapshotAssertion
) -> None:
    if metrics is not None:
        (tmp_path / "m.jsonl").write_text(metrics, encoding="latin-1")
    with pytest.raises(TableError) as caught:
        read_demo("r", write_output(tmp_path, said, summary), tmp_path / "m.jsonl")
    assert str(caught.value).replace(str(tmp_path), "") == snapshot


@pytest.mark.parametrize(
    "files",
    [
        {"p.txt": " \n"},
        {"p.txt": "\xff"},
        {f"{'p' * 240}.txt": "x"},
        {"p.txt": "x", "m.jsonl": '{"path": "a\\u0000.txt"}'},
        {"p.md": "x"},
        *(
            {"p.txt": "x", "m.jsonl": text}
            for text in ('{"path": "q.txt"}', '{"paht": "p.txt"}', "p.txt", "\n", "\xff")
        ),
        {"p.txt": "x", "sub/p.txt": "x", "m.jsonl": '{"path": "sub/p.txt"}'},
    ],
)
def test_prompts_that_cannot_be_said_are_refused(
    files: dict[str, str], tmp_path: Path, snapshot: SnapshotAssertion
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="latin-1")
    manifest = tmp_path / "m.jsonl"
    with pytest.raises(H2OError) as caught:
        find_prompts([tmp_path, manifest] if manifest.exists() else [tmp_path])
    assert str(caught.value).replace(str(tmp_path), "") == snapshot

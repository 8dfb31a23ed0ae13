"""What llm_demo said, cut out of recorded outputs; and how alike two texts are."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_h2o.bench.demo import TextComparison, TextPair, compare_texts, parse_demo_text, read_demo_text
from pytest_h2o.errors import NotMeasured, TableError
from pytest_h2o.files import load, plain

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


@pytest.mark.parametrize(
    ("output", "came"),
    [
        ("", "no line 'prompt file is …'"),
        ("prompt file is a.txt\ntext\n", "no line of # behind the text"),
        ("text\n##########\n", "no line 'prompt file is …'"),
    ],
)
def test_an_output_without_text_is_refused(output: str, came: str) -> None:
    with pytest.raises(TableError) as caught:
        parse_demo_text(output, "out.txt")
    assert str(caught.value) == (
        f"an output of llm_demo has no text\n  where: out.txt\n  came: {came}\n  expected: both lines"
    )


def test_a_file_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="cannot be read"):
        read_demo_text(tmp_path / "none.txt")


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="#\r\n"), max_size=20), max_size=6), st.data())
def test_warnings_anywhere_leave_the_text_alone(words: list[str], data: st.DataObject) -> None:
    text = " ".join(words)
    cut = data.draw(st.integers(0, len(text)))
    output = f"main, 1\nprompt file is p.txt\n{text[:cut]}{WARNING}{text[cut:]}\n##########\nprompt tokens num = 4\n"
    assert parse_demo_text(output, "out.txt") == text


def test_similarity_of_equal_other_and_empty_texts() -> None:
    assert compare_texts("p", "a b c", "a b c") == TextPair("p", 3, 5, 3, 3, 1.0)
    assert compare_texts("p", "a b c", "x y z") == TextPair("p", 0, 0, 3, 3, 0.0)
    assert compare_texts("p", "a b c d", "a b x") == TextPair("p", 2, 4, 4, 3, pytest.approx(4 / 7))
    assert compare_texts("p", "a b", "a b c") == TextPair("p", 2, 3, 2, 3, pytest.approx(4 / 5))
    often = " ".join(["the"] * 300)  # a word that stands everywhere counts as any other
    assert (
        compare_texts("p", often, often).similarity == compare_texts("p", often, "x " + often[4:]).similarity + 1 / 300
    )


@pytest.mark.parametrize(("off", "on"), [("", ""), ("!!!!", "!!!!"), (" ", "\n"), ("\ufffd" * 9, "!")])
def test_two_texts_without_a_word_are_missing_data(off: str, on: str) -> None:
    wordless, other = compare_texts("p", off, on), compare_texts("q", "a b", "a b")
    with pytest.raises(NotMeasured, match="llm_demo said not a single word, with H2O off and on\n  where: prompt p\n"):
        TextComparison("run_0001", (other, wordless)).refuse_wordless()
    TextComparison("run_0001", (other, compare_texts("p", off, "words"))).refuse_wordless()
    assert compare_texts("p", off, "words").similarity == compare_texts("p", "words", on).similarity == 0


@pytest.mark.parametrize(
    ("off", "on", "told"),
    [
        ("a b c", "a b d", None),
        ("0000", "0000", "'0000' is 1 of 1 words with H2O off, '0000' is 1 of 1 words with H2O on"),
        ("a b c", "the " * 9 + "end", "'the' is 9 of 10 words with H2O on"),
        ("the " * 8 + "an end", "a b", None),
        ("x" * 99, "", f"'{'x' * 20}' is 1 of 1 words with H2O off"),
    ],
)
def test_one_word_over_and_over_is_named(off: str, on: str, told: str | None) -> None:
    pair = compare_texts("p", off, on)
    assert pair.degenerate == (told and f"degenerate text: {told}")
    assert (told or "similarity") in pair.render()


def test_a_comparison_reads_back() -> None:
    comparison = TextComparison("run_0001", (compare_texts("p", "a b", "a c"), compare_texts("q", "a", "a")))
    assert load(TextComparison, plain(comparison), "texts") == comparison
    assert comparison.similarity == pytest.approx(0.75)

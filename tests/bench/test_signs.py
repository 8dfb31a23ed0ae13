"""Signs of a broken cache: each fails a launch and a recorded run, unless the preset allows so many."""

import io
import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.bench.command import read_base_config
from pytest_h2o.bench.launch import Launcher
from pytest_h2o.bench.output import (
    OTHER_KINDS,
    OutputSummary,
    check_signs,
    count_warnings,
    describe_allowed,
    summarize_output,
)
from pytest_h2o.bench.recorded import read_recording
from pytest_h2o.errors import BenchError, PresetError
from pytest_h2o.inputs.presets import expand_points, preset_from_flags
from pytest_h2o.inputs.signs import SIGNS, Sign

from .samples import FIXTURES, OTHER, SWEEP, recorded_points

Make = Callable[..., Launcher]
POINT, QUIET = recorded_points()[:2]
"""The second printed nothing."""
FATAL = [sign for sign in SIGNS if sign.severity == "fatal"]


EXCERPT = FIXTURES / "recordings" / "other" / "store_no_layer_nums.stdout.txt"
CAUSE = "first cause: the config of the model has no layer_nums"


def recording(tmp_path: Path, text: str, suffix: str = ".stdout.txt") -> Path:
    """The recorded run of `POINT` alone, which printed this too."""

    def others(_: str, names: list[str]) -> list[str]:
        return [name for name in names if name.startswith("run_") and not name.startswith(POINT.run_id)]

    folder = Path(shutil.copytree(SWEEP, tmp_path / "recorded", ignore=others))
    printed = folder / "logs" / f"{POINT.run_id}{suffix}"
    printed.write_text((printed.read_text() if suffix == ".log" or not text else "") + text)
    return folder


@pytest.mark.parametrize("sign", FATAL, ids=lambda sign: sign.name)
def test_a_sign_fails_the_launch_wherever_it_stands(
    sign: Sign, make_launcher: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FAKE_PRINTS", f"text{sign.text}: layer=3 tokens=32\n" * 3)
    launcher = make_launcher()
    with pytest.raises(BenchError, match="the bench printed signs of a") as caught:
        launcher.launch_point(QUIET)
    line = f"{sign.text}: layer=3 tokens=32"
    assert f"3 x {sign.text} ({sign.meaning}): {line!r}" in (caught.value.came or "")
    assert (sign.cause or CAUSE) in (caught.value.hint or "")
    assert f"allow_signs: {{{sign.name}: 3}}" in (caught.value.hint or "")
    with pytest.raises(BenchError, match="the bench printed signs of a"):
        launcher.launch_baseline(QUIET)
    allowed = replace(QUIET, allow_signs={sign.name: 3}, run_id="run_0001_again")
    assert launcher.launch_point(allowed).output.warnings[sign.text] == 3  # type: ignore[union-attr]
    few = replace(allowed, allow_signs={sign.name: 2}, run_id="run_0001_few")
    with pytest.raises(BenchError, match="the bench printed signs of a") as caught:
        launcher.launch_point(few)
    assert caught.value.expected == f"at most 2 x {sign.text}"


@pytest.mark.parametrize(
    ("sign", "suffix"),
    [*((sign, ".stdout.txt") for sign in FATAL), (FATAL[0], ".log")],
    ids=lambda of: getattr(of, "name", of),
)
def test_a_sign_fails_a_recorded_run(sign: Sign, suffix: str, tmp_path: Path) -> None:
    """In what was printed, or in a log that holds all of it."""
    found = read_recording(recording(tmp_path, f"\n[H2O] {sign.text}\n", suffix), (POINT,))
    assert "the bench printed signs of a" in str(found.failures[POINT.run_id])
    assert (sign.cause or CAUSE) in str(found.failures[POINT.run_id])
    allowed = read_recording(tmp_path / "recorded", (replace(POINT, allow_signs={sign.name: 1}),))
    assert not allowed.failures


def test_what_is_only_counted_fails_above_a_number_that_the_preset_names(tmp_path: Path) -> None:
    folder = recording(tmp_path, "")
    assert not read_recording(folder, (POINT, replace(POINT, allow_signs={"stale_plan": 917}))).failures
    (failure,) = read_recording(folder, (replace(POINT, allow_signs={"stale_plan": 916}),)).failures.values()
    assert "917 x Drop stale per-layer pending plan" in str(failure)
    assert CAUSE in str(failure)
    with (folder / "logs" / f"{POINT.run_id}.stdout.txt").open("a") as printed:
        printed.write(EXCERPT.read_text())
    (failure,) = read_recording(folder, (POINT,)).failures.values()
    assert "3 x scatter restore failed" in str(failure)
    assert '"layer_nums": N' in str(failure)


def test_a_config_with_layer_nums_is_not_the_cause(
    make_launcher: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FAKE_PRINTS", "scatter restore failed\n")
    launcher = make_launcher()
    path = tmp_path / "config.json"
    for name, (config, model, expected) in {
        "own": ('{"layer_nums": 30}', "{}", None),
        "model": ("{}", '{"layer_nums": 30}', None),
        "known": ("{}", '{"num_hidden_layers": 24}', '"layer_nums": 24 to it'),
        "unknown": ("{}", "{}", '"layer_nums": N to it'),
    }.items():
        path.write_text(config)
        path.with_name("llm_config.json").write_text(model)
        with pytest.raises(BenchError, match="signs of a broken cache") as caught:
            replace(launcher, base=read_base_config(path)).launch_point(replace(POINT, run_id=name))
        hint = caught.value.hint or ""
        assert ("layer_nums" in hint) == (expected is not None)
        assert expected is None or expected in hint


def test_figures_of_the_cpu_do_not_pass_under_the_name_of_another_backend(
    make_launcher: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real binary prints OPENCL in its table all the same."""
    monkeypatch.setenv("FAKE_PRINTS", "Can't Find type=3 backend, use 0 instead\n")
    with pytest.raises(BenchError) as caught:
        make_launcher("wrong_backend", backend="opencl").launch_point(POINT)
    error = caught.value
    assert error.what == "the bench printed signs of a missing backend: no figure of this launch can be trusted"
    assert "the CPU ran under its name" in (error.came or "")
    assert (error.hint or "").startswith("build the engine with that backend")
    assert "layer_nums" not in (error.hint or "")


def test_a_crash_after_a_sign_names_the_first_cause(make_launcher: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = make_launcher(command=("sh", "-c", "echo 'double free or corruption (out)' >&2; exit 3", "bench"))
    with pytest.raises(BenchError, match="exit code 3") as caught:
        launcher.launch_point(POINT)
    assert caught.value.came == "double free or corruption (out)"
    assert CAUSE in (caught.value.hint or "")


def test_a_generated_text_may_speak_of_the_c_library() -> None:
    text = "prompt file is a.txt\nA double free ends badly.\n##########\n"
    assert summarize(text, has_text=True).warnings == {}
    assert summarize(text + "double free or corruption\n", has_text=True).warnings == {"double free": 1}
    assert summarize(text.replace("ends", "[H2O] scatter restore failed: layer=1\n"), has_text=True).warnings == {
        "scatter restore failed": 1
    }
    # A bench writes no text that would hide its messages.
    summary = summarize("prompt file is p.txt\ncorrupted size vs. prev_size\ndecode tokens num = 40\n")
    assert (summary.warnings, summary.decoded_tokens) == ({"corrupted size": 1}, 40)


@pytest.mark.parametrize("filler", ["x", ". "])
def test_a_sign_is_found_once_at_every_place_of_a_long_line(filler: str) -> None:
    for sign in FATAL if filler == "x" else FATAL[:1]:
        places = range(65536 - len(sign.text) - 1, 65538) if sign is FATAL[0] else [65536 - 4]
        for pad in [*places, 65536 - 256]:
            text = filler * (pad // len(filler)) + "y" * (pad % len(filler)) + sign.text + " layer=3\n"
            assert summarize(text).warnings.get(sign.text) == 1, (sign.name, pad)


@pytest.mark.parametrize(
    "text",
    [
        "double \x1b[31mfree\x1b[0m",
        "\x1b]0;title\x07dou\x1b[1;31mble free",
        "DOUBLE FREE or corruption",
        "x" * 65533 + "\x1b[31mdou\x1b[0mble free",
    ],
)
def test_a_sign_in_colour_or_capitals_is_one(text: str, make_launcher: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_PRINTS", text + " detected\n")
    with pytest.raises(BenchError, match="signs of a broken cache") as caught:
        make_launcher().launch_point(POINT)
    came = (caught.value.came or "").lower()
    assert "1 x double free" in came
    assert "'double free" in came


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "utf-32"])
def test_a_sign_is_one_in_whatever_encoding_and_wording_it_was_kept(encoding: str, tmp_path: Path) -> None:
    printed = tmp_path / "x.stdout.txt"
    for sign, wording in ((each, wording) for each in FATAL for wording in (each.text, *each.also)):
        printed.write_bytes(f"Zeit: 3 µs\r\nMNN_ERROR: {wording}\r\n".encode(encoding))
        output = count_warnings(printed)
        assert output.warnings[sign.text] == 1
        with pytest.raises(BenchError, match="the bench printed signs of a") as caught:
            check_signs(output, printed, {}, lambda: None)
        assert f"1 x {sign.text} ({sign.meaning}): {wording!r}" in (caught.value.came or "")


@pytest.mark.parametrize("before", ["", "  ", "[MNN] ", "[H2O] ", "x" * 65530 + " "])
def test_a_number_of_decoded_tokens_is_found_behind_other_text(before: str) -> None:
    text = "decode tokens num = 60\n" + before + "decode tokens num = 40 tokens\n"
    assert summarize(text).decoded_tokens == 40


def test_a_preset_allows_signs_by_name() -> None:
    (point,) = expand_points(preset_from_flags(allow_signs={"scatter_restore": 10}))
    assert point.allow_signs == {"scatter_restore": 10}
    for given in ({"scatter_restor": 1}, {"floor_keep": 1}, {"scatter_restore": -1}, {"stale_plan": True}):
        with pytest.raises(PresetError, match="allow_signs"):
            preset_from_flags(allow_signs=given)
    outputs = [summarize("scatter restore failed\n" * count) for count in (0, 7)]
    assert describe_allowed(point.allow_signs, [*outputs, None]) == [
        "allow_signs: scatter_restore, at most 10 x scatter restore failed a launch; most that came: 7"
    ]


def test_the_docs_list_every_sign() -> None:
    text = (FIXTURES.parent / "docs" / "reading-a-failure.md").read_text(encoding="utf-8")
    assert [f"| `{sign.name}` | `{sign.text}` | {sign.severity} |" for sign in SIGNS] == [
        line for line in text.splitlines() if line.endswith(("| fatal |", "| counted |", "| harmless |"))
    ]


STALE = "Drop stale per-layer pending plan"


def summarize(text: str, *, has_text: bool = False) -> OutputSummary:
    return summarize_output(io.BytesIO(text.encode()), has_text=has_text)


@pytest.mark.parametrize(
    "path",
    [
        SWEEP / "logs" / "run_0001_p512_g128_k0.28_b8_lr3.0.stdout.txt",
        SWEEP / "logs" / "baseline_h2o_off.stdout.txt",
        *(OTHER / f"{name}.stdout.txt" for name in ("missing_model", "bad_json", "bad_arg")),
        *(OTHER / f"llm_demo_{name}_h2o_{state}.stdout.txt" for name in ("prose", "code") for state in ("on", "off")),
    ],
    ids=lambda path: path.name,
)
def test_recorded_outputs(path: Path, snapshot: SnapshotAssertion) -> None:
    summary = count_warnings(path, has_text="llm_demo" in path.name)
    assert summary == snapshot
    assert path.name.startswith("run") or path.read_text().count("Drop stale") == summary.warnings.get(STALE, 0)


def test_number_of_kinds_is_bounded() -> None:
    words = ["".join(chr(97 + (n >> shift) % 16) for shift in (0, 4, 8)) for n in range(2000)]
    summary = summarize("".join(f"odd {word}\n" for word in words))
    assert len(summary.warnings) == 65
    assert summary.warnings[OTHER_KINDS] == 2000 - 64


def test_memory_is_bounded() -> None:
    class Endless(io.RawIOBase):
        """0.8 MB of one line, then 0.1 MB of many."""

        left = 900_000

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            count = min(len(buffer), self.left)
            self.left -= count
            text = b"kv_len=12345 " if self.left > 100_000 else b"kv_len=123 x\n"
            buffer[:count] = (text * (count // len(text) + 1))[:count]
            return count

    tracemalloc.start()
    summary = summarize_output(io.BufferedReader(Endless(), 1 << 16))  # type: ignore[arg-type]
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert summary.max_kv_len is not None
    assert peak_bytes < 600_000


def test_a_number_at_the_end_of_a_piece_is_not_cut() -> None:
    for pad in range(65500, 65540, 3):
        text = "x" * 100 + " " * pad + "kv_len=123456 end"
        assert summarize(text).max_kv_len == 123456


@pytest.mark.parametrize(
    ("text", "warnings", "reason"),
    [
        (
            "a b" + f"{STALE}: layer=3 kv_len=9." * 2 + "Clamp invalid meta n=-4 to 0.\n",
            {STALE: 2, "Clamp invalid meta n=N to N.": 1, "a b": 1},
            None,
        ),
        (
            "".join(f"No tuning for type={n} here, use {n * 2.5} instead\n" for n in range(3))
            + "L 12 x86 v2 at 0x7f\n",
            {"No tuning for type=N here, use N instead": 3, "L N x86 v2 at N": 1},
            None,
        ),
        # Statistics that were asked for are no warnings.
        ("[H2O] layer=3 kv=512 keep_ratio=0.3\n[H2O-LOSSLESS] layer=0 kv=512 raw=3\n", {}, None),
        ("[H2O-LOSSLESS] async lost\n", {"[H2O-LOSSLESS] async lost": 1}, None),
        ("[H2O] floor-keep dominates target: kv=80 target=0.3 floor=1.0\n", {}, None),
        # A mere hint is the reason only if nothing says more.
        ("File not exist: a/b.weight\n", {"File not exist: a/b.weight": 1}, "File not exist: a/b.weight"),
        ("File not exist: a\nterminate called\n", {"File not exist: a": 1, "terminate called": 1}, "terminate called"),
        ("\x1b[31m\x1bUnable to open x\x07\n", {"\\x1bUnable to open x\\x07": 1}, "\\x1bUnable to open x\\x07"),
    ],
)
def test_lines_are_kinds_without_their_numbers_and_one_is_the_reason(
    text: str, warnings: dict[str, int], reason: str | None
) -> None:
    summary = summarize(text)
    assert (summary.warnings, summary.reason) == (warnings, reason)
    assert summary.max_kv_len == (9 if "kv_len" in text else None)

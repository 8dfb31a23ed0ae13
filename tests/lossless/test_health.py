"""A dump that says nothing about a codec, or lacks layers, is told and refused; a real one is not."""

import json
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.cli.main import main
from pytest_h2o.errors import DumpError
from pytest_h2o.inputs.scope import Scope
from pytest_h2o.lossless.evaluate import evaluate_lossless
from pytest_h2o.lossless.result import LosslessResult, refuse
from tests.lossless.samples import FP16, FP32, SMALL, write_entry

SHAPE = (64, 2, 8)
PROMPT, END = 20, 28
NORMAL = np.random.default_rng(0).standard_normal(SHAPE)
REAL = "finite K and V of a real text, which vary from token to token"


def spoiled(change: Callable[[np.ndarray], object], dtype: str = "<f2") -> bytes:
    words = NORMAL.copy()
    change(words)
    with np.errstate(over="ignore"):
        return words.astype(dtype).tobytes()


def fill(value: float) -> Callable[[np.ndarray], object]:
    return lambda words: words.fill(value)


def put(value: float) -> Callable[[np.ndarray], object]:
    return lambda words: words.__setitem__((3, 1, 2), value)


def repeat(rows: int) -> Callable[[np.ndarray], object]:
    """Rows 0 to `rows` are alike: `rows` of 63 neighbours."""
    return lambda words: words.__setitem__(slice(1, rows + 1), words[0])


def write_dump(
    root: Path, k: bytes, v: bytes, layer: int = 0, run: str = "run", *, apart: bool = True, **changes: object
) -> None:
    """An entry of 64 tokens; V has other signs than K, and each layer other last bits, unless they are not `apart`."""
    meta = write_entry(root, tokens=64, layer_id=layer, run_id=run, **changes)
    wide = changes.get("bytes_per_elem") == 4
    for tensor, data in (("k", k), ("v", v)):
        words = np.frombuffer(data, "<u4" if wide else "<u2").copy()
        if apart:
            words ^= (layer << 13 if wide else layer) | ((tensor == "v") << (31 if wide else 15))
        meta.with_name(f"{tensor}_t0_64.bin").write_bytes(words.tobytes())


def evaluate(root: Path, **keys: object) -> LosslessResult:
    return evaluate_lossless(root, Scope(**{"front_n": 1, **keys}), verify=False, workers=1)


HEALTHY = spoiled(lambda words: None)


@pytest.mark.parametrize(
    ("data", "width", "kinds"),
    [
        (HEALTHY, 2, []),
        (spoiled(fill(0)), 2, ["zero"]),
        (spoiled(lambda words: np.copysign(0, words, out=words)), 2, ["zero"]),
        (spoiled(fill(1.5)), 2, ["constant"]),
        (spoiled(put(np.nan)), 2, ["not_finite"]),
        (spoiled(put(-np.inf)), 2, ["not_finite"]),
        (spoiled(put(65504)), 2, ["saturated"]),
        (spoiled(put(-65504)), 2, ["saturated"]),
        (spoiled(put(65472)), 2, []),
        (spoiled(put(70000), "<f4"), 4, ["not_finite"]),
        (spoiled(put(65504), "<f4"), 4, ["saturated"]),
        (spoiled(put(65472), "<f4"), 4, []),
        (spoiled(repeat(63)), 2, ["repeated"]),
        (spoiled(repeat(32)), 2, ["repeated"]),
        (spoiled(repeat(6)), 2, []),
    ],
)
@pytest.mark.parametrize("tensor", ["k", "v"])
def test_words_that_say_nothing_are_told(
    tmp_path: Path, data: bytes, width: int, kinds: list[str], tensor: str
) -> None:
    sound = HEALTHY if width == 2 else spoiled(lambda words: None, "<f4")
    both = {"k": sound, "v": sound, tensor: data}
    write_dump(tmp_path, **both, bytes_per_elem=width, dtype={2: "fp16", 4: "fp32"}[width])
    result = evaluate(tmp_path)
    assert [fault.kind for fault in result.faults] == kinds
    assert all(fault.detail.startswith(f"run run, layer 0, {tensor.upper()}: ") for fault in result.faults)
    assert LosslessResult.from_json(json.loads(json.dumps(result.to_json()))).faults == result.faults
    if not kinds:
        refuse(result, "dec", allow_skips=False)
        return
    for allow_skips in (False, True):
        with pytest.raises(DumpError, match="the dump of dec says nothing about a codec") as caught:
            refuse(result, "dec", allow_skips=allow_skips)
        assert caught.value.expected == REAL
        assert "llm_demo on a real prompt" in str(caught.value)
    allowed = evaluate(tmp_path, degenerate="allow")
    assert [fault.kind for fault in allowed.faults] == kinds
    refuse(allowed, "dec", allow_skips=False)


def cycle(tokens: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda words: words[np.arange(len(words)) % tokens]


def part(place: object, value: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    def change(words: np.ndarray) -> np.ndarray:
        words[place] = value
        return words

    return change


def drawn(low: int, high: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda words: np.random.default_rng(2).integers(low, high, words.shape, dtype=np.uint16)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda words: words, None),
        (cycle(2), "repeated"),
        (cycle(3), "repeated"),
        (cycle(9), "repeated"),
        (cycle(16), "repeated"),
        (cycle(94), None),
        (cycle(90), "repeated"),
        (lambda words: np.repeat(words[:, :, :1], 32, axis=2), "flat"),
        (part((slice(None), 2)), "flat"),
        (part((slice(None), slice(1, None)), 0x3F80), "flat"),
        (part((slice(None), slice(None), slice(16, None))), "flat"),
        (lambda words: np.repeat(words[:, :1], 3, axis=1), "alike"),
        (lambda words: words[:, [0, 1, 0]], "alike"),
        (lambda words: np.where(np.arange(100)[:, None, None] == 50, words[:, [0, 1, 0]], words), "alike"),
        (part(slice(None, None, 2)), "flat"),
        (part(slice(55, None)), "flat"),
        (part(slice(None, 45)), "flat"),
        (part(slice(99, None)), "flat"),
        (lambda words: words & 0x7FFF, "flat"),
        (lambda words: np.where(np.arange(100)[:, None, None] == 50, words & 0x7FFF, words), "flat"),
        (lambda words: words[np.maximum(np.arange(100) - 45, 0)], "repeated"),
        (lambda words: words[np.minimum(np.arange(100), 55)], "repeated"),
        (lambda words: words[np.maximum(np.arange(100) - 25, 0)], "repeated"),
        (lambda words: words[np.where(np.arange(100) % 8, np.arange(100), 0)], "repeated"),
        (lambda words: words[np.maximum(np.arange(100) - 6, 0)], None),
        (lambda words: words[np.where(np.arange(100) == 50, 40, np.arange(100))], "repeated"),
        (drawn(0, 4), "flat"),
        (drawn(0, 0x80), "subnormal"),
        (drawn(0x7B7D, 0x7B7F), "flat"),
        (lambda words: np.where(np.arange(32) % 2, words * 0 + 0x7B7E, 0x7B7D).astype(np.uint16), "flat"),
    ],
)
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("tensor", ["k", "v"])
def test_words_that_fold_without_a_codec_are_told(
    tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], kind: str | None, dtype: str, tensor: str
) -> None:
    values = np.random.default_rng(1).standard_normal((100, 3, 32), dtype=np.float32)
    words = values.astype("<f2").view("<u2") if dtype == "fp16" else (values.view("<u4") >> 16).astype("<u2")
    both = {**dict.fromkeys("kv", (words ^ 0x8000).tobytes()), tensor: change(words.copy()).tobytes()}
    meta = write_entry(tmp_path, tokens=100, layer_id=1, kv_heads=3, head_dim=32, dtype=dtype)
    for name, data in both.items():
        meta.with_name(f"{name}_t0_100.bin").write_bytes(data)
    result = evaluate(tmp_path, scope="layer_ids", layer_ids=(1,), codec="zstd")
    assert [fault.kind for fault in result.faults] == [kind] * (kind is not None)
    if kind is not None:
        with pytest.raises(
            DumpError, match=rf"run run, layer 1, {tensor.upper()}: .* KV head|rows equal the row|of one sign"
        ):
            refuse(result, "dec", allow_skips=True)


@pytest.mark.parametrize(("layer", "tensor", "kinds"), [(0, "v", []), (0, "k", ["repeated"]), (1, "v", ["repeated"])])
def test_v_of_layer_0_repeats_with_the_tokens_of_a_text(
    tmp_path: Path, layer: int, tensor: str, kinds: list[str]
) -> None:
    """Six tokens of like frequency: more alike than any text, and far from what K is, which its position rotates."""
    few = NORMAL[np.arange(64) % 6].astype("<f2").tobytes()
    write_dump(tmp_path, **{"k": HEALTHY, "v": HEALTHY, tensor: few}, layer=layer)
    result = evaluate(tmp_path, scope="layer_ids", layer_ids=(layer,))
    assert [fault.kind for fault in result.faults] == kinds


@pytest.mark.parametrize("mode", ["per_meta", "aggregate", "chunked_grouped"])
def test_a_dead_run_is_not_lost_among_others(tmp_path: Path, mode: str) -> None:
    for run in "abc":
        write_dump(tmp_path, HEALTHY, spoiled(fill(0)) if run == "b" else HEALTHY, run=run)
    result = evaluate(tmp_path, entry_mode=mode)
    assert [fault.detail for fault in result.faults] == ["run b, layer 0, V: all 1,024 words are 0"]


@pytest.mark.parametrize("key", ["quant_key", "quant_value"])
def test_quantised_words_are_no_fp16(tmp_path: Path, key: str) -> None:
    write_dump(tmp_path, HEALTHY, HEALTHY, **{key: True})
    with pytest.raises(DumpError, match="1 metas say quant_key or quant_value, the first is run/layer_0/meta_t0_64"):
        refuse(evaluate(tmp_path), "dec", allow_skips=False)


@pytest.mark.parametrize("root", [FP16, FP32], ids=lambda path: path.stem)
@pytest.mark.parametrize("mode", ["per_meta", "aggregate"])
def test_real_dumps_are_clear_of_it(root: Path, mode: str) -> None:
    assert evaluate(root, front_n=2, entry_mode=mode).faults == ()
    assert evaluate(root, scope="layer_range", layer_start=0, entry_mode=mode).faults == ()
    assert evaluate(SMALL, scope="layer_ids", layer_ids=(1,), entry_mode=mode).faults == ()


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"scope": "layer_ids", "layer_ids": (0, 7, 8, 99)}, "names layers 7, 8, 99,"),
        ({"scope": "layer_range", "layer_start": 0, "layer_end": 29}, "names layers 2, 3, 4, 5, 6, 7 and 22 more,"),
        ({"scope": "layer_range", "layer_start": 0, "layer_end": 2**31 - 2}, "2147483639 more"),
        ({"front_n": 3}, "names layer 2,"),
        ({"front_n": 2}, None),
        ({"scope": "layer_range", "layer_start": 0}, None),
        ({"scope": "layer_ids", "layer_ids": (1, 1, 0)}, None),
    ],
)
def test_layers_that_the_scope_names_must_be_there(tmp_path: Path, keys: dict[str, object], told: str | None) -> None:
    for layer in (0, 1):
        write_dump(tmp_path, HEALTHY, HEALTHY, layer)
    result = evaluate(tmp_path, **keys)
    refuse(result, "dec", allow_skips=True)
    if told is None:
        refuse(result, "dec", allow_skips=False)
        return
    with pytest.raises(DumpError, match="layers or tokens of dec are missing in the dump") as caught:
        refuse(result, "dec", allow_skips=False)
    assert told in str(caught.value.came)


def scaled(words: np.ndarray) -> np.ndarray:
    """Whole numbers of 8 bits that were scaled by another number."""
    return (np.round(words.view("<f2") * np.float32(29)) * np.float32(1 / 29)).astype("<f2").view("<u2")


@pytest.mark.parametrize(
    ("change", "rows", "told"),
    [
        (lambda words: words & 0xFF00, 64, "64 of 64 rows of KV head 0 differ in few bits"),
        (lambda words: words & 0xFFF0, 64, "64 of 64 rows of KV head 0 differ in few bits"),
        (lambda words: words & 0xFF00, 8, "8 of 64 rows of KV head 0 differ in few bits"),
        (lambda words: words & 0xFF00, 1, "an entry has rows of one value or few, of few bits or of one sign"),
        (lambda words: words & 0xFFF8, 64, None),
        (scaled, 64, "4,096 words of one entry or more have 256 values or fewer, as if they had been numbers"),
    ],
)
def test_words_of_fewer_bits_are_told(
    change: Callable[[np.ndarray], np.ndarray], rows: int, told: str | None, tmp_path: Path
) -> None:
    """fp8 and int8 that were made fp16, in all rows or in some; bf16 that was made fp16 is none of them."""
    k, v = np.random.default_rng(4).standard_normal((2, 64, 4, 16)).astype("<f2").view("<u2")
    k[:rows] = change(k[:rows])
    write_dump(tmp_path, k.tobytes(), v.tobytes(), kv_heads=4, head_dim=16)
    details = [fault.detail for fault in evaluate(tmp_path).faults]
    assert [detail.startswith(f"run run, layer 0, K: {told}") for detail in details] == [True] * (told is not None)


@pytest.mark.parametrize(("second", "told"), [((1, "v"), "V of layer 1"), ((0, "v"), "V of layer 0")])
def test_tensors_with_the_same_words_are_told(second: tuple[int, str], told: str, tmp_path: Path) -> None:
    drawn = {(layer, tensor): np.random.default_rng(n) for n, (layer, tensor) in enumerate(product((0, 1), "kv"))}
    words = {place: rng.standard_normal((64, 4, 16)).astype("<f2").tobytes() for place, rng in drawn.items()}
    words[second] = words[0, "k"]
    for layer in (0, 1):
        write_dump(tmp_path, words[layer, "k"], words[layer, "v"], layer, apart=False, kv_heads=4, head_dim=16)
    (fault,) = evaluate(tmp_path, front_n=2).faults
    where = f"run/layer_{second[0]}/meta_t0_64.json"
    what = f"run run: {told} has the very words of K of layer 0, 256 rows from token 0 on, the first in {where}"
    assert (fault.kind, fault.detail) == ("alike", what)


def zeros(path: Path) -> object:
    return path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda root: None, None),
        (lambda root: zeros(root / "layer_1/k_t23_24.bin"), "layer 1, K: an entry has rows of one value or few"),
        (lambda root: shutil.copy(root / "layer_0/k_t23_24.bin", root / "layer_1"), "K of layer 1 has the very words"),
        (lambda root: shutil.copy(root / "layer_1/k_t23_24.bin", root / "layer_1/v_t23_24.bin"), "V of layer 1 has"),
        (lambda root: shutil.copy(root / "layer_1/v_t23_24.bin", root / "layer_1/v_t22_23.bin"), "tokens 22 and 23"),
        (lambda root: shutil.copy(root / "layer_1/v_t4_5.bin", root / "layer_1/v_t3_4.bin"), None),
        (
            lambda root: [zeros(root / f"layer_{n}/{t}_t20_21.bin") for n in (0, 1) for t in "kv"],
            "layer 0, K: an entry has rows of",
        ),
    ],
)
@pytest.mark.parametrize("mode", ["per_meta", "aggregate", "chunked_grouped"])
def test_rows_of_a_single_file_are_told(
    tmp_path: Path, change: Callable[[Path], object], told: str | None, mode: str
) -> None:
    for layer in (0, 1):
        write_entry(tmp_path, tokens=PROMPT, layer_id=layer)
        for token in (*range(7), *range(PROMPT, END)):
            write_entry(tmp_path, start=token, tokens=1, layer_id=layer)
    change(tmp_path / "run")
    faults = evaluate(tmp_path, front_n=2, entry_mode=mode).faults
    assert [told is not None and told in fault.detail for fault in faults[:1]] == [True] * (told is not None)


def test_a_layer_of_one_run_and_not_of_another_is_named(tmp_path: Path) -> None:
    for run, layer in (("a", 0), ("a", 1), ("b", 0)):
        write_dump(tmp_path, HEALTHY, HEALTHY, layer, run)
    result = evaluate(tmp_path, scope="layer_range", layer_start=0)
    assert [fault.detail for fault in result.faults] == ["run b has nothing of layer 1, others have"]
    write_entry(tmp_path, tokens=32, layer_id=1, run_id="b")
    result = evaluate(tmp_path, scope="layer_range", layer_start=0)
    told = "the prefill of run b has 32 tokens in layer 1, 64 in others"
    assert [fault.detail for fault in result.faults] == [told]


def gone(pattern: str) -> Callable[[Path], object]:
    """Entries are gone with their data."""
    return lambda root: [
        file.unlink() for meta in root.glob(f"{pattern}.json") for file in meta.parent.glob(f"*{meta.stem[4:]}.*")
    ]


@pytest.mark.parametrize(
    ("change", "given", "told"),
    [
        (gone("nothing"), {}, None),
        (gone("a/layer_1/meta_t24_25"), {}, "run a has a gap in layer 1: tokens 24 to 24 are in no entry"),
        (gone("a/layer_?/meta_t24_25"), {}, "run a has a gap in layer 0: tokens 24 to 24 are in no entry"),
        (gone("a/layer_1/meta_t2[67]_*"), {}, "the decode of run a has 6 tokens in layer 1, 8 in others"),
        (gone("a/layer_0/meta_t2?_*"), {}, "the decode of run a has 0 tokens in layer 0, 8 in others"),
        (gone("b/layer_?/meta_t2?_*"), {}, "run b has no decode, others have"),
        (gone("b/layer_?/meta_t0_20"), {}, "run b has no prefill, others have"),
        (gone("b/layer_1/meta_t0_20"), {}, "run b has nothing of layer 1 in prefill, others have"),
        (gone("?/layer_?/meta_t2?_*"), {}, None),
        (gone("?/layer_?/meta_t2?_*"), {"stage": "both"}, "the scope names stage both, and the dump holds no decode"),
        (gone("b/layer_?/meta_t2?_*"), {"stage": "prefill"}, None),
        (
            gone("?/layer_?/meta_t2?_*"),
            {"stage": "decode"},
            "the scope names stage decode, and the dump holds no decode",
        ),
        (gone("?/layer_?/meta_t0_20"), {"stage": "both"}, "the scope names stage both, and the dump holds no prefill"),
        (gone("?/layer_?/meta_t0_20"), {"stage": "decode"}, None),
        (gone("?/layer_?/meta_t[0-2]_?"), {}, None),
    ],
)
def test_entries_that_others_have_are_missed(
    tmp_path: Path, change: Callable[[Path], object], given: dict[str, str], told: str | None
) -> None:
    for run, layer in product("ab", (0, 1)):
        write_entry(tmp_path, tokens=PROMPT, layer_id=layer, run_id=run)
        for token in (*range(7), *range(PROMPT, END)):  # a tuning pass, then decode
            write_entry(tmp_path, start=token, tokens=1, layer_id=layer, run_id=run)
    change(tmp_path)
    scope = Scope(scope="layer_range", layer_start=0, given=given, **given)
    details = [
        fault.detail
        for fault in evaluate_lossless(tmp_path, scope, verify=False, workers=1).faults
        if fault.kind == "missing_tokens"
    ]
    assert details[:1] == [told] * (told is not None)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (gone("nothing"), None),
        (gone("?/layer_1/*"), "of the 2 front layers the dump holds nothing of 1"),
        (gone("a/layer_2/*"), "run a has nothing of layer 2, others have"),
        (gone("a/layer_1/meta_t2?_*"), "the decode of run a has 0 tokens in layer 1, 8 in others"),
        (lambda root: shutil.copy(root / "a/layer_1/k_t0_20.bin", root / "a/layer_2/"), "layer 2 has the very words"),
    ],
)
def test_a_comparison_of_codecs_misses_what_a_gate_does(
    tmp_path: Path, change: Callable[[Path], object], told: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    for run, layer in product("ab", (0, 1, 2)):
        write_entry(tmp_path, tokens=PROMPT, layer_id=layer, run_id=run)
        for token in range(PROMPT, END):
            write_entry(tmp_path, start=token, tokens=1, layer_id=layer, run_id=run)
    change(tmp_path)
    code = main(["codecs", "bench", str(tmp_path), "--rounds=1", "--codecs=zstd", "--peers=none"])
    assert (code, told is None or told in capsys.readouterr().out) == (told is not None, True)


def test_the_command_fails_and_can_be_told_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], snapshot: SnapshotAssertion
) -> None:
    dump, out = tmp_path / "dump", tmp_path / "out"
    write_dump(dump, HEALTHY, spoiled(fill(0)))
    flags = ["lossless", "--dump-dir", str(dump), "--out-json", f"{out}.json", "--out-md", f"{out}.md", "--overwrite"]
    assert main(flags) == 1
    assert capsys.readouterr().err == snapshot
    assert main([*flags, "--degenerate", "allow"]) == 0
    assert "- `run run, layer 0, V: all 1,024 words are 0`, allowed\n" in Path(f"{out}.md").read_text("utf-8")
    assert main([*flags, "--degenerate", "allow", "--front-n", "2"]) == 1
    assert "the scope names layer 1, of which the dump holds nothing" in capsys.readouterr().err

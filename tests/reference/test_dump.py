"""Dumps of a run, and whether they and the run's own statistics tell the same sizes."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bench_runs import ROOT, SMALL_H2O, SMALL_LOSSLESS, run, write_config
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.errors import DumpError, UsageError
from pytest_h2o.lossless.index import find_overlaps_and_gaps, index_dump
from pytest_h2o.reference.dump import CONFIG_KEYS, DumpWriter, compare_run, parse_samples, read_dump_settings

RECORDED_META = ROOT / "fixtures/dumps/small/code/layer_1/meta_t470_471.json"
LAUNCH = ("-p", 60, "-n", 24, "-rep", 1, "-kv", "true")
Dumped = tuple[Path, str]
"""Where the dumps of a launch lie, and what it printed."""


def dump(folder: Path, *argv: object, environment: dict[str, str] | None = None, **values: object) -> Dumped:
    config = write_config(folder, **{**SMALL_H2O, **SMALL_LOSSLESS, "kv_h2o_log_stats": True, **values})
    asked = {"MNN_KV_DUMP_DIR": str(folder / "dumps"), "MNN_KV_DUMP_RUN_ID": "tiny", **(environment or {})}
    done = run("-m", config, *LAUNCH, *argv, **asked)
    assert (done.code, done.err) == (0, "")
    return folder / "dumps", done.out


@pytest.fixture(scope="module")
def dumped(tmp_path_factory: pytest.TempPathFactory) -> Dumped:
    return dump(tmp_path_factory.mktemp("dumped"))


@pytest.fixture
def copied(dumped: Dumped, tmp_path: Path) -> Dumped:
    """The same dump, to be damaged."""
    shutil.copytree(dumped[0], tmp_path / "dumps")
    return tmp_path / "dumps", dumped[1]


def test_the_layout_is_that_of_recorded_dumps(dumped: Dumped) -> None:
    layer = dumped[0] / "tiny/layer_2"
    recorded = json.loads(RECORDED_META.read_text("utf-8"))
    meta = json.loads((layer / "meta_t65_66.json").read_text("utf-8"))
    assert list(meta) == list(recorded)
    assert meta == {
        **recorded,
        "layer_id": 2,
        "seq_start": 65,
        "seq_end_exclusive": 66,
        "kv_heads": 2,
        "head_dim": 8,
        "flash_attention": False,
        "run_id": "tiny",
        "k_file": "k_t65_66.bin",
        "v_file": "v_t65_66.bin",
    }
    prefill = json.loads((layer / "meta_t0_60.json").read_text("utf-8"))
    assert (prefill["stage"], prefill["seq_len"], prefill["tensor_seq_len"]) == ("prefill", 60, 60)
    assert (layer / "k_t0_60.bin").stat().st_size == 60 * 2 * 8 * 2
    assert (layer / "v_t65_66.bin").stat().st_size == 2 * 8 * 2
    dumps = index_dump(dumped[0])
    assert (len(dumps.entries), dumps.skipped, find_overlaps_and_gaps(dumps.entries)) == (4 * 25, (), ())


def test_stages_and_bounds(tmp_path: Path) -> None:
    root, _ = dump(tmp_path, environment={"MNN_KV_DUMP_STAGE": "decode", "MNN_KV_DUMP_MAX_TOKENS": "63"})
    names = sorted(path.name for path in (root / "tiny/layer_0").glob("meta_*"))
    assert names == ["meta_t60_61.json", "meta_t61_62.json", "meta_t62_63.json"]


def test_a_wide_dump_rounds_to_the_narrow_one(dumped: Dumped, tmp_path: Path) -> None:
    bound = {"MNN_KV_DUMP_MAX_TOKENS": "50"}
    root, _ = dump(tmp_path, "-c", "1", environment=bound, kv_lossless_runtime_enable=False)
    (meta_file,) = (root / "tiny/layer_0").glob("meta_*")
    meta = json.loads(meta_file.read_text("utf-8"))
    assert (meta["dtype"], meta["bytes_per_elem"], meta["seq_len"]) == ("fp32", 4, 50)
    wide = np.fromfile(root / "tiny/layer_0/k_t0_50.bin", "<f4").astype(np.float16)
    narrow = np.fromfile(dumped[0] / "tiny/layer_0/k_t0_60.bin", "<f2")[: wide.size]
    np.testing.assert_array_equal(wide.view(np.uint16), narrow.view(np.uint16))


def test_cases_of_one_launch_do_not_mix(dumped: Dumped, tmp_path: Path) -> None:
    root, output = dump(tmp_path, "-p", "40,60")
    assert sorted(path.name for path in root.iterdir()) == ["tiny", "tiny_p60_g24"]
    assert (root / "tiny_p60_g24/layer_0/meta_t0_60.json").exists()
    assert not compare_run(output, root, run_id="tiny", config={}).consistent
    assert compare_run(dumped[1], root, run_id="tiny_p60_g24", config={}).consistent


def test_runtime_and_offline_sizes_of_a_run_are_equal(dumped: Dumped) -> None:
    root, output = dumped
    samples = parse_samples(output)
    assert [(sample.layer, sample.start, sample.tokens) for sample in samples] == [
        (0, start, 16) for start in (4, 20, 36, 52)
    ]
    found = compare_run(output, root, run_id="tiny", config={})
    assert found.consistent
    assert found.not_comparable == ()
    assert found.runtime_bytes == found.offline_bytes == sum(sample.coded_bytes for sample in samples)
    size = f"{found.runtime_bytes:,} bytes"
    assert found.render() == f"4 samples: runtime {size}, offline {size}"


def test_the_predictors_are_those_of_the_config(tmp_path: Path) -> None:
    few = {"kv_lossless_predictors_k": "delta_seq", "kv_lossless_predictors_v": "delta_seq"}
    root, output = dump(tmp_path, **few)
    assert compare_run(output, root, run_id="tiny", config=few).consistent
    other = compare_run(output, root, run_id="tiny", config={})
    assert not other.consistent
    sample, offline = next((c.sample, c.alike_bytes) for c in other.compared if c.sample.coded_bytes != c.alike_bytes)
    assert other.render().splitlines()[1] == (
        f"layer 0, positions {sample.first_position} to {sample.end_position}: "
        f"runtime {sample.coded_bytes:,} bytes, offline {offline:,} bytes"
    )


def test_the_lines_of_the_page_run(dumped: Dumped) -> None:
    """Those of docs/reference-bench.md, on a run that is called otherwise."""
    page = (ROOT / "docs" / "reference-bench.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    root, output = dumped
    names = {"compare_run": compare_run, "Path": Path, "dump_dir": str(root), "output": output, "config": {}}
    exec(lines.replace('run_id="check"', 'run_id="tiny"'), names)
    assert names["found"].consistent  # type: ignore[attr-defined]


def test_a_run_that_tells_of_nothing_is_no_pass(dumped: Dumped) -> None:
    found = compare_run("", dumped[0], run_id="tiny", config={})
    assert not found.consistent
    assert found.render() == f"no sample to compare: the run must log them ({', '.join(CONFIG_KEYS)})"
    with pytest.raises(DumpError):
        compare_run("", dumped[0], run_id="none", config={})


def change_a_token(layer: Path) -> None:
    path = layer / "v_t0_60.bin"
    data = bytearray(path.read_bytes())
    data[30 * 32 : 31 * 32] = bytes(range(32))
    path.write_bytes(data)


def drop_tokens(layer: Path) -> None:
    """Those of the prefill and one that was decoded."""
    for name in ("meta_t0_60.json", "meta_t63_64.json"):
        (layer / name).unlink()


@pytest.mark.parametrize(
    ("damage", "equal"), [(change_a_token, [True, False, True, True]), (drop_tokens, [None, None, None, None])]
)
def test_damage_of_a_dump_is_no_pass(copied: Dumped, damage: Callable[[Path], None], equal: list[bool | None]) -> None:
    """One changed token, or tokens that are missing: None."""
    root, output = copied
    damage(root / "tiny/layer_0")
    found = compare_run(output, root, run_id="tiny", config={})
    assert [c.alike_bytes and c.alike_bytes == c.sample.coded_bytes for c in found.compared] == equal
    assert (found.offline_bytes is None) == (None in equal)
    assert not found.consistent
    assert ("tokens are missing in the dumps" in found.render()) == (None in equal)


def test_samples_that_an_eviction_tore_apart_are_named(tmp_path: Path) -> None:
    root, output = dump(
        tmp_path,
        kv_lossless_scope="h2o_kept",
        kv_lossless_block_tokens=6,
        kv_lossless_hot_recent_tokens=6,
        kv_h2o_trigger_min_tokens=16,
        kv_h2o_target_lossy_ratio=2.0,
        reference_clock="layer",
    )
    found = compare_run(output, root, run_id="tiny", config={})
    assert {sample.layer for sample in found.not_comparable} == {1, 2, 3}
    assert found.compared
    assert found.consistent


def test_the_recorded_engine_codes_fp32_and_both_sizes_are_told(engine_recordings: Path, tmp_path: Path) -> None:
    """Its zstd is another version: of 38,421 bytes one differs, of 39,745 five."""
    shutil.unpack_archive(engine_recordings / "dump" / "kv.zip", tmp_path)
    output = (engine_recordings / "dump" / "console.txt").read_text("utf-8")
    config = json.loads((engine_recordings / "dump" / "config.json").read_text("utf-8"))
    found = compare_run(output, tmp_path, run_id="bench", config=config)
    assert [runtime for runtime, _ in found.alike] == [38421, 39745, 39745]
    assert all(abs(runtime - offline) <= 16 for runtime, offline in found.alike)
    assert (
        found.render()
        .splitlines()[1]
        .startswith(
            "the runtime coded words of fp32, and scopes count fp16: the two ratios are not of one thing; of the same "
            "tokens 294,912 bytes came to 117,911 (2.5011), and as fp16 147,456 come to 52,"
        )
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MNN_KV_DUMP_STAGE", "all"),
        ("MNN_KV_DUMP_MAX_TOKENS", "-1"),
        ("MNN_KV_DUMP_RUN_ID", "../out"),
        ("MNN_KV_DUMP_RUN_ID", "there"),
    ],
)
def test_what_the_environment_may_ask_for(name: str, value: str, tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    asked = {"MNN_KV_DUMP_DIR": str(tmp_path)}
    assert read_dump_settings(asked, half=True) == DumpWriter(tmp_path, "run", "both", 0, True)
    for off in ({}, {"MNN_KV_DUMP_DIR": "off"}):
        assert read_dump_settings(off, half=True) is None
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError) as caught:
        read_dump_settings({**asked, name: value}, half=True)
    assert str(caught.value).replace(str(tmp_path), "DIR") == snapshot


def test_lines_of_another_bench_are_read() -> None:
    output = (
        "noise layer=0 start=16 tokens=32 raw=49152 comp=1\n"
        "[H2O-LOSSLESS] layer=0 kv=513 start=16 tokens=32 raw=49152 comp=35000 ratio=1.40 us=12\n"
        "[H2O-LOSSLESS] layer=0 kv=513 start=16 tokens=32 raw=49152 comp=35000 ratio=1.40 us=15\n"
        "[H2O-LOSSLESS] layer=0 kv=5\n"
    )
    (sample,) = parse_samples(output)
    assert (sample.first_position, sample.end_position, sample.coded_bytes) == (16, 48, 35000)
    # Of a layer that evicts, a sample without positions is torn.
    line = "[H2O-LOSSLESS] layer=2 kv=513 start=16 tokens=32 raw=49152 attempt_comp=60000 eff_comp=49152 mode=1\n"
    (known,), (torn,) = parse_samples(line), parse_samples(line, first_evicted=2)
    assert (known.coded_bytes, known.contiguous, torn.contiguous) == (49152, True, False)
    assert parse_samples(line, first_evicted=3) == (known,)


def test_words_of_fp32_are_not_compared_with_a_dump_of_fp16(dumped: Dumped) -> None:
    root, output = dumped
    wide = re.sub(r"raw=(\d+)", lambda raw: f"raw={2 * int(raw[1])}", output)
    found = compare_run(wide, root, run_id="tiny", config={})
    assert (found.alike, found.offline_bytes) == ((), None)
    assert "scopes count fp16" in found.render()
    assert found.render().splitlines()[-1].endswith("not in the dumps as fp32")

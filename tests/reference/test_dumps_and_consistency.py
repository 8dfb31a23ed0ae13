"""Dumps of a run, and whether they and the run's own statistics tell the same sizes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from bench_runs import SMALL_H2O, SMALL_LOSSLESS, launch, write_config

from pytest_h2o.codecs.gear_v3 import GearV3
from pytest_h2o.errors import DumpError, UsageError
from pytest_h2o.lossless.index import find_overlaps_and_gaps, index_dump
from pytest_h2o.reference.dump import (
    CONFIG_KEYS,
    DumpSettings,
    compare_run,
    compare_with_dumps,
    parse_samples,
    read_dump_settings,
)

RECORDED_META = Path(__file__).parents[2] / "fixtures/dumps/small/code/layer_1/meta_t470_471.json"
LAUNCH = ("-t", "1", "-p", "60", "-n", "24", "-rep", "1", "-kv", "true")


def dump(folder: Path, *argv: str, environment: dict[str, str] | None = None, **values: object) -> tuple[Path, str]:
    """Dump a launch; the root of the dumps and what the launch printed."""
    config = write_config(folder, **{**SMALL_H2O, **SMALL_LOSSLESS, "kv_h2o_log_stats": True, **values})
    root = folder / "dumps"
    asked = {"MNN_KV_DUMP_DIR": str(root), "MNN_KV_DUMP_RUN_ID": "tiny", **(environment or {})}
    done = launch("-m", config, *LAUNCH, *argv, environment=asked)
    assert (done.returncode, done.stderr) == (0, "")
    return root, done.stdout


def test_the_layout_is_that_of_recorded_dumps(tmp_path: Path) -> None:
    root, _ = dump(tmp_path)
    layer = root / "tiny/layer_2"
    assert len(list(root.rglob("meta_*.json"))) == 4 * 25
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


def test_stages_bounds_and_widths(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    root, _ = dump(tmp_path / "a", environment={"MNN_KV_DUMP_STAGE": "decode", "MNN_KV_DUMP_MAX_TOKENS": "63"})
    names = sorted(path.name for path in (root / "tiny/layer_0").glob("meta_*"))
    assert names == ["meta_t60_61.json", "meta_t61_62.json", "meta_t62_63.json"]
    (tmp_path / "b").mkdir()
    root, _ = dump(
        tmp_path / "b", "-c", "1", environment={"MNN_KV_DUMP_MAX_TOKENS": "50"}, kv_lossless_runtime_enable=False
    )
    (meta_file,) = (root / "tiny/layer_0").glob("meta_*")
    meta = json.loads(meta_file.read_text("utf-8"))
    assert (meta["dtype"], meta["bytes_per_elem"], meta["seq_len"]) == ("fp32", 4, 50)
    wide = np.fromfile(root / "tiny/layer_0/k_t0_50.bin", "<f4").astype(np.float16)
    narrow = np.fromfile(dump_of_fp16(tmp_path) / "tiny/layer_0/k_t0_60.bin", "<f2")[: wide.size]
    np.testing.assert_array_equal(wide.view(np.uint16), narrow.view(np.uint16))


def dump_of_fp16(folder: Path) -> Path:
    (folder / "c").mkdir()
    return dump(folder / "c")[0]


def test_cases_of_one_launch_do_not_mix(tmp_path: Path) -> None:
    root, _ = dump(tmp_path, "-p", "40,60")
    assert sorted(path.name for path in root.iterdir()) == ["tiny", "tiny_p60_g24"]
    assert (root / "tiny_p60_g24/layer_0/meta_t0_60.json").exists()


def test_what_the_environment_may_ask_for(tmp_path: Path) -> None:
    assert read_dump_settings({}) is None
    assert read_dump_settings({"MNN_KV_DUMP_DIR": "off"}) is None
    assert read_dump_settings({"MNN_KV_DUMP_DIR": str(tmp_path)}) == DumpSettings(tmp_path, "run", "both", 0)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("MNN_KV_DUMP_STAGE", "all", "prefill, decode, both"),
        ("MNN_KV_DUMP_MAX_TOKENS", "-1", "a number of tokens, 0 for all"),
        ("MNN_KV_DUMP_RUN_ID", "../out", "the name of one folder"),
        ("MNN_KV_DUMP_RUN_ID", "there", "a run that is not there yet"),
    ],
)
def test_what_it_may_not(name: str, value: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError) as caught:
        read_dump_settings({"MNN_KV_DUMP_DIR": str(tmp_path), name: value})
    lines = str(caught.value).splitlines()
    assert lines[:4] == [
        "the dump of the KV cache cannot be made",
        f"  where: environment, {name}",
        f"  came: {value}",
        f"  expected: {expected}",
    ]


def test_runtime_and_offline_sizes_of_a_run_are_equal(tmp_path: Path) -> None:
    root, output = dump(tmp_path)
    samples = parse_samples(output)
    assert [(sample.layer, sample.start, sample.tokens) for sample in samples] == [
        (0, start, 16) for start in (4, 20, 36, 52)
    ]
    found = compare_with_dumps(samples, index_dump(root), GearV3())
    assert found.consistent
    assert found.not_comparable == ()
    assert found.runtime_bytes == found.offline_bytes == sum(sample.coded_bytes for sample in samples)


def test_a_run_in_one_call(tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    few = {"kv_lossless_predictors_k": "delta_seq", "kv_lossless_predictors_v": "delta_seq"}
    for folder, values in ((tmp_path, {}), (tmp_path / "few", few)):
        root, output = dump(folder, **values)
        found = compare_run(output, root, run_id="tiny", config=values)
        assert found.consistent
        size = f"{found.runtime_bytes:,} bytes"
        assert found.render() == f"4 samples: runtime {size}, offline {size}"
    other = compare_run(output, root, run_id="tiny", config={})
    assert not other.consistent
    unequal = next(one for one in other.compared if not one.equal)
    assert other.render().splitlines()[1] == (
        f"layer 0, positions {unequal.sample.first_position} to {unequal.sample.end_position}: "
        f"runtime {unequal.sample.coded_bytes:,} bytes, offline {unequal.offline_bytes:,} bytes"
    )


def test_the_lines_of_the_page_run(tmp_path: Path) -> None:
    """Those of docs/reference-bench.md, on a run that is called otherwise."""
    page = (Path(__file__).parents[2] / "docs" / "reference-bench.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    root, output = dump(tmp_path)
    names = {"compare_run": compare_run, "Path": Path, "dump_dir": str(root), "output": output, "config": {}}
    exec(lines.replace('run_id="check"', 'run_id="tiny"'), names)
    assert names["found"].consistent  # type: ignore[attr-defined]


def test_a_run_that_tells_of_nothing_is_no_pass(tmp_path: Path) -> None:
    root, _ = dump(tmp_path)
    found = compare_run("", root, run_id="tiny", config={})
    assert not found.consistent
    assert found.render() == f"no sample to compare: the run must log them ({', '.join(CONFIG_KEYS)})"
    with pytest.raises(DumpError):
        compare_run("", root, run_id="none", config={})


def test_one_changed_bit_of_a_dump_is_seen(tmp_path: Path) -> None:
    root, output = dump(tmp_path, prompt_token=16)
    path = root / "tiny/layer_0/v_t0_60.bin"
    data = bytearray(path.read_bytes())
    data[30 * 32 : 31 * 32] = bytes(range(32))
    path.write_bytes(data)
    found = compare_with_dumps(parse_samples(output), index_dump(root), GearV3())
    assert [one.equal for one in found.compared] == [True, False, True, True]
    assert not found.consistent


def test_tokens_that_the_dumps_lack_are_missing_and_no_pass(tmp_path: Path) -> None:
    root, output = dump(tmp_path, environment={"MNN_KV_DUMP_MAX_TOKENS": "30"})
    found = compare_with_dumps(parse_samples(output), index_dump(root), GearV3())
    assert [one.offline_bytes is None for one in found.compared] == [False, True, True, True]
    assert found.offline_bytes is None
    assert not found.consistent
    assert not compare_with_dumps((), index_dump(root), GearV3()).consistent


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
    found = compare_with_dumps(parse_samples(output), index_dump(root), GearV3())
    assert {sample.layer for sample in found.not_comparable} == {1, 2, 3}
    assert found.compared
    assert found.consistent


def test_lines_of_another_bench_are_read() -> None:
    output = (
        "noise\n[H2O-LOSSLESS] layer=0 kv=513 start=16 tokens=32 raw=49152 comp=35000 ratio=1.40 us=12\n"
        "[H2O-LOSSLESS] layer=0 kv=513 start=16 tokens=32 raw=49152 comp=35000 ratio=1.40 us=15\n"
        "[H2O-LOSSLESS] layer=0 kv=5\n"
    )
    (sample,) = parse_samples(output)
    assert (sample.first_position, sample.end_position, sample.coded_bytes) == (16, 48, 35000)


def test_the_dumps_are_sound_and_whole(tmp_path: Path) -> None:
    dumps = index_dump(dump(tmp_path)[0])
    assert dumps.skipped == ()
    assert len(dumps.entries) == 4 * 25
    assert find_overlaps_and_gaps(dumps.entries) == ()


def test_of_several_runs_one_is_compared(tmp_path: Path) -> None:
    root, output = dump(tmp_path, "-p", "40,60")
    samples = parse_samples(output)
    dumps = index_dump(root)
    assert not compare_with_dumps(samples, dumps, GearV3()).consistent
    long_run = compare_with_dumps(samples[-2:], dumps, GearV3(), run_id="tiny_p60_g24")
    assert long_run.consistent

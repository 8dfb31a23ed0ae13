"""The commands on the recordings, as a user types them: what they write, what they print, how they end."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.bench.recorded import read_recording
from pytest_h2o.cli.main import COMMANDS, main
from tests.quick_bench import launch_here

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
RECORDED = FIXTURES / "recordings" / "smollm2-135m" / "target_ratio_v3"
ORACLE = FIXTURES / "oracle" / "fp16"
FAKE_BENCH = Path(__file__).parents[1] / "fake_llm_bench.py"
BASE_CONFIG = FIXTURES / "recordings" / "base_config.json"


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And no flag by half its name."""
    for flag, code in (("--help", 0), ("--hel", 2)):
        with pytest.raises(SystemExit) as ended:
            main([command, flag])
        assert ended.value.code == code
        assert (f"usage: pytest-h2o {command}" in capsys.readouterr().out) == (code == 0)


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "pytest_h2o"], capture_output=True, text=True, check=False)
    assert (done.returncode, "usage: pytest-h2o COMMAND" in done.stdout) == (0, True)


def test_parse_gives_the_recorded_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rows.csv"
    assert main(["parse", "--log-dir", str(RECORDED), "--out-csv", str(out)]) == 0
    assert read_csv(out) == read_csv(FIXTURES / "recordings" / "h2o_metrics.expected.csv")
    assert capsys.readouterr().out == (
        f"not in manifest.json, left out: baseline_h2o_off.log\n27 rows of 27 logs in {out}\n"
    )
    assert main(["parse", "--log-dir", str(RECORDED), "--out-csv", str(out)]) == 2
    assert "a file that exists would be overwritten" in capsys.readouterr().err
    assert main(["parse", "--log-dir", str(RECORDED), "--out-csv", str(out), "--overwrite"]) == 0


@pytest.mark.parametrize("run", ["probe", "store", "store_no_layer_nums", "target_ratio_v3"])
@pytest.mark.parametrize("inner", ["", "logs"])
def test_parse_gives_the_csv_of_the_scripts(
    run: str, inner: str, engine_recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the folder, or of its logs from where the script was started: cell by cell."""
    (tmp_path / "out").symlink_to(engine_recordings)
    monkeypatch.chdir(tmp_path)
    assert main(["parse", "--log-dir", f"out/{run}/{inner}", "--out-csv", "rows.csv"]) == 0
    assert read_csv(Path("rows.csv")) == read_csv(engine_recordings / run / "kit.csv")


def test_parse_reads_a_log_once_and_names_what_failed(
    engine_recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = Path(shutil.copytree(engine_recordings / "probe", tmp_path / "run")), tmp_path / "rows.csv"
    first, second = sorted((run / "logs").iterdir())
    (tmp_path / "link.log").symlink_to(first)
    shutil.copytree(run, run / "baseline_batch")
    command = ["parse", "--log-dir", str(run), "--log-files", str(tmp_path / "link.log"), str(second)]
    assert main([*command, "--out-csv", str(out)]) == 0
    assert capsys.readouterr().out == (
        "baseline_batch/ is left out, its rows have nothing compressed: "
        f"parse --log-dir {run}/baseline_batch\n2 rows of 2 logs in {out}\n"
    )
    first.write_text("")
    assert main([*command, "--out-csv", str(out), "--overwrite"]) == 1
    failed, sound = read_csv(out)
    name = f"out/probe/logs/{first.name}"
    assert {key: cell for key, cell in failed.items() if cell} == {"log_file": name}
    assert sound["h2o_lossy"] == "3.115 ± 0.074"
    streams = capsys.readouterr()
    assert streams.out.endswith(f"\n1 row of 2 logs in {out}\n")
    assert streams.err.startswith(f"FAILED, its cells are empty: {name}\nthe log is empty\n  where: {first}\n")
    entries = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps([{**entry, "return_code": -11} for entry in entries]))
    assert main([*command[:3], "--out-csv", str(tmp_path / "none.csv")]) == 2
    assert "the recorded run was ended by SIGSEGV" in capsys.readouterr().err
    assert not (tmp_path / "none.csv").exists()
    assert main(["parse", "--out-csv", str(tmp_path / "none.csv")]) == 2


def analyze(tmp_path: Path, *flags: str) -> tuple[int, dict[str, object]]:
    out = tmp_path / "analysis.md"
    rows, upper = FIXTURES / "recordings" / "h2o_metrics.expected.csv", ORACLE / "upper_front2.json"
    online = f"--offline-lossless-online-json={ORACLE / 'online_grouped_192_8_front2.json'}"
    given = [f"--csv={rows}", f"--offline-lossless-json={upper}", online, f"--out={out}", "--overwrite", *flags]
    code = main(["analyze", *given])
    return code, json.loads(out.with_suffix(".json").read_text())


@pytest.mark.parametrize("setting", [0, 1, 2])
def test_analyze_gives_the_originals_values(setting: int, tmp_path: Path) -> None:
    original = json.loads((FIXTURES / "recordings" / "gate.expected.json").read_text())
    arguments, expected = original["gates"][setting]["arguments"], original["gates"][setting]["expected"]
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in arguments.items() if value is not None]
    code, analysis = analyze(tmp_path, *flags, "--rule=best-of")
    assert analysis["original"] == {"averages": original["averages"], "top": original["top5"], "gate": expected}
    assert (code == 0) == (expected["overall_pass"] == "true")
    assert analysis["overall_pass"] == (code == 0)


def test_eval_does_all_steps_in_the_run_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    run = tmp_path / "run"
    shutil.copytree(RECORDED, run)
    dump = str(FIXTURES / "dumps" / "fp16.zip")
    assert main(["eval", str(run), dump, "--online-entry-mode", "both", "--model-layers", "30"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("# Gate: PASS (rule joint)\n\n- asked: ")
    assert told.endswith("\n\nGate: PASS (rule joint)\n")
    analysis = json.loads((run / "analysis.json").read_text())
    expected = json.loads((FIXTURES / "recordings" / "gate.expected.json").read_text())
    assert analysis["original"]["gate"] == expected["gates"][0]["expected"]
    assert analysis["whole_cache"][0] == "3.1098"
    assert sorted(analysis["notes"]) == snapshot
    chunked = json.loads((run / "offline_lossless_chunked.json").read_text())
    assert chunked["entry_mode"] == "chunked"
    assert main(["eval", str(run), str(tmp_path / "no-dump"), "--overwrite"]) == 2
    assert "the dump root does not exist" in capsys.readouterr().err
    monkeypatch.setattr("pytest_h2o.cli.lossless.evaluate", lambda *_, **__: pytest.fail("evaluated"))
    assert main(["eval", str(run), dump]) == 2
    assert f"would be overwritten\n  where: {run / 'analysis.md'}\n" in capsys.readouterr().err


def sweep(out: Path, *flags: str) -> int:
    bench = ["--llm-bench", str(FAKE_BENCH), "--base-config", str(BASE_CONFIG), "--out-dir", str(out)]
    return main(["sweep", *bench, "--threads", "2", *flags])


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The fake bench replays the recordings in this process; the file gets a line a launch."""
    launch_here(monkeypatch)
    launches = tmp_path / "launches.txt"
    monkeypatch.setenv("FAKE_RECORDINGS", str(RECORDED))
    monkeypatch.setenv("FAKE_LAUNCHES", str(launches))
    return launches


def test_sweep_runs_a_preset_and_parse_reads_it(
    replayed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = str(FIXTURES / "presets" / "target_ratio_v3.json")
    assert sweep(tmp_path / "run", "--preset", preset, "--h2o-block-tokens", "8", "16") == 0
    assert len(replayed.read_text().splitlines()) == 7  # 6 that differ, and one that checks the fold
    out = capsys.readouterr().out
    assert "[10/18] run_0010_p512_g128_k0.3_b16_lr3.0: done" in out
    assert out.endswith(f"18 rows in {tmp_path / 'run'}\n")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert [entry["return_code"] for entry in manifest] == [0] * 18
    assert len(read_csv(tmp_path / "run" / "h2o_metrics.csv")) == 18
    assert not (tmp_path / "run" / ".results").exists()
    assert sweep(tmp_path / "run", "--preset", preset) == 2
    assert "the run folder is not empty; nothing is overwritten" in capsys.readouterr().err


def test_sweep_of_an_ad_hoc_grid_names_the_point_that_failed(
    replayed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["--h2o-keep-ratios", "0.28", "--h2o-block-tokens", "8", "--h2o-target-lossy-ratios", "3.2", "3.4"]
    lengths = ["--prompts", "512", "--gens", "128", "--h2o-trigger-min-tokens", "384"]
    assert sweep(tmp_path / "good", *lengths, *grid) == 0
    assert len(replayed.read_text().splitlines()) == 2
    monkeypatch.setenv("FAKE_MODE", "exit3")
    assert sweep(tmp_path / "run", *grid[:4]) == 2
    out = capsys.readouterr().out
    assert "the bench ended with exit code 3" in out
    assert "1 point FAILED" in out
    (entry,) = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert entry["return_code"] == 3


@pytest.mark.parametrize("run", ["probe", "store", "target_ratio_v3"])
def test_the_command_of_the_scripts_makes_their_configs(run: str, engine_recordings: Path, tmp_path: Path) -> None:
    """Flags as the recorded runs of the scripts were started with: switches without a value, values behind commas."""
    told = (engine_recordings / run / "console.txt").read_text(encoding="utf-8").split("\n")[0].split()
    flags = told[told.index("--backend") :]
    base = f"--base-config={engine_recordings / 'model' / 'config.json'}"
    out = tmp_path / "run"
    assert main(["sweep", f"--llm-bench={FAKE_BENCH}", base, f"--out-dir={out}", *flags, "--dry-run"]) == 0

    def configs(folder: Path) -> dict[str, dict[str, object]]:
        read = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in (folder / "configs").iterdir()}
        later = "kv_lossless_store_disable_front"  # a switch that the scripts write though it was not given
        return {name: {k: v for k, v in c.items() if k not in ("base_dir", later)} for name, c in read.items()}

    assert configs(out) == configs(engine_recordings / run)


def test_sweep_with_h2o_off_makes_the_baselines_of_a_run(
    replayed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the later scripts do into baseline_batch/, with the same run ids."""
    flags = [f"--preset={FIXTURES / 'presets' / 'target_ratio_v3.json'}", "--h2o-block-tokens", "8"]
    run = tmp_path / "run"
    assert sweep(run, *flags) == 0
    assert sweep(run / "baseline_batch", *flags, "--disable-h2o") == 2
    assert "  expected: --disable-lossless beside it\n" in capsys.readouterr().err
    assert sweep(run / "baseline_batch", *flags, "--disable-h2o", "--disable-lossless") == 0
    entries = json.loads((run / "baseline_batch" / "manifest.json").read_text())
    assert {(entry["kv_h2o_enable"], entry["kv_lossless_enable"]) for entry in entries} == {(False, False)}
    recording = read_recording(run)
    assert len(recording.results) == len(recording.baselines) == 9
    assert recording.unused == {}
    assert sweep(tmp_path / "lossy", *flags, "--disable-lossless", "--dry-run") == 0
    config = json.loads(next((tmp_path / "lossy" / "configs").iterdir()).read_text())
    assert [config[f"kv_{key}_enable"] for key in ("h2o", "lossless", "lossless_runtime")] == [True, False, False]


def test_init_copies_the_gates_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path)]) == 0
    shipped = FIXTURES.parent / "gates"
    for path in ("test_sweep.py", "test_dumps.py", "scopes.yaml", "presets/smoke.yaml"):
        assert (tmp_path / "gates" / path).read_bytes() == (shipped / path).read_bytes()
    assert main(["init", str(tmp_path)]) == 2
    assert "some of the starter files are there already; nothing was written" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["parse", "--log-dir", "no/where", "--out-csv", "x.csv"],
        ["parse", "--log-dir", ".", "--out-csv", "x.csv"],
        ["parse", "--log-dir", "old", "--out-csv", "x.csv"],
        ["history", "--out-dir", "no/where"],
        ["calibrate", "--out", "/dev/null/x"],
        ["analyze", "--csv", "no/where.csv", "--out", "x.md"],
        ["analyze", "--csv", "no/where.csv", "--out", "x.md", "--decode-baseline", "fast"],
        ["analyze", "--csv", "no/where.csv", "--out", "x.md", "--lossy-target", "nan"],
        ["eval", "no/where", "no/where"],
        ["lossless", "--dump-dir", "no/where", "--out-json", "x.json"],
        ["sweep", "--llm-bench", "no/where", "--out-dir", "x"],
        ["sweep", "--llm-bench", "no/where", "--out-dir", "x", "--preset", "no/where.yaml"],
        ["sweep", "--out-dir", "x", "--llm-bench", str(FAKE_BENCH)],
        ["calibrate", "--llm-bench", str(FAKE_BENCH)],
        ["calibrate", "--llm-bench", "no/where"],
        ["doctor", "--llm-bench", "no/where"],
    ],
    ids=lambda arguments: " ".join(arguments[:3]).replace(str(FAKE_BENCH), "BENCH"),
)
def test_bad_input_is_one_clear_error(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    snapshot: SnapshotAssertion,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old" / "run").mkdir(parents=True)
    (tmp_path / "old" / "run" / "one.log").touch()
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.replace(str(tmp_path), "DIR").replace(str(FAKE_BENCH), "BENCH") == snapshot
    assert list(tmp_path.iterdir()) == [tmp_path / "old"]
    with pytest.raises(SystemExit):
        main([arguments[0], "--help"])
    takes = set(re.findall(r"--[a-z][a-z0-9-]*", capsys.readouterr().out))
    of_others = re.sub(r"pytest-h2o (?!" + arguments[0] + ").*", "", told)
    assert takes.issuperset(re.findall(r"--[a-z][a-z0-9-]*", of_others))


def test_a_sweep_of_the_embedded_bench_needs_no_config_and_takes_a_thread_as_the_gate_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ("--prompts=64", "--gens=8", "--h2o-sink-tokens=4", "--h2o-recent-tokens=16", "--h2o-block-tokens=8")
    rest = ("--repeat=1", "--h2o-trigger-min-tokens=32", f"--out-dir={tmp_path / 'run'}")
    assert main(["sweep", "--llm-bench=reference", *grid, *rest]) == 0
    told = "note: out of reach: whole blocks and protected tokens leave a lossy ratio of at most"
    assert told in capsys.readouterr().out
    with (tmp_path / "run" / "h2o_metrics.csv").open(newline="") as table:
        assert [row["threads"] for row in csv.DictReader(table)] == ["1"]


def test_analyze_loses_nothing_and_writes_both_files_or_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], snapshot: SnapshotAssertion
) -> None:
    online = tmp_path / "k.json"
    shutil.copy(ORACLE / "online_grouped_192_8_front2.json", online)
    (tmp_path / "a.json").write_text("mine")
    command = ["analyze", "--csv", str(FIXTURES / "recordings" / "h2o_metrics.expected.csv")]
    for flags in ([f"--offline-lossless-online-json={online}", "--out=k.md", "--overwrite"], ["--out=a.md"]):
        assert main([*command, *(flag.replace("--out=", f"--out={tmp_path}/") for flag in flags)]) == 2
    assert capsys.readouterr().err.replace(str(tmp_path), "DIR") == snapshot
    assert online.read_bytes() == (ORACLE / online.with_stem("online_grouped_192_8_front2").name).read_bytes()
    assert {path.name: path.read_text() for path in tmp_path.iterdir() if path != online} == {"a.json": "mine"}


@pytest.mark.parametrize("command", ["parse", "lossless"])
def test_other_commands_do_not_overwrite_what_they_read(command: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"precious")
    flags = {"parse": ["--log-files", "--out-csv"], "lossless": ["--dump-dir", "--out-json"]}[command]
    assert main([command, flags[0], str(source), flags[1], str(source), "--overwrite"]) == 2
    assert source.read_bytes() == b"precious"


def test_sweep_refuses_what_it_cannot_run_with(
    replayed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], snapshot: SnapshotAssertion
) -> None:
    told = {}
    for flag in ("--timeout=-1", "--timeout=nan", "--threads=0"):
        assert sweep(tmp_path / "run", flag) == 2
        told[flag] = capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").write_text("mine")
    assert sweep(tmp_path / "run") == 2
    told["a file as its folder"] = capsys.readouterr().err.replace(str(tmp_path), "DIR")
    assert told == snapshot


def test_analyze_without_a_baseline_or_an_online_simulation_does_not_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for rule in ("joint", "best-of"):
        code, analysis = analyze(tmp_path, f"--rule={rule}")
        assert (code, analysis["overall_pass"]) == (1, False)
        assert analysis["missing"] == [
            "no baseline: nothing says how fast decode is with H2O off (--decode-baseline TOK_PER_S, or none)"
        ]
    assert analyze(tmp_path, "--decode-baseline=none")[0] == 0
    rows, upper = FIXTURES / "recordings" / "h2o_metrics.expected.csv", ORACLE / "upper_front2.json"
    command = ["analyze", f"--csv={rows}", f"--offline-lossless-json={upper}", "--decode-baseline=56.02"]
    assert main([*command, f"--out={tmp_path / 'a.md'}"]) == 1
    assert "missing: no online simulation: an upper bound never decides" in capsys.readouterr().out

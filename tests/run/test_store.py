"""What processes share is made once."""

import errno
import importlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_h2o.bench.command import read_base_config
from pytest_h2o.bench.rows import Row
from pytest_h2o.bench.sweep import digest_launches
from pytest_h2o.codecs.registry import register, unregister
from pytest_h2o.errors import StoreError
from pytest_h2o.inputs.presets import preset_from_flags
from pytest_h2o.inputs.scope import Scope
from pytest_h2o.run.store import ASKED, SHARED, OnceStore, describe_asked, is_in_use, make_ready
from tests.report.gate_items import make_session


def test_a_store_is_in_use_until_its_process_ends(tmp_path: Path) -> None:
    assert not is_in_use(tmp_path)
    store = OnceStore(tmp_path)
    store.use()
    assert is_in_use(tmp_path)
    del store
    assert not is_in_use(tmp_path)


def test_a_result_is_made_once_for_all_who_ask(tmp_path: Path) -> None:
    made: list[int] = []
    barrier = threading.Barrier(4)
    results = []

    def ask() -> None:
        store = OnceStore(tmp_path)
        barrier.wait()
        results.append(store.once("point/run_0001", lambda: made.append(1) or {"value": 0.1}))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
    assert results == [{"value": 0.1}] * 4


def test_a_computation_that_fails_is_not_kept(tmp_path: Path) -> None:
    store = OnceStore(tmp_path)

    def fail() -> dict[str, int]:
        raise StoreError("no")

    with pytest.raises(StoreError):
        store.once("key", fail)
    assert store.once("key", lambda: {"a": 1}) == {"a": 1}


def test_what_was_changed_since_it_was_kept_is_refused_and_measured_again(tmp_path: Path) -> None:
    """A digit in a kept result; what a run was asked is not made anew, or it could be another question."""
    run, results = tmp_path, tmp_path / SHARED
    for key in ("run/a/small/run_0001", "scope/front2", "decode/small/pair_01", ASKED):
        OnceStore(results).once(key, lambda: {"value": {"h2o_lossy": 3.25, "text": "é"}})
    for path in results.rglob("*.json"):
        assert OnceStore(results).once(str(path.relative_to(results))[:-5], dict)["value"]["h2o_lossy"] == 3.25
        path.write_text(path.read_text().replace("3.25", "3.35"))
        with pytest.raises(StoreError, match="was changed after it was written"):
            OnceStore(results).once(str(path.relative_to(results))[:-5], dict)
    make_ready(run)
    assert [path.name for path in results.rglob("*.json")] == [f"{ASKED}.json"]
    with pytest.raises(StoreError, match="was changed after it was written"):
        OnceStore(results).once(ASKED, dict)


@pytest.mark.parametrize("change", ["edit", "remove", None])
def test_what_rests_on_a_file_that_was_changed_is_measured_again(tmp_path: Path, change: str | None) -> None:
    """And so is what was made of several such."""
    store, log = OnceStore(tmp_path / SHARED), tmp_path / "small" / "logs" / "pair_01_baseline.log"
    log.parent.mkdir(parents=True)
    log.write_text("| 3.25 |")
    row = Row({}, log.name, log_path=log)
    store.once("decode/v3.1/pair_01", lambda: {"files": digest_launches(row)})
    store.once("decode/v3.1/pair_02", lambda: {"files": {}})
    store.once("decode/v3.1", lambda: {"value": 1})
    if change == "edit":
        log.write_text("| 3.35 |")
    elif change == "remove":
        log.unlink()
    make_ready(tmp_path)
    kept = {path.stem for path in (tmp_path / SHARED).rglob("*.json")}
    assert kept == ({"pair_02"} if change else {"pair_01", "pair_02", "v3.1"})


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found"), None),
        (PermissionError(errno.EACCES, "Permission denied", "/models/weights"), "/models/weights"),
    ],
)
def test_what_a_computation_is_refused_is_no_fault_of_the_run_folder(
    error: OSError, where: str | None, tmp_path: Path
) -> None:
    def fail() -> dict[str, int]:
        raise error

    with pytest.raises(StoreError, match="what is kept as key cannot be made") as caught:
        OnceStore(tmp_path).once("key", fail)
    assert (caught.value.where, caught.value.came) == (where, error.strerror)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOLCK, "No locks available"), "a folder on a file system that has locks"),
        (NotImplementedError("no flock here"), "a folder on a file system that has locks"),
        (OSError(errno.EROFS, "Read-only file system"), "a folder that can be written"),
    ],
)
def test_a_run_folder_that_cannot_be_used_says_what_it_lacks_and_the_way_out(
    error: Exception, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with pytest.raises(StoreError, match="the run folder cannot be written") as caught:
        OnceStore(tmp_path).once("key", dict)
    assert told in str(caught.value.expected)
    assert "--h2o-out-dir" in str(caught.value.hint)


CODEC = """
from dataclasses import dataclass
from typing import ClassVar
from pytest_h2o.codecs.zstd import Zstd

@dataclass(frozen=True)
class Own(Zstd):
    id: ClassVar[str] = "own_of_resume"
"""


@pytest.fixture
def everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], dict[str, str]]]:
    """What a run is asked that rests on files of each kind."""
    (tmp_path / "own_codec.py").write_text(CODEC)
    monkeypatch.syspath_prepend(tmp_path)
    codec = register(importlib.import_module("own_codec").Own)
    for name in ("prompt.txt", "text.txt", "llm.mnn.weight", "model.gguf"):
        (tmp_path / name).write_text("content 1")
    (tmp_path / "dump" / "layer_0").mkdir(parents=True)
    (tmp_path / "dump" / "layer_0" / "k_t0_1.bin").write_text("content 1")
    values = {"llm_model": "model.gguf", "quality_text_file": "text.txt"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    preset = preset_from_flags().model_copy(update={"prompt_file": tmp_path / "prompt.txt"})
    scope = Scope(name="own", codec=codec.id)
    settings = make_session(tmp_path).settings
    yield lambda: describe_asked(
        settings, ["a"], [(preset, read_base_config(tmp_path / "config.json"), None)], [(scope, tmp_path / "dump")]
    )
    unregister(codec.id)
    sys.modules.pop("own_codec")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("prompt.txt", "texts of preset adhoc"),
        ("text.txt", "texts of preset adhoc"),
        ("llm.mnn.weight", "weights of preset adhoc"),
        ("model.gguf", "weights of preset adhoc"),
        ("dump/layer_0/k_t0_1.bin", "dump of scope own"),
        ("own_codec.py", "code of codec own_of_resume"),
    ],
)
def test_a_run_rests_on_the_content_of_each_file(
    name: str, part: str, everything: Callable[[], dict[str, str]], tmp_path: Path
) -> None:
    """Size and times are those of the file that was there."""
    before, status = everything(), (tmp_path / name).stat()
    os.utime(tmp_path / name)
    assert everything() == before
    (tmp_path / name).write_text(
        (tmp_path / name).read_text().replace("content 1", "content 2").replace("own_", "0wn_")
    )
    os.utime(tmp_path / name, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = everything()
    assert {key for key in after if after[key] != before[key]} == {part}

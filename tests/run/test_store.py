"""What processes share is made once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pytest_h2o.errors import StoreError
from pytest_h2o.run.store import OnceStore, is_in_use, name_run


def test_a_store_is_in_use_until_its_process_ends(tmp_path: Path) -> None:
    assert not is_in_use(tmp_path)
    store = OnceStore(tmp_path)
    store.use()
    assert is_in_use(tmp_path)
    del store
    assert not is_in_use(tmp_path)


def test_names_of_runs_differ() -> None:
    assert len({name_run() for _ in range(50)}) == 50


def test_a_result_is_made_once_for_all_who_ask(tmp_path: Path) -> None:
    made: list[int] = []
    barrier = threading.Barrier(4)
    results = []

    def ask() -> None:
        store = OnceStore(tmp_path)
        barrier.wait()
        results.append(store.once("point/run_0001", lambda: made.append(1) or {"value": 0.1}))  # type: ignore[func-returns-value]

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

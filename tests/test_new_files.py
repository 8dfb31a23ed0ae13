"""New files are whole, and never written over others."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from pytest_h2o.errors import StoreError
from pytest_h2o.files import write_new_json, write_new_text


def test_text_is_written_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.txt"
    write_new_text(path, "é ±\n\r\n")
    assert path.read_bytes() == "é ±\n\r\n".encode()
    assert os.listdir(path.parent) == ["x.txt"]  # noqa: PTH208


def test_json_has_one_space_of_indent(tmp_path: Path) -> None:
    write_new_json(tmp_path / "x.json", {"a": ["é", 1.0]})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == '{\n "a": [\n  "é",\n  1.0\n ]\n}\n'
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"a": ["é", 1.0]}


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("precious")
    with pytest.raises(StoreError) as caught:
        write_new_text(path, "new")
    assert str(caught.value) == (
        "a file that exists would be overwritten\n"
        f"  where: {path}\n"
        "  next: choose another output, or move the old file away"
    )
    assert [file.read_text() for file in tmp_path.iterdir()] == ["precious"]


def test_a_dangling_link_counts_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "x.txt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="would be overwritten"):
        write_new_text(tmp_path / "x.txt", "new")
    assert not (tmp_path / "elsewhere").exists()


def test_one_of_many_writers_wins(tmp_path: Path) -> None:
    path, refused = tmp_path / "x.txt", []

    def write(text: str) -> None:
        try:
            write_new_text(path, text)
        except StoreError as error:
            refused.append((text, error.what))

    threads = [threading.Thread(target=write, args=(str(n) * 1000,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 7
    assert path.read_text() not in [text for text, _ in refused]
    assert [file.name for file in tmp_path.iterdir()] == ["x.txt"]


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    write_new_text(tmp_path / "x.txt", "new")
    with pytest.raises(StoreError, match="would be overwritten"):
        write_new_text(tmp_path / "x.txt", "newer")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("x.txt", "new")]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError) as caught:
        write_new_text(tmp_path / "file" / "x.txt", "new")
    assert (caught.value.what, caught.value.where) == ("a file cannot be written", str(tmp_path / "file" / "x.txt"))


def test_text_that_utf8_cannot_carry(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        write_new_text(tmp_path / "x.txt", "a\udcff")
    assert (caught.value.what, caught.value.came) == (
        "text that UTF-8 cannot carry was to be written",
        "'\\udcff' at character 1",
    )
    assert list(tmp_path.iterdir()) == []

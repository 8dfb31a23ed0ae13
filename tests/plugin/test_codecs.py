"""Codecs in a gate: any registered one, a user's own from a conftest or a hook, and the rotation that they are told.

The hook and the example are those of docs/codecs.md.
"""

import json
import shutil
from typing import Any

import pytest

from tests.plugin.project import BASE_CONFIG, DUMPS, Project, add_plugin, check_failed, replace_in

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

IN_CONFTEST = "import my_codec"
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
    return json.loads(path.read_text())


@pytest.mark.parametrize("conftest", [IN_CONFTEST, BY_HOOK], ids=["register", "hook"])
def test_a_codec_of_ones_own_is_gated(conftest: str, project: Project) -> None:
    add_plugin(project, conftest)
    if conftest == BY_HOOK:  # without the decorator, so that nothing but the hook makes it known
        replace_in(project.path / "gates" / "my_codec.py", "@register\n", "")
    write_scope(project, "my_codec", 1.15)
    result = project.run("-k", "mine")
    assert result.ret == 0
    assert result.parseoutcomes()["passed"] == 2
    found = read_result(project)
    assert (found["codec"], found["codec_config"]) == ("my_codec", {"id": "my_codec"})
    assert found["verified_streams"] == found["encoded_streams"] == 30
    assert found["lossless_ratio"] > 1.15


CHEAT = """
from dataclasses import dataclass
import numpy as np
from pytest_h2o import Codec
{before}
def pytest_h2o_codecs(config):
    @dataclass(frozen=True)
    class Cheat(Codec):
        id = "cheat"
        def encode(self, stream):
            w = stream.words; {encode}
        def decode(self, payload, side):
            return {decode}.reshape(side.shape)
    return [Cheat]
"""
CHEATS = {
    "a table": ("kept = {}", "kept.setdefault(len(kept), w.copy()); return bytes([len(kept) - 1])", "kept[payload[0]]"),
    "in place": ("", "w &= 0xF000; return w.tobytes()", "np.frombuffer(payload, np.uint16)"),
    "leaves": ("", "__import__('os')._exit(0)", "None"),
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_codec_that_deceives_is_no_pass(cheat: str, project: Project) -> None:
    before, encode, decode = CHEATS[cheat]
    (project.path / "gates" / "conftest.py").write_text(CHEAT.format(before=before, encode=encode, decode=decode))
    write_scope(project, "cheat", 1.0)
    result = project.run("-k", "mine")
    check_failed(project, result, "test_lossless[mine]", "test_roundtrip[mine]")
    assert all("codec cheat cannot " in why for why in project.failed().values())


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

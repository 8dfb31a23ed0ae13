"""Every fuzz target for a moment: its seeds, mutations of them, and bytes of any kind; always the same ones.

``python tools/fuzz.py`` looks further.
"""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_h2o.codecs.registry import BUILT_IN
from pytest_h2o.errors import H2OError
from tests.fuzz.mutation import mutate
from tests.fuzz.target import SEEDS, Target, check, check_memory
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
EXAMPLES = 25
every_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@every_target
def test_every_seed_keeps_the_promises(target: Target, tmp_path: Path) -> None:
    """Some seeds are sound, so that a target is known to get further than its first check."""
    taken = []
    for number, seed in enumerate(target.seeds()):
        own = tmp_path / str(number)
        own.mkdir()
        taken.append(check_memory(target, seed, own))
    assert any(taken)


@every_target
def test_any_bytes_keep_the_promises(target: Target, folder: Path) -> None:
    seeds = target.seeds()

    def mutated(number: int) -> bytes:
        return mutate(seeds, target.tokens, random.Random(number))

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
    @given(data=st.integers(0, 1 << 32).map(mutated) | st.binary(max_size=200))
    def hold(data: bytes) -> None:
        check_memory(target, data, folder)

    hold()


def test_every_codec_and_every_folder_of_seeds_has_a_target() -> None:
    assert {f"payload_{name}" for name in BUILT_IN} <= set(TARGETS)
    assert {path.name for path in SEEDS.iterdir()} <= set(TARGETS)


def _leave_alone(data: bytes, folder: Path) -> bool:
    return True


def _raise_other(data: bytes, folder: Path) -> bool:
    raise ValueError("not one of ours")


def _refuse(data: bytes, folder: Path) -> bool:
    raise H2OError("no", came=data.decode("latin-1"))


def _refuse_raw(data: bytes, folder: Path) -> bool:
    class Raw(H2OError):
        def __str__(self) -> str:
            return "\x1b[2J"

    raise Raw("no")


def _write_outside(data: bytes, folder: Path) -> bool:
    (folder.parent / "outside").write_bytes(data)
    return True


def _read_outside(data: bytes, folder: Path) -> bool:
    return bool((ROOT / "README.md").read_bytes())


def _take_memory(data: bytes, folder: Path) -> bool:
    return bool(bytearray(100 << 20))


def test_the_promises_can_be_broken(tmp_path: Path) -> None:
    """What holds the targets tells a breach of each promise."""
    folder = tmp_path / "own"
    folder.mkdir()
    assert check(Target("t", _leave_alone), b"", folder)
    assert not check(Target("t", _refuse), b"\x1b[2J\x9b\r" * 10_000, folder)
    with pytest.raises(ValueError, match="not one of ours"):
        check(Target("t", _raise_other), b"", folder)
    with pytest.raises(AssertionError, match="x1b"):
        check(Target("t", _refuse_raw), b"", folder)
    with pytest.raises(AssertionError, match=r"opened .*/outside"):
        check(Target("t", _write_outside), b"", folder)
    with pytest.raises(AssertionError, match=r"opened .*/README.md"):
        check(Target("t", _read_outside), b"", folder)
    with pytest.raises(AssertionError, match="bytes of memory for 0 bytes"):
        check_memory(Target("t", _take_memory), b"", folder)


def test_mutations_are_the_same_for_the_same_seed() -> None:
    ones, twos = ([mutate([b"abcdef"], [b"xyz"], random.Random(n)) for n in range(50)] for _ in range(2))
    assert ones == twos
    assert len(set(ones)) > 40


@pytest.mark.slow
def test_the_long_run_keeps_what_it_finds(tmp_path: Path) -> None:
    """An exception, an input that kills the process, and one that never ends are findings, each with its input."""
    tool = (ROOT / "tools" / "fuzz.py").read_text(encoding="utf-8")
    spoiled = "import os; from tests.fuzz.targets import TARGETS; from tests.fuzz.target import Target\n"
    bodies = {"raises": "1 / 0", "dies": "os.kill(os.getpid(), 11)", "hangs": "while True: pass"}
    for name, body in bodies.items():
        spoiled += f"def {name}(data, folder):\n    {body}\nTARGETS['{name}'] = Target('{name}', {name})\n"
    script = tmp_path / "fuzz.py"
    marker = "    from tests.fuzz.targets import TARGETS\n"
    assert tool.count(marker) >= 2
    indented = "".join(f"    {line}\n" for line in spoiled.splitlines())
    tool = tool.replace(marker, indented).replace("parent.parent", "parent").replace("_INPUT_S = 20", "_INPUT_S = 0.3")
    script.write_text(tool.replace("ROOT = Path(__file__).resolve().parent", f"ROOT = Path({str(ROOT)!r})"))
    found = tmp_path / "found"
    flags = ["--seconds", "0.5", "--engine", "plain", "--findings", str(found)]
    names = [flag for name in bodies for flag in ("--target", name)]
    done = subprocess.run(
        [sys.executable, str(script), *flags, *names], capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 1, done.stdout + done.stderr
    for name, why in (("raises", "ZeroDivisionError"), ("dies", "SIGSEGV"), ("hangs", "SIGPROF")):
        (text,) = (found / name).glob("*.txt")
        assert why in text.read_text()
        assert text.with_suffix("").is_file()

"""What a fuzz target is, and what every one of them promises, whatever the bytes.

Either a result that its target has checked, or one of the errors of this project, whose text is harmless and short;
within bounded memory; nothing opened for writing, and nothing opened for reading but what was given.
"""

import os
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest_h2o
from pytest_h2o.errors import H2OError

SEEDS = Path(__file__).parent / "seeds"
MAX_MESSAGE = 1 << 16
"""Characters of an error: more than a person reads, and less than floods a log."""

Run = Callable[[bytes, Path], bool]


def allow_memory(data: bytes) -> int:
    """Bytes that a target may take for `data`: parsed text is some fifty times as large as its bytes."""
    return (32 << 20) + 256 * len(data)


@dataclass(frozen=True)
class Target:
    """One reader."""

    name: str
    """Also the folder of its seeds."""
    run: Run
    """Takes any bytes and a folder of its own, in which it may write what it reads. True: a result came, and was
    checked. False: they were refused, in another way than with an error of ours."""
    make_seeds: Callable[[], Sequence[bytes]] = field(default=lambda: ())
    """Sound inputs, made or read; those in ``seeds/NAME`` come to them."""
    tokens: tuple[bytes, ...] = ()
    """What a mutation may put in: words of the format."""
    memory: Callable[[bytes], int] = allow_memory
    """Bytes of memory that some input may take."""

    def seeds(self) -> list[bytes]:
        """Sound inputs, and those that once found a fault."""
        kept = sorted((SEEDS / self.name).glob("*"))
        return [*self.make_seeds(), *(path.read_bytes() for path in kept)]


def check(target: Target, data: bytes, folder: Path) -> bool:
    """Hold one target to its promises; True if `data` was taken. What breaks one is an AssertionError, or what came."""
    with _watched(folder):
        try:
            return target.run(data, folder)
        except H2OError as error:
            text = str(error)
    assert len(text) <= MAX_MESSAGE, f"an error of {len(text)} characters: {text[:200]!r}"
    check_harmless(text)
    return False


def check_memory(target: Target, data: bytes, folder: Path) -> bool:
    """`check`, with the memory watched; some times as slow."""
    tracemalloc.start()
    try:
        taken = check(target, data, folder)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes <= target.memory(data), f"{peak_bytes} bytes of memory for {len(data)} bytes"
    return taken


def check_harmless(text: str) -> None:
    """Nothing that a terminal would act on, but the end of a line."""
    harmful = {char for char in text if char != "\n" and not char.isprintable()}
    assert not harmful, f"{sorted(harmful)!r} in {text[:500]!r}"


_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_OTHER_DEEDS = frozenset(
    {"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
    | {"os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "shutil.rmtree"}
)
_LIBRARIES = tuple(
    os.path.realpath(path)
    for path in (
        *(path for path in sys.path if path.endswith("site-packages")),
        *(sys.prefix, sys.base_prefix, Path(pytest_h2o.__file__).parent, "/proc", "/dev"),
    )
)
_inside: list[str] = []
"""The one folder in which files may be touched, while a target is watched."""
_folder: list[str] = []
"""The folder opened last: in it lies what is opened by a bare name, as an audit event does not tell the folder."""
_misdeeds: list[str] = []


@contextmanager
def _watched(folder: Path) -> Iterator[None]:
    """Fail if anything outside `folder` was written, or read that is no library."""
    _install()
    _inside[:] = [os.path.realpath(folder)]
    _folder.clear()
    _misdeeds.clear()
    try:
        yield
    finally:
        _inside.clear()
    assert not _misdeeds, _misdeeds


def _install() -> None:
    if not getattr(sys, "_h2o_fuzz_hook", False):  # a hook stays for the life of the process
        sys.addaudithook(_on_event)
        sys._h2o_fuzz_hook = True


def _on_event(event: str, arguments: tuple[Any, ...]) -> None:
    if not _inside:
        return
    if event == "open":
        path, _, flags = arguments
        if isinstance(path, int) or path is None:
            return
        path = os.fsdecode(path)
        if flags & os.O_DIRECTORY:
            _folder[:] = [path]
        elif flags & os.O_NOFOLLOW and "/" not in path:
            path = str(Path(*_folder, path))
        path = os.path.realpath(path)
        if f"{path}/".startswith(f"{_inside[0]}/"):
            return
        if flags & _WRITES or not path.startswith(_LIBRARIES):
            _misdeeds.append(f"opened {path} with flags {flags:#o}")
    elif event in _OTHER_DEEDS and not os.fsdecode(arguments[0] or b"").startswith(_inside[0]):
        _misdeeds.append(f"{event} {arguments!r:.200}")

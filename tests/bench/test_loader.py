"""The libraries that a program loads: as the loader itself says, and no damage that ends in a traceback."""

import functools
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pytest_h2o.bench import command
from pytest_h2o.bench.command import BenchSettings, describe_script, digest_program, find_libraries, read_base_config
from pytest_h2o.run.pairs import calibration_path
from tests.plugin.project import Project, unwrapped

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc to build programs with")


MAIN = "int outer(void); int main(void) { return outer(); }"


@functools.cache
def built(flags: tuple[str, ...], inner: tuple[str, ...], main: str) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "inner.c").write_text("int inner(void) { return 3; }\n")
        (folder / "outer.c").write_text("int inner(void); int outer(void) { return inner(); }\n")
        (folder / "main.c").write_text(f"{main}\n")
        for words in (
            ("-shared", "-o", "libinner.so", "inner.c"),
            ("-shared", "-o", "libouter.so", "outer.c", "-L.", "-linner", *inner),
            ("-o", "llm_bench", "main.c", "-L.", "-louter", "-Wl,--allow-shlib-undefined", *flags),
        ):
            subprocess.run(["gcc", *words], cwd=folder, check=True)
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def build(folder: Path, *flags: str, inner: tuple[str, ...] = (), main: str = MAIN) -> Path:
    """A program that loads libouter.so, which loads libinner.so; `flags` link the program, `inner` the outer one."""
    folder.mkdir(exist_ok=True)
    for name, data in built(flags, inner, main).items():
        (folder / name).write_bytes(data)
    (folder / "llm_bench").chmod(0o755)
    return folder / "llm_bench"


def loaded(program: Path, **env: str) -> set[str]:
    """What the loader says that it would load, from outside the system's folders."""
    environment = {**os.environ, **env, "LD_TRACE_LOADED_OBJECTS": "1"}
    told = subprocess.run([program], env=environment, capture_output=True, text=True, check=True).stdout
    paths = (line.split("=>")[1].split("(")[0].strip() for line in told.splitlines() if "=>" in line)
    return {os.path.realpath(path) for path in paths if path.startswith("/") and not path.startswith(("/lib", "/usr"))}


OLD = "-Wl,--disable-new-dtags"
NEW = "-Wl,--enable-new-dtags"


@pytest.mark.parametrize(
    ("flags", "inner", "count"),
    [
        ((OLD, "-Wl,-rpath,$ORIGIN"), (), 2),  # RPATH holds for what the libraries need as well
        ((NEW, "-Wl,-rpath,$ORIGIN"), (), 1),  # RUNPATH for the program alone
        ((NEW, "-Wl,-rpath,${ORIGIN}"), (NEW, "-Wl,-rpath,$ORIGIN/."), 2),
        ((OLD, "-Wl,-rpath,$ORIGIN"), (NEW, "-Wl,-rpath,/nowhere"), 1),  # a RUNPATH takes RPATHs of others away
        ((), (), 0),
    ],
)
@pytest.mark.parametrize("searched", ["", "other", "other:here"])
def test_libraries_are_those_of_the_loader(
    tmp_path: Path, flags: tuple[str, ...], inner: tuple[str, ...], count: int, searched: str
) -> None:
    program = build(tmp_path / "here", *flags, inner=inner)
    build(tmp_path / "other")
    link = tmp_path / "link"
    link.symlink_to(program)
    env = {"LD_LIBRARY_PATH": ":".join(str(tmp_path / name) for name in searched.split(":"))} if searched else {}
    found = {str(path) for path in find_libraries(link, env)}
    assert found == loaded(link, **env)
    if not searched:
        assert len(found) == count


def test_libraries_of_the_cache_of_the_loader_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = build(tmp_path / "here")
    monkeypatch.setattr(command, "_CACHE", tmp_path / "ld.so.cache")
    assert find_libraries(program, {}) == ()
    names = [text.encode() for name in ("libouter.so", "libinner.so") for text in (name, str(program.parent / name))]
    starts = [48 + 2 * 24 + sum(len(name) + 1 for name in names[:place]) for place in range(4)]
    entries = b"".join(struct.pack("=iIIIQ", 1, *starts[place : place + 2], 0, 0) for place in (0, 2))
    cache = (
        b"glibc-ld.so.cache1.1" + struct.pack("=II", 2, 0) + bytes(20) + entries + b"".join(n + b"\0" for n in names)
    )
    for old in (b"", b"ld.so-1.7.0\0" + bytes(12)):  # an older form may stand before it
        (tmp_path / "ld.so.cache").write_bytes(old + cache)
        assert len(find_libraries(program, {})) == 2
    (tmp_path / "ld.so.cache").write_bytes(cache[:100])
    assert find_libraries(program, {}) == ()


def test_a_library_that_is_built_anew_makes_another_engine(tmp_path: Path) -> None:
    program = build(tmp_path / "build", OLD, "-Wl,-rpath,$ORIGIN")
    before = digest_program(program)
    shutil.copytree(tmp_path / "build", tmp_path / "copy")
    assert digest_program(tmp_path / "copy" / program.name) == before
    library = tmp_path / "build" / "libinner.so"
    library.write_bytes(library.read_bytes() + b"\0")
    assert digest_program(program) != before


@pytest.mark.parametrize(
    "named", ["{home}/real", './real "$@"', 'exec "$(dirname "$0")/real"', "exec {home}/../x/inner"]
)
def test_an_executable_that_a_script_starts_is_part_of_the_engine(tmp_path: Path, named: str) -> None:
    home = tmp_path / "x"
    home.mkdir()
    for name, text in (("bench", named.format(home=home)), ("inner", "real >> log"), ("real", "exit 1"), ("log", "")):
        (home / name).write_text(f"#!/bin/sh\n{text}\n")
        (home / name).chmod(0o644 if name == "log" else 0o755)
    before = digest_program(home / "bench")
    (home / "log").write_text("what a launch wrote")
    assert digest_program(home / "bench") == before
    (home / "real").write_text("#!/bin/sh\nexit 2\n")
    assert digest_program(home / "bench") != before
    known = "inner" if "inner" in named else "real"
    told = f"bench is a script, which may start anything: of that the executables it names are known ({known})"
    assert describe_script(home / "bench") == told
    assert describe_script(Path(sys.executable)) is None


def test_an_engine_or_model_that_was_changed_in_place_is_another_to_a_calibration(tmp_path: Path) -> None:
    bench = BenchSettings.for_program(build(tmp_path, OLD, "-Wl,-rpath,$ORIGIN"))
    paths = set()
    for name in ("config.json", "libinner.so", "llm.mnn.weight", "llm_config.json"):
        with (tmp_path / name).open("ab") as file:
            file.write(b"{}")
        paths.add(calibration_path(bench, read_base_config(tmp_path / "config.json")))
    assert len(paths) == 4


def test_a_swapped_library_is_told_where_an_earlier_run_is_compared_with(tmp_path: Path) -> None:
    project = Project(tmp_path)
    bench = project.make_bench()
    (tmp_path / "llm_bench").rename(tmp_path / "fake")
    main = "#include <unistd.h>\nint outer(void); int main(int n, char **v) { outer(); return execv(FAKE, v); }"
    main = main.replace("FAKE", f'"{tmp_path}/fake"')
    build(tmp_path, OLD, "-Wl,-rpath,$ORIGIN", main=main)
    one = ("h2o_keep_ratios=0.28", "h2o_block_tokens=8", "h2o_target_lossy_ratios=3.4", "model_layers=30")
    asked = (*bench, *(f"--h2o-set={key}" for key in one), "-k", "target_ratio_v3 and (lossy or regression)")
    first = project.run(*asked, "--h2o-save=main")
    assert first.ret == 0, first.stdout.str()
    first.stdout.fnmatch_lines(["h2o: bench * sha256 * with libinner.so, libouter.so, tells no version"])
    library = tmp_path / "libinner.so"
    library.write_bytes(library.read_bytes() + b"\0")
    result = project.run(*asked, "--h2o-compare=main")
    assert result.ret == 0
    assert re.search(r"timings are not compared; binary: [0-9a-f]{16} then, [0-9a-f]{16} now", unwrapped(result))


def test_a_preloaded_library_and_one_named_by_its_path_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = build(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    subprocess.run(["gcc", "-o", "direct", "main.c", "./libouter.so", "-Wl,--allow-shlib-undefined"], check=True)
    preloaded = {"LD_PRELOAD": f"{program.parent}/libinner.so"}
    assert find_libraries(program, preloaded) == (program.parent / "libinner.so",)
    assert find_libraries(Path("direct"), {}) == (program.parent / "libouter.so",)


@pytest.mark.parametrize(
    "text", [b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF" + b"\xff" * 60, b"\x7fELF\2\1" + b"\0" * 58]
)
def test_what_is_no_program_loads_nothing(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "bench").write_bytes(text)
    assert find_libraries(tmp_path / "bench") == ()
    assert find_libraries(tmp_path / "none") == ()
    assert find_libraries(tmp_path) == ()


def test_no_damage_ends_in_a_traceback(tmp_path: Path) -> None:
    program = build(tmp_path, OLD, "-Wl,-rpath,$ORIGIN")
    whole, draw = program.read_bytes(), random.Random(4)
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(draw.randrange(1, 40)):
            damaged[draw.choice((draw.randrange(64), draw.randrange(1200), draw.randrange(len(whole))))] = (
                draw.randrange(256)
            )
        program.write_bytes(damaged[: draw.choice((len(whole), draw.randrange(len(whole))))])
        find_libraries(program)

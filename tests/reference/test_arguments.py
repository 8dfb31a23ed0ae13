"""The command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_h2o.reference.arguments import Arguments, ArgumentsError, parse_arguments


def test_a_full_command_line() -> None:
    argv = "-m c.json -a cpu -t 2 -qatten 0 -kv true -p 64,512 -n 8 -rep 3 -fp out.log -j out.json -mmp 1 -load true"
    assert parse_arguments(argv.split()) == Arguments(
        model=Path("c.json"),
        threads=2,
        prompts=(64, 512),
        gens=(8,),
        repeat=3,
        kv_cache=True,
        file_print=Path("out.log"),
        json_file=Path("out.json"),
        loading_time=True,
        mmap=True,
    )


def test_defaults_are_those_of_the_binary() -> None:
    arguments = parse_arguments([])
    assert (arguments.prompts, arguments.gens, arguments.repeat, arguments.threads) == ((512,), (128,), 5, 4)
    assert (arguments.kv_cache, arguments.precision, arguments.file_print) == (False, 2, None)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--bogus"], "error: invalid parameter for argument: --bogus"),
        (["-t"], "error: no value for argument: -t"),
        (["-t", "0"], "error: invalid value for argument: -t 0 (expected a whole number from 1 to 1024)"),
        (["-t", "1,2"], "error: invalid value for argument: -t 1,2 (too many or too few numbers)"),
        (["-p", "12,x"], "error: invalid value for argument: -p x (expected a whole number from 1 to 16777216)"),
        (["-p", "٣"], "error: invalid value for argument: -p ٣ (expected a whole number from 1 to 16777216)"),
        (["-kv", "yes"], "error: invalid value for argument: -kv yes (expected true or false)"),
        (["-pg", "3"], "error: invalid value for argument: -pg 3 (too many or too few numbers)"),
    ],
)
def test_a_command_line_that_cannot_be_read(argv: list[str], message: str) -> None:
    with pytest.raises(ArgumentsError) as caught:
        parse_arguments(argv)
    assert str(caught.value) == message

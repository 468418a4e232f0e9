"""Command lines in messages survive the shell."""

from __future__ import annotations

import doctest
import json
import shlex
import subprocess
import sys

import pytest

from llamarec import command
from llamarec.command import flags_of, typed, with_flags
from llamarec.data.config import DataConfig

WORDS = ["--items_file", 'My data/50% "off".csv', "it's", "", "$HOME", "a\\b"]


def test_the_shell_reads_the_same_words() -> None:
    line = typed([sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))", *WORDS])
    # On Windows list2cmdline's quoting is what a program's own arguments are parsed from.
    said = subprocess.run(line, shell=sys.platform != "win32", capture_output=True, text=True, check=True).stdout
    assert json.loads(said) == WORDS


def test_quoting_is_that_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamarec.command.os.name", "posix")
    assert shlex.split(typed(["a b", "c"])) == ["a b", "c"]
    monkeypatch.setattr("llamarec.command.os.name", "nt")
    assert typed(["C:\\My data\\x.csv", "c"]) == '"C:\\My data\\x.csv" c'


def test_flags_of_options_are_those_that_are_not_at_their_defaults() -> None:
    options = DataConfig("my shop.csv", items_file="items.csv", min_item_interactions=2, temporal_test_share=0.25)
    flags = flags_of(options)
    assert flags == [
        *("--dataset_code", "my shop.csv", "--min_item_interactions", "2"),
        *("--temporal_test_share", "0.25", "--items_file", "items.csv"),
    ]
    assert flags_of(DataConfig()) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["x.py"], ["x.py", "--from", "good"]),
        (["x.py", "--from", "bad", "--rate", "-1"], ["x.py", "--rate", "-1", "--from", "good"]),
        (["x.py", "--from=bad", "--rate", "1"], ["x.py", "--rate", "1", "--from", "good"]),
        (["x.py", "--from", "--rate", "1"], ["x.py", "--rate", "1", "--from", "good"]),
        (["x.py", "--fro", "1", "--from_all", "2"], ["x.py", "--fro", "1", "--from_all", "2", "--from", "good"]),
    ],
)
def test_flags_take_the_place_of_those_of_the_same_names(words: list[str], expected: list[str]) -> None:
    assert with_flags(words, ["--from", "good"]) == expected


def test_both_spellings_of_a_flag_are_one() -> None:
    assert with_flags(["x.py", "--a-b", "1"], ["--a_b", "2", "--yes"]) == ["x.py", "--a_b", "2", "--yes"]


def test_examples() -> None:
    assert doctest.testmod(command).failed == 0

"""Flags from dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from llamarec.cli.arguments import Parser, add_dataclass_arguments, dataclass_from
from llamarec.errors import ConfigError


@dataclass(frozen=True)
class Options:
    """Options of every kind."""

    name: str = field(default="a", metadata={"help": "A name."})
    count: int = field(default=3, metadata={"help": "How many, 100% sure."})
    rate: float = field(default=0.5, metadata={"help": "A rate."})
    fast: bool = field(default=False, metadata={"help": "Hurry."})


def _parse(*argv: str) -> Options:
    parser = Parser(prog="x")
    add_dataclass_arguments(parser, Options, title="options")
    return dataclass_from(Options, parser.parse_args(argv))


def test_values_have_their_types() -> None:
    assert _parse("--name", "b", "--count", "7", "--rate", "1e-3") == Options("b", 7, 1e-3)


@pytest.mark.parametrize(
    ("argv", "value"), [([], False), (["--fast"], True), (["--fast", "False"], False), (["--fast", "true"], True)]
)
def test_a_boolean_means_what_it_says(argv: list[str], value: bool) -> None:
    assert _parse(*argv).fast is value


@pytest.mark.parametrize("argv", [["--fast", "maybe"], ["--count", "x"], ["--cou", "1"], ["--unknown"]])
def test_what_does_not_fit_is_a_config_error_with_the_next_command(argv: list[str]) -> None:
    with pytest.raises(ConfigError, match="x --help"):
        _parse(*argv)


def test_help_shows_defaults_and_percent_signs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "How many, 100% sure (default: 3)." in text


def test_an_unknown_flag_is_answered_with_the_nearest() -> None:
    parser = Parser(prog="train.py")
    parser.add_argument("--num_epochs")
    with pytest.raises(ConfigError, match=r"(?s)unknown flag --num_train_epochs.*--num_epochs\? \(train.py --help"):
        parser.parse_args(["--num_train_epochs", "4"])
    with pytest.raises(ConfigError, match=r"(?s)--zzz.*next: +train.py --help"):
        parser.parse_args(["--zzz"])

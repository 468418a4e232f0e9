"""Messages are laid out in one place, from lines."""

from __future__ import annotations

import doctest

import pytest

from llamarec import errors
from llamarec.errors import ConfigError, LlamarecError, check_all


def test_lines_stand_below_each_other() -> None:
    error = LlamarecError("x.json is wrong", expected="an object", found=["a list", "of numbers"], hint=["a", "b"])

    assert str(error).splitlines() == [
        "x.json is wrong",
        "  expected: an object",
        "  found:    a list",
        "            of numbers",
        "  next:     a",
        "            b",
    ]
    assert (error.expected, error.found, error.hint) == ("an object", "a list\nof numbers", "a\nb")


@pytest.mark.parametrize("nothing", [None, "", []])
def test_what_is_empty_has_no_row(nothing: str | list[str] | None) -> None:
    assert str(LlamarecError("x", expected=nothing, found=nothing, hint=nothing)) == "x"


def test_every_broken_rule_is_listed() -> None:
    rules = [(False, "--a: 1 or more"), (True, "--b: 2 or more"), (False, "--c: 3 or more")]

    with pytest.raises(ConfigError) as caught:
        check_all("these do not fit", rules, hint="other values")

    assert str(caught.value).splitlines() == [
        "these do not fit:",
        "    --a: 1 or more",
        "    --c: 3 or more",
        "  next:     other values",
    ]
    check_all("these do not fit", [(True, "--a: 1 or more")])


def test_examples() -> None:
    assert doctest.testmod(errors).failed == 0

"""Calls `llamarec checkpoints` as a user does, in a narrow terminal."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llamarec.cli.main import main

WIDTH = 60
_LONG_WORD = re.compile(r"\s*(\w+ +)?\S+")


@dataclass
class Command:
    """Runs verbs against one experiment root."""

    root: Path
    capture: pytest.CaptureFixture[str]
    error: str = ""

    def __call__(self, *argv: str, code: int = 0) -> str:
        """stdout; stderr is kept in `error`."""
        self.capture.readouterr()
        assert main(["checkpoints", *argv, "--experiment_root", str(self.root)]) == code, self.capture.readouterr()
        output, self.error = self.capture.readouterr()
        assert output.isascii()
        assert "\x1b" not in output
        return output

    def narrow(self, *argv: str, code: int = 0) -> str:
        """As called, but no line may be wider than the terminal, unless with a word that may not be cut."""
        output = self(*argv, code=code)
        for line in output.splitlines():
            assert len(line) <= WIDTH or _LONG_WORD.fullmatch(line), line
            assert line == line.rstrip()
        return output

    def json(self, *argv: str, code: int = 0) -> Any:
        """stdout as strict JSON."""
        return json.loads(self(*argv, "--json", code=code), parse_constant=_refuse)

    def checkpoints(self, dataset_code: str = "beauty") -> Path:
        """The folder of a run's checkpoints."""
        return self.root / "llm" / dataset_code / "checkpoints"


def _refuse(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")

"""A root with runs, and the command line against it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.checkpoints_command import WIDTH, Command


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """`llamarec checkpoints` in a terminal of 60 columns, with an empty experiment root."""
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    return Command(tmp_path / "experiments", capsys)

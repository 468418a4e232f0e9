"""Help of `llamarec checkpoints`: fast, and complete."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llamarec.cli.main import main
from tests.cli.checkpoints_command import WIDTH

ROOT = Path(__file__).resolve().parents[2]
VERBS = ("list", "show", "verify", "diff", "backup", "restore", "prune", "du")
HEAVY = ("torch", "transformers", "peft", "polars", "rich", "fsspec", "numpy", "safetensors")


def test_no_help_loads_anything_heavy() -> None:
    code = (
        "import sys\nfrom llamarec.cli.main import main\n"
        f"for argv in [[], *([verb] for verb in {VERBS!r})]:\n"
        "    try:\n        main(['checkpoints', *argv, '--help'])\n"
        "    except SystemExit as end:\n        assert not end.code\n"
        f"print('LOADED:', *({set(HEAVY)!r} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.count("usage: llamarec checkpoints") == 1 + len(VERBS)
    assert done.stdout.splitlines()[-1] == "LOADED:"


def _help(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["checkpoints", *argv, "--help"])
    assert not end.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_fits_a_narrow_terminal(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    text = _help(capsys, verb)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "--json" in text
    assert text.isascii()


def test_help_of_the_command_names_every_verb_and_what_run_and_ckpt_mean(capsys: pytest.CaptureFixture[str]) -> None:
    text = _help(capsys)
    for word in (*VERBS, "RUN is one of", "CKPT is one of", "RUN:latest"):
        assert word in text


def test_verify_documents_its_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    text = _help(capsys, "verify")
    assert "exit codes:\n  0  all good (or unverified)\n  1  something is damaged or incomplete\n  2  usage" in text

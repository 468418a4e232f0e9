"""Imports point one way (the rules stand in pyproject.toml), and help needs neither torch nor transformers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "llamarec"
HEAVY = {"torch", "transformers", "peft", "polars", "matplotlib"}


def test_the_rules_of_import_linter_hold() -> None:
    program = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True, no_logo=True))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").rglob("*.py")), ids=lambda path: path.name)
def test_commands_import_heavy_packages_inside_functions_only(path: Path) -> None:
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module))

    assert not {name.split(".")[0] for name in names} & HEAVY


@pytest.mark.parametrize(
    "run",
    [
        "from llamarec.cli.main import main; main(['--help'])",
        "from llamarec.cli.main import main; main(['prepare', '--help'])",
        "from llamarec.cli.main import main; main(['plan', '--help'])",
        "from llamarec.cli.main import main; main(['report', '--help'])",
        *(
            f"import runpy; sys.argv = {argv!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
            for argv in (["train_retriever.py", "--help"], ["train_ranker.py", "--help"], ["train_ranker.py", "-h"])
        ),
    ],
    ids=[
        "llamarec",
        "llamarec prepare",
        "llamarec plan",
        "llamarec report",
        "train_retriever.py",
        "train_ranker.py",
        "train_ranker.py -h",
    ],
)
def test_help_loads_nothing_heavy(run: str) -> None:
    code = f"import sys\ntry:\n    {run}\nexcept SystemExit as end:\n    assert not end.code\n"
    code += f"print('LOADED:', *({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "usage:" in done.stdout
    assert done.stdout.splitlines()[-1] == "LOADED:"

"""Imports point one way, and help needs neither torch nor transformers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "llamarec"
LAYERS = [
    "vocabulary",
    "errors",
    "command",
    "checkpoints",
    "hardware",
    "files",
    "assets",
    "data",
    "evaluation",
    "retriever",
    "planning",
    "ranker",
    "recommend",
    "serve",
    "report",
    "export",
    "cli",
]
# Of those side by side at the bottom, each may use what stands before it.
HEAVY = {"torch", "transformers", "peft", "polars", "matplotlib"}


def _imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_every_module_has_a_layer() -> None:
    assert {_layer(path) for path in MODULES} == set(LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_stands_before_it(path: Path) -> None:
    own = LAYERS.index(_layer(path))
    for name in _imports(path):
        parts = name.split(".")
        if parts[0] == "llamarec" and parts[1] in LAYERS:
            assert LAYERS.index(parts[1]) <= own, f"{path.name} imports {name}"


@pytest.mark.parametrize(
    "path", [path for path in MODULES if _layer(path) == "checkpoints"], ids=lambda path: path.name
)
def test_checkpoints_know_nothing_of_the_package_but_its_errors(path: Path) -> None:
    parts = [name.split(".") for name in _imports(path)]
    assert {part[1] for part in parts if part[0] == "llamarec"} <= {"errors", "checkpoints"}


@pytest.mark.parametrize("path", [path for path in MODULES if _layer(path) == "cli"], ids=lambda path: path.name)
def test_commands_import_heavy_packages_inside_functions_only(path: Path) -> None:
    assert not {name.split(".")[0] for name in _imports(path, top_level_only=True)} & HEAVY


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
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert "usage:" in done.stdout
    assert done.stdout.splitlines()[-1] == "LOADED:"

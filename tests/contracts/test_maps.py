"""Maps in docstrings are true: every module of a mapped package is in its map, and every path that is named exists."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

from llamarec import errors
from tests.named import ROOT, is_there

# "name    what it is" or "name, name    what they are".
_ROW = re.compile(r"^ *(\w+(?:, \w+)*) {2,}\S")
_PATH = re.compile(r"(?<![\w/.])((?:llamarec|tests|benchmarks|examples|docs)/[\w./-]*\w\.(?:py|md|json|css|j2))\b")
_MODULE = re.compile(r"`(llamarec(?:\.\w+)+)`")
MAPPED = [
    "llamarec",
    "llamarec.checkpoints",
    "llamarec.checkpoints.backup",
    "llamarec.checkpoints.mirror",
    "llamarec.checkpoints.resume",
    "llamarec.checkpoints.storage",
    "llamarec.checkpoints.trainer",
    "llamarec.checkpoints.trainer.distributed",
    "llamarec.checkpoints.trainer.guards",
    "llamarec.checkpoints.trainer.samples",
    "llamarec.checkpoints.trainer.saves",
    "llamarec.checkpoints.trainer.state",
    "llamarec.cli.checkpoints",
    "llamarec.data",
    "llamarec.data.sources",
    "llamarec.data.tables",
    "llamarec.evaluation",
    "llamarec.planning",
    "llamarec.ranker",
    "llamarec.ranker.model",
    "llamarec.ranker.model.cpu",
    "llamarec.ranker.model.items",
    "llamarec.ranker.options",
    "llamarec.ranker.prompts",
    "llamarec.ranker.trained",
    "llamarec.ranker.training",
    "llamarec.ranker.training.items",
    "llamarec.experts",
    "llamarec.recommend",
    "llamarec.retriever",
]
SOURCES = sorted(
    path for folder in ("llamarec", "tests", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")
)


def _map(docstring: str) -> list[str]:
    """Names in the first column of the rows."""
    rows = [row for line in docstring.splitlines()[1:] if (row := _ROW.match(line))]
    return [name for row in rows for name in row[1].split(", ")]


def _children(folder: Path) -> set[str]:
    packages = {path.parent.name for path in folder.glob("*/__init__.py")}
    return packages | {path.stem for path in folder.glob("*.py")} - {"__init__"}


@pytest.mark.parametrize("name", MAPPED)
def test_a_package_maps_every_module(name: str) -> None:
    mapped = _map(importlib.import_module(name).__doc__ or "")

    assert sorted(mapped) == sorted(_children(ROOT.joinpath(*name.split("."))))


def test_every_package_with_a_map_is_checked() -> None:
    packages = [path for path in SOURCES if path.name == "__init__.py" and ROOT / "llamarec" in path.parents]
    with_map = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in packages
        if _map(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")
    }

    assert with_map == set(MAPPED)


def test_the_tree_of_errors_is_whole() -> None:
    assert errors.__doc__ is not None
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__)
    defined = [
        name for name, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, errors.LlamarecError)
    ]

    assert sorted(["LlamarecError", *drawn]) == sorted(defined)
    assert all(getattr(errors, name).__bases__ == (errors.LlamarecError,) for name in drawn)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_source_file_names_is_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    missing = [name for name in _PATH.findall(text) if not (ROOT / name).exists()]
    missing += [name for name in _MODULE.findall(text) if not is_there(name)]

    assert not missing

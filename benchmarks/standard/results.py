"""Measurements as files: one for each set, split, system and seed, and which of them may be used again.

A file says of what code and data it is: the SHA-256 of every module of this project that its process had loaded, the
versions of the libraries, and the digest of the set. Where one of these is another now, it is measured again. Words for
people (comments, docstrings) do not count.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.standard.protocol import System
from llamarec.checkpoints.storage import json_shapes
from llamarec.checkpoints.storage.json_shapes import ShapeError
from llamarec.files import write_json

ROOT: Final = Path(__file__).resolve().parents[2]
CHANGED_MEANWHILE: Final = "changed while it was measured"
_KEPT_RANKS: Final = 100
_NAMED: Final = 3
_NOT_INSTALLED: Final = "not installed"
_WITH_DOCSTRING: Final = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_PACKAGES: Final = ("llamarec", "benchmarks")
# What these make of raw files is in the digest of the set, and a system or set that is added changes no other.
_ROOMS_NOT_OF_A_RESULT: Final = ("llamarec/data/", "llamarec/checkpoints/storage/", "benchmarks/harness/")
_NOT_OF_A_RESULT: Final = tuple(f"benchmarks/standard/{name}.py" for name in ("sets", "systems", "results", "measure"))
_OF_A_RESULT: Final = ("llamarec/data/prepared.py",)


@dataclass(frozen=True, order=True)
class Task:
    """What is measured."""

    set_code: str
    split: str
    system: str
    seed: int

    def path(self, folder: Path) -> Path:
        """Its file."""
        return folder / "results" / f"{self.set_code}-{self.split}-{self.system}-{self.seed}.json"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table.

    Attributes:
        ranks: Of each test user's label, separated by spaces; 0 where it is beyond 100.
        score_seconds: Processor time of scoring all of them.
        fit_seconds: Processor time of fitting this row alone, where it is a part; 0: that of the whole fit.
    """

    ranks: str
    score_seconds: float
    fit_seconds: float = 0.0

    def as_array(self) -> NDArray[np.int64]:
        """Ranks: [users]."""
        return np.array(self.ranks.split(), dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class Result:
    """A measurement.

    Attributes:
        rows: By name.
        notes: What the system chose.
        fit_seconds: Processor time of fitting, choices on validation included.
        peak_bytes: Largest resident memory of the process.
        counts: Sizes of the set (`sets.counts_of`).
        digests: Of the set (`sets.digests_of`).
        code: SHA-256 of each loaded module of this project, by path.
        versions: Of libraries.
        max_epochs: Of a shortened training; 0: not shortened.
        machine: What it ran on.
        commit: Of the working tree.
    """

    rows: dict[str, Row]
    notes: dict[str, str | int | float]
    fit_seconds: float
    peak_bytes: int
    counts: dict[str, int]
    digests: dict[str, str]
    code: dict[str, str]
    versions: dict[str, str]
    max_epochs: int
    machine: str
    commit: str


def row_of(ranks: NDArray[np.int64], score_seconds: float, fit_seconds: float = 0.0) -> Row:
    """A row; what is beyond the largest cutoff is a miss."""
    kept = np.where(ranks <= _KEPT_RANKS, ranks, 0)
    return Row(ranks=" ".join(map(str, kept.tolist())), score_seconds=score_seconds, fit_seconds=fit_seconds)


def write_result(path: Path, result: Result) -> None:
    """Replaces a file."""
    write_json(path, asdict(result))


def read_result(path: Path) -> Result | None:
    """A measurement; None where there is no file, or one of another shape."""
    try:
        return json_shapes.read(path, Result)
    except (OSError, ShapeError):
        return None


def loaded_code() -> dict[str, str]:
    """`sha256_of_code` of every module of this project that is loaded and that a result depends on, by path."""
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] in _PACKAGES]
    paths = {Path(module.__file__).resolve() for module in modules if module.__file__}
    names = sorted(path.relative_to(ROOT).as_posix() for path in paths)
    return {name: sha256_of_code(ROOT / name) for name in names if _counts(name)}


def code_of_measurement(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
    """The code of a measurement; a module that was changed meanwhile is like no other.

    Args:
        before: `loaded_code` before the fit.
        after: And when all was ranked; a fit may import more.
    """
    return {name: one if before.get(name, one) == one else CHANGED_MEANWHILE for name, one in after.items()}


def _counts(name: str) -> bool:
    return name not in _NOT_OF_A_RESULT and (name in _OF_A_RESULT or not name.startswith(_ROOMS_NOT_OF_A_RESULT))


def versions_of(system: System) -> dict[str, str]:
    """Versions of the libraries that a result depends on."""
    return {name: _version(name) for name in system.packages}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return _NOT_INSTALLED


@dataclass(frozen=True)
class Differences:
    """Why a measurement is not of now, in words: by its data and length, and by its code and libraries."""

    data: list[str]
    code: list[str]


def differences(result: Result, system: System, digests: Mapping[str, str], max_epochs: int) -> Differences:
    """What is another now than when it was measured."""
    changed = [path for path, known in result.code.items() if sha256_of_code(ROOT / path) != known]
    more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""

    return Differences(
        data=[
            *(["other data"] if result.digests != digests else []),
            *(["another number of epochs"] if result.max_epochs != max_epochs else []),
        ],
        code=[
            *_other_versions(result.versions, versions_of(system)),
            *([f"other code: {', '.join(changed[:_NAMED])}{more}"] if changed else []),
        ],
    )


def _other_versions(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    # What is not installed cannot be measured again; what was measured with it stands.
    installed = {name: one for name, one in now.items() if one != _NOT_INSTALLED}
    return [f"{name} {before.get(name)}, now {one}" for name, one in installed.items() if before.get(name) != one]


def sha256_of_code(path: Path) -> str:
    """Hex SHA-256 of what a module does: without its comments, docstrings and layout. Empty where there is no file."""
    if not path.is_file():
        return ""

    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, _WITH_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()

"""Runs a script, or a module, as if only the base of llamarec were installed, with what its packages need.

python tests/contracts/base_only.py train_ranker.py --dataset_code beauty
python tests/contracts/base_only.py -m llamarec.cli.main report beauty
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from types import ModuleType
from typing import ClassVar

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]


def distributions_of(name: str) -> set[str]:
    """A distribution and everything that it needs, without extras."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        one = waiting.pop().lower().replace("_", "-")
        if one in found:
            continue
        found.add(one)
        try:
            needed = [Requirement(line) for line in requires(one) or []]
        except PackageNotFoundError:
            continue
        waiting += [item.name for item in needed if item.marker is None or item.marker.evaluate({"extra": ""})]
    return found


def hidden_modules() -> set[str]:
    """Top-level modules of the installed packages that the base does not need."""
    base = distributions_of("llamarec")
    own = packages_distributions()
    return {module for module, names in own.items() if not {n.lower().replace("_", "-") for n in names} & base}


class _Finder(PathFinder):
    """Finds what Python's own finder does, but for some packages."""

    hidden: ClassVar[set[str]] = set()

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return None if fullname.partition(".")[0] in cls.hidden else super().find_spec(fullname, path, target)


def main() -> None:
    """Hides, and runs what the command line names."""
    _Finder.hidden = hidden_modules()
    sys.meta_path[sys.meta_path.index(PathFinder)] = _Finder
    loaded = {name for name in sys.modules if name.partition(".")[0] in _Finder.hidden}
    assert not loaded, loaded

    # As a script or a module finds its neighbours, and not those of this file.
    sys.path[0] = str(ROOT)
    as_module, *arguments = sys.argv[1:]
    if as_module == "-m":
        sys.argv = [arguments[0], *arguments[1:]]
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [as_module, *arguments]
        runpy.run_path(os.fspath(ROOT / as_module), run_name="__main__")


if __name__ == "__main__":
    main()

"""Whether what a text names is in this project."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]


def is_module(name: str) -> bool:
    """Whether a dotted name is a module or a package of this project."""
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def is_there(name: str) -> bool:
    """Whether a dotted name is a module, or a name in one."""
    module, _, attribute = name.rpartition(".")
    return is_module(name) or hasattr(importlib.import_module(module), attribute)

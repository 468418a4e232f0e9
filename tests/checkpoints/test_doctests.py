"""Examples in docstrings; and what may be imported from where."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import llamarec.checkpoints

MODULES = sorted(path.stem for path in Path(llamarec.checkpoints.__path__[0]).glob("*.py") if path.stem != "__init__")
LIGHT = (
    "backup",
    "compatibility",
    "config",
    "contents",
    "discovery",
    "disk_use",
    "durable",
    "former",
    "integrity",
    "layout",
    "lock",
    "manifest",
    "plan",
    "position",
    "progress",
    "publish",
    "retention",
    "saver",
    "schedule",
    "signals",
    "space",
    "stores",
    "temporarily",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"llamarec.checkpoints.{name}")).failed == 0


def test_listing_and_verifying_need_no_torch() -> None:
    assert set(LIGHT) <= set(MODULES)
    imports = ", ".join(f"llamarec.checkpoints.{name}" for name in LIGHT)
    program = f"import sys, {imports}; print(sorted({{'torch', 'transformers', 'numpy', 'peft'}} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"

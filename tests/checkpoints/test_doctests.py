"""Examples in docstrings; and what may be imported from where."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import llamarec.checkpoints

PACKAGE = Path(llamarec.checkpoints.__path__[0])
PATHS = [path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py") if path.stem != "__init__"]
MODULES = sorted(".".join(path.parts) for path in PATHS)
LIGHT_ROOMS = ("storage", "backup")
LIGHT = {
    *(name for name in MODULES if name.split(".")[0] in LIGHT_ROOMS),
    "config",
    "resume.compatibility",
    "resume.plan",
    "resume.position",
    "resume.progress",
    "resume.schedule",
    "trainer.signals",
    "trainer.saves.writer",
}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"llamarec.checkpoints.{name}")).failed == 0


def test_listing_and_verifying_need_no_torch() -> None:
    assert set(MODULES) >= LIGHT
    imports = ", ".join(f"llamarec.checkpoints.{name}" for name in sorted(LIGHT))
    program = f"import sys, {imports}; print(sorted({{'torch', 'transformers', 'numpy', 'peft'}} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"

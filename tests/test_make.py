"""The two commands of README exist in make.py, in the Makefile and in CI, under the same names."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_make_and_make_py_offer_the_same_commands() -> None:
    targets = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()[0].split()[1:]
    done = subprocess.run([sys.executable, "make.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, "no command is an error that lists them"
    assert set(targets) == set(re.findall(r"^    ([a-z-]+)  ", done.stderr, re.MULTILINE))


def test_readme_and_ci_use_them() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in ("`make demo`", "`make test`", "`py make.py demo`", "`py make.py test`"):
        assert command in readme
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_dependency_is_pinned() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = sum(project["optional-dependencies"].values(), start=project["dependencies"])
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    names = {re.split(r"[\[<>=]", text)[0].strip().lower().replace("_", "-") for text in wanted} - {"llamarec"}
    assert names <= pinned, names - pinned

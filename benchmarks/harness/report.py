"""Figures beside their goals: one line each, and the same for programs."""

from __future__ import annotations

import json
import math
import operator
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
_COMPARE: Final[dict[str, Callable[[float, float], bool]]] = {">=": operator.ge, "<=": operator.le}


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        name: What it is, in one word.
        value: Measured; not a number where it could not be.
        goal: '>= 3' or '<= 0.5'; empty where there is none.
        note: Anything a reader must know.
    """

    name: str
    value: float
    goal: str = ""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if not self.goal:
            return None
        sign, limit = self.goal.split()
        return not math.isnan(self.value) and _COMPARE[sign](self.value, float(limit))

    def line(self) -> str:
        """name  value  goal  met|short

        >>> print(Row("training_ratio", 4.25, ">= 3").line())
        training_ratio                              4.25  >= 3      met
        """
        state = {None: "", True: "met", False: "short"}[self.met]
        return f"{self.name:<40} {self.value:>7.3g}  {self.goal:<8}  {state}".rstrip() + (
            f"   ({self.note})" if self.note else ""
        )

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {"name": self.name, "value": self.value, "goal": self.goal, "met": self.met, "note": self.note}


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """As JSON."""
    path.write_text(json.dumps([row.as_dict() for row in rows], indent=2) + "\n", encoding="utf-8")


def read_rows(path: Path) -> list[Row]:
    """What `write_rows` wrote."""
    return [
        Row(entry["name"], float(entry["value"]), entry.get("goal") or "", entry.get("note") or "")
        for entry in json.loads(path.read_text(encoding="utf-8"))
    ]


def commit() -> str:
    """Of the working tree, with a mark where it has changes."""

    def git(*words: str) -> str:
        out = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return out.stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if git("status", "--porcelain") else "")

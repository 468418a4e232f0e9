"""Everything that is compared, in the order in which it is measured: what takes seconds first.

A system's module is imported when the system is asked for: a result depends on the modules that were loaded for it.
"""

from __future__ import annotations

import importlib
from typing import Final

from benchmarks.standard.protocol import System

MODULES: Final = {
    "popularity": "benchmarks.standard.popularity",
    "item-knn": "benchmarks.standard.item_knn",
    "transition-rule": "benchmarks.standard.transition_rule",
    "first-stage": "benchmarks.standard.ours",
    "sasrec": "benchmarks.standard.rectools_models",
    "esasrec": "benchmarks.standard.rectools_models",
}


def system_of(name: str) -> System:
    """The system with this name."""
    found: dict[str, System] = {one.name: one for one in importlib.import_module(MODULES[name]).SYSTEMS}
    return found[name]

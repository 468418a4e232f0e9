"""A small prepared set."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.standard.sets import QUICK, prepared_set
from llamarec.data.prepared import PreparedData


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("standard")


@pytest.fixture(scope="session")
def data(folder: Path) -> PreparedData:
    return prepared_set(QUICK, "leave_one_out", folder, "none")

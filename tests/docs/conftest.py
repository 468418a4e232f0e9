"""A project whose states all tests of the documentation share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.docs.project import Project


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return Project(shared / "guides")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the project is copied to; its neighbours are the test's too."""
    return tmp_path / "project"

"""What is imported is no garbage: the Trainer collects at every start, which would take a third of a tiny training."""

import gc

import pytest


@pytest.fixture(scope="session", autouse=True)
def _frozen_imports() -> None:
    import tests.resume.training  # noqa: F401

    gc.collect()
    gc.freeze()

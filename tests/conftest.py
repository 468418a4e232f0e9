"""One thread per test process: small models gain nothing from more, and two processes would wait for each other."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.programs import Programs
    from tests.resume.forks import Forks

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts the tests in the background has them, and all processes they start, ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """A process that forks one for each job; where the system can."""
    from tests.resume.forks import Forks

    with Forks() as process:
        yield process


@pytest.fixture(scope="session")
def programs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """Runs programs, in forks where the system can."""
    from tests.programs import Programs
    from tests.resume.forks import CAN_FORK

    forks = request.getfixturevalue("forks") if CAN_FORK else None
    return Programs(forks, tmp_path_factory.mktemp("programs"))

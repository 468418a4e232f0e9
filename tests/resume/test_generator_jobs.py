"""Generators at every owner and in every holder: equal after a kill and a resume, or refused before the first step."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.resume import forks
from tests.resume.forks import Forks
from tests.resume.generator_holders import HOLDERS, KINDS
from tests.resume.generator_jobs import OWNERS, Job, all_jobs

pytestmark = pytest.mark.skipif(not forks.CAN_FORK, reason=forks.WHY_NOT)

# One for each mechanism; the rest takes minutes.
FEW = [
    Job("model", "attribute", "torch.Generator"),
    Job("model", "made when first needed", "numpy Generator"),
    Job("loss", "attribute", "numpy SFC64"),
    Job("Trainer", "attribute", "random.Random"),
    Job("optimizer", "attribute", "RandomState"),
    Job("model", "global of a module imported late", "numpy Generator"),
    Job("model", "generator function", "numpy Generator"),
    Job("callback", "attribute", "random.SystemRandom"),
    Job("collator", "map", "numpy Generator", 2),
]
REFUSED = {"random.SystemRandom", "generator function", "map", "threading.local", "two in a set"}


@pytest.fixture(scope="module")
def forked() -> Iterator[Forks]:
    with Forks("tests.resume.generator_jobs") as one:
        yield one


def _check(forked: Forks, job: Job) -> None:
    ending = forked.run("verdict", **vars(job))

    assert ending.result is not None, ending.log
    if {job.holder, job.kind} & REFUSED:
        assert ending.result == "equal" or ending.result.startswith("refused: ")
    else:
        assert ending.result == "equal"


def test_the_table_has_every_owner_holder_and_kind() -> None:
    jobs = all_jobs()

    assert {job.owner for job in jobs} == set(OWNERS)
    assert {job.holder for job in jobs} == set(HOLDERS)
    assert {job.kind for job in jobs} == set(KINDS)
    assert {job.workers for job in jobs} == {0, 2}


@pytest.mark.slow
@pytest.mark.parametrize("job", FEW, ids=lambda job: job.name)
def test_a_few(forked: Forks, job: Job) -> None:
    _check(forked, job)


@pytest.mark.slow
@pytest.mark.parametrize("job", [job for job in all_jobs() if job not in FEW], ids=lambda job: job.name)
def test_all(forked: Forks, job: Job) -> None:
    _check(forked, job)

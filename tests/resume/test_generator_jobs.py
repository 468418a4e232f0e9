"""Generators at some owners and in some holders: equal after a kill and a resume, or refused before the first step.

The whole table, of several hundred, is a section of the matrix: `python make.py matrix generators`.
"""

from __future__ import annotations

import pytest

from tests.resume.forks import CAN_FORK, WHY_NOT, Forks
from tests.resume.generator_holders import HOLDERS, KINDS
from tests.resume.generator_jobs import OWNERS, Job, all_jobs

pytestmark = pytest.mark.skipif(not CAN_FORK, reason=WHY_NOT)

# One for each mechanism.
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
    Job("collator", "attribute", "torch.Generator", 2),
    Job("data set, now and then", "nested", "numpy Generator"),
    Job("evaluation data", "closure", "numpy Generator"),
    Job("callback", "made when first needed", "numpy Generator"),
    Job("compute_metrics", "global of another module", "numpy Generator"),
    Job("preprocess_logits_for_metrics", "two in a set", "numpy Generator"),
    Job("hook of a weight", "class", "numpy Generator"),
]
REFUSED = {"random.SystemRandom", "generator function", "map", "threading.local", "two in a set"}
# A callback makes it between two steps, where no resume can set it.
REFUSED_OF_OWNERS = {("callback", "made when first needed")}


def _check(forks: Forks, job: Job) -> None:
    ending = forks.run("tests.resume.generator_jobs:verdict", **vars(job))

    assert ending.result is not None, ending.log
    if {job.holder, job.kind} & REFUSED or (job.owner, job.holder) in REFUSED_OF_OWNERS:
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
def test_a_few(forks: Forks, job: Job) -> None:
    _check(forks, job)

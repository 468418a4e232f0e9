"""Every training with another library is resumed to the same bits, or refused before the first step."""

from __future__ import annotations

from typing import Final

import pytest

from tests.ecosystem import jobs

if why := jobs.missing():
    pytest.skip(why, allow_module_level=True)

REFUSED: Final = {
    "DPOTrainer, sync_ref_model": "SyncRefModelCallback moves ref_model during training",
    "optim=galore_adamw_layerwise": "--optim galore_adamw_layerwise keeps its state in hooks; use galore_adamw",
    "datasets, transform that counts its calls": "is another at each reading",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.parametrize(("name", "job"), jobs.JOBS, ids=[name for name, _ in jobs.JOBS])
def test_resumed_is_uninterrupted_or_refused(name: str, job: jobs.Job) -> None:
    found = job()
    if name not in REFUSED:
        assert found == "equal"
    else:
        assert found.startswith("refused: ")
        assert REFUSED[name] in found

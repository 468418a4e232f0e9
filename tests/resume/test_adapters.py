"""Any adapter: the folder holds what `save_pretrained` of the live model writes, and a resume is exact."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamarec.checkpoints import Interrupted
from llamarec.errors import ConfigError
from tests.resume import peft_methods
from tests.resume.peft_methods import EQUAL, NOT_HERE, differing, everything, methods, peft_jobs, train
from tests.resume.runs import At

JOBS = dict(peft_jobs())
QUICK = ("LORA, two adapters trained", "LORA, native add_adapter", "P_TUNING", "ADALORA", "LORA, tied embeddings")
REFUSED = "LORA, native add_adapter of two"


def _check(name: str) -> None:
    result = JOBS[name]()
    if result.startswith(NOT_HERE):
        pytest.skip(result)

    assert result == EQUAL


@pytest.mark.parametrize("name", QUICK)
def test_files_are_those_of_a_plain_save_and_a_resume_is_exact(name: str) -> None:
    _check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in JOBS if name not in {*QUICK, REFUSED}])
def test_every_method_of_peft(name: str) -> None:
    _check(name)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
def test_what_transformers_cannot_save_is_refused_before_the_first_step(tmp_path: Path) -> None:
    make = peft_methods.methods()[REFUSED]
    with pytest.raises(ConfigError, match=r"2 are active(.|\n)*first, second(.|\n)*peft\.get_peft_model"):
        peft_methods.train(make, tmp_path)

    assert list(tmp_path.glob("checkpoint-*")) == []


@pytest.mark.filterwarnings("ignore:Note that `r` is not used in AdaLora:UserWarning")
def test_what_adalora_remembers_of_each_weight_is_resumed(tmp_path: Path) -> None:
    """Its last ranks are chosen by averages since the first step, which are no tensors of the model."""
    make = methods()["ADALORA"]
    whole = train(make, tmp_path / "whole", max_steps=8, save_steps=4)
    with pytest.raises(Interrupted):
        train(make, tmp_path / "run", At(4), max_steps=8, save_steps=4)

    resumed = train(make, tmp_path / "run", resume="latest", max_steps=8, save_steps=4)
    assert differing(everything(whole.model), everything(resumed.model)) == []

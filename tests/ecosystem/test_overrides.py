"""Every Trainer of trl: taken by the mixin, or refused with the overrides' names; what is hidden of it does no more."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from transformers import Trainer

from llamarec.checkpoints import ResumableMixin
from llamarec.checkpoints.trainer.guards.hooks import check_hooks
from llamarec.checkpoints.trainer.guards.overrides import HARMLESS, NEVER_CALLED, REPLACED, check_overrides
from llamarec.errors import ConfigError
from tests.ecosystem import jobs

if why := jobs.missing():
    pytest.skip(why, allow_module_level=True)

SUPPORTED = {
    *("DPOTrainer", "DistillationTrainer", "GRPOTrainer", "KTOTrainer"),
    *("RLOOTrainer", "RewardTrainer", "SFTTrainer"),
}
# Of trl.experimental; each makes a loader of its own.
REFUSED = {
    *("AsyncDistillationTrainer", "AsyncGRPOTrainer", "GOLDTrainer", "IWOPDTrainer"),
    *("SDFTTrainer", "SDPOTrainer"),
}


def _trainers() -> Iterator[type[Any]]:
    """Every class of the installed trl that trains."""
    import trl

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in pkgutil.walk_packages(trl.__path__, "trl."):
            if ".scripts" in module.name or ".cli" in module.name:
                continue
            try:
                importlib.import_module(module.name)
            except (ImportError, RuntimeError):
                # It needs a library of its own.
                continue

    queue = list(Trainer.__subclasses__())
    while queue:
        cls = queue.pop()
        queue += cls.__subclasses__()
        if cls.__module__.startswith("trl.") and not cls.__name__.startswith("_"):
            yield cls


def _refusal(cls: type[Any]) -> str:
    live = type(f"Resumable{cls.__name__}", (ResumableMixin, cls), {})
    try:
        check_overrides(live, ResumableMixin, Trainer)
        check_hooks(live, Trainer, members={})
    except ConfigError as refusal:
        # Attributes are made by a constructor, which is not called here.
        return "" if "no Trainer." in str(refusal) else str(refusal)
    return ""


def test_each_trainer_is_supported_or_refused_by_name() -> None:
    found = {cls: _refusal(cls) for cls in _trainers()}
    assert {cls.__name__ for cls in found if cls.__module__.startswith("trl.trainer")} == SUPPORTED
    refused = {cls.__name__: text for cls, text in found.items() if text}
    assert refused.keys() == REFUSED, refused
    for name, text in refused.items():
        assert f"{name}.get_train_dataloader does not call _get_dataloader" in text


def test_what_is_hidden_of_them_only_writes_a_card_or_known_numbers() -> None:
    """The override is hidden by the mixin, so that it must do nothing that a checkpoint needs."""
    hidden = {
        (cls.__name__, name): frozenset(vars(cls)[name].__code__.co_names)
        for cls in _trainers()
        for name in (*NEVER_CALLED, *REPLACED)
        if name in vars(cls)
    }
    assert hidden, "the exemptions are not needed any more"
    for (cls, name), names in hidden.items():
        if cls not in REFUSED:
            assert names <= HARMLESS["trl", name], f"{cls}.{name}"


def test_an_override_of_trl_that_does_more_is_refused() -> None:
    import trl

    def saving(self: Any, model: Any, trial: Any) -> None:
        self.push_somewhere()

    theirs = type("NewTrainer", (trl.SFTTrainer,), {"_save_checkpoint": saving, "__module__": "trl.trainer.new"})
    assert "NewTrainer._save_checkpoint would be hidden by ResumableMixin" in _refusal(theirs)


def test_the_numbers_that_trl_writes_itself_are_in_our_checkpoint() -> None:
    """GRPO's adaptive entropy: two plain attributes, which are saved as a subclass's attributes are."""
    from llamarec.checkpoints.trainer.state.trainer_attributes import names_set_by

    assert not {"entropy_coef", "_last_world_entropy", "_step", "_metrics", "_total_train_tokens"} & names_set_by(
        Trainer
    )

"""Every hyperparameter is kept, applied or refused: a table."""

from __future__ import annotations

from typing import Any

import pytest

from llamarec.checkpoints.resume.compatibility import (
    UNTRACKED,
    FingerprintSources,
    compare_fingerprints,
    compare_hyperparameters,
    refuse,
)
from llamarec.errors import CheckpointError

OLD: dict[str, Any] = {"learning_rate": 1e-4, "seed": 42, "num_train_epochs": 1.0, "output_dir": "a", "weight_decay": 0}


def _only(changes: list[Any]) -> tuple[Any, ...]:
    (change,) = changes
    return change.name, change.old, change.new, change.decision


@pytest.mark.parametrize(
    ("name", "new", "decision"),
    [
        ("learning_rate", 5e-5, "applied"),
        ("num_train_epochs", 3.0, "applied"),
        ("weight_decay", 0.1, "applied"),
        ("seed", 7, "refused"),
    ],
)
def test_a_changed_value(name: str, new: Any, decision: str) -> None:
    assert _only(compare_hyperparameters(OLD, {**OLD, name: new})) == (name, OLD[name], new, decision)


@pytest.mark.parametrize("name", ["seed", "data_seed", "train_sampling_strategy"])
@pytest.mark.parametrize("allowed", [{"all"}, None])
def test_what_is_refused_can_be_allowed(name: str, allowed: set[str] | None) -> None:
    names = frozenset(allowed or {name})
    assert _only(compare_hyperparameters({name: 1}, {name: 2}, allowed=names))[3] == "applied"
    assert _only(compare_hyperparameters({name: 1}, {name: 2}, allowed=frozenset({"other"})))[3] == "refused"


def test_nothing_changed() -> None:
    assert compare_hyperparameters(OLD, dict(OLD)) == []


@pytest.mark.parametrize("name", sorted(UNTRACKED))
def test_what_belongs_to_a_process_is_not_compared(name: str) -> None:
    assert compare_hyperparameters({name: 1}, {name: 2}) == []


def test_what_only_one_side_knows_is_not_compared() -> None:
    """Another version of transformers has other arguments."""
    assert compare_hyperparameters({"gone": 1}, {"new": 2}) == []
    assert compare_fingerprints({"gone": 1}, {"new": 2}) == []


def test_a_default_that_the_checkpoint_replaced_is_said() -> None:
    change = compare_hyperparameters({"lora_r": 16}, {"lora_r": 16}, kept={"lora_r": 8})[0]
    assert (change.decision, change.old, change.why) == ("kept", 16, "as in the checkpoint; default 8")
    assert compare_hyperparameters({"lora_r": 8}, {"lora_r": 8}, kept={"lora_r": 8}) == []


def test_fingerprints() -> None:
    assert _only(compare_fingerprints({"data": "x"}, {"data": "y"})) == ("data", "x", "y", "refused")
    assert _only(compare_fingerprints({"data": "x"}, {"data": "y"}, allowed=frozenset({"data"})))[3] == "applied"


def test_a_refusal_says_all_at_once() -> None:
    changes = compare_hyperparameters(OLD, {**OLD, "seed": 7, "learning_rate": 1.0}) + compare_fingerprints(
        {"d": 1}, {"d": 2}
    )
    with pytest.raises(CheckpointError) as error:
        refuse("runs/checkpoint-5", changes)
    said = str(error.value)
    assert "runs/checkpoint-5 belongs to a different run than this command" in said
    assert "seed 42 (the order of the samples follows from it)" in said
    assert "seed 7" in said
    assert "d 1 (identifies the run)" in said
    assert "--allow_changed seed,d" in said
    assert "learning_rate" not in said


def test_the_option_that_a_fingerprint_follows_from_is_named() -> None:
    origins = FingerprintSources(
        {"prompt": ("max_history",), "data": ("max_history", "share")}, {"lists": "make them again"}
    )
    changes = compare_hyperparameters({"max_history": 20, "share": ""}, {"max_history": 3, "share": "x"})
    changes += compare_fingerprints({"prompt": 1, "lists": 2}, {"prompt": 3, "lists": 4})
    with pytest.raises(CheckpointError) as error:
        refuse("x", changes, origins)
    ways = str(error.value.hint).split("\nor ")
    assert ways[:2] == ["--max_history 20, as in the checkpoint (here 3)", "make them again"]
    assert ways[-1] == "if you know that it fits: --allow_changed lists,prompt"
    assert len(ways) == 4, "what changed without a consequence is no cause"


def test_without_a_refusal_nothing_is_raised() -> None:
    refuse("x", compare_hyperparameters(OLD, {**OLD, "learning_rate": 1.0}))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"bias": "none", "r": 8, "target_modules": ["q"]}, {"bias": "none", "r": 8, "target_modules": ["q", "v"]}),
        ("x" * 100 + "old", "x" * 100 + "new"),
        ("a" + "x" * 200, "b" + "x" * 200),
    ],
)
def test_long_values_are_cut_where_they_are_the_same(old: Any, new: Any) -> None:
    with pytest.raises(CheckpointError) as error:
        refuse("x", compare_fingerprints({"f": old}, {"f": new}))
    expected, found = str(error.value.expected), str(error.value.found)
    assert expected.removesuffix(" (identifies the run)") != found
    assert max(len(expected), len(found)) < 100


def test_an_adapter_in_the_place_of_a_whole_model_is_named_for_that() -> None:
    whole, lora = {"base_model": "a", "data": "x"}, {"base_model": "b", "data": "x", "lora": {"r": 8}}
    assert [change.name for change in compare_fingerprints(whole, lora)] == ["lora"]
    assert [change.name for change in compare_fingerprints(lora, whole)] == ["lora"]
    # A plan that loads no model knows neither.
    assert compare_fingerprints(lora, {"data": "x"}) == []

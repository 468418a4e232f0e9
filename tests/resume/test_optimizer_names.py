"""Moments go to the parameter of their name, whatever order the optimizer has now."""

from __future__ import annotations

import pytest

from llamarec.checkpoints.trainer.state.optimizer_names import Names, matched
from llamarec.errors import CheckpointError

STATE = {"state": {0: {"step": 1}, 1: {"step": 2}}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}
SAVED: Names = [[["a", [2]], ["b", [2]]]]


def test_another_order_is_followed() -> None:
    turned: Names = [[["b", [2]], ["a", [2]]]]
    assert matched(STATE, SAVED, turned, "optimizer.pt")["param_groups"][0]["params"] == [1, 0]
    assert matched(STATE, SAVED, SAVED, "optimizer.pt") is STATE
    assert matched(STATE, None, [[["b", [2]]]], "optimizer.pt") is STATE


def test_another_name_or_shape_is_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match=r"moments of \['a', \[3\]\]"):
        matched(STATE, SAVED, [[["a", [3]], ["b", [2]]]], "optimizer.pt")

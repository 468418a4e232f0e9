"""Passed objects that the training data go by: a curriculum that a callback moves, a mixture with weights."""

from __future__ import annotations

from collections.abc import Mapping

from llamarec.checkpoints.trainer.samples.object_walk import NamedRoots, ObjectWalk
from llamarec.checkpoints.trainer.state.plain_state import State, copy_of, digest_of
from llamarec.checkpoints.trainer.state.stateful import Stateful
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer


class DataStates:
    """The states of those objects passed as `stateful` that the data set or the collator are, or hold.

    Args:
        trainer: The live Trainer.
        passed: The objects by name.
    """

    def __init__(self, trainer: LiveTrainer, passed: Mapping[str, Stateful]) -> None:
        self._trainer, self._passed = trainer, passed
        self._found: dict[str, Stateful] | None = None

    def copied(self) -> dict[str, State]:
        """Copies by name, as they are now."""
        return {name: copy_of(one.state_dict(), name) for name, one in self._of_data().items()}

    def put_back(self, states: Mapping[str, State]) -> None:
        """Gives the objects states of `copied`."""
        for name, one in self._of_data().items():
            one.load_state_dict(copy_of(states[name], name))

    def _of_data(self) -> dict[str, Stateful]:
        if self._found is None:
            ids = set(map(id, self._passed.values()))
            roots = NamedRoots({"data": self._trainer.train_dataset, "collator": self._trainer.data_collator})
            walk = ObjectWalk(roots, lambda value: id(value) in ids) if ids else None
            held = set(map(id, walk.found.values())) if walk is not None else set()
            self._found = {name: one for name, one in self._passed.items() if id(one) in held}

        return self._found


def digest_of_states(states: Mapping[str, State]) -> str:
    """Equal for equal states; empty where there are none."""
    return digest_of(dict(states)) if states else ""

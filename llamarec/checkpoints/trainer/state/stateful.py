"""State beside the model that a program passes by name: an average of the weights, a metric's sums, a curriculum.

The protocol is that of torchsnapshot and of torch's distributed checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from llamarec.checkpoints.resume.safe_load import load_pickled
from llamarec.checkpoints.storage.layout import STATEFUL, STATEFUL_PATTERN, stateful_of
from llamarec.checkpoints.trainer.console import Console
from llamarec.checkpoints.trainer.distributed.channel import exchange
from llamarec.checkpoints.trainer.state.differences import difference
from llamarec.checkpoints.trainer.state.held_attributes import HeldAttributes
from llamarec.checkpoints.trainer.state.plain_state import State, copy_of, digest_of, on_cpu, on_devices_of
from llamarec.checkpoints.trainer.state.trained_parameters import TrainedParameters
from llamarec.checkpoints.trainer.state.trainer_attributes import TrainerAttributes
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer
from llamarec.errors import CheckpointError, check_all


@runtime_checkable
class Stateful(Protocol):
    """An object whose state is part of a checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """Its state, of tensors, numbers, texts, lists and dictionaries."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> object:
        """Takes such a state."""


States = dict[str, State]
"""By name of the object, copies of their states."""

ATTRIBUTES: Final = "attributes of the Trainer"
"""The name of their state in the file."""
HELD: Final = "attributes of held objects"
"""Likewise, of modules, losses, metrics, helpers and callbacks."""

PARAMETERS: Final = "parameters that are trained"
"""The name of their state in the file."""

_NAME: Final = re.compile(r"\S(.*\S)?")


class StatefulObjects:
    """The objects that a program passed as `stateful`.

    Args:
        trainer: The live Trainer.
        objects: By name.
        console: For what is lost.
        allow_partial: Continue without a state that a checkpoint lacks, or that nobody takes.

    The file has states of the mixin's own too, where training changes them: attributes of a subclass of the Trainer,
    which parameters are trained, and attributes of the objects around it.

    Attributes:
        held: The last of these.

    Raises:
        ConfigError: one of them does not follow the protocol.
    """

    def __init__(
        self, trainer: LiveTrainer, objects: Mapping[str, Stateful], console: Console, *, allow_partial: bool
    ) -> None:
        self._trainer, self._objects, self._console = trainer, dict(objects), console
        self._allow_partial, self._is_proven = allow_partial, False
        self._own: dict[str, TrainerAttributes | TrainedParameters] = {
            ATTRIBUTES: TrainerAttributes(trainer),
            PARAMETERS: TrainedParameters(trainer),
        }
        self.held = HeldAttributes(trainer, self._objects.values(), console, allow_partial=allow_partial)
        rules = [(_is_name(name), f"{name!r}: a name") for name in objects]
        rules += [
            (isinstance(one, Stateful), f"{name} is a {type(one).__name__}: state_dict() and load_state_dict()")
            for name, one in objects.items()
        ]
        check_all("stateful takes objects that give their state and take it back", rules)

    def values(self) -> list[Stateful]:
        """The objects."""
        return list(self._objects.values())

    # ---- Before the first step ----

    def observe(self) -> None:
        """Remembers the mixin's own states before the first training, so that those that change are known by it."""
        for one in self._own.values():
            one.observe()

    def thaw_as_at_start(self) -> None:
        """Has the same parameters trained as before the first training, so that an optimizer is made for these."""
        self._own[PARAMETERS].load_state_dict({})

    # ---- Between two steps ----

    def copied(self) -> States:
        """Copies of all states as they are now.

        Raises:
            CheckpointError: names what cannot be saved.
        """
        own = {name: copy_of(one.state_dict(), _title(name)) for name, one in self._own.items()}
        states = {name: copy_of(one.state_dict(), _title(name)) for name, one in self._objects.items()}
        states |= {name: state for name, state in own.items() if state}
        if held := self.held.copied():
            states[HELD] = held
        return states

    def complete(self, states: States) -> None:
        """Before a save: what has changed in any object and any tensor around the Trainer is in its states too.

        Args:
            states: Of the boundary at which all is still as it was.
        """
        if held := self.held.copied(full=True):
            states[HELD] = held

    def put_back(self, states: States) -> None:
        """Gives every object a state of `copied`.

        Raises:
            CheckpointError: one of them does not take it.
        """
        for name in self._own.keys() - states.keys():
            self._load(name, {})
        for name, state in states.items():
            if name != HELD:
                self._load(name, state)
        self.held.put_back(states.get(HELD, {}))

    def prove(self, states: States) -> None:
        """Once: each object takes the state that it has just given, and gives the same again.

        Raises:
            CheckpointError: names the first difference.
        """
        if self._is_proven:
            return

        for name, state in states.items():
            if name != HELD:
                self._load_proven(name, state)
        self._is_proven = True

    def _load_proven(self, name: str, state: State) -> None:
        self._load(name, state)
        path = difference(state, copy_of(self._object(name).state_dict(), _title(name)))
        if path is None:
            return

        raise CheckpointError(
            f"{_title(name)} does not take its state back: state_dict(){path} differs after load_state_dict()",
            expected="the state that was given to load_state_dict()",
            hint="make load_state_dict() set everything that state_dict() returns",
        )

    def _load(self, name: str, state: State) -> None:
        one = self._object(name)
        try:
            # A copy, which the object may keep.
            one.load_state_dict(on_devices_of(state, one.state_dict()))
        except Exception as error:
            raise CheckpointError(
                f"{_title(name)} does not take its state: {type(error).__name__} in load_state_dict()",
                expected="a state that state_dict() of the same class and shape gave",
                found=str(error).partition("\n")[0],
                hint=["make the object as it was trained", "or start it anew: --allow_partial_resume, without it"],
            ) from error

    def _object(self, name: str) -> Stateful:
        return self._own[name] if name in self._own else self._objects[name]

    # ---- In a checkpoint ----

    def files(self, states: States) -> dict[str, object]:
        """By file, the states on the CPU: one file where all processes have the same state, else one of each."""
        args = self._trainer.args
        if not any(exchange(args, "whether there are states of passed objects", bool(self._objects or states))):
            return {}

        own = on_cpu(states)
        digest = digest_of(own) if args.world_size > 1 else ""
        if len(set(exchange(args, "the digests of passed objects' states", digest))) == 1:
            return {STATEFUL: own}

        found = exchange(args, "the states of passed objects", own)
        return {stateful_of(rank): one for rank, one in enumerate(found)}

    def check(self, folder: Path) -> None:
        """Whether a checkpoint has the states of exactly these objects.

        Raises:
            CheckpointError: one is on one side only.
        """
        saved, passed = self._saved(folder), set(self._objects)
        for name in (*self._own, HELD):
            saved.pop(name, None)
        lacking, left = sorted(passed - saved.keys()), sorted(saved.keys() - passed)
        if self._allow_partial or not (lacking or left):
            return

        if left:
            problem = f"{folder} holds the state of {_listed(left)}, and this program passes no object of that name"
        else:
            problem = f"{folder} holds no state of {_listed(lacking)}"
        raise CheckpointError(
            problem,
            expected=f"stateful={{{_listed(sorted(saved))}}}" if saved else "a Trainer without stateful=",
            found=f"stateful={{{_listed(sorted(passed))}}}" if passed else "no stateful=",
            hint=[
                "pass the objects that the training had: stateful={...}",
                "or continue without their state: --allow_partial_resume",
            ],
        )

    def restore(self, folder: Path) -> None:
        """Gives the objects the states of a checkpoint.

        Raises:
            CheckpointError: one of them does not take its state, or gives another one afterwards.
        """
        saved = self._saved(folder)
        for name in self._own:
            self._load(name, saved.pop(name, {}))
        self.held.restore(saved.pop(HELD, {}), folder)
        for name in self._objects:
            if name in saved:
                self._load_proven(name, saved[name])
            else:
                self._console.print(f"lost:        stateful: {name} is not in the checkpoint and starts over")

        for name in sorted(saved.keys() - self._objects.keys()):
            self._console.print(f"lost:        stateful: {name} is in the checkpoint, and no object takes it")

    def _saved(self, folder: Path) -> States:
        path = self._file_in(folder)
        found = load_pickled(path) if path is not None else {}
        if not isinstance(found, dict) or not all(isinstance(state, dict) for state in found.values()):
            raise CheckpointError(f"{path} cannot be read", expected="states by name", found=type(found).__name__)

        return found

    def _file_in(self, folder: Path) -> Path | None:
        """The file with this process's states; None where there is none."""
        args = self._trainer.args
        if (folder / STATEFUL).is_file():
            return folder / STATEFUL

        ranks = sorted(_ranks(folder))
        if not ranks:
            return None
        if ranks != list(range(args.world_size)) and self._objects and not self._allow_partial:
            raise CheckpointError(
                f"{folder} holds the states of {len(ranks)} processes, which differ",
                expected=f"a resume with {len(ranks)} processes",
                found=f"{args.world_size}",
                hint=[
                    f"torchrun --nproc_per_node {len(ranks)}",
                    "or give the first one's states to processes that have none: --allow_partial_resume",
                ],
            )

        return folder / stateful_of(args.process_index if args.process_index in ranks else ranks[0])


def _ranks(folder: Path) -> Iterator[int]:
    for path in folder.iterdir():
        match = STATEFUL_PATTERN.fullmatch(path.name)
        if match and match["rank"]:
            yield int(match["rank"])


def _is_name(name: object) -> bool:
    return isinstance(name, str) and bool(_NAME.fullmatch(name)) and name not in (ATTRIBUTES, PARAMETERS, HELD)


def _title(name: str) -> str:
    return f'stateful["{name}"]'


def _listed(names: list[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)

"""Random states of a training process: of the global generators, and of those that it holds beside its data.

What data draw is keyed (`generators`). Everything else is drawn in one order, step after step, so its generators have
their states saved at a step boundary and given back. A generator that the model makes only when it is first needed gets
its state as soon as it is there, and that step's gradients are computed once more.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.resume.random_state_file import check_form
from llamarec.checkpoints.resume.safe_load import load_pickled
from llamarec.checkpoints.storage.layout import RNG, RNG_PATTERN, rng_of
from llamarec.checkpoints.trainer.samples import rng
from llamarec.checkpoints.trainer.samples.generator_kinds import (
    PlainState,
    has_state,
    is_generator,
    kind_of,
    name_of,
    seed,
    set_state,
    state_of,
)
from llamarec.checkpoints.trainer.samples.generators import HeldGenerators
from llamarec.checkpoints.trainer.samples.object_parts import FRAME, is_leaf
from llamarec.checkpoints.trainer.samples.object_walk import NamedRoots, ObjectWalk
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer, unwrapped
from llamarec.errors import CheckpointError, ConfigError

HELD: Final = "held"
"""Entry of `rng.States`: by path, the states of generators that are not global."""

_MAX_OBJECTS: Final = 100_000
# Data, whose generators are keyed; parts of the library; and what is a root of its own.
_NOT_ENTERED: Final = frozenset(
    {
        *("train_dataset", "eval_dataset", "data_collator", "processing_class", "accelerator", "args", "state"),
        *("control", "callback_handler", "model", "model_wrapped", "optimizer", "lr_scheduler", "_resumable"),
        *("compute_metrics", "preprocess_logits_for_metrics", "compute_loss_func"),
    }
)
# What an evaluation draws is keyed too.
_EVALUATION: Final = ("eval_dataset", "compute_metrics", "preprocess_logits_for_metrics")
_PARTIAL: Final = "or let it start as it was made: --allow_partial_resume"
_SWITCH: Final = "--no_check_data, or CheckpointConfig(check_data=False), trains all the same, without that promise"


class RandomStates:
    """All random states that the steps of a training go by.

    Args:
        trainer: The live Trainer.
        config: Whether generators are refused whose state no resume could restore, or whose state is missing.
        warn: Shows a line to the user.
    """

    def __init__(self, trainer: LiveTrainer, config: CheckpointConfig, warn: Callable[[str], None]) -> None:
        self._trainer, self._warn = trainer, warn
        self._strict, self._allow_partial = config.check_data, config.allow_partial_resume
        self._walk: ObjectWalk | None = None
        self._root_ids: tuple[int, ...] = ()
        # States of a checkpoint, for generators that are not made yet.
        self._waiting: dict[str, PlainState] = {}
        self._known_paths: set[str] | None = None
        self._known: dict[int, object] = {}

    # ---- Before the first step ----

    def check(self) -> None:
        """Begins a training: refuses what has no state to save, and says what was not looked at.

        Raises:
            ConfigError: names the generator.
        """
        self._walk, self._known_paths, self._waiting = None, None, {}
        if not self._strict:
            return

        of_evaluation = HeldGenerators(NamedRoots({name: vars(self._trainer).get(name) for name in _EVALUATION}))
        for path, one in {**self._found(), **of_evaluation.found()}.items():
            if not has_state(one):
                raise ConfigError(
                    f"{path} is a {name_of(one)}, which no resume can repeat",
                    expected="random.Random(seed), numpy.random.default_rng(seed) or torch.Generator",
                    hint=_SWITCH,
                )
        for path, one in self._found().items():
            if FRAME in path:
                raise ConfigError(
                    f"{path} is a {name_of(one)} inside an iterator, whose position cannot be saved",
                    expected="an object that holds the generator as an attribute",
                    hint=_SWITCH,
                )

        for path in [*self._walked().same_path, *of_evaluation.indistinct()]:
            raise ConfigError(
                f"several generators have the path {path}, so that a resume could take one for the other",
                expected="a list or a dictionary of generators, rather than a set",
                hint=_SWITCH,
            )
        for path in self._walked().not_looked_at:
            self._warn(f"note: generators at {path} are not looked for: there are too many objects")

    # ---- At a boundary, and back to it in the same process ----

    def capture(self) -> rng.States:
        """The state of every generator.

        Raises:
            ConfigError: a generator was made where no resume could give it its state.
        """
        found = self._found()
        self._check_known(found)
        held = {path: state_of(one) for path, one in found.items() if has_state(one)}
        return {**rng.capture(), HELD: {**self._waiting, **held}}

    def put_back(self, states: rng.States) -> None:
        """Sets the generators to captured states."""
        rng.set_states(states)
        found = self._found()
        for path, saved in states.get(HELD, {}).items():
            if path in found and kind_of(found[path]) == saved["kind"]:
                set_state(found[path], saved)

    def begin_again(self) -> bool:
        """After gradients: takes note of generators that computing them has made.

        Returns:
            Whether one has its state in the checkpoint. Then it has that now, and the gradients are to be computed once
            more.
        """
        found = self._found()
        self._note(found)
        arrived = self._waiting.keys() & found.keys()
        for path in arrived:
            self._give(path, found[path], self._waiting.pop(path))

        return bool(arrived)

    def _check_known(self, found: dict[str, object]) -> None:
        known, before = self._known_paths, self._known
        if known is not None and self._strict:
            for path, one in found.items():
                if path not in known and id(one) not in before:
                    raise ConfigError(
                        f"{path} (a {name_of(one)}) was made between two steps, where no resume can set it",
                        expected="generators that are made before training, or by the model or the loss in a step",
                        hint=["make it in __init__, or in on_train_begin of a callback", f"or {_SWITCH}"],
                    )

        self._note(found)

    def _note(self, found: dict[str, object]) -> None:
        self._known = {id(one): one for one in found.values()}
        self._known_paths = (self._known_paths or set()) | found.keys()

    # ---- From a checkpoint ----

    def part(self) -> None:
        """At step 0: every process but the first draws from a stream of its own, as dropout should.

        The Trainer has seeded all of them alike. What is drawn before this is common to all, as initial weights are.
        """
        if self._trainer.args.process_index > 0:
            self._derive_global(0)

    def restore(self, folder: Path, step: int) -> None:
        """Sets the generators to the states of a checkpoint.

        Args:
            folder: Of the checkpoint.
            step: Its step; states that it does not have are derived from it.

        Raises:
            CheckpointError: one is missing, or belongs to a generator of another kind.
        """
        args = self._trainer.args
        files = [rng_of(args.process_index)] if args.world_size > 1 else [RNG]
        files += [RNG, rng_of(0)] if args.process_index == 0 else []
        path = next((folder / name for name in files if (folder / name).is_file()), None)
        if path is None:
            self._derive_all(step)
            return

        states = check_form(load_pickled(path), str(path))
        rng.set_states(states)
        if _num_processes(folder) != args.world_size:
            # The others of them have no state; what all draw alike must stay alike.
            self._derive_held(step)
        else:
            self._restore_held(path, states.get(HELD))

    def _restore_held(self, path: Path, saved: dict[str, PlainState] | None) -> None:
        found = {name: one for name, one in self._found().items() if has_state(one)}
        missing = sorted(found.keys() - (saved or {}).keys())
        if missing and saved is not None and not self._allow_partial:
            raise CheckpointError(
                f"{path} has no state of {missing[0]} (a {name_of(found[missing[0]])})",
                expected="the generators that the training had: " + (", ".join(sorted(saved)) or "none"),
                found=missing[:5],
                hint=["make the model, loss, Trainer and callbacks as they were", _PARTIAL],
            )
        for name in missing:
            self._warn(f"note: {path.parent.name} has no state of {name}; it starts as it was made")

        for name, state in (saved or {}).items():
            if name not in found:
                self._waiting[name] = state
            elif kind_of(found[name]) == state["kind"] or not self._allow_partial:
                self._give(name, found[name], state)
            else:
                self._warn(f"note: {name} is now a {kind_of(found[name])}; it starts as it was made")

    def _give(self, path: str, one: object, saved: PlainState) -> None:
        if kind_of(one) != saved["kind"]:
            raise CheckpointError(
                f"the checkpoint's state of {path} belongs to another kind of generator",
                expected=saved["kind"],
                found=kind_of(one),
                hint=["make the generator as it was", _PARTIAL],
            )
        try:
            set_state(one, saved)
        except Exception as error:  # each library says in its own way that a state is none
            raise CheckpointError(
                f"the checkpoint's state of {path} (a {name_of(one)}) is not one of its states",
                found=f"{type(error).__name__}: {error}",
                hint=["resume from another checkpoint (llamarec checkpoints list)", _PARTIAL],
            ) from error

    def _derive_all(self, step: int) -> None:
        self._derive_global(step)
        self._derive_held(step)

    def _derive_global(self, step: int) -> None:
        args = self._trainer.args
        rng.seed_from(args.seed, rng.PROCESS_STREAM, step, args.process_index)
        if torch.cuda.is_available():
            torch.cuda.manual_seed((args.seed + step + args.process_index * 2**32) % 2**63)

    def _derive_held(self, step: int) -> None:
        """From the states that they were made with: those that are alike in all processes stay alike."""
        for path, one in self._found().items():
            if has_state(one):
                made = zlib.crc32(repr((path, state_of(one))).encode())
                seed(one, [self._trainer.args.seed % 2**63, rng.PROCESS_STREAM, step, made])

    # ---- What is looked into ----

    def _found(self) -> dict[str, object]:
        return self._walked().found

    def _walked(self) -> ObjectWalk:
        roots = self._roots()
        ids = tuple(map(id, roots.values()))
        if self._walk is None or ids != self._root_ids or self._walk.has_changed():
            skipped = [self._trainer, self._trainer.accelerator, *_data_of(self._trainer)]
            self._walk = ObjectWalk(roots, is_generator, skipped=skipped, max_objects=_MAX_OBJECTS)
            self._root_ids = ids

        return self._walk

    def _roots(self) -> NamedRoots:
        trainer = self._trainer
        optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
        roots = NamedRoots(model=unwrapped(trainer), compute_loss_func=trainer.compute_loss_func, optimizer=optimizer)
        roots["lr_scheduler"] = trainer.lr_scheduler
        roots |= {f"trainer.{name}": value for name, value in vars(trainer).items() if name not in _NOT_ENTERED}
        roots["trainer"] = type(trainer)

        numbers: Counter[str] = Counter()
        for callback in trainer.callback_handler.callbacks:
            name = type(callback).__name__
            roots[f"{name}[{numbers[name]}]"] = callback
            numbers[name] += 1

        return NamedRoots({path: root for path, root in roots.items() if not is_leaf(root)})


def _data_of(trainer: LiveTrainer) -> list[object]:
    """What is keyed rather than saved."""
    return [vars(trainer).get(name) for name in ("train_dataset", "eval_dataset", "data_collator")]


def _num_processes(folder: Path) -> int:
    """How many processes' random states a checkpoint has."""
    return 1 if (folder / RNG).is_file() else sum(bool(RNG_PATTERN.fullmatch(path.name)) for path in folder.iterdir())

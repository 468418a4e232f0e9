"""States beside the weights, each under its file's name: of optimizer, random generators, the program, the Trainer."""

from __future__ import annotations

import json
from dataclasses import asdict

from transformers.trainer_callback import ExportableState

from llamarec.checkpoints.resume.random_state_file import as_stored
from llamarec.checkpoints.storage.layout import OPTIMIZER, RNG, SCALER, SCHEDULER, STATE_NAME, rng_of
from llamarec.checkpoints.trainer.distributed.channel import exchange
from llamarec.checkpoints.trainer.run_state import RunState
from llamarec.checkpoints.trainer.samples import rng
from llamarec.checkpoints.trainer.saves.json_values import check_state, for_log
from llamarec.checkpoints.trainer.state.optimizer_names import optimizer_names
from llamarec.checkpoints.trainer.state.snapshot import copied
from llamarec.checkpoints.trainer.state.stateful import StatefulObjects
from llamarec.checkpoints.trainer.step_boundary import StepBoundary
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer


class StateFiles:
    """What a checkpoint's files beside the weights hold, as of the last boundary.

    Args:
        trainer: The live Trainer.
        run: The training; its totals are brought up to date.
        boundary: The last one holds the random states.
        stateful: The objects that the program passed.
        proves: Whether the first save proves that their states can be taken back.
    """

    def __init__(
        self, trainer: LiveTrainer, run: RunState, *, boundary: StepBoundary, stateful: StatefulObjects, proves: bool
    ) -> None:
        self._trainer, self._run, self._boundary = trainer, run, boundary
        self._stateful, self._proves = stateful, proves

    def of_processes(self) -> dict[str, object]:
        """By file, states that every process has; called in all of them, which also learn each other's losses."""
        trainer = self._trainer
        self._run.record_totals(
            trainer.state.global_step,
            exchange(trainer.args, "the losses since the last log", float(trainer._tr_loss)),
            trainer._total_loss_scalar,
            trainer._globalstep_last_logged,
        )
        return {**self._stateful_states(), **self._random_states()}

    def of_optimizer(self) -> dict[str, object]:
        """By file, what the optimizer's steps go by."""
        trainer = self._trainer
        states: dict[str, object] = {
            OPTIMIZER: copied(trainer.optimizer.state_dict()),
            SCHEDULER: copied(trainer.lr_scheduler.state_dict()),
        }
        scaler = getattr(trainer.accelerator, "scaler", None)
        if scaler is not None:
            states[SCALER] = scaler.state_dict()

        return states

    def trainer_state(self) -> bytes:
        """trainer_state.json, with the callbacks' states and ours."""
        trainer, run = self._trainer, self._run
        states: dict[str, object] = {}
        for callback in [*trainer.callback_handler.callbacks, trainer.control]:
            if isinstance(callback, ExportableState):
                # Several callbacks of one class are a list; made here, since the Trainer's grows with every save.
                name, found = type(callback).__name__, callback.state()
                check_state(found, f"state() of the callback {name}:")
                before = states.get(name)
                states[name] = found if before is None else [*(before if isinstance(before, list) else [before]), found]

        states[STATE_NAME] = {
            "args": {},
            "attributes": run.progress.as_dict(),
            "optimizer": optimizer_names(trainer),
            "micro_batches": [asdict(seen) for seen in run.recent],
        }

        content: dict[str, object] = {name: for_log(value) for name, value in asdict(trainer.state).items()}
        content["stateful_callbacks"] = states
        return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()

    def _stateful_states(self) -> dict[str, object]:
        """By file, those of every process; at the first save, that they can be taken back is proven."""
        last = self._boundary.last
        states = last.stateful if last is not None else self._stateful.copied()
        self._stateful.complete(states)
        if self._proves:
            self._stateful.prove(states)

        return self._stateful.files(states)

    def _random_states(self) -> dict[str, object]:
        """By file, those of every process."""
        args, last = self._trainer.args, self._boundary.last
        own = last.rng if last is not None else rng.capture()
        if args.world_size == 1:
            return {RNG: as_stored(own)}

        states = exchange(args, "the random states of the checkpoint", own)
        return {rng_of(rank): as_stored(state) for rank, state in enumerate(states)}

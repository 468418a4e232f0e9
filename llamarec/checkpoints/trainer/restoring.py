"""From a checkpoint to the Trainer's state: length, history, best model, callbacks, open requests, random states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback
from transformers.trainer_callback import ExportableState, TrainerState

from llamarec.checkpoints.resume.decision import METRIC, Resume
from llamarec.checkpoints.resume.position import Position
from llamarec.checkpoints.storage.discovery import folder_of_best
from llamarec.checkpoints.storage.layout import TRAINER_STATE
from llamarec.checkpoints.trainer.console import Console
from llamarec.checkpoints.trainer.dataloader import check_is_ours
from llamarec.checkpoints.trainer.run_state import RunState
from llamarec.checkpoints.trainer.samples.random_states import RandomStates
from llamarec.checkpoints.trainer.samples.sampling import Batch
from llamarec.checkpoints.trainer.state.stateful import StatefulObjects
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer


class Restorer:
    """Brings a checkpoint into the Trainer's state, in the order in which the Trainer asks for it.

    Args:
        trainer: The live Trainer.
        run: The training, with the resume it starts with.
        stateful: The objects that the program passed.
        random: Its random states.
        console: For a best model that is not found.

    Attributes:
        lost_best: Step of a best model that the checkpoint knows, and that was not there; None where it was.
    """

    def __init__(
        self,
        trainer: LiveTrainer,
        run: RunState,
        *,
        stateful: StatefulObjects,
        random: RandomStates,
        console: Console,
    ) -> None:
        self._trainer, self._run, self._console = trainer, run, console
        self._stateful, self._random = stateful, random
        self.lost_best: int | None = None

    def training_values(self, dataloader: DataLoader[Batch]) -> tuple[int, int, int, int, int, int, int]:
        """How long training is, counted in samples from where it continues.

        Returns:
            What `Trainer.set_initial_training_values` returns: epochs, steps per epoch, samples, samples of the whole
            training, samples per step, batches per epoch, steps.
        """
        args, resume = self._trainer.args, self._run.resume
        geometry = check_is_ours(dataloader).geometry
        step, position = 0, Position()
        if resume is not None:
            step, position, to_go = resume.step, resume.progress.position, resume.steps_to_go
        elif args.max_steps > 0:
            to_go = int(args.max_steps)
        else:
            to_go = geometry.steps_to_go(position, float(args.num_train_epochs))

        num_epochs = resume.num_epochs if resume is not None else 0
        if not num_epochs:
            num_epochs = geometry.last_epoch(position, to_go) if to_go else position.epoch
        # An epoch whose samples are all seen is still to be closed.
        num_epochs = max(num_epochs, position.epoch + 1) if position.sample else num_epochs

        if resume is None:
            self._run.start(geometry, to_go)

        samples = (
            (step + to_go) * geometry.batch if args.max_steps > 0 else geometry.num_samples * args.num_train_epochs
        )
        return (
            num_epochs,
            geometry.steps_per_epoch,
            geometry.num_samples,
            int(samples),
            geometry.batch,
            geometry.steps_per_epoch,
            step + to_go,
        )

    # ---- The Trainer's state ----

    def restore_state(self, resume: Resume, max_steps: int, num_train_epochs: int, trial: object) -> tuple[int, int]:
        """The checkpoint's history, counters and callbacks, in a Trainer whose state is fresh.

        Returns:
            What `Trainer._init_training_state` returns: the epoch to continue in, and 0 steps to skip.
        """
        trainer = self._trainer
        if resume.trainer_state:
            known = set(TrainerState.__dataclass_fields__)
            content = {name: value for name, value in resume.trainer_state.items() if name in known}
            trainer.state = TrainerState(**content)
            # The arguments of this process count, not those of the checkpoint.
            trainer.state.train_batch_size = trainer.args.train_batch_size
            trainer.state.compute_steps(trainer.args, max_steps)

            self._restore_callbacks(_callback_states(resume))
            if resume.plan.changed & (METRIC | trainer.origins.measures):
                self._forget_best()

        trainer.state.global_step = resume.step
        self._restore_best()
        trainer.state.init_training_references(trainer, max_steps, num_train_epochs, trial)
        return self._run.progress.position.epoch, 0

    def _restore_callbacks(self, states: Mapping[str, Any]) -> None:
        """What callbacks remember; their arguments are this process's."""
        seen: dict[str, int] = {}
        for callback in self._trainer.callback_handler.callbacks:
            if not isinstance(callback, ExportableState):
                continue

            name = type(callback).__name__
            entries = states.get(name)
            number, seen[name] = seen.get(name, 0), seen.get(name, 0) + 1

            # Several callbacks of one class are a list.
            entries = entries if isinstance(entries, list) else [entries]
            entry = entries[number] if number < len(entries) else None
            for attribute, value in (entry or {}).get("attributes", {}).items():
                setattr(callback, attribute, value)

    def _forget_best(self) -> None:
        """Another metric, or another evaluation set: the old best value cannot be compared with new ones."""
        state = self._trainer.state
        state.best_metric = state.best_global_step = None
        for callback in self._trainer.callback_handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback):
                callback.early_stopping_patience_counter = 0

    def _restore_best(self) -> None:
        """A best model is remembered by its step; its folder is wherever the run is now."""
        trainer, state = self._trainer, self._trainer.state
        step = state.best_global_step
        folder = folder_of_best(self._run.folder, step) if step is not None else None

        if step is not None and folder is None and trainer.args.load_best_model_at_end:
            self._console.warn(
                f"note: the best model so far (step {step:,}, {state.best_metric:.4g}) is neither in "
                f"checkpoint-{step} nor in the run's folder; the best is chosen from the validations from here on"
            )
            self.lost_best = step
            state.best_metric = state.best_global_step = None

        state.best_model_checkpoint = str(folder) if folder is not None else None

    def announce_lost_best(self) -> None:
        """At the end: the first lines of a long training are forgotten by then."""
        if self.lost_best is None:
            return

        best = self._trainer.state.best_global_step
        instead = "the last one is used" if best is None else f"step {best:,} is the best since then"
        self._console.warn(
            f"WARNING: the best model (step {self.lost_best:,}) was not there when this process resumed; {instead}"
        )

    # ---- Last ----

    def restore_last(self) -> None:
        """After every callback of the start has run: sums, requests that were open, states, random ones."""
        self._stateful.held.watch.observe()
        trainer, resume, progress = self._trainer, self._run.resume, self._run.progress
        if resume is None:
            self._random.part()
            return

        if TRAINER_STATE not in resume.choice.verdict.missing:
            args = trainer.args
            trainer._tr_loss.fill_(progress.loss_of(args.process_index, args.world_size))
            trainer._total_loss_scalar = progress.loss_total
            trainer._globalstep_last_logged = progress.logged_step
            trainer._initial_global_step = 0
            # Once more: the events of the start came in between.
            self._restore_callbacks(_callback_states(resume))
            self._restore_requests(resume)

        self._stateful.restore(resume.choice.verdict.path)
        self._random.restore(resume.choice.verdict.path, resume.step)

    def _restore_requests(self, resume: Resume) -> None:
        open_requests = (_callback_states(resume).get("TrainerControl") or {}).get("args") or {}
        control = self._trainer.control
        # A plain Trainer saves before its callbacks take the request back.
        if resume.choice.verdict.manifest is not None:
            control.should_evaluate = bool(open_requests.get("should_evaluate"))
            control.should_save = bool(open_requests.get("should_save"))
            # A callback had ended this epoch, and it is not closed yet.
            ends_epoch = bool(open_requests.get("should_epoch_stop")) and self._run.progress.position.sample > 0
            control.should_epoch_stop = ends_epoch

        finished = resume.plan.steps_to_go == 0 and bool(open_requests.get("should_training_stop"))
        control.should_training_stop = resume.stops or finished


def _callback_states(resume: Resume) -> Mapping[str, Any]:
    return resume.trainer_state.get("stateful_callbacks") or {}

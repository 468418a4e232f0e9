"""The objects that a `ResumableMixin` holds: those of a Trainer's whole life, and those of one `train()`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from transformers.integrations.neftune import deactivate_neftune

from llamarec.checkpoints.mirror.keeper import MirrorKeeper
from llamarec.checkpoints.resume.schedule import ScheduleMap
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.outcomes import exception_noted
from llamarec.checkpoints.trainer.callback_output import output_is_lossy
from llamarec.checkpoints.trainer.console import Console
from llamarec.checkpoints.trainer.dataloader import TrainData
from llamarec.checkpoints.trainer.distributed.endings import told
from llamarec.checkpoints.trainer.evaluation import Evaluation
from llamarec.checkpoints.trainer.guards.moved_models import check_moved_models
from llamarec.checkpoints.trainer.guards.optimizers import OptimizerGuard
from llamarec.checkpoints.trainer.guards.structure import ModelStructure
from llamarec.checkpoints.trainer.loop import StepLoop
from llamarec.checkpoints.trainer.mirroring import TrainingMirror
from llamarec.checkpoints.trainer.program import Program
from llamarec.checkpoints.trainer.restoring import Restorer
from llamarec.checkpoints.trainer.run_state import RunState, SaveRequests
from llamarec.checkpoints.trainer.samples.data_states import DataStates
from llamarec.checkpoints.trainer.samples.random_states import RandomStates
from llamarec.checkpoints.trainer.samples.recent_batches import RecentBatches
from llamarec.checkpoints.trainer.saves.callback_files import CallbackFiles
from llamarec.checkpoints.trainer.saves.read_back import ReadBack
from llamarec.checkpoints.trainer.saves.saver import CheckpointSaver
from llamarec.checkpoints.trainer.saves.writer import CheckpointWriter
from llamarec.checkpoints.trainer.signals import EndNow, StopRequests
from llamarec.checkpoints.trainer.start_record import StartRecord
from llamarec.checkpoints.trainer.starting import Start
from llamarec.checkpoints.trainer.state.extra_state import ExtraState, read_extra_state
from llamarec.checkpoints.trainer.state.optimizer_state import OptimizerState
from llamarec.checkpoints.trainer.state.stateful import StatefulObjects
from llamarec.checkpoints.trainer.state.unsaved import UnsavedState
from llamarec.checkpoints.trainer.state.weights import Weights
from llamarec.checkpoints.trainer.step import Step
from llamarec.checkpoints.trainer.step_boundary import StepBoundary
from llamarec.checkpoints.trainer.stopping import Stopping
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer


@dataclass(frozen=True, kw_only=True)
class Training:
    """What one `train()` consists of.

    Attributes:
        run: What it knows of itself.
        boundary: Its last step boundary.
        requests: Saves that are due.
        writer: Writes checkpoints.
        callback_files: What callbacks write into one that is due.
        saver: Takes snapshots.
        restorer: Brings a checkpoint in.
        stopping: Ends it before its time.
        loop: Its steps.
    """

    run: RunState
    boundary: StepBoundary
    requests: SaveRequests
    writer: CheckpointWriter
    callback_files: CallbackFiles
    saver: CheckpointSaver
    restorer: Restorer
    stopping: Stopping
    loop: StepLoop


class ResumableParts:
    """What a Trainer with a `ResumableMixin` is made of beside itself.

    Args:
        trainer: Just constructed.
        program: What the program gave.

    Attributes:
        trainer: Likewise.
        program: Likewise.
        console: For the user.
        stop: Requests to stop.
        data: The training data.
        stateful: The objects that the program passed.
        random: Random states that a step goes by.
        evaluation: Repeated where it does not fit.
        extra: What training moves beside the weights files.
        weights: Loaded and saved.
        last: The training that runs, or the last one; None before the first.
    """

    def __init__(self, trainer: LiveTrainer, program: Program) -> None:
        self.trainer, self.program = trainer, program
        self.console = Console(trainer.args.process_index == 0)
        self.stop = StopRequests()
        self.data = TrainData(trainer, program)
        options = program.options
        self.stateful = StatefulObjects(
            trainer, options.stateful, self.console, allow_partial=options.config.allow_partial_resume
        )
        self.random = RandomStates(trainer, options.config, self.console.warn)
        self.evaluation = Evaluation(
            trainer, program, stateful=self.stateful, random=self.random, stop=self.stop, console=self.console
        )
        self.extra = ExtraState(trainer)
        self.weights = Weights(trainer, options.config, self.console, self.extra)
        self.last: Training | None = None
        self._writer: CheckpointWriter | None = None

    # ---- The training that runs, or the last one ----

    @property
    def training(self) -> Training:
        """The training that runs.

        Raises:
            RuntimeError: `train()` has never been called.
        """
        if self.last is None:
            raise RuntimeError("the Trainer's loop was entered without train()")

        return self.last

    @property
    def is_in_loop(self) -> bool:
        """Whether a training is between its first step boundary and its end."""
        return self.last is not None and self.last.boundary.is_in_loop

    @property
    def writer(self) -> CheckpointWriter | None:
        """Of the training that runs, or of the last one, whether or not it came to begin."""
        return self._writer

    @property
    def schedule(self) -> ScheduleMap | None:
        """From steps to the learning-rate curve, where a training has set its length."""
        return self.last.run.progress.schedule if self.last is not None else None

    def last_good(self) -> str:
        """Path of the newest good checkpoint; empty where there is none."""
        return self.last.saver.last_good if self.last is not None else ""

    def hyperparameters(self) -> dict[str, object]:
        """Every training argument and the program's own options, as the user gave them."""
        return self.program.hyperparameters(given_eval_batch=self.evaluation.given_batch)

    # ---- One training ----

    def set_up(self, trial: object) -> None:
        """Has a trial of a search its arguments and a model, before a resume looks at them."""
        trainer = self.trainer
        if trainer.hp_search_backend is not None:
            trainer._hp_search_setup(trial)
        if trainer.model is None and trainer.model_init is not None:
            # The search has freed the last trial's. The Trainer makes it once more, after seeding.
            trainer.model = trainer.call_model_init(trial)

    @contextlib.contextmanager
    def trained_in(self, folder: RunFolder, wanted: str | Path | bool | None) -> Iterator[None]:
        """Within, a training runs in a folder that is this process's; whatever ends it, it is saved and left clean.

        Args:
            folder: Of the run.
            wanted: The checkpoint to resume: True, 'latest', 'best' or a path; None starts at step 0.

        Raises:
            LlamarecError: the checkpoint, the folder or the disk does not allow it; nothing was changed.
            Interrupted: stopped by a signal, and saved.
        """
        if self._writer is not None:
            # Of a training that was ended in the middle of writing.
            self._writer.wait()

        mirror = TrainingMirror(self.trainer, folder, self.program.options.config.mirror, self.console)
        record = StartRecord(self.trainer, folder, self.program.options.config.max_failed_starts)
        start = Start(
            self.trainer,
            folder,
            mirror=mirror,
            record=record,
            program=self.program,
            data=self.data,
            stateful=self.stateful,
            random=self.random,
            console=self.console,
            hyperparameters=self.hyperparameters,
        )
        reads_back = self.program.options.config.read_back
        optimizers = OptimizerGuard(self.trainer, self.stateful.values, reads_back=reads_back)
        quiet = output_is_lossy(self.trainer.callback_handler, self.console.warn)
        # Noted while signals are still handled: a launcher sends one to a process that is just ending.
        watched = self.stop.watched()
        with start.folder_held(), watched, exception_noted(), optimizers.watched(), quiet, self._left_clean():
            check_moved_models(self.trainer.callback_handler.callbacks, self.stateful.values())
            self.data.forget()
            self.stateful.observe()
            self._writer = self._new_writer(folder, mirror.keeper)
            with told(self.trainer.args):
                run = start.begin(wanted, self._writer)
            if run.resume is not None and not self.program.makes_optimizer:
                # The optimizer of an earlier training of this object would keep the rate that it was made with.
                self.trainer.optimizer = None  # type: ignore[assignment]  # as before the first training
                self.stateful.thaw_as_at_start()

            self.last = self._assembled(run, self._writer)

            with record.kept(), self.last.stopping.saved_whatever_happens():
                yield

    def restore_optimizer(self) -> None:
        """Loads optimizer, schedule and gradient scaler of the checkpoint that is resumed, once they are made."""
        resume = self.training.run.resume
        if resume is not None:
            allow_partial = self.program.options.config.allow_partial_resume
            OptimizerState(self.trainer, resume, self.console, allow_partial=allow_partial).restore()
            folder = resume.choice.verdict.path
            self.extra.put_into_optimizer(read_extra_state(folder), folder)

    def _new_writer(self, folder: RunFolder, mirror: MirrorKeeper | None) -> CheckpointWriter:
        config = self.program.options.config
        return CheckpointWriter(
            folder,
            limit=self.trainer.args.save_total_limit,
            warn=self.console.warn,
            in_background=config.background_saves,
            backup_to=config.backup_to,
            backup_every=config.backup_every,
            after_save=self.program.options.after_save,
            read_back=config.read_back,
            mirror=mirror,
        )

    def _new_step(self, run: RunState, boundary: StepBoundary) -> Step:
        return Step(
            self.trainer,
            run,
            boundary=boundary,
            stateful=self.stateful,
            random=self.random,
            data=self.data,
            stop=self.stop,
            console=self.console,
            last_good=self.last_good,
        )

    def _assembled(self, run: RunState, writer: CheckpointWriter) -> Training:
        trainer, requests = self.trainer, SaveRequests()
        boundary = StepBoundary(trainer, run, stateful=self.stateful, random=self.random, requests=requests)
        callback_files = CallbackFiles(run.folder, warn=self.console.warn, settle=writer.wait)
        unsaved = UnsavedState(trainer, self.stateful, self.console)
        structure = ModelStructure(trainer, self.console)
        saver = CheckpointSaver(
            trainer,
            run,
            boundary=boundary,
            requests=requests,
            writer=writer,
            callback_files=callback_files,
            extra=self.extra,
            stateful=self.stateful,
            unsaved=unsaved,
            structure=structure,
            read_back=ReadBack(self.weights, self.program.options.config.changes_allowed),
            program=self.program,
            hyperparameters=self.hyperparameters,
        )
        restorer = Restorer(trainer, run, stateful=self.stateful, random=self.random, console=self.console)
        stopping = Stopping(
            trainer, run, boundary=boundary, saver=saver, writer=writer, stop=self.stop, console=self.console
        )
        loop = StepLoop(
            trainer,
            run,
            boundary=boundary,
            step=self._new_step(run, boundary),
            requests=requests,
            saver=saver,
            restorer=restorer,
            unsaved=unsaved,
            structure=structure,
            recent=RecentBatches(
                run,
                self.data.drawn_again,
                self.program.options.config,
                self.console.warn,
                DataStates(trainer, self.program.options.stateful),
            ),
            stopping=stopping,
            stop=self.stop,
        )
        return Training(
            run=run,
            boundary=boundary,
            requests=requests,
            writer=writer,
            callback_files=callback_files,
            saver=saver,
            restorer=restorer,
            stopping=stopping,
            loop=loop,
        )

    @contextlib.contextmanager
    def _left_clean(self) -> Iterator[None]:
        """However training ends, the Trainer can train again, and everything submitted is written."""
        end_saves = CheckpointWriter.finish_all
        try:
            yield
        except EndNow:
            end_saves = CheckpointWriter.abandon
            raise
        finally:
            if self.last is not None:
                self.last.boundary.close()
            self._remove_neftune()
            if self._writer is not None:
                end_saves(self._writer)

    def _remove_neftune(self) -> None:
        """Removes its hook, which the Trainer does itself only where training ended well."""
        trainer = self.trainer
        handle = getattr(trainer, "neftune_hook_handle", None)
        if handle is not None:
            with contextlib.suppress(AttributeError):
                deactivate_neftune(trainer.model, handle, trainer.accelerator)

"""Before the first step: the folder is locked and cleared, a resume is decided, and this process enters the history."""

from __future__ import annotations

import contextlib
import os
import platform
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from llamarec.checkpoints.resume.compatibility import refuse_unknown
from llamarec.checkpoints.resume.current_process import CurrentProcess
from llamarec.checkpoints.resume.decision import Resume, decide
from llamarec.checkpoints.resume.progress import Progress, progress_in
from llamarec.checkpoints.resume.readable import check_readable
from llamarec.checkpoints.storage import json_shapes
from llamarec.checkpoints.storage.discovery import LATEST, choose_checkpoint, next_sequence
from llamarec.checkpoints.storage.json_shapes import ShapeError
from llamarec.checkpoints.storage.layout import STATE_NAME, TRAINER_STATE, RunFolder, step_of
from llamarec.checkpoints.storage.lock import RunLock
from llamarec.checkpoints.storage.manifest import MAX_SESSIONS, Session
from llamarec.checkpoints.storage.ownership import check_can_resume, check_can_start
from llamarec.checkpoints.storage.recovery import recover
from llamarec.checkpoints.storage.restart import clear_superseded, is_superseded, mark_superseded
from llamarec.checkpoints.storage.space import require_space
from llamarec.checkpoints.trainer.console import Console
from llamarec.checkpoints.trainer.dataloader import TrainData
from llamarec.checkpoints.trainer.distributed.agreement import from_first_process, in_first_process
from llamarec.checkpoints.trainer.distributed.same_settings import check_same_checkpoint, check_same_settings
from llamarec.checkpoints.trainer.distributed.shared_folder import check_same_folder
from llamarec.checkpoints.trainer.mirroring import TrainingMirror
from llamarec.checkpoints.trainer.program import Program
from llamarec.checkpoints.trainer.run_state import Lineage, RunState, SeenBatch
from llamarec.checkpoints.trainer.samples.random_states import RandomStates
from llamarec.checkpoints.trainer.saves.writer import CheckpointWriter
from llamarec.checkpoints.trainer.start_record import StartRecord
from llamarec.checkpoints.trainer.state.model_files import check_can_be_saved
from llamarec.checkpoints.trainer.state.stateful import StatefulObjects
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer, unwrapped
from llamarec.errors import CheckpointError, ConfigError

# Weights and two moments of everything that is trained.
_COPIES_IN_A_CHECKPOINT = 3


class Start:
    """The start of one training.

    Args:
        trainer: The live Trainer.
        folder: The run's folder.
        mirror: Of the run.
        record: Of its starts.
        program: What the program gave.
        data: The training data.
        stateful: The objects that the program passed.
        random: What it holds is checked.
        console: For the plan.
        hyperparameters: Of this process.
    """

    def __init__(
        self,
        trainer: LiveTrainer,
        folder: RunFolder,
        *,
        mirror: TrainingMirror,
        record: StartRecord,
        program: Program,
        data: TrainData,
        stateful: StatefulObjects,
        random: RandomStates,
        console: Console,
        hyperparameters: Callable[[], dict[str, object]],
    ) -> None:
        self._trainer, self._folder, self._program, self._mirror = trainer, folder, program, mirror
        self._record, self._stateful, self._random = record, stateful, random
        self._data, self._console, self._hyperparameters = data, console, hyperparameters

    @contextlib.contextmanager
    def folder_held(self) -> Iterator[None]:
        """Within, the run's folder is this process's: locked, and cleared of what a killed save left.

        Raises:
            LockedError: another process trains there.
            DisagreementError: a process of this training sees another folder.
        """
        lock = RunLock(self._folder, self._trainer.program_hints)
        in_first_process(self._trainer.args, "the lock of the run's folder", lambda: self._take(lock))
        try:
            check_same_folder(self._trainer.args, self._folder)
            yield
        finally:
            lock.release()

    def _take(self, lock: RunLock) -> None:
        lock.acquire()
        for text in recover(self._folder, self._trainer.program_hints):
            self._console.warn(text)

    def begin(self, wanted: str | Path | bool | None, writer: CheckpointWriter) -> RunState:
        """Decides how training continues; nothing on the disk has changed if that is refused.

        Args:
            wanted: True, 'latest', 'best' or a path; None starts at step 0.
            writer: Ends the save of the checkpoint that is resumed, if a kill came before its end.

        Raises:
            LlamarecError: the checkpoint, the folder or the disk does not allow it.
        """
        self._check_data()
        check_can_be_saved(unwrapped(self._trainer))
        args, fingerprints = self._trainer.args, self._program.fingerprints()
        check_same_settings(
            self._trainer,
            self._program,
            fingerprints=fingerprints,
            hyperparameters=self._hyperparameters(),
            wanted=wanted,
        )
        resume = self._decide(wanted, fingerprints)
        check_same_checkpoint(args, resume)
        restarts = self._program.options.config.restart
        look = partial(self._mirror.check, resume, is_restart=restarts)
        in_first_process(args, "what the mirror has", look)
        self._check_stateful(resume)
        self._random.check()
        lineage = from_first_process(args, "the history of the run", self._lineage(resume))
        if self._program.options.config.check_data:
            in_first_process(args, "the check of the data", self._data.check)
            self._say_what_is_not_looked_at()
        in_first_process(args, "the check of the disk", partial(self._check_space, resume))

        self._record.check(wanted, resume)

        # From here on nothing refuses any more.
        if wanted is None:
            in_first_process(args, "a restart", self._supersede_earlier)
        elif resume is not None:
            in_first_process(args, "the run before a restart", partial(self._unsupersede, wanted))
        self._mirror.begin(resume, lineage, is_restart=restarts)

        if resume is not None:
            manifest = resume.choice.verdict.manifest
            writer.continue_from(resume.step, manifest.num_bytes if manifest is not None else 0)
            in_first_process(args, "the end of a killed save", partial(_finish_save, resume, writer))
            for line in resume.plan.lines():
                self._console.print(line)
        elif wanted:
            self._console.print(f"resume:      nothing: {self._why_nothing()}; training starts at step 0")

        self._record.begin(wanted, resume, lineage.sessions[-1].started)
        progress = resume.progress if resume is not None else Progress()
        return RunState(
            folder=self._folder,
            fingerprints=fingerprints,
            resume=resume,
            lineage=lineage,
            progress=progress,
            recent=_recent_in(resume) if resume is not None else (),
        )

    def _say_what_is_not_looked_at(self) -> None:
        if paths := self._data.not_looked_at():
            self._console.warn(
                f"note: generators at {', '.join(paths[:3])} and beyond are not looked for: too many objects. "
                "A resume repeats what they draw only if it goes by the seed, the epoch and the index"
            )

    # ---- The decision ----

    def _decide(self, wanted: str | Path | bool | None, fingerprints: dict[str, object]) -> Resume | None:
        trainer, config = self._trainer, self._program.options.config
        if wanted is None:
            if not config.restart:
                beyond = {name: fingerprints.get(name) for name in trainer.beyond_flags}
                check_can_start(self._folder, beyond, config.changes_allowed, trainer.program_hints)
            return None

        here = self._mirror.fetch(wanted)
        choice = choose_checkpoint(
            self._folder,
            wanted,
            allow_partial=config.allow_partial_resume,
            earlier=self._program.options.choice or here,
            check=check_readable,
        )
        if choice is None:
            return None

        check_can_resume(self._folder, choice)
        if config.restart:
            name = choice.verdict.path.name
            self._console.print(f"note:        --restart counts only where nothing is resumed; {name} is")

        refuse_unknown(config.changes_allowed, fingerprints)
        geometry = self._data.geometry()
        process = CurrentProcess(
            args=trainer.args,
            num_samples=geometry.num_samples,
            samples_per_step=geometry.batch,
            hyperparameters=self._hyperparameters(),
            defaults=self._program.options.defaults,
            fingerprints=fingerprints,
            allowed=config.changes_allowed,
            custom=self._program.custom_optimizers(),
            origins=trainer.origins,
        )
        return decide(choice, process)

    def _check_stateful(self, resume: Resume | None) -> None:
        """Refuses states that cannot be saved, and a checkpoint with the states of other objects."""
        self._stateful.copied()
        if resume is not None:
            self._stateful.check(resume.choice.verdict.path)

    def _check_data(self) -> None:
        """Refuses a training that would end without a step, and look like one that is done."""
        args, dataset = self._trainer.args, self._trainer.train_dataset
        if dataset is None or self._data.geometry().num_samples > 0:
            return

        size, batch = len(dataset), args.train_batch_size * args.world_size
        if size == 0:
            raise ConfigError(
                "train_dataset has 0 samples", expected="at least 1", hint="look at what filters or splits the data"
            )

        hints = ["--dataloader_drop_last false"]
        if size >= args.world_size:
            hints.append(f"or --per_device_train_batch_size {size // args.world_size} at most")
        raise ConfigError(
            "--dataloader_drop_last true leaves no sample to train on",
            expected=f"at least one whole batch of {batch}",
            found=f"{size} samples in train_dataset",
            hint=hints,
        )

    def _why_nothing(self) -> str:
        if not self._folder.checkpoints():
            return f"there is no checkpoint in {self._folder.path} yet"

        return f"the checkpoints in {self._folder.path} belong to the run before --restart (name a path to resume one)"

    def _check_space(self, resume: Resume | None) -> None:
        trainer = self._trainer
        if trainer.args.save_strategy == "no":
            return

        manifest = resume.choice.verdict.manifest if resume is not None else None
        trained = sum(p.numel() * p.element_size() for p in trainer.model.parameters() if p.requires_grad)
        needed = manifest.num_bytes if manifest else _COPIES_IN_A_CHECKPOINT * trained
        require_space(self._folder, needed, measured=manifest is not None)

    # ---- The history ----

    def _lineage(self, resume: Resume | None) -> Lineage:
        manifest = resume.choice.verdict.manifest if resume is not None else None
        applied = [change for change in resume.plan.changes if change.decision == "applied"] if resume else []
        session = Session(
            started=datetime.now(UTC).isoformat(),
            from_step=resume.step if resume is not None else 0,
            resumed_from=resume.choice.verdict.path.name if resume is not None else None,
            host=os.environ.get("COMPUTERNAME") or platform.node(),
            changes=tuple(f"{change.name}: {change.old} -> {change.new}" for change in applied),
            extends=resume is not None and resume.was_finished,
        )

        earlier = manifest.sessions if manifest is not None else ()
        given = {**(manifest.given if manifest is not None else {}), **self._program.options.given}
        return Lineage(
            run_id=manifest.run_id if manifest is not None else uuid.uuid4().hex[:12],
            parent=resume.step if resume is not None else None,
            sessions=_capped((*earlier, session)),
            given=given,
            next_sequence=max(next_sequence(self._folder), self._mirror.next_sequence),
        )

    def _supersede_earlier(self) -> None:
        """A restart: earlier checkpoints do not count any more, even if this run is killed before its first save."""
        if steps := self._folder.steps():
            mark_superseded(self._folder, steps)

    def _unsupersede(self, wanted: str | Path | bool) -> None:
        """A checkpoint of the run before a restart was named: that run continues."""
        path = Path(str(wanted))
        step, is_here = step_of(path), path.resolve().parent == self._folder.path.resolve()
        if step is not None and is_here and is_superseded(self._folder, [step])[step]:
            clear_superseded(self._folder)


def _recent_in(resume: Resume) -> tuple[SeenBatch, ...]:
    """The micro-batches before a checkpoint; none where it does not tell."""
    entry = (resume.trainer_state.get("stateful_callbacks") or {}).get(STATE_NAME)
    is_ours = progress_in(resume.trainer_state) is not None
    found = entry.get("micro_batches", []) if is_ours and isinstance(entry, dict) else []
    try:
        return tuple(json_shapes.shaped(one, SeenBatch) for one in found)
    except ShapeError as error:
        raise CheckpointError(f"{TRAINER_STATE}: micro_batches cannot be read", found=str(error)) from error


def _finish_save(resume: Resume, writer: CheckpointWriter) -> None:
    """The best model and the deletions that belong to the newest checkpoint: a kill may have come before them."""
    choice, manifest = resume.choice, resume.choice.verdict.manifest
    if choice.why == LATEST and not choice.passed_over and manifest is not None:
        writer.finish(manifest)


def _capped(sessions: tuple[Session, ...]) -> tuple[Session, ...]:
    """The first and the last ones: manifests must not grow without end in a run that is restarted again and again."""
    return sessions if len(sessions) <= MAX_SESSIONS else (sessions[0], *sessions[1 - MAX_SESSIONS :])

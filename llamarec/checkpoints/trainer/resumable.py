"""The Trainer to put in the place of `transformers.Trainer`."""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
from transformers import Trainer
from transformers.integrations.neftune import deactivate_neftune

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.resume.compatibility import refuse_unknown
from llamarec.checkpoints.resume.decision import Resume, decide
from llamarec.checkpoints.resume.process import CurrentProcess
from llamarec.checkpoints.resume.progress import Progress
from llamarec.checkpoints.storage.discovery import LATEST, ResumeChoice, choose_checkpoint, next_sequence
from llamarec.checkpoints.storage.layout import RunFolder, step_of
from llamarec.checkpoints.storage.lock import RunLock
from llamarec.checkpoints.storage.manifest import MAX_SESSIONS, Session
from llamarec.checkpoints.storage.ownership import check_can_resume, check_can_start
from llamarec.checkpoints.storage.publish import recover
from llamarec.checkpoints.storage.restart import clear_superseded, is_superseded, mark_superseded
from llamarec.checkpoints.storage.space import require_space
from llamarec.checkpoints.trainer.dataloader import TrainData
from llamarec.checkpoints.trainer.fingerprints import base_model_of, fingerprints_of
from llamarec.checkpoints.trainer.hooks import check_hooks
from llamarec.checkpoints.trainer.loop import OpensEpochs, StepLoop
from llamarec.checkpoints.trainer.restoring import Restoring
from llamarec.checkpoints.trainer.saving import Saving
from llamarec.checkpoints.trainer.signals import EndNow, StopRequests
from llamarec.checkpoints.trainer.weights import Weights
from llamarec.checkpoints.trainer.writer import Saver
from llamarec.errors import CheckpointError, check_all

_ORDERS = ("random", "sequential")


class ResumableMixin(StepLoop, TrainData, Saving, Weights, Restoring):
    """Put before `Trainer`, or before a subclass of it: `class MyTrainer(ResumableMixin, TheirTrainer)`.

    Args:
        checkpoint_config: Options that `TrainingArguments` does not have.
        fingerprints: What identifies the run beside base model, adapter and data; plain values by name.
        own_options: The program's own hyperparameters, compared on resume like the Trainer's.
        given: Hyperparameters that the user gave on the command line, stored for `show`.
        defaults: Of this command, for hyperparameters that were taken over from the checkpoint instead.
        after_save: Called with the folder of each checkpoint when it is published and verified, from the thread that
            writes; a callback's `on_save` runs before that, when the save is asked for.

    All other arguments are the Trainer's. A subclass may override `split_batch`, `epoch_order` and `samples_by_epoch`.
    """

    def __init__(
        self,
        *args: Any,
        checkpoint_config: CheckpointConfig | None = None,
        fingerprints: Mapping[str, Any] | None = None,
        own_options: Mapping[str, Any] | None = None,
        given: Mapping[str, Any] | None = None,
        defaults: Mapping[str, Any] | None = None,
        after_save: Callable[[Path], object] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_hooks(self, Trainer)
        self._config, self._after_save = checkpoint_config or CheckpointConfig(), after_save
        self._own_options, self._given = dict(own_options or {}), dict(given or {})
        self._defaults, self._extra_fingerprints = dict(defaults or {}), dict(fingerprints or {})
        self._run = RunFolder(Path(str(self.args.output_dir)))
        self._progress, self._stop, self._saver = Progress(), StopRequests(), None
        self._fingerprints: dict[str, Any] = {}
        self._sessions, self._run_id, self._sequence, self._parent = (), "", 0, None
        self._last_saved_step, self._buffers = -1, {}
        self._base_model, self._own_optimizer = "", self.optimizer is None
        self._given_scheduler = self.lr_scheduler
        self.callback_handler.callbacks.insert(0, OpensEpochs(self))
        # Patience and the like are part of what a resume must not lose.
        self.args.restore_callback_states_from_checkpoint = True
        # Ours halves the micro-batch inside the step; the Trainer's would begin anew.
        self.args.auto_find_batch_size = False
        self._refuse_what_cannot_be_kept()

    # ---- The public face ----

    @property
    def run_id(self) -> str:
        """Of the training: the same for all that descends from one start; empty before it."""
        return self._run_id

    def train(self, resume_from_checkpoint: Any = None, trial: Any = None, ignore_keys_for_eval: Any = None) -> Any:
        """As `Trainer.train`, from a checkpoint or from the start.

        Args:
            resume_from_checkpoint: True or 'latest', 'best', or a path; None takes
                `args.resume_from_checkpoint`, and where that is None too training starts at step 0.
            trial: As in the Trainer: a trial of a hyperparameter search trains in a folder of its own.
            ignore_keys_for_eval: As in the Trainer.

        Raises:
            LlamarecError: the checkpoint, the folder or the disk does not allow it; nothing was changed.
            Interrupted: stopped by a signal, and saved; ends a script with its exit code unless caught.
        """
        wanted = resume_from_checkpoint if resume_from_checkpoint is not None else self.args.resume_from_checkpoint
        if self._saver is not None:
            # Of a training that was ended in the middle of writing.
            self._saver.wait()
        self._run = RunFolder(Path(self._get_output_dir(trial)))  # type: ignore[attr-defined]
        with self._folder_held(), self._stop.watched(), self._left_clean():
            self._begin(None if wanted is False else wanted)
            with self._saved_whatever_happens():
                return super().train(None, trial, ignore_keys_for_eval)  # type: ignore[misc]

    @property
    def last_save_failed(self) -> bool:
        """Whether the last checkpoint could not be written; the exit code of a program should say so."""
        return self._saver is not None and bool(self._saver.last_error)

    @property
    def seconds_blocked_by_saves(self) -> float:
        """Time that training waited for an earlier save to be written."""
        return self._saver.seconds_blocked if self._saver is not None else 0.0

    @contextlib.contextmanager
    def _left_clean(self) -> Iterator[None]:
        """However training ends, this object can train again, and everything submitted is written."""
        end_saves = Saver.wait
        try:
            yield
        except EndNow:
            end_saves = Saver.abandon
            raise
        finally:
            self._in_loop = False
            handle = getattr(self, "neftune_hook_handle", None)
            if handle is not None:
                # Where training ended well the Trainer has done it.
                with contextlib.suppress(AttributeError):
                    deactivate_neftune(self.model, handle, self.accelerator)
            if self._saver is not None:
                end_saves(self._saver)

    # ---- Before the first step ----

    @contextlib.contextmanager
    def _folder_held(self) -> Iterator[None]:
        """The run's folder is this process's: locked, and cleared of what a killed save left."""
        lock = RunLock(self._run)
        self._in_first_process(lambda: self._take(lock))
        try:
            yield
        finally:
            lock.release()

    def _take(self, lock: RunLock) -> None:
        lock.acquire()
        for text in recover(self._run):
            self._say(text)

    def _in_first_process(self, action: Any) -> None:
        """Runs in the first process; an error there is everybody's."""
        error: list[Any] = [None]
        if self.args.process_index == 0:
            try:
                action()
            except Exception as found:
                error[0] = found
        if self.args.world_size > 1:
            texts = [None if error[0] is None else str(error[0])]
            dist.broadcast_object_list(texts)
            if texts[0] is not None and error[0] is None:
                raise CheckpointError(texts[0])
        if error[0] is not None:
            raise error[0]

    def _begin(self, wanted: Any) -> None:
        dataset: Any = self.train_dataset  # type: ignore[attr-defined]
        # Once: training itself may align the special tokens of the model's configuration with the tokenizer's.
        self._base_model = self._base_model or base_model_of(self._unwrapped())
        own = {
            "base_model": self._base_model,
            **fingerprints_of(self._unwrapped(), dataset, seed=self.args.seed, by_epoch=self.samples_by_epoch),
        }
        # As a manifest gives them back: tuples are lists there.
        self._fingerprints = json.loads(json.dumps({**own, **self._extra_fingerprints}, default=str))
        self._saver = self._new_saver()
        self._last_save_time, self._last_saved_step = time.monotonic(), -1
        self._buffers = {}
        self._edge, self._torn, self._save_due, self._best_due = None, False, False, False
        self._resume = self._decide(wanted)
        self._begin_session(self._resume)
        self._in_first_process(self._check_space)
        # Once nothing refuses any more.
        if wanted is None:
            self._in_first_process(self._leave_behind)
        elif self._resume is not None:
            self._in_first_process(partial(self._take_up, wanted))
        if self._resume is not None:
            if self._own_optimizer:
                # An earlier training's of this object would keep the rate that it was made with.
                self.optimizer = None
            self._saver.last_good = self._resume.step
            self._last_saved_step = self._resume.step
            self._in_first_process(partial(self._finish_save, self._resume.choice))
            for line in self._resume.plan.lines():
                self._say_plan(line)
        elif wanted:
            self._say_plan(f"resume:      nothing: {self._none_there()}, training starts at step 0")

    def _decide(self, wanted: Any) -> Resume | None:
        if wanted is None:
            if not self._config.restart:
                beyond = {name: self._fingerprints.get(name) for name in self.beyond_flags}
                check_can_start(self._run, beyond, self._config.changes_allowed)
            return None
        choice: ResumeChoice | None = choose_checkpoint(
            self._run, wanted, allow_partial=self._config.allow_partial_resume
        )
        if choice is None:
            return None
        check_can_resume(self._run, choice)
        if self._config.restart:
            self._say_plan(
                f"note:        --restart counts only where nothing is resumed; {choice.verdict.path.name} is"
            )
        refuse_unknown(self._config.changes_allowed, self._fingerprints)
        geometry = self._geometry()
        now = CurrentProcess(
            args=self.args,
            num_samples=geometry.num_samples,
            hyperparameters=self._hyperparameters(),
            defaults=self._defaults,
            fingerprints=self._fingerprints,
            allowed=self._config.changes_allowed,
            handed=self._handed(),
            origins=self.origins,
        )
        return decide(choice, now)

    def _none_there(self) -> str:
        if not self._run.checkpoints():
            return f"there is no checkpoint in {self._run.path} yet"
        return f"the checkpoints in {self._run.path} are of the run before --restart (a path takes them all the same)"

    def _leave_behind(self) -> None:
        """A restart: what is there is of the run before, also if this one is killed before its first save."""
        if steps := self._run.steps():
            mark_superseded(self._run, steps)

    def _take_up(self, wanted: Any) -> None:
        """A checkpoint of the run before a restart was named: that is the run again."""
        path = Path(str(wanted))
        step, is_here = step_of(path), path.resolve().parent == self._run.path.resolve()
        if step is not None and is_here and is_superseded(self._run, [step])[step]:
            clear_superseded(self._run)

    def _begin_session(self, resume: Resume | None) -> None:
        manifest = resume.choice.verdict.manifest if resume is not None else None
        self._run_id = manifest.run_id if manifest is not None else uuid.uuid4().hex[:12]
        self._parent = resume.step if resume is not None else None
        self._sequence = next_sequence(self._run)
        changes = (
            [f"{c.name}: {c.old} -> {c.new}" for c in resume.plan.changes if c.decision == "applied"] if resume else []
        )
        session = Session(
            started=datetime.now(UTC).isoformat(),
            from_step=resume.step if resume is not None else 0,
            resumed_from=resume.choice.verdict.path.name if resume is not None else None,
            host=os.environ.get("COMPUTERNAME") or _host(),
            changes=tuple(changes),
            extends=resume is not None and resume.was_finished,
        )
        self._sessions = _capped((*(manifest.sessions if manifest is not None else ()), session))
        if manifest is not None:
            self._given = {**manifest.given, **self._given}

    def _finish_save(self, choice: ResumeChoice) -> None:
        """The best model and the deletions that belong to the newest checkpoint: a kill may have come before them."""
        manifest = choice.verdict.manifest
        if choice.why == LATEST and not choice.passed_over and manifest is not None and self._saver is not None:
            self._saver.finish(manifest)

    def _check_space(self) -> None:
        if self.args.save_strategy == "no":
            return
        resume, saver = self._resume, self._saver
        manifest = resume.choice.verdict.manifest if resume is not None else None
        if manifest is not None and saver is not None:
            saver.last_bytes = manifest.num_bytes
        # Weights and two moments of everything that is trained.
        trained = sum(p.numel() * p.element_size() for p in self.model.parameters() if p.requires_grad)
        require_space(self._run, manifest.num_bytes if manifest else 3 * trained, measured=manifest is not None)

    def _new_saver(self) -> Saver:
        return Saver(
            self._run,
            limit=self.args.save_total_limit,
            say=self._say,
            in_background=self._config.background_saves,
            backup_to=self._config.backup_to,
            backup_every=self._config.backup_every,
            after_save=self._after_save,
        )

    def _refuse_what_cannot_be_kept(self) -> None:
        dataset: Any = self.train_dataset  # type: ignore[attr-defined]
        strategy = str(getattr(self.args.train_sampling_strategy, "value", self.args.train_sampling_strategy))
        rules = [
            (not self.is_deepspeed_enabled, "DeepSpeed shards the optimizer; use DistributedDataParallel (torchrun)"),  # type: ignore[attr-defined]
            (not self.is_fsdp_enabled, "FSDP shards the optimizer; use DistributedDataParallel (torchrun)"),  # type: ignore[attr-defined]
            (
                dataset is None or hasattr(dataset, "__len__"),
                "train_dataset needs a length: a position is a sample's place",
            ),
            (
                not self.args.push_to_hub or str(getattr(self.args.hub_strategy, "value", "")) == "end",
                "--push_to_hub with another --hub_strategy than end: checkpoints are copied by --backup_to",
            ),
            (strategy in _ORDERS, f"--train_sampling_strategy {strategy}: one of {', '.join(_ORDERS)}"),
        ]

        check_all("this training cannot be resumed exactly", rules)

    def _say_plan(self, line: str) -> None:
        if self.args.process_index == 0:
            print(line, flush=True)


class ResumableTrainer(ResumableMixin, Trainer):  # type: ignore[misc]
    """`transformers.Trainer` that can be killed anywhere and resumed as if nothing had happened."""


def _host() -> str:
    import platform

    return platform.node()


def _capped(sessions: tuple[Session, ...]) -> tuple[Session, ...]:
    """The first and the last ones: a run that is restarted for ever must not grow its manifests for ever."""
    return sessions if len(sessions) <= MAX_SESSIONS else (sessions[0], *sessions[1 - MAX_SESSIONS :])

"""The Trainer to use instead of `transformers.Trainer`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from llamarec.checkpoints.config import CheckpointConfig, ProgramHints
from llamarec.checkpoints.resume.compatibility import FingerprintSources
from llamarec.checkpoints.resume.current_process import effective_batch
from llamarec.checkpoints.storage.discovery import ResumeChoice
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.lock import check_is_folder
from llamarec.checkpoints.storage.outcomes import exception_noted
from llamarec.checkpoints.trainer import out_of_memory
from llamarec.checkpoints.trainer.dataloader import LoaderRequest, default_order
from llamarec.checkpoints.trainer.distributed.control import agree_on_control, agreed_metrics
from llamarec.checkpoints.trainer.distributed.same_weights import check_same_weights
from llamarec.checkpoints.trainer.divergence import can_be_best
from llamarec.checkpoints.trainer.evaluation import Prediction
from llamarec.checkpoints.trainer.guards.hooks import check_hooks
from llamarec.checkpoints.trainer.guards.overrides import check_overrides
from llamarec.checkpoints.trainer.guards.sharding import (
    check_can_be_gathered,
    check_sharding_flags,
    shard_where_accelerate_does_not,
)
from llamarec.checkpoints.trainer.loop import OpensEpochs, Report
from llamarec.checkpoints.trainer.out_of_memory import MemoryFlags
from llamarec.checkpoints.trainer.program import Options, Program
from llamarec.checkpoints.trainer.samples.sampling import Batch, Samples
from llamarec.checkpoints.trainer.state.optimizer_state import follow_schedule
from llamarec.checkpoints.trainer.state.stateful import Stateful
from llamarec.checkpoints.trainer.stopping import announce_early_stop, stopped_early
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer, temporarily, unwrapped
from llamarec.checkpoints.trainer.training import ResumableParts
from llamarec.credentials import without_credentials_in
from llamarec.errors import check_all

# At run time the Trainer comes after the mixin, so that `super()` may be any subclass of it.
if TYPE_CHECKING:
    _Trainer = Trainer
else:
    _Trainer = object

_ORDERS: Final = ("random", "sequential")


class ResumableMixin(_Trainer):
    """Put before `Trainer`, or before a subclass of it: `class MyTrainer(ResumableMixin, TheirTrainer)`.

    Args:
        checkpoint_config: Options that `TrainingArguments` does not have.
        fingerprints: What identifies the run beside base model, adapter and data; plain values by name.
        own_options: The program's own hyperparameters, compared on resume like the Trainer's.
        given: Hyperparameters that the user gave on the command line, stored for `show`.
        defaults: This command's defaults for hyperparameters that were taken from the checkpoint instead.
        after_save: Called with the folder of each checkpoint when it is published and verified, from the thread that
            writes; a callback's `on_save` runs before that, when the save is asked for.
        choice: The checkpoint to resume, where the program has chosen and verified it already. Its files are hashed
            a second time only if they have changed since.
        stateful: Objects whose state is saved and restored beside the model, by name: an average of the weights, a
            metric's sums. They have `state_dict` and `load_state_dict`.

    All other arguments are the Trainer's. A subclass may override `split_batch`, `epoch_order`, `files_beside_model`
    and the class attributes below. The other methods are the Trainer's hooks: each delegates to one of the objects that
    `_resumable` holds.
    """

    samples_by_epoch: bool = False
    """The training dataset is indexed by (epoch, index) instead of by the index."""
    beyond_flags: tuple[str, ...] = ()
    """Fingerprints that no flag of a command decides: where they differ, to resume is no advice."""
    origins: FingerprintSources = FingerprintSources()
    """Where the program's own fingerprints come from, for messages about a difference."""
    memory_flags: MemoryFlags = MemoryFlags()
    """Flags of the program that save memory, for the message when one sample does not fit."""
    program_hints: ProgramHints = ProgramHints()
    """Advice in the words of the program's own command line."""
    ends_when_diverged: bool = False
    """A loss, gradient or weight that is not finite ends the training with `DivergedError`, and is never saved."""

    def __init__(
        self,
        *args: Any,
        checkpoint_config: CheckpointConfig | None = None,
        fingerprints: Mapping[str, object] | None = None,
        own_options: Mapping[str, object] | None = None,
        given: Mapping[str, object] | None = None,
        defaults: Mapping[str, object] | None = None,
        after_save: Callable[[Path], object] | None = None,
        choice: ResumeChoice | None = None,
        stateful: Mapping[str, Stateful] | None = None,
        **kwargs: Any,
    ) -> None:
        check_overrides(type(self), ResumableMixin, Trainer)
        for one in (*args, *kwargs.values()):
            if isinstance(one, TrainingArguments) and one.output_dir:
                # The Trainer would make the folder, and fail with an error of the system.
                check_is_folder(Path(one.output_dir))
            if isinstance(one, TrainingArguments):
                check_sharding_flags(one)
        super().__init__(*args, **kwargs)
        check_hooks(self, Trainer)

        options = Options(
            config=checkpoint_config or CheckpointConfig(),
            fingerprints=dict(fingerprints or {}),
            own_options=without_credentials_in(own_options or {}),
            given=without_credentials_in(given or {}),
            defaults=dict(defaults or {}),
            after_save=after_save,
            choice=choice,
            stateful=dict(stateful or {}),
        )
        # The Trainer as the objects see it: mypy finds what they use in `LiveTrainer` only.
        live = cast(LiveTrainer, self)
        program = Program(live, options, library=(ResumableMixin, ResumableTrainer, Trainer))
        self._resumable = ResumableParts(live, program)
        self._resumable.extra.observe()

        self.callback_handler.callbacks.insert(0, OpensEpochs(lambda: self._resumable.training.loop.open_epoch()))
        # A resume must not lose patience and the like.
        self.args.restore_callback_states_from_checkpoint = True
        # Ours halves the micro-batch inside the step; the Trainer's would start training again.
        self.args.auto_find_batch_size = False
        _check_can_be_kept(self)

    # ---- The public face ----

    def train(
        self,
        resume_from_checkpoint: str | Path | bool | None = None,
        trial: object = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """As `Trainer.train`, from a checkpoint or from the start.

        Args:
            resume_from_checkpoint: True or 'latest', 'best', or a path; None takes
                `args.resume_from_checkpoint`, and where that is None too, training starts at step 0.
            trial: As in the Trainer: a trial of a hyperparameter search trains in a folder of its own.
            ignore_keys_for_eval: As in the Trainer.

        Raises:
            LlamarecError: the checkpoint, the folder or the disk does not allow it; nothing was changed.
            Interrupted: stopped by a signal, and saved; ends a script with its exit code unless caught.
        """
        self._resumable.set_up(trial)
        wanted = resume_from_checkpoint if resume_from_checkpoint is not None else self.args.resume_from_checkpoint
        folder = RunFolder(Path(self._get_output_dir(trial)))
        with exception_noted(), self._resumable.trained_in(folder, None if wanted is False else wanted):
            return super().train(None, trial, ignore_keys_for_eval)

    @property
    def run_id(self) -> str:
        """Identifier shared by all checkpoints that descend from one start; empty before training."""
        last = self._resumable.last
        return last.run.lineage.run_id if last is not None else ""

    @property
    def last_save_failed(self) -> bool:
        """Whether the last checkpoint or the best model is not saved, or not in the mirror; for the exit code."""
        writer = self._resumable.writer
        return writer is not None and bool(writer.owed)

    @property
    def lost_best_step(self) -> int | None:
        """Step of a best model that was not there when this process resumed; None where it was."""
        last = self._resumable.last
        return last.restorer.lost_best if last is not None else None

    @property
    def seconds_blocked_by_saves(self) -> float:
        """Time that training waited for an earlier save to be written."""
        writer = self._resumable.writer
        return writer.seconds_blocked if writer is not None else 0.0

    @property
    def stopped_early(self) -> bool:
        """Whether training has ended because the metric stopped improving."""
        return stopped_early(self._resumable.trainer)

    # ---- What a subclass may override ----

    def epoch_order(self, epoch: int, num_samples: int) -> NDArray[np.int64]:
        """The order of samples in an epoch: a permutation of [num_samples], a function of (seed, epoch) alone.

        The default is what a plain Trainer draws, so that either can continue the other's epoch.
        """
        return default_order(self.args, epoch, num_samples)

    def split_batch(self, batch: Batch, num_samples: int, size: int) -> list[tuple[Batch, int]]:
        """A collated micro-batch in pieces of at most `size` samples, each with its number of samples.

        Override it where a batch is more than tensors with one row per sample.
        """
        return out_of_memory.split(batch, num_samples, size)

    def files_beside_model(self) -> dict[str, bytes]:
        """Small files that belong to the current model, by name: saved in its checkpoint and with the best model."""
        return {}

    # ---- Hooks of the Trainer: the beginning ----

    def create_accelerator_and_postprocess(self) -> None:
        """As the Trainer's; FSDP2 on a CPU too, where accelerate would pass over it."""
        super().create_accelerator_and_postprocess()
        shard_where_accelerate_does_not(cast(LiveTrainer, self))

    # ---- Hooks of the Trainer: data ----

    def _get_dataloader(
        self,
        dataset: Samples,
        description: str,
        batch_size: int,
        sampler_fn: Callable[[Samples], Any] | None = None,
        is_training: bool = False,
        dataloader_key: str | None = None,
    ) -> DataLoader[Batch]:
        if not is_training:
            return super()._get_dataloader(dataset, description, batch_size, sampler_fn, is_training, dataloader_key)

        request = LoaderRequest(dataset=dataset, batch_size=batch_size, make_sampler=sampler_fn)
        return self._resumable.data.loader(request)

    def get_eval_dataloader(self, eval_dataset: Samples = None) -> DataLoader[Batch]:
        """As the Trainer's, with workers that end with the evaluation.

        Ones that stay draw their seed once, so that a resumed process would draw one that the other did not.
        """
        with temporarily(self.args, dataloader_persistent_workers=False):
            return super().get_eval_dataloader(eval_dataset)

    # ---- Hooks of the Trainer: start ----

    def set_initial_training_values(
        self, args: TrainingArguments, dataloader: DataLoader[Batch]
    ) -> tuple[int, int, int, int, int, int, int]:
        """As the Trainer's, counted in samples from where training continues."""
        return self._resumable.training.restorer.training_values(dataloader)

    def get_total_train_batch_size(self, args: TrainingArguments) -> int:
        """Samples per optimizer step."""
        return effective_batch(args)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """As the Trainer's, over the curve that the run's schedule leads through."""
        schedule = self._resumable.schedule
        scheduler = super().create_scheduler(schedule.total if schedule is not None else num_training_steps, optimizer)
        if schedule is not None:
            follow_schedule(scheduler, schedule)

        return scheduler

    def _init_training_state(
        self, max_steps: int, steps_per_epoch: int, num_train_epochs: int, resume_from_checkpoint: object, trial: object
    ) -> tuple[int, int]:
        started = super()._init_training_state(max_steps, steps_per_epoch, num_train_epochs, None, trial)
        training = self._resumable.training
        if training.run.resume is None:
            return started

        return training.restorer.restore_state(training.run.resume, max_steps, num_train_epochs, trial)

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: DataLoader[Batch], resume_from_checkpoint: object
    ) -> tuple[nn.Module, DataLoader[Batch]]:
        # A model of `model_init` is another one in each training.
        self._resumable.extra.observe()
        resume = self._resumable.training.run.resume
        if resume is not None:
            self._resumable.weights.load(resume.choice.verdict.path)

        if self.is_fsdp_enabled:
            writes_itself = any(map(self._resumable.program.overrides, ("save_model", "_save")))
            trainer = self._resumable.trainer
            check_can_be_gathered(trainer, unwrapped(trainer), writes_itself=writes_itself)
            # Afterwards each process has a part of its own.
            check_same_weights(self._resumable.trainer, "the weights before they are sharded")

        prepared: tuple[nn.Module, DataLoader[Batch]]
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        self._resumable.restore_optimizer()
        check_same_weights(self._resumable.trainer, "the weights before the first step")
        return prepared

    # ---- Hooks of the Trainer: loop ----

    def _run_epoch(  # type: ignore[override]
        self, model: nn.Module, epoch: int, train_dataloader: DataLoader[Batch], **rest: Any
    ) -> None:
        report = Report(
            model=model,
            trial=rest["trial"],
            epoch=epoch,
            ignore_keys_for_eval=rest["ignore_keys_for_eval"],
            start_time=rest["start_time"],
        )
        self._resumable.training.loop.run_epoch(train_dataloader, report)

    def prediction_step(
        self, model: nn.Module, inputs: Batch, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> Prediction:
        """As the Trainer's; a request to stop ends an evaluation during training at once."""
        parts, predict = self._resumable, super().prediction_step
        return parts.evaluation.predicted(
            lambda batch, loss_only: predict(model, batch, loss_only, ignore_keys=ignore_keys),
            inputs,
            loss_only=prediction_loss_only,
            in_training=parts.is_in_loop,
        )

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        last = self._resumable.last
        if last is not None and last.boundary.is_in_loop:
            # With the evaluation still to be done.
            last.boundary.take()
        elif last is not None and last.run.resume is not None:
            # --eval_on_start: the checkpoint's training has done it.
            return {}

        return super()._evaluate(*args, **kwargs)

    def evaluation_loop(self, dataloader: DataLoader[Batch], *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As the Trainer's; out of memory, the same again in batches of half the size."""
        evaluate = super().evaluation_loop
        parts = self._resumable
        return parts.evaluation.run(lambda loader: evaluate(loader, *args, **kwargs), dataloader, parts.last_good)

    def _finalize_training(self, trial: object, num_train_samples: int, start_time: float) -> TrainOutput:
        training = self._resumable.training
        training.loop.enter(training.loop.report_without_epoch(trial, start_time))
        training.boundary.close()
        training.writer.wait()
        training.saver.settle()
        announce_early_stop(self._resumable.trainer, self._resumable.console)
        self.accelerator.wait_for_everyone()

        # The Trainer's own clean-up deletes by names and time stamps; ours has been done.
        best, self.state.best_model_checkpoint = self.state.best_model_checkpoint, None
        if self.args.load_best_model_at_end:
            self._load_best_model()
        output: TrainOutput = super()._finalize_training(trial, num_train_samples, start_time)
        self.state.best_model_checkpoint = best
        training.restorer.announce_lost_best()
        return output

    # ---- Hooks of the Trainer: saving ----

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        """Takes note; the save itself is made at the step boundary, after every callback has run."""
        training = self._resumable.training
        training.requests.scheduled()
        if self.args.should_save:
            training.callback_files.note(self.state.global_step)

    def _determine_best_metric(self, metrics: dict[str, float], trial: object) -> bool:
        live, step = self._resumable.trainer, self.state.global_step
        metrics = agreed_metrics(live, f"the metrics after step {step}", metrics)
        agree_on_control(live, f"what follows the evaluation after step {step}")
        if not can_be_best(self.args, self.state, metrics):
            return False

        is_new_best = super()._determine_best_metric(metrics, trial)
        best = self.state.best_global_step
        if is_new_best and best:
            training = self._resumable.training
            training.requests.best()
            self.state.best_model_checkpoint = str(training.run.folder.checkpoint(best))

        return is_new_best

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """As `Trainer._save`, with an adapter in the wanted format unless a subclass below writes it."""
        below = super()._save
        is_own = getattr(below, "__func__", None) is not Trainer._save
        # Of this very object: a save beside training calls it of one with configurations of its own.
        if is_own or not self._resumable.weights.save_as_bin(cast(LiveTrainer, self), output_dir, state_dict):
            below(output_dir, state_dict)

    def _load_best_model(self) -> None:
        training = self._resumable.training
        is_there = self._resumable.weights.load_best(training.run.folder)
        if not is_there:
            training.writer.best.miss(self.state.best_global_step)

        found = {"is there": is_there, "step": self.state.best_global_step}
        check_same_weights(self._resumable.trainer, "the best model at the end", beside=found)


class ResumableTrainer(ResumableMixin, Trainer):
    """`transformers.Trainer` that can be killed anywhere and resumed as if nothing had happened."""


def _check_can_be_kept(trainer: ResumableMixin) -> None:
    """Refuses at construction what cannot be resumed exactly.

    Raises:
        ConfigError: lists everything that does not fit.
    """
    args, dataset = trainer.args, trainer.train_dataset
    strategy = str(getattr(args.train_sampling_strategy, "value", args.train_sampling_strategy))
    optim = str(getattr(args.optim, "value", args.optim))
    at_once = optim.removesuffix("_layerwise")
    pushes_checkpoints = args.push_to_hub and str(getattr(args.hub_strategy, "value", "")) != "end"

    rules = [
        (not trainer.is_deepspeed_enabled, "DeepSpeed keeps its own checkpoints; use FSDP2 (torchrun and --fsdp)"),
        (
            dataset is None or hasattr(dataset, "__len__"),
            "train_dataset needs a length: a position is the number of a sample",
        ),
        (not pushes_checkpoints, "--push_to_hub only with --hub_strategy end; --backup_to copies checkpoints"),
        (
            args.world_size == 1 or not args.save_on_each_node,
            "--save_on_each_node: one process publishes, for all; leave it out, and use a folder that all nodes share",
        ),
        (
            not args.save_only_model,
            "--save_only_model leaves out optimizer, schedule and random states; --save_total_limit 1 saves room",
        ),
        (optim == at_once, f"--optim {optim} keeps its state in hooks; use {at_once}"),
        (strategy in _ORDERS, f"--train_sampling_strategy {strategy}: one of {', '.join(_ORDERS)}"),
    ]
    check_all("this training cannot be resumed exactly", rules)

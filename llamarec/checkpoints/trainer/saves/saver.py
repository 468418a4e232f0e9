"""From a training's state at a step boundary to a checkpoint: what is saved, and when."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import save_file
from torch import Tensor

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.storage import durable
from llamarec.checkpoints.storage.layout import (
    EXTRA_STATE,
    LIVE_PREFIX,
    TRAINER_STATE,
    TRAINING_ARGS,
)
from llamarec.checkpoints.storage.manifest import Manifest
from llamarec.checkpoints.storage.publish import Staging
from llamarec.checkpoints.trainer.distributed.agreement import any_process
from llamarec.checkpoints.trainer.distributed.same_weights import check_close_weights
from llamarec.checkpoints.trainer.distributed.sharded import is_sharded
from llamarec.checkpoints.trainer.divergence import check_weights
from llamarec.checkpoints.trainer.guards.structure import ModelStructure
from llamarec.checkpoints.trainer.program import Program
from llamarec.checkpoints.trainer.run_state import RunState, SaveRequests
from llamarec.checkpoints.trainer.saves.callback_files import CallbackFiles
from llamarec.checkpoints.trainer.saves.manifest_entries import environment_of, metrics_of, name_of_platform
from llamarec.checkpoints.trainer.saves.read_back import Content, ReadBack
from llamarec.checkpoints.trainer.saves.snapshots import Snapshot
from llamarec.checkpoints.trainer.saves.staged_files import clear, copy_into, move_into, remove_empty_card
from llamarec.checkpoints.trainer.saves.state_files import StateFiles
from llamarec.checkpoints.trainer.saves.writer import CheckpointWriter
from llamarec.checkpoints.trainer.saves.written_model import trainer_of_copy
from llamarec.checkpoints.trainer.state.extra_state import ExtraState
from llamarec.checkpoints.trainer.state.model_files import weights_files
from llamarec.checkpoints.trainer.state.snapshot import (
    copies_in,
    digests_in,
    model_state,
    num_bytes_of,
    pickled,
    pickling,
)
from llamarec.checkpoints.trainer.state.stateful import StatefulObjects
from llamarec.checkpoints.trainer.state.tensors import gathered
from llamarec.checkpoints.trainer.state.unsaved import UnsavedState
from llamarec.checkpoints.trainer.step_boundary import StepBoundary
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer, unwrapped
from llamarec.errors import CheckpointError, LlamarecError


class _Tensors(NamedTuple):
    """What a snapshot copies.

    Attributes:
        weights: For `save_pretrained`; None where the live model is written.
        extra: What lies beside the weights files.
        of_optimizer: By file.
    """

    weights: dict[str, Tensor] | None
    extra: dict[str, Tensor]
    of_optimizer: dict[str, object]


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """What a snapshot begins with.

    Attributes:
        reason: Of the save.
        live: Where a live model is written.
        of_processes: By file, states of every process.
        gathered: Weights, extra state and the optimizer's files, where they are sharded; else None.
    """

    reason: str
    live: Path
    of_processes: dict[str, object]
    gathered: _Tensors | None = None

    @property
    def from_callbacks(self) -> Path:
        """Where the files lie that callbacks wrote for the checkpoint."""
        return self.live.with_name(f"{self.live.name}-callbacks")


class CheckpointSaver:
    """Takes snapshots of a training and hands them to the writer.

    Args:
        trainer: The live Trainer.
        run: The training.
        boundary: The last one holds the random states.
        requests: Cleared by a save.
        writer: Writes them.
        callback_files: What callbacks have written for the checkpoint.
        extra: What the weights files do not hold.
        stateful: The objects that the program passed.
        unsaved: Those that it did not.
        structure: Of the model; must be that of the first step.
        read_back: Reads the first checkpoint back.
        program: Whether it saves its model by itself.
        hyperparameters: For the manifest.

    Attributes:
        last_saved_step: Step of the newest save, or of the checkpoint this process resumed from; -1 before.
    """

    def __init__(
        self,
        trainer: LiveTrainer,
        run: RunState,
        *,
        boundary: StepBoundary,
        requests: SaveRequests,
        writer: CheckpointWriter,
        callback_files: CallbackFiles,
        extra: ExtraState,
        stateful: StatefulObjects,
        unsaved: UnsavedState,
        structure: ModelStructure,
        read_back: ReadBack,
        program: Program,
        hyperparameters: Callable[[], dict[str, object]],
    ) -> None:
        self._trainer, self._run, self._requests = trainer, run, requests
        self._writer, self._program, self._hyperparameters = writer, program, hyperparameters
        self._callback_files = callback_files
        self._extra, self._read_back = extra, read_back
        self._unsaved, self._structure = unsaved, structure
        self._config: CheckpointConfig = program.options.config
        self._states = StateFiles(trainer, run, boundary=boundary, stateful=stateful, proves=self._config.read_back)
        self._sequence = run.lineage.next_sequence
        self._last_save_time = time.monotonic()
        name_of_platform()
        self.last_saved_step = run.resume.step if run.resume is not None else -1

    @property
    def is_time_due(self) -> bool:
        """Whether --save_seconds have passed since the last save."""
        seconds = self._config.save_seconds
        return bool(seconds) and time.monotonic() - self._last_save_time >= seconds

    @property
    def last_good(self) -> str:
        """Path of the newest checkpoint that this process published or resumed from; empty where there is none."""
        step = self._writer.last_good
        return str(self._run.folder.checkpoint(step)) if step is not None else ""

    def save(self, reason: str) -> None:
        """Takes a snapshot at a boundary and has it written.

        Raises:
            DivergedError: the weights are not finite, and the trainer ends where they are not.
            DisagreementError: processes have other weights.
            ConfigError: the model is not made of what it was made of at the first step.
        """
        check_weights(self._trainer)
        check_close_weights(self._trainer, f"the save at step {self._trainer.state.global_step}")
        self._structure.check()
        self._requests.clear()
        self._unsaved.warn_of_changes()
        step = self._trainer.state.global_step
        self._last_save_time = time.monotonic()

        self._trainer.store_flos()
        of_processes = self._states.of_processes()
        tensors = self._gathered() if is_sharded(self._trainer.model) else None
        if not self._trainer.args.should_save:
            self.last_saved_step = step
            return

        parts = _Parts(
            reason=reason,
            live=self._run.folder.path / f"{LIVE_PREFIX}{self._sequence}",
            of_processes=of_processes,
            gathered=tensors,
        )
        snapshot = self._snapshot_or_warn(step, parts)
        # Not before there is one: what interrupts this has nothing saved.
        self.last_saved_step = step
        if snapshot is not None:
            self._writer.submit(snapshot)
            if tensors is not None:
                # A library that writes asks the live model for its state, for which FSDP2 shards it: not in a pass.
                self._writer.wait()

    def _snapshot_or_warn(self, step: int, parts: _Parts) -> Snapshot | None:
        """The snapshot; None where a state cannot be written, or a live model that is written by its own path."""
        try:
            return self._snapshot(parts, from_copy=self._saves_from_copy())
        except Exception as error:
            clear(parts.live)
            self._writer.failed(step, error)

        if step == self._trainer.state.best_global_step:
            self._writer.best.owe(step, self._copier(parts))
        else:
            clear(parts.from_callbacks)
        return None

    def settle(self) -> None:
        """Waits until the first checkpoint of this process is read back.

        Raises:
            LlamarecError: it could not be resumed, or none can be saved.
        """
        (failed,) = any_process(self._trainer.args, "the last save", self.is_hopeless())
        if failed:
            raise self.hopeless_error()

    def is_hopeless(self) -> bool:
        """Whether no checkpoint of this process can be resumed, once the first one is read back."""
        if self._writer.first_is_due:
            self._writer.wait()
        return self._writer.fatal is not None

    def hopeless_error(self) -> LlamarecError:
        """Why; in the other processes, where that is said."""
        return self._writer.fatal or CheckpointError("the first process cannot save this training; see its message")

    # ---- What ----

    def _snapshot(self, parts: _Parts, *, from_copy: bool) -> Snapshot:
        """Everything a checkpoint holds, copied.

        Args:
            parts: What was taken before.
            from_copy: Weights are copied too; otherwise the live model is written at once.
        """
        trainer, live, from_callbacks = self._trainer, parts.live, parts.from_callbacks
        model = unwrapped(trainer)
        tensors = parts.gathered or self._tensors(from_copy=from_copy)
        weights, extra = tensors.weights, tensors.extra
        written = trainer_of_copy(trainer) if weights is not None else trainer
        state = self._states.trainer_state()
        objects = {**tensors.of_optimizer, **parts.of_processes}
        small = {**trainer.files_beside_model(), TRAINER_STATE: state, TRAINING_ARGS: pickled(trainer.args)}

        self._callback_files.collect(trainer.state.global_step, from_callbacks)

        if weights is None:
            durable.make_folders(live)
            trainer.save_model(str(live), _internal_call=True)

        files = weights_files(model) if self._writer.first_is_due else []
        content = Content(
            step=trainer.state.global_step,
            files=files,
            weights=weights if weights is not None else digests_in(model, files),
            extra=extra,
            objects=objects,
        )

        def fill(staging: Staging) -> None:
            if weights is not None:
                written._save(str(staging.path), weights)
            else:
                move_into(live, staging.path)
            remove_empty_card(staging.path / "README.md")

            if extra:
                save_file(extra, staging.path / EXTRA_STATE, metadata={"format": "pt"})
            for name, value in objects.items():
                staging.write_with(name, pickling(value))
            for name, data in small.items():
                # The Trainer writes its arguments beside the weights.
                durable.remove(staging.path / name)
                staging.write(name, data)
            if from_callbacks.is_dir():
                # Copied: a save that fails is written once more.
                copy_into(from_callbacks, staging)

        def discard() -> None:
            clear(live)
            clear(from_callbacks)

        return Snapshot(
            manifest=self._manifest(parts.reason),
            fill=fill,
            num_bytes=num_bytes_of([copies_in(weights, model), extra, objects]) + sum(map(len, small.values())),
            can_retry=weights is not None,
            copied=self._copier(parts),
            discard=discard,
            read_back=lambda folder: self._read_back.check(folder, content),
        )

    def _tensors(self, *, from_copy: bool) -> _Tensors:
        weights = model_state(unwrapped(self._trainer)) if from_copy else None
        return _Tensors(weights, self._extra.copied(), self._states.of_optimizer())

    def _gathered(self) -> _Tensors:
        """The same of a sharded model, in every process; the one that publishes keeps it."""
        with gathered(keep=self._trainer.args.should_save):
            return self._tensors(from_copy=True)

    def _copier(self, parts: _Parts) -> Callable[[], Snapshot] | None:
        """Takes the snapshot once more, from a copy; None where only the live model can be written."""
        return partial(self._snapshot, parts, from_copy=True) if self._can_copy() else None

    def _saves_from_copy(self) -> bool:
        return self._config.background_saves and self._can_copy()

    def _can_copy(self) -> bool:
        """Whether weights can be written from a copy: not where a subclass writes those of the live model."""
        return not any(map(self._program.overrides, ("save_model", "_save")))

    def _manifest(self, reason: str) -> Manifest:
        trainer, run, sequence = self._trainer, self._run, self._sequence
        self._sequence += 1
        state, progress = trainer.state, run.progress
        ends = state.global_step >= state.max_steps or trainer.control.should_training_stop

        return Manifest(
            step=state.global_step,
            epoch=float(state.epoch or 0.0),
            position={
                "epoch": progress.position.epoch,
                "sample": progress.position.sample,
                "num_samples": progress.num_samples,
                "batch": progress.batch,
                "max_steps": state.max_steps,
            },
            sequence=sequence,
            reason="final" if reason == "scheduled" and ends else reason,
            created=datetime.now(UTC).isoformat(),
            run_id=run.lineage.run_id,
            parent=run.lineage.parent,
            metrics=metrics_of(trainer),
            hyperparameters=self._hyperparameters(),
            given=dict(run.lineage.given),
            fingerprints=run.fingerprints,
            environment=environment_of(trainer.args),
            sessions=run.lineage.sessions,
        )

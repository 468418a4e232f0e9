"""From a training's state at a step boundary to a checkpoint: what is saved, and when."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from safetensors.torch import save_file
from transformers.trainer_callback import ExportableState

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.resume.random_state_file import as_stored
from llamarec.checkpoints.storage import durable
from llamarec.checkpoints.storage.layout import (
    EXTRA_STATE,
    LIVE_PREFIX,
    OPTIMIZER,
    RNG,
    SCALER,
    SCHEDULER,
    STATE_NAME,
    TRAINER_STATE,
    TRAINING_ARGS,
    rng_of,
)
from llamarec.checkpoints.storage.manifest import Manifest
from llamarec.checkpoints.storage.publish import Staging
from llamarec.checkpoints.trainer import distributed
from llamarec.checkpoints.trainer.divergence import check_weights
from llamarec.checkpoints.trainer.guards.structure import ModelStructure
from llamarec.checkpoints.trainer.program import Program
from llamarec.checkpoints.trainer.run_state import RunState, SaveRequests
from llamarec.checkpoints.trainer.samples import rng
from llamarec.checkpoints.trainer.saves.callback_files import CallbackFiles
from llamarec.checkpoints.trainer.saves.json_values import check_state, for_log
from llamarec.checkpoints.trainer.saves.manifest_entries import environment_of, metrics_of, name_of_platform
from llamarec.checkpoints.trainer.saves.read_back import Content, ReadBack
from llamarec.checkpoints.trainer.saves.snapshots import Snapshot
from llamarec.checkpoints.trainer.saves.staged_files import clear, copy_into, move_into, remove_empty_card
from llamarec.checkpoints.trainer.saves.writer import CheckpointWriter
from llamarec.checkpoints.trainer.state.extra_state import ExtraState
from llamarec.checkpoints.trainer.state.model_files import weights_files
from llamarec.checkpoints.trainer.state.optimizer_names import optimizer_names
from llamarec.checkpoints.trainer.state.snapshot import (
    copied,
    copies_in,
    digests_in,
    model_state,
    num_bytes_of,
    pickled,
    pickling,
)
from llamarec.checkpoints.trainer.state.stateful import StatefulObjects
from llamarec.checkpoints.trainer.state.unsaved import UnsavedState
from llamarec.checkpoints.trainer.step_boundary import StepBoundary
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer, unwrapped
from llamarec.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """What a snapshot begins with.

    Attributes:
        reason: Of the save.
        live: Where a live model is written.
        of_processes: By file, states of every process.
    """

    reason: str
    live: Path
    of_processes: dict[str, object]

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
        self._trainer, self._run, self._boundary, self._requests = trainer, run, boundary, requests
        self._writer, self._program, self._hyperparameters = writer, program, hyperparameters
        self._callback_files = callback_files
        self._extra, self._read_back = extra, read_back
        self._stateful, self._unsaved, self._structure = stateful, unsaved, structure
        self._config: CheckpointConfig = program.options.config
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
            ConfigError: the model is not made of what it was made of at the first step.
        """
        check_weights(self._trainer)
        self._structure.check()
        self._requests.clear()
        self._unsaved.warn_of_changes()
        step = self._trainer.state.global_step
        self._last_save_time = time.monotonic()

        self._trainer.store_flos()
        of_processes = {**self._stateful_states(), **self._random_states()}
        if not self._trainer.args.should_save:
            self.last_saved_step = step
            return

        parts = _Parts(
            reason=reason, live=self._run.folder.path / f"{LIVE_PREFIX}{self._sequence}", of_processes=of_processes
        )
        snapshot = self._snapshot_or_warn(step, parts)
        # Not before there is one: what interrupts this has nothing saved.
        self.last_saved_step = step
        if snapshot is not None:
            self._writer.submit(snapshot)

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
        if self._writer.first_is_due:
            self._writer.wait()

        (failed,) = distributed.any_process(self._trainer.args, self._writer.fatal is not None)
        if failed:
            raise self._writer.fatal or CheckpointError("the first process cannot save this training; see its message")

    # ---- What ----

    def _snapshot(self, parts: _Parts, *, from_copy: bool) -> Snapshot:
        """Everything a checkpoint holds, copied.

        Args:
            parts: What was taken before.
            from_copy: Weights are copied too; otherwise the live model is written at once.
        """
        trainer, live, from_callbacks = self._trainer, parts.live, parts.from_callbacks
        model = unwrapped(trainer)
        weights = model_state(model) if from_copy else None
        extra = self._extra.copied()
        state = self._state_content()
        objects = {**self._optimizer_states(), **parts.of_processes}
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
                trainer._save(str(staging.path), weights)
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

    def _copier(self, parts: _Parts) -> Callable[[], Snapshot] | None:
        """Takes the snapshot once more, from a copy; None where only the live model can be written."""
        return partial(self._snapshot, parts, from_copy=True) if self._can_copy() else None

    def _saves_from_copy(self) -> bool:
        return self._config.background_saves and self._can_copy()

    def _can_copy(self) -> bool:
        """Whether weights can be written from a copy: not where a subclass writes those of the live model."""
        return not any(map(self._program.overrides, ("save_model", "_save")))

    def _optimizer_states(self) -> dict[str, object]:
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

    def _stateful_states(self) -> dict[str, object]:
        """By file, those of every process; at the first save, that they can be taken back is proven."""
        last = self._boundary.last
        states = last.stateful if last is not None else self._stateful.copied()
        self._stateful.complete(states)
        if self._config.read_back:
            self._stateful.prove(states)

        return self._stateful.files(states)

    def _random_states(self) -> dict[str, object]:
        """By file, those of every process."""
        args, last = self._trainer.args, self._boundary.last
        own = last.rng if last is not None else rng.capture()
        if args.world_size == 1:
            return {RNG: as_stored(own)}

        states = distributed.from_all_processes(args, own)
        return {rng_of(rank): as_stored(state) for rank, state in enumerate(states)}

    def _state_content(self) -> bytes:
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

        run.record_totals(
            trainer.state.global_step,
            float(trainer._tr_loss),
            trainer._total_loss_scalar,
            trainer._globalstep_last_logged,
        )
        states[STATE_NAME] = {
            "args": {},
            "attributes": run.progress.as_dict(),
            "optimizer": optimizer_names(trainer),
            "micro_batches": [asdict(seen) for seen in run.recent],
        }

        content: dict[str, object] = {name: for_log(value) for name, value in asdict(trainer.state).items()}
        content["stateful_callbacks"] = states
        return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()

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

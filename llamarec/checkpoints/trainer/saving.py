"""From a training's state at the edge of a step to a checkpoint."""

from __future__ import annotations

import contextlib
import json
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import EarlyStoppingCallback, Trainer
from transformers.trainer_callback import ExportableState

from llamarec.checkpoints.storage.layout import (
    OPTIMIZER,
    SCALER,
    SCHEDULER,
    STATE_NAME,
    TRAINER_STATE,
    TRAINING_ARGS,
)
from llamarec.checkpoints.storage.manifest import Manifest
from llamarec.checkpoints.storage.publish import Staging
from llamarec.checkpoints.trainer import rng
from llamarec.checkpoints.trainer.evaluation import StopNowError
from llamarec.checkpoints.trainer.shared_state import SharedState
from llamarec.checkpoints.trainer.signals import Interrupted
from llamarec.checkpoints.trainer.snapshot import copied, model_state, num_bytes_of, pickled, pickling
from llamarec.checkpoints.trainer.versions import installed_versions, is_adapter
from llamarec.checkpoints.trainer.writer import Snapshot, say_on_stderr
from llamarec.errors import EXIT_INTERRUPTED, EXIT_SAVE_FAILED


class Saving(SharedState):
    """Mixin before `Trainer`: what is saved, when, and what happens on a stop or an exception."""

    # ---- When ----

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Takes note; the save itself lies at the edge of the step, after every callback has run."""
        self._save_due = True

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        is_new_best: bool = super()._determine_best_metric(metrics, trial)  # type: ignore[misc]
        if is_new_best and self.state.best_global_step:
            self._best_due = True
            self.state.best_model_checkpoint = str(self._run.checkpoint(self.state.best_global_step))
        return is_new_best

    def _save_at_edge(self, reason: str) -> None:
        """Takes a snapshot and has it written."""
        self._save_due = self._best_due = False
        self._last_save_time, self._last_saved_step = time.monotonic(), self.state.global_step
        live = self._run.path / f".live-{self._sequence}"
        try:
            snapshot = self._snapshot(reason, live)
        except OSError as error:
            # The live model had to be written by its own path, and the disk is full.
            _clear(live)
            if self._saver is None:
                raise
            self._saver.failed(self.state.global_step, error)
            return
        if snapshot is not None and self._saver is not None:
            self._saver.submit(snapshot)

    def _save_and_stop(self) -> None:
        """Saves where that is still to be done, and raises `Interrupted`."""
        name, step = self._stop.received, self.state.global_step
        if self._is_open() or self._last_saved_step != step or (self._saver is not None and self._saver.last_error):
            self._save_at_edge("signal")
        path, code = "", EXIT_INTERRUPTED
        if self._saver is not None:
            self._saver.wait()
            path = self._last_good_path()
            if self._saver.last_error:
                code = EXIT_SAVE_FAILED
        # Nobody ends before the first process has written: the others' end would have it killed.
        path, code = self._from_first_process((path, code))
        saved = f"saved: --resume_from_checkpoint {path}" if path else "nothing could be saved"
        self._say(f"{name or 'a stop in another process'}: stopped after step {step:,}; {saved} (exit code {code})")
        raise Interrupted(path, name, code)

    @contextlib.contextmanager
    def _saved_whatever_happens(self) -> Iterator[None]:
        """A stop inside a step, and an exception anywhere, are saved as of the last edge."""
        try:
            yield
        except StopNowError:
            self.model.zero_grad()
            self._return_to_edge()
            self._save_and_stop()
        except Exception as error:
            self._save_after(error)
            raise

    def _save_after(self, error: Exception) -> None:
        if not self._in_loop:
            return
        step = self.state.global_step
        if self._torn or self._edge is None or self.args.world_size > 1 or self._saver is None:
            good = self._last_good_path() or "no checkpoint yet"
            self._say(f"{type(error).__name__} after step {step:,}; this step cannot be saved; last good: {good}")
            return
        try:
            self._return_to_edge()
            step = self.state.global_step
            if self._last_saved_step != step or self._is_open():
                self._save_at_edge("exception")
            self._saver.wait()
            self._say(f"{type(error).__name__} after step {step:,}; saved: {self._last_good_path() or 'nothing'}")
        except Exception as second:
            self._say(f"the state at step {step:,} could not be saved: {second}")

    def _is_open(self) -> bool:
        """Whether something of the last step is still to be done after a resume."""
        return bool(self._progress.events_due or self.control.should_evaluate or self.control.should_save)

    def _finalize_training(self, trial: Any, num_train_samples: Any, start_time: float) -> Any:
        self._enter_training(self._bare_report(trial, start_time))
        self._in_loop = False
        if self._saver is not None:
            self._saver.wait()
        self._say_stopped_early()
        self.accelerator.wait_for_everyone()
        # The Trainer's own clean-up deletes by names and time stamps; ours has been done.
        best, self.state.best_model_checkpoint = self.state.best_model_checkpoint, None
        if self.args.load_best_model_at_end:
            self._load_best_model()
        output = super()._finalize_training(trial, num_train_samples, start_time)  # type: ignore[misc]
        self.state.best_model_checkpoint = best
        return output

    @property
    def stopped_early(self) -> bool:
        """Whether training has ended because the metric did not get better."""
        patience = [one for one in self.callback_handler.callbacks if isinstance(one, EarlyStoppingCallback)]
        is_over = any(one.early_stopping_patience_counter >= one.early_stopping_patience for one in patience)
        return is_over and self.state.global_step < self.state.max_steps

    def _say_stopped_early(self) -> None:
        if not self.stopped_early:
            return
        best, metric = self.state.best_global_step, self.args.metric_for_best_model
        self._say_plan(
            f"stopped early at step {self.state.global_step:,} of {self.state.max_steps:,}: no better {metric} since "
            f"step {best or 0:,}. To go on: --early_stopping_patience with a larger number (0 = never)"
        )

    # ---- What ----

    def _snapshot(self, reason: str, live: Path) -> Snapshot | None:
        """Everything a checkpoint holds, copied; None in all processes but the first."""
        self.store_flos()
        random_states = self._rng_of_all_processes()
        if not self.args.should_save:
            return None
        weights = model_state(self._unwrapped()) if self._saves_from_copy() else None
        state = self._state_content()
        objects = {
            OPTIMIZER: copied(self.optimizer.state_dict()),
            SCHEDULER: copied(self.lr_scheduler.state_dict()),
            **random_states,
        }
        if getattr(self.accelerator, "scaler", None) is not None:
            objects[SCALER] = self.accelerator.scaler.state_dict()
        small = {**self.files_beside_model(), TRAINER_STATE: state, TRAINING_ARGS: pickled(self.args)}
        if weights is None:
            self.save_model(str(live), _internal_call=True)

        def fill(staging: Staging) -> None:
            if weights is not None:
                self._save(str(staging.path), weights)
                # PEFT's empty model card, and the arguments, which are written below.
                for name in ("README.md", TRAINING_ARGS):
                    (staging.path / name).unlink(missing_ok=True)
            else:
                _move_into(live, staging.path)
            if not self.args.save_only_model:
                for name, value in objects.items():
                    staging.write_with(name, pickling(value))
            for name, data in small.items():
                (staging.path / name).unlink(missing_ok=True)
                staging.write(name, data)

        manifest = self._manifest(reason)
        num_bytes = num_bytes_of([weights, objects]) + sum(map(len, small.values()))
        return Snapshot(manifest, fill, num_bytes, can_retry=weights is not None, discard=partial(_clear, live))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """As `Trainer._save`, with an adapter in the wanted format."""
        model = self._unwrapped()
        if not is_adapter(model) or self._config.adapter_format == "safetensors":
            super()._save(output_dir, state_dict)  # type: ignore[misc]
            return
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            model.save_pretrained(str(folder), state_dict=state_dict, safe_serialization=False)
            processing = getattr(self, "processing_class", None)
            if processing is not None:
                processing.save_pretrained(folder)
            torch.save(self.args, folder / TRAINING_ARGS)

    def _saves_from_copy(self) -> bool:
        """Whether weights can be written from a copy: not where a subclass has its own `save_model`."""
        return type(self).save_model is Trainer.save_model and self._config.background_saves

    def _unwrapped(self) -> Any:
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    def files_beside_model(self) -> dict[str, bytes]:
        """Small files of a subclass that go with the model as it is now: into this checkpoint and with the best one."""
        return {}

    def _state_content(self) -> bytes:
        """trainer_state.json, with the callbacks' states and ours."""
        states: dict[str, Any] = {}
        for callback in [*self.callback_handler.callbacks, self.control]:
            if isinstance(callback, ExportableState):
                # Several callbacks of one class are a list; made anew, since the Trainer's grows with every save.
                name, found = type(callback).__name__, callback.state()
                before = states.get(name)
                states[name] = found if before is None else [*(before if isinstance(before, list) else [before]), found]
        if self._in_loop:
            self._progress.loss_since_log = float(self._tr_loss)
            self._progress.loss_total = self._total_loss_scalar
            self._progress.logged_step = self._globalstep_last_logged
        self._progress.step = self.state.global_step
        states[STATE_NAME] = {"args": {}, "attributes": self._progress.as_dict()}
        content = {**asdict(self.state), "stateful_callbacks": states}
        return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()

    def _rng_of_all_processes(self) -> dict[str, Any]:
        own = self._edge.rng if self._edge is not None else rng.capture()
        if self.args.world_size == 1:
            return {"rng_state.pth": own}
        gathered: list[Any] = [None] * self.args.world_size
        dist.all_gather_object(gathered, own)
        return {f"rng_state_{rank}.pth": states for rank, states in enumerate(gathered)}

    def _manifest(self, reason: str) -> Manifest:
        state, sequence = self.state, self._sequence
        self._sequence += 1
        position = self._progress.position
        ends = state.global_step >= state.max_steps or self.control.should_training_stop
        return Manifest(
            step=state.global_step,
            epoch=float(state.epoch or 0.0),
            position={
                "epoch": position.epoch,
                "sample": position.sample,
                "num_samples": self._progress.num_samples,
                "batch": self._progress.batch,
                "max_steps": state.max_steps,
            },
            sequence=sequence,
            reason="final" if reason == "scheduled" and ends else reason,
            created=datetime.now(UTC).isoformat(),
            run_id=self._run_id,
            parent=self._parent,
            metrics=self._metrics(),
            hyperparameters=self._hyperparameters(),
            given=self._given,
            fingerprints=self._fingerprints,
            environment=_environment(self.args),
            sessions=self._sessions,
        )

    def _metrics(self) -> dict[str, Any]:
        history: list[dict[str, Any]] = self.state.log_history
        metrics: dict[str, Any] = {}
        last_loss = next((row["loss"] for row in reversed(history) if "loss" in row), None)
        evaluated = [row for row in history if any(name.startswith("eval_") for name in row)]
        if last_loss is not None:
            metrics["loss"] = last_loss
        if self.state.best_metric is not None:
            metrics |= {"best_metric": self.state.best_metric, "best_step": self.state.best_global_step}
            metrics["metric_name"] = self.args.metric_for_best_model
        if evaluated:
            metrics["evaluation"] = dict(evaluated[-1])
        return metrics

    def _last_good_path(self) -> str:
        good = self._saver.last_good if self._saver is not None else None
        return str(self._run.checkpoint(good)) if good is not None else ""

    def _say(self, text: str) -> None:
        if self.args.process_index == 0:
            say_on_stderr(text)


def _environment(args: Any) -> dict[str, Any]:
    device = args.device
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        **installed_versions(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "num_processes": args.world_size,
        "num_threads": torch.get_num_threads(),
    }


def _move_into(source: Path, target: Path) -> None:
    for path in sorted(source.iterdir()):
        path.rename(target / path.name)
    source.rmdir()


def _clear(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)

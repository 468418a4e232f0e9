"""What the mixins of `ResumableTrainer` see of the Trainer and of each other."""

from __future__ import annotations

from typing import Any

import torch

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.resume.compatibility import FingerprintSources
from llamarec.checkpoints.resume.decision import Resume
from llamarec.checkpoints.resume.progress import Progress
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.manifest import Session
from llamarec.checkpoints.trainer.signals import StopRequests
from llamarec.checkpoints.trainer.step_edge import BoundaryState
from llamarec.checkpoints.trainer.writer import Saver


class SharedState:
    """Names and types only; nothing here has a value of its own but the flags of a training that has not begun."""

    # ---- Of the Trainer ----
    args: Any
    state: Any
    control: Any
    model: Any
    optimizer: Any
    lr_scheduler: Any
    accelerator: Any
    callback_handler: Any
    current_flos: float
    _tr_loss: torch.Tensor
    _total_loss_scalar: float
    _globalstep_last_logged: int
    _initial_global_step: int
    training_step: Any
    store_flos: Any
    save_model: Any
    floating_point_ops: Any
    _track_num_input_tokens: Any
    _clip_grad_norm: Any
    _get_grad_norm: Any
    _get_learning_rate: Any
    _maybe_log_save_evaluate: Any

    # ---- Of the mixins ----
    origins: FingerprintSources
    _config: CheckpointConfig
    _own_options: dict[str, Any]
    _given: dict[str, Any]
    _fingerprints: dict[str, Any]
    _base_model: str
    _own_optimizer: bool
    _given_scheduler: Any
    _fresh_rates: list[tuple[float, float]]
    _run: RunFolder
    _saver: Saver | None
    _progress: Progress
    _stop: StopRequests
    _sessions: tuple[Session, ...]
    _run_id: str
    _sequence: int
    _parent: int | None
    _edge: BoundaryState | None = None
    _resume: Resume | None = None
    _buffers: dict[str, torch.Tensor]
    _torn: bool = False
    _in_loop: bool = False
    _save_due: bool = False
    _best_due: bool = False
    _last_save_time: float = 0.0
    _last_saved_step: int = -1
    _given_eval_batch: int = 0
    _say: Any
    _say_plan: Any
    _unwrapped: Any
    _hyperparameters: Any
    _num_items_in_step: Any
    _bare_report: Any
    _enter_training: Any
    _return_to_edge: Any
    _restore_buffers: Any
    _restore_last: Any
    _save_at_edge: Any
    _save_and_stop: Any
    _last_good_path: Any
    _from_first_process: Any
    _load_weights: Any
    _load_best_model: Any

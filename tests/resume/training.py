"""A training that is hard to resume: random draws in data set, collator and callbacks, dropout, workers, evaluation.

Used by tests in their own process, and as a program that tests kill:

    python -m tests.resume.training --output_dir DIR [any argument of TrainingArguments or CheckpointConfig]
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    EarlyStoppingCallback,
    HfArgumentParser,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.resume.safe_load import is_projector, load_pickled
from llamarec.checkpoints.trainer.resumable import ResumableTrainer
from llamarec.checkpoints.trainer.state.tensors import is_made_of_tensors, parts_of
from tests.resume.worker_data import NUM_SAMPLES, VOCABULARY, Seen, Words
from tests.tiny_llama import tiny_llama

DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 2.0,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": 5e-3,
    "warmup_steps": 4,
    "save_steps": 3,
    "eval_steps": 3,
    "eval_strategy": "steps",
    "logging_steps": 2,
    "save_total_limit": 3,
    "load_best_model_at_end": True,
    "metric_for_best_model": "loss",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "dataloader_pin_memory": False,
    "max_grad_norm": 1.0,
    "remove_unused_columns": False,
}


class Restless(TrainerCallback):
    """Draws from every generator at every event."""

    def _draw(self, *_: Any, **__: Any) -> None:
        random.random()
        np.random.rand()
        torch.rand(1)

    on_train_begin = on_epoch_begin = on_step_begin = on_pre_optimizer_step = on_optimizer_step = on_substep_end = _draw
    on_step_end = on_evaluate = on_save = on_log = on_prediction_step = on_epoch_end = _draw


def make_model(*, dropout: float = 0.1, alpha: int = 8) -> Any:
    """A Llama of 4,000 weights with LoRA, always the same."""
    set_seed(1)
    llama = tiny_llama(
        vocab_size=VOCABULARY, num_hidden_layers=2, max_position_embeddings=32, tie_word_embeddings=False
    )
    lora = LoraConfig(
        r=4, lora_alpha=alpha, lora_dropout=dropout, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    return get_peft_model(llama, lora)


def make_args(folder: Path, **changes: Any) -> TrainingArguments:
    """Arguments of the test training."""
    return TrainingArguments(output_dir=str(folder), **{**DEFAULTS, **changes})


def make_trainer(
    folder: Path,
    config: CheckpointConfig | None = None,
    *,
    cls: type[Any] = ResumableTrainer,
    model: Any = None,
    noisy: bool = True,
    seen: Path | None = None,
    num_samples: int = NUM_SAMPLES,
    patience: int = 4,
    callbacks: tuple[Any, ...] = (),
    after_save: Callable[[Path], object] | None = None,
    **changes: Any,
) -> Any:
    """The Trainer of the test training; `cls` may be a plain one."""
    own: dict[str, Any] = {}
    if issubclass(cls, ResumableTrainer):
        config = config or CheckpointConfig()
        own = {
            # What is drawn twice before the first step would stand in the log of samples.
            "checkpoint_config": replace(config, check_data=config.check_data and not seen),
            "own_options": {"early_stopping_patience": patience},
            "after_save": after_save,
        }
    restless = [Restless()] if noisy else []
    return cls(
        model=model if model is not None else make_model(dropout=0.1 if noisy else 0.0),
        args=make_args(folder, **changes),
        train_dataset=Words(num_samples, noisy=noisy),
        eval_dataset=Words(8, noisy=False),
        data_collator=Seen(seen, noisy=noisy),
        callbacks=[EarlyStoppingCallback(patience), *restless, *callbacks],
        **own,
    )


_TIMES = ("runtime", "per_second")


def digest(value: Any) -> str:
    """SHA-256 of tensors, arrays and plain values, whatever file they were in."""
    if isinstance(value, torch.Tensor) and is_made_of_tensors(value):
        content = "".join(digest(part) for part in parts_of(value)).encode()
    elif isinstance(value, torch.Tensor):
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray):
        content = value.tobytes()
    elif isinstance(value, dict):
        content = "".join(f"{key}:{digest(item)};" for key, item in sorted(value.items(), key=str)).encode()
    elif isinstance(value, list | tuple):
        content = "".join(digest(item) for item in value).encode()
    elif is_projector(value):
        content = digest(vars(value)).encode()
    else:
        content = repr(value).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def state_of(checkpoint: Path) -> dict[str, str]:
    """What must be equal, bit for bit, of two checkpoints."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    state.pop("best_model_checkpoint")
    for row in state["log_history"]:
        for name in [name for name in row if any(word in name for word in _TIMES)]:
            del row[name]
    adapter = checkpoint / "adapter_model.bin"
    weights = load_pickled(adapter) if adapter.is_file() else (checkpoint / "adapter_model.safetensors").read_bytes()
    # One for each process.
    random_states = [load_pickled(path) for path in sorted(checkpoint.glob("rng_state*.pth"))]
    return {
        "adapter": digest(weights),
        "optimizer": digest(load_pickled(checkpoint / "optimizer.pt")),
        "scheduler": digest(load_pickled(checkpoint / "scheduler.pt")),
        "rng": digest(random_states[0] if len(random_states) == 1 else random_states),
        "trainer_state": digest(state),
    }


def outcome(folder: Path) -> dict[str, Any]:
    """All that a finished run must have in common with one that was never interrupted."""
    from llamarec.checkpoints.storage.discovery import order_of_saves
    from llamarec.checkpoints.storage.layout import RunFolder

    newest = order_of_saves(RunFolder(folder))[0]
    best = next(
        path for name in ("adapter_model.bin", "adapter_model.safetensors") if (path := folder / name).is_file()
    )
    return {
        "last": newest.name,
        **state_of(newest),
        "best": hashlib.sha256(best.read_bytes()).hexdigest()[:16],
        "checkpoints": sorted(path.name for path in folder.glob("checkpoint-*")),
    }


def main() -> int:
    """Trains; resumes the newest checkpoint if there is one."""
    torch.set_num_threads(1)
    types: Any = (TrainingArguments, CheckpointConfig)
    parser = HfArgumentParser(types, allow_abbrev=False)
    parser.set_defaults(**DEFAULTS)
    parser.add_argument("--seen", default="")
    args, config, rest = parser.parse_args_into_dataclasses()
    trainer = make_trainer(
        Path(args.output_dir),
        config,
        seen=Path(rest.seen) if rest.seen else None,
        **{name: getattr(args, name) for name in _given(args)},
    )
    trainer.train(args.resume_from_checkpoint or "latest")
    print("FINISHED", json.dumps(outcome(Path(args.output_dir))), flush=True)
    return 74 if trainer.last_save_failed else 0


def _given(args: TrainingArguments) -> list[str]:
    names = {text[2:].partition("=")[0] for text in sys.argv if text.startswith("--")}
    return sorted(name for name in names if name in asdict(args) and name != "output_dir")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())

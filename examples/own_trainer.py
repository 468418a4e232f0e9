"""Your own model and data, in a training that may be killed at any moment and resumes where it stopped.

    python examples/own_trainer.py                          # starts; the same command resumes, also after kill -9
    python examples/own_trainer.py --learning_rate 1e-3     # resumes with another rate, from the next step on
    python examples/own_trainer.py --hidden 64              # refused: the checkpoints have another model
    python examples/own_trainer.py --hidden 64 --restart    # starts over
    llamarec checkpoints list experiments/sine

Every argument of `TrainingArguments` and of `CheckpointConfig` is a flag. Exit codes: 0 finished; 2 refused, with
what to do instead of a traceback; 74 the last save failed; 75 stopped by a signal and saved: run the same command.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import HfArgumentParser, TrainingArguments, set_seed

from llamarec import run_main
from llamarec.checkpoints import CheckpointConfig, ResumableTrainer
from llamarec.errors import EXIT_FINISHED, EXIT_SAVE_FAILED

DEFAULTS: dict[str, Any] = {
    "output_dir": "experiments/sine",
    # The newest checkpoint that verifies, or step 0 if there is none: one command for both.
    "resume_from_checkpoint": "latest",
    "num_train_epochs": 40.0,
    "learning_rate": 1e-2,
    "save_steps": 500,
    "save_seconds": 60.0,
    "save_total_limit": 3,
    "logging_steps": 100,
    # The best model by validation is kept in output_dir itself, whatever comes later.
    "eval_strategy": "steps",
    "load_best_model_at_end": True,
    "report_to": "none",
    "dataloader_pin_memory": torch.cuda.is_available(),
}


@dataclass
class Options:
    """Options that `TrainingArguments` lacks."""

    hidden: int = field(default=32, metadata={"help": "Width of the model."})


class Curve(torch.nn.Module):
    """A function of one number. A Trainer needs the loss, and for validation the predictions after it."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(1, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, 1))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        predicted = self.layers(x)
        return {"loss": torch.nn.functional.mse_loss(predicted, labels), "logits": predicted}


def points(count: int) -> list[dict[str, torch.Tensor]]:
    """A data set: anything with a length and samples by index."""
    return [{"x": x, "labels": torch.sin(x)} for x in torch.linspace(-3, 3, count).unsqueeze(1)]


def main() -> int:
    """Starts or resumes the training; returns the exit code. A stop leaves it as `Interrupted`, a `SystemExit`."""
    types: Any = (TrainingArguments, CheckpointConfig, Options)
    parser = HfArgumentParser(types)
    parser.set_defaults(**DEFAULTS)
    args, checkpoint_config, options = parser.parse_args_into_dataclasses()
    set_seed(args.seed)
    trainer = ResumableTrainer(
        model=Curve(options.hidden),
        args=args,
        train_dataset=points(1000),
        eval_dataset=points(101),
        checkpoint_config=checkpoint_config,
        # A plain torch model has no configuration that identifies it.
        fingerprints={"model": f"{options.hidden} hidden units"},
    )
    trainer.train(False if checkpoint_config.restart else None)
    print(f"best model   step {trainer.state.best_global_step}, in {args.output_dir}/model.safetensors")
    return EXIT_SAVE_FAILED if trainer.last_save_failed else EXIT_FINISHED


if __name__ == "__main__":
    sys.exit(run_main(main))

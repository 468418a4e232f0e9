"""The ranker's Trainer as train_ranker.py makes it, for steps that are measured: no saves, no validations, no logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from transformers import set_seed

from benchmarks.ranker.workload import SEED, Workload
from llamarec.checkpoints.resume.compatibility import FingerprintSources
from llamarec.ranker.model.base_models import load_letter_model
from llamarec.ranker.options.command_line import Parsed, parse
from llamarec.ranker.options.config import SMOLLM2_135M, RankerConfig
from llamarec.ranker.training.trainer import RankerTrainer

# Nothing but steps: what a measurement needs beside them it says itself.
_ONLY_STEPS: Final[dict[str, Any]] = {
    "save_strategy": "no",
    "eval_strategy": "no",
    "logging_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}


def parsed(**flags: Any) -> Parsed:
    """The command line with these flags."""
    return parse([f"--{name}={value}" for name, value in {**_ONLY_STEPS, **flags}.items()])


def trainer_of(command: Parsed, model: Any, train: Any, validation: Any) -> RankerTrainer:
    """The Trainer of a command line, over a model and samples of the benchmark's own."""
    return RankerTrainer(
        model,
        command.training,
        config=command.ranker,
        checkpoint_config=command.checkpoints,
        train=train,
        validation=validation,
        pad_token_id=0,
        fingerprints={},
        origins=FingerprintSources(),
        own_options={},
        given={},
        defaults={},
    )


# ---- On a CPU, with the embedded model and real prompts ----


def our_model(workload: Workload, dtype: torch.dtype) -> Any:
    """As train_ranker.py loads it."""
    set_seed(SEED)
    config = RankerConfig(llm_base_model=SMOLLM2_135M)
    bf16 = dtype == torch.bfloat16
    return load_letter_model(SMOLLM2_135M, workload.source, config, workload.encoder.letter_ids, bf16=bf16)


def our_trainer(
    workload: Workload, model: Any, folder: Path, *, steps: int, dtype: torch.dtype, **flags: Any
) -> RankerTrainer:
    """With the command line's own defaults for a CPU, but for these flags."""
    command = parsed(
        dataset_code=workload.code,
        llm_base_model=SMOLLM2_135M,
        output_dir=folder,
        max_steps=steps,
        seed=SEED,
        use_cpu=True,
        bf16=dtype == torch.bfloat16,
        **flags,
    )
    return trainer_of(command, model, workload.train, workload.validation(4))

"""What the Trainers of both readouts have in common: sample order, samples counted per step, advice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel

from llamarec.checkpoints.storage.discovery import folder_of_best
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.trainer.out_of_memory import MemoryFlags
from llamarec.checkpoints.trainer.resumable import ResumableTrainer
from llamarec.ranker.options.config import HINTS
from llamarec.ranker.prompts.training_samples import epoch_order
from llamarec.ranker.trained.final_fusion import adapter_digest
from llamarec.ranker.training.fingerprints import of_data


class AdapterTrainer(ResumableTrainer):
    """A Trainer of LoRA on a frozen base model, whose samples are indexed by (epoch, index)."""

    model: PeftModel
    samples_by_epoch = True
    program_hints = HINTS
    ends_when_diverged = True
    beyond_flags = tuple(of_data(""))
    memory_flags = MemoryFlags(
        four_bits="--quantization nf4 --allow_changed base_model",
        shorter_samples="a smaller --max_prompt_tokens, with --allow_changed prompt,data",
    )

    @property
    def tested_step(self) -> int:
        """Training step of the adapter that the Trainer holds after training."""
        best = self.state.best_global_step if self.args.load_best_model_at_end else None
        return int(best or self.state.global_step)

    def tested_digest(self) -> str:
        """SHA-256 of that adapter as it was saved; "" if unknown."""
        run = RunFolder(Path(str(self.args.output_dir)))
        best = folder_of_best(run, self.tested_step) if self.args.load_best_model_at_end else None
        return adapter_digest(best or run.checkpoint(self.tested_step))

    def epoch_order(self, epoch: int, num_samples: int) -> NDArray[np.int64]:
        """A permutation drawn from (seed, epoch)."""
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return epoch_order(num_samples, seed, epoch)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | None:
        """Labels in the whole step; the loss is their mean, independent of micro-batches."""
        if not batch_samples:
            return None
        return torch.tensor(sum(int((batch["labels"] >= 0).sum()) for batch in batch_samples), device=device)

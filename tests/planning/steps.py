"""Run by test_measured.py: a few steps of the Trainer; prints how much memory they needed.

python steps.py FOLDER MICRO_BATCH LENGTH CHECKPOINTING PROMPTS_AT_ONCE (0: as one batch, by autograd)
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = str(max(1, int(sys.argv[5])))

from llamarec.cli.fast_help import importing

with importing():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    from llamarec.ranker.model.base_models import load_letter_model
    from llamarec.ranker.model.letter_model import LetterForward, collate
    from llamarec.ranker.options.config import RankerConfig


def main(folder: Path, micro_batch: int, length: int, checkpointing: bool) -> None:
    """Bytes at the peak of three steps, above those before the model was loaded."""
    model_folder = folder / "model"
    _make_model(model_folder)
    before = _status("VmRSS")
    model = load_letter_model(
        str(model_folder), str(model_folder), RankerConfig(quantization="none"), list(range(40, 60)), bf16=False
    )
    args = TrainingArguments(
        str(folder / "run"),
        per_device_train_batch_size=micro_batch,
        max_steps=3,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        activation_checkpointing=checkpointing,
        dataloader_pin_memory=False,
    )
    samples: Any = [{"input_ids": [(7 * i + j) % 4096 for j in range(length)], "label": i % 20} for i in range(32)]
    trainer = Trainer(model, args, train_dataset=samples, data_collator=partial(collate, pad_token_id=0))
    # From here on a new peak is noted.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    trainer.train()
    print(json.dumps({"bytes": _status("VmHWM") - before}))


def _make_model(folder: Path) -> None:
    # In a process of its own, so that nothing of it is in this one's heap.
    if os.fork() == 0:
        config = LlamaConfig(
            vocab_size=4096,
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=12,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=2048,
        )
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
        os._exit(0)
    os.wait()


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


if __name__ == "__main__":
    if sys.argv[5] == "0":
        LetterForward.goes_by_prompts = False
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1")

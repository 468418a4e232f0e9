"""The recipe as it was published, written out as what ours is measured against; never part of the product.

Plain Trainer. Prompts are text, tokenised whole each time they are read, and left-padded to the longest of their batch
of 12 (16). Logits of the whole vocabulary at every position; the answer's letter and the end of the sequence carry the
loss. Activation checkpointing is always on. Validation asks for the same logits. (LlamaRec, arXiv 2311.02089, and the
authors' repository; both as of their publication.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Trainer, TrainingArguments

from benchmarks.ranker.workload import Workload
from llamarec.ranker.model.base_models import pad_token_of
from llamarec.ranker.options.config import RankerConfig
from llamarec.ranker.prompts.evaluation_samples import EvaluationSamples
from llamarec.ranker.prompts.template import LETTERS
from llamarec.ranker.prompts.training_samples import Prompt

_IGNORED = -100


class Texts(Dataset[dict[str, list[int]]]):
    """Prompts that are tokenised when they are read."""

    def __init__(self, workload: Workload, prompts: list[Prompt], *, answered: bool) -> None:
        self._workload, self._prompts, self._answered = workload, prompts, answered

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        prompt, tokenizer = self._prompts[index], self._workload.tokenizer
        text = self._workload.encoder.text(prompt.history, prompt.candidates)
        ids = list(tokenizer(text)["input_ids"])
        answer = list(tokenizer(text + LETTERS[prompt.label])["input_ids"])[len(ids) :]
        if not self._answered:
            return {"input_ids": ids, "labels": answer}
        answer.append(tokenizer.eos_token_id)
        return {"input_ids": ids + answer, "labels": [_IGNORED] * len(ids) + answer}


class Ids(Dataset[dict[str, list[int]]]):
    """Prompts that are token ids already: the same batches, without the time that a tokenizer takes.

    Args:
        samples: Token ids and the place of the right letter, by index.
        letter_ids: Token ids of the letters.
        eos: Token id of the end of the sequence.
        answered: With the answer, to be learnt; else with the answer as label alone.
    """

    def __init__(self, samples: Any, letter_ids: list[int], eos: int, *, answered: bool) -> None:
        self._samples, self._letter_ids, self._eos, self._answered = samples, letter_ids, eos, answered

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        sample = self._samples[index]
        ids, answer = list(sample["input_ids"]), [self._letter_ids[sample["label"]]]
        if not self._answered:
            return {"input_ids": ids, "labels": answer}
        answer.append(self._eos)
        return {"input_ids": ids + answer, "labels": [_IGNORED] * len(ids) + answer}


def left_padded(samples: list[dict[str, list[int]]], *, pad: int) -> dict[str, torch.Tensor]:
    """[batch, longest] ids, mask and labels, padded on the left."""
    longest = max(len(sample["input_ids"]) for sample in samples)

    def rows(name: str, fill: int) -> torch.Tensor:
        return torch.tensor([[fill] * (longest - len(sample[name])) + sample[name] for sample in samples])

    ids = rows("input_ids", pad)
    lengths = torch.tensor([len(sample["input_ids"]) for sample in samples])
    mask = (torch.arange(longest)[None, :] >= longest - lengths[:, None]).long()
    labels = torch.tensor([sample["labels"] for sample in samples]) if _is_plain(samples) else rows("labels", _IGNORED)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _is_plain(samples: list[dict[str, list[int]]]) -> bool:
    """Whether the labels are the answers alone, as in evaluation."""
    return len(samples[0]["labels"]) == 1


def load_model(workload: Workload, dtype: torch.dtype, *, attention: str) -> Any:
    """The base model with LoRA, checkpointing its activations."""
    return with_lora(
        AutoModelForCausalLM.from_pretrained(
            workload.source, dtype=dtype, attn_implementation=attention, trust_remote_code=False
        )
    )


def four_bits() -> Any:
    """The recipe's quantisation."""
    config: Any = BitsAndBytesConfig
    return config(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def with_lora(model: Any) -> Any:
    """A model that is loaded already, in 4 bits or not, with LoRA."""
    config = RankerConfig()
    if getattr(model, "is_loaded_in_4bit", False):
        # Checkpointing is the Trainer's business.
        prepare: Any = prepare_model_for_kbit_training
        model = prepare(model, use_gradient_checkpointing=False)
    lora = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.target_modules,
        task_type="CAUSAL_LM",
    )
    model.config.use_cache = False
    return get_peft_model(model, lora)


def training_prompts(workload: Workload, indices: list[int]) -> list[Prompt]:
    """The same ones as ours."""
    return [workload.train.prompt(0, index) for index in indices]


def make_trainer(
    workload: Workload,
    model: Any,
    prompts: list[Prompt],
    folder: Path,
    *,
    micro_batch: int,
    accumulate: int,
    **args: Any,
) -> Trainer:
    """A plain Trainer over these prompts, in this order."""
    texts = Texts(workload, prompts, answered=True)
    return trainer_over(texts, _pad_of(workload), model, folder, micro_batch=micro_batch, accumulate=accumulate, **args)


def trainer_over(
    samples: Dataset[dict[str, list[int]]],
    pad: int,
    model: Any,
    folder: Path,
    *,
    micro_batch: int,
    accumulate: int,
    **args: Any,
) -> Trainer:
    """A plain Trainer over tokenised prompts with their answers, in this order."""
    arguments: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": accumulate,
        "activation_checkpointing": True,
        "learning_rate": 1e-4,
        "train_sampling_strategy": "sequential",
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "logging_strategy": "no",
        **args,
    }
    return Trainer(
        model=model,
        args=TrainingArguments(**arguments),
        train_dataset=samples,
        data_collator=lambda samples: left_padded(samples, pad=pad),
    )


def letter_logits(workload: Workload, model: Any, samples: EvaluationSamples, batch: int) -> np.ndarray[Any, Any]:
    """[num_prompts, num_candidates] of a workload's prompts; see `letter_logits_of`."""
    prompts = [samples.prompt(index) for index in range(len(samples))]
    texts = Texts(workload, prompts, answered=False)
    return letter_logits_of(texts, _pad_of(workload), model, workload.encoder.letter_ids, batch)


@torch.no_grad()
def letter_logits_of(samples: Any, pad: int, model: Any, letter_ids: list[int], batch: int) -> np.ndarray[Any, Any]:
    """[num_prompts, num_candidates], as the published verbaliser takes them out of all logits of the last position.

    Args:
        samples: Tokenised prompts with the answers alone as labels.
        pad: Token id of padding.
        model: With LoRA.
        letter_ids: Token ids of the letters.
        batch: Prompts per forward pass.
    """
    model.eval()
    found = []
    for start in range(0, len(samples), batch):
        rows = [samples[index] for index in range(start, min(start + batch, len(samples)))]
        inputs = left_padded(rows, pad=pad)
        inputs.pop("labels")
        device = next(model.parameters()).device
        logits = model(**{name: value.to(device) for name, value in inputs.items()}).logits
        found.append(logits[:, -1, letter_ids].float().cpu().numpy())
    return np.concatenate(found)


def _pad_of(workload: Workload) -> int:
    return pad_token_of(workload.tokenizer)

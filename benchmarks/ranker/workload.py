"""The prompts that the ranker's benchmarks are run on: real ones, the same for every way of computing them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from llamarec.data.config import DataConfig
from llamarec.data.prepare import prepare
from llamarec.data.prepared import PreparedData
from llamarec.ranker.model.base_models import base_model_source, load_tokenizer
from llamarec.ranker.options.config import SMOLLM2_135M, RankerConfig
from llamarec.ranker.prompts.encoding import PromptEncoder
from llamarec.ranker.prompts.evaluation_samples import EvaluationSamples
from llamarec.ranker.prompts.template import load_template
from llamarec.ranker.prompts.training_samples import TrainingSamples, epoch_order
from llamarec.retriever.candidates import Candidates, with_labels

SEED = 42


@dataclass(frozen=True)
class Workload:
    """A data set's prompts for one base model.

    Attributes:
        data: Prepared.
        source: Folder or name of the base model.
        tokenizer: Its tokenizer.
        encoder: What makes prompts.
        train: Training samples.
        order: [num_samples] the order of the first epoch.
    """

    data: PreparedData
    source: str
    tokenizer: Any
    encoder: PromptEncoder
    train: TrainingSamples
    order: list[int]

    @property
    def code(self) -> str:
        """Of the data set."""
        return self.data.dataset_code

    def lengths(self, indices: list[int]) -> list[int]:
        """Tokens of training samples."""
        return [len(self.train[(0, index)]["input_ids"]) for index in indices]

    def validation(self, num_prompts: int) -> EvaluationSamples:
        """Validation prompts with drawn candidates: only their lengths matter here."""
        users = self.data.sequences.users_with_label("validation")
        rng = np.random.default_rng(SEED)
        chosen = np.sort(rng.choice(users, size=num_prompts, replace=False)).astype(np.int32)
        return EvaluationSamples(self.data, self._drawn(chosen, rng), self.encoder, "validation", max_users=0)

    def _drawn(self, users: Any, rng: np.random.Generator) -> Candidates:
        rows = []
        for user in users:
            label = self.data.sequences.label(int(user), "validation")
            others = [item for item in rng.permutation(self.data.num_items)[:40] + 1 if item != label]
            rows.append(rng.permutation([label, *others[: self.encoder.num_candidates - 1]]))
        items = np.array(rows, dtype=np.int32)
        return with_labels(self.data, "validation", users, items, np.zeros(items.shape, dtype=np.float32))


def load(code: str, data_root: str, model: str = SMOLLM2_135M) -> Workload:
    """Prepares a data set and tokenises its titles."""
    with tempfile.TemporaryDirectory() as root:
        config = DataConfig(dataset_code=code, data_root=data_root, experiment_root=root)
        data = prepare(config, Console(quiet=True))
    source = base_model_source(model, data, Path(tempfile.gettempdir()) / "llamarec-bench")
    tokenizer = load_tokenizer(model, source)
    ranker = RankerConfig(llm_base_model=model)
    encoder = PromptEncoder(
        tokenizer,
        data.titles,
        load_template(""),
        num_candidates=ranker.num_candidates,
        max_history=ranker.max_history,
        max_title_tokens=ranker.max_title_tokens,
        max_prompt_tokens=ranker.max_prompt_tokens,
    )
    train = TrainingSamples(data, encoder, SEED)
    order = [int(index) for index in epoch_order(len(train), SEED, 0)]
    return Workload(data, source, tokenizer, encoder, train, order)

"""A trained ranker that orders any candidates, with the best adapter, prompt and fusion of a run.

P prompts, C candidates
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from llamarec.checkpoints.resume.safe_load import load_weights
from llamarec.checkpoints.trainer.out_of_memory import is_out_of_memory
from llamarec.checkpoints.trainer.state.into_model import put_weights
from llamarec.data.prepared import PreparedData
from llamarec.errors import ConfigError
from llamarec.evaluation.fusion import Fusion, read_fusion
from llamarec.evaluation.logit import log_softmax
from llamarec.hardware import has_accelerator, has_bfloat16
from llamarec.planning.lengths import LENGTH_MULTIPLE
from llamarec.ranker.model.base_models import load_letter_model, pad_token_of
from llamarec.ranker.model.letter_model import collate
from llamarec.ranker.options.config import TINY
from llamarec.ranker.prompts.encoding import PromptEncoder
from llamarec.ranker.prompts.evaluation_samples import Order, letter_order
from llamarec.ranker.prompts.first_stage import FirstStage, stored_first_stage
from llamarec.ranker.trained.final_fusion import adapter_digest, read_final
from llamarec.ranker.trained.loading import AdapterLocation, check_same_retriever, read_trained
from llamarec.ranker.trained.locations import folder_of
from llamarec.ranker.trained.retrain import retrain_command
from llamarec.vocabulary import PADDING_ITEM, Experiment

_BATCH_ON_CPU, _BATCH_ON_GPU = 32, 16
_RETRIEVERS_ORDER = Fusion(letters=0.0, alpha=1.0, deviation=1.0, letter_prior=())
"""Fusion of a model that was never validated: the worth of its letters is unknown, so the retriever's order stays."""


class Question(NamedTuple):
    """Candidates of a user.

    Attributes:
        history: Item ids, oldest first.
        candidates: [C] the retriever's candidates, best first.
        scores: [C] retriever scores.
    """

    history: NDArray[np.int32]
    candidates: NDArray[np.int32]
    scores: NDArray[np.float32]


class Answer(NamedTuple):
    """Scores of candidates, in the order in which they were given.

    Attributes:
        final_C: Final scores.
        letters_C: Log-probabilities of the letters, corrected for their prior.
        similarities_C: Similarities of titles to the history, 0 if titles do not count.
        slots_C: Letter of each candidate, 0 = A.
    """

    final_C: NDArray[np.float64]
    letters_C: NDArray[np.float64]
    similarities_C: NDArray[np.float64]
    slots_C: NDArray[np.int64]


class LetterRanker:
    """Orders candidates by the probability of their letters.

    Args:
        model: Model with the adapter, in evaluation mode, on its device.
        encoder: Encoder of prompts.
        fusion: Weights of the final scores.
        adapter: Location of the weights.
        first_stage: Scores of candidates without the model.
        order: Order in which candidates get their letters.
        pad_token_id: Any token.
        batch_size: Prompts in one forward pass; halved when they do not fit into memory.
        multiple: Padded lengths are multiples of it.
    """

    def __init__(
        self,
        model: Any,
        encoder: PromptEncoder,
        fusion: Fusion,
        adapter: AdapterLocation,
        *,
        first_stage: FirstStage,
        order: Order,
        pad_token_id: int,
        batch_size: int,
        multiple: int,
    ) -> None:
        self._model, self._encoder, self.fusion, self.adapter = model, encoder, fusion, adapter
        self._first_stage, self._order = first_stage, order
        self._pad_token_id, self._multiple = pad_token_id, multiple
        self._batch_size = batch_size

    @property
    def num_candidates(self) -> int:
        """Candidates of a question, at most."""
        return self._encoder.num_candidates

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """Scores for each question; padding (item 0) is left out."""
        positions = [self._letter_order(question) for question in questions]
        ids = [
            self._encoder.encode(question.history.tolist(), question.candidates[positions_C].tolist())
            for question, positions_C in zip(questions, positions, strict=True)
        ]
        logits = self._logits(ids)
        return [
            self._answered(question, positions_C, logits_C[: len(positions_C)])
            for question, positions_C, logits_C in zip(questions, positions, logits, strict=True)
        ]

    def _letter_order(self, question: Question) -> NDArray[np.int64]:
        return letter_order(question.candidates[question.candidates != PADDING_ITEM], self._order)

    def _answered(self, question: Question, positions_C: NDArray[np.int64], logits_C: NDArray[np.float32]) -> Answer:
        if not len(positions_C):
            return Answer(np.zeros(0), np.zeros(0), np.zeros(0), positions_C)
        fusion = replace(self.fusion, letter_prior=_first(self.fusion.letter_prior, len(positions_C)))
        letters_1C = fusion.corrected(logits_C[None])
        letter_of_C = np.argsort(positions_C)
        similarities_C = self._first_stage.similarities(question.history, question.candidates[: len(positions_C)])
        first_stage_C = self._first_stage.scores(question.scores[: len(positions_C)], similarities_C)
        final_1C = fusion.combined(letters_1C[:, letter_of_C], first_stage_C[None])
        return Answer(final_1C[0], log_softmax(letters_1C)[0][letter_of_C], similarities_C, letter_of_C)

    def _logits(self, ids: list[list[int]]) -> NDArray[np.float32]:
        """[P, C] logits; prompts of similar length share a batch."""
        order = np.argsort([len(one) for one in ids], kind="stable")
        logits_PC = np.zeros((len(ids), self.num_candidates), dtype=np.float32)
        start = 0
        while start < len(order):
            rows = order[start : start + self._batch_size]
            try:
                logits_PC[rows] = self._forward([ids[row] for row in rows])
            except Exception as error:
                if not is_out_of_memory(error) or self._batch_size == 1:
                    raise
                self._batch_size = max(1, min(self._batch_size, len(rows)) // 2)
                continue
            start += len(rows)
        return logits_PC

    @torch.inference_mode()
    def _forward(self, ids: list[list[int]]) -> NDArray[np.float32]:
        samples = [{"input_ids": one, "label": 0} for one in ids]
        batch = collate(samples, pad_token_id=self._pad_token_id, multiple=self._multiple)
        device = self._model.device
        logits = self._model(
            input_ids=batch["input_ids"].to(device), answer_positions=batch["answer_positions"].to(device)
        )["logits"]
        return np.asarray(logits.float().cpu().numpy())


def load_ranker(
    experiment: Experiment, data: PreparedData, *, retriever_digest: str, device: str = "auto"
) -> LetterRanker:
    """The best ranker of a run.

    Args:
        experiment: Experiment of the run.
        data: Data it was trained on.
        retriever_digest: SHA-256 of the present retriever's weights.
        device: `auto`, or a name of torch.

    Raises:
        ArtifactError: there is no run, or it was trained on other data or with another retriever.
        ConfigError: there is no such device.
        ModelError: its base model cannot be loaded.
        CheckpointError: the weights are damaged.
    """
    where = device_named(device)
    trained = read_trained(experiment, data)
    then = str(trained.description.get("retriever_digest") or "")
    check_same_retriever(experiment, then, retriever_digest, retrain_command(experiment))
    config, adapter, encoder, name = trained.config, trained.adapter, trained.encoder, trained.config.llm_base_model
    bf16 = has_bfloat16(where.type == "cpu") and not (where.type == "cpu" and name == TINY)
    model = load_letter_model(name, trained.source, config, encoder.letter_ids, bf16=bf16, device=where)
    put_weights(model, load_weights(adapter.folder) or {}, adapter.folder, "default")
    fusion = stored_fusion(experiment, adapter) or _RETRIEVERS_ORDER
    return LetterRanker(
        model.eval(),
        encoder,
        fusion,
        adapter,
        first_stage=stored_first_stage(data.titles, fusion.title_weight),
        order=config.order,
        pad_token_id=pad_token_of(trained.tokenizer),
        batch_size=_BATCH_ON_CPU if where.type == "cpu" else _BATCH_ON_GPU,
        multiple=LENGTH_MULTIPLE if bf16 else 1,
    )


def stored_fusion(experiment: Experiment, adapter: AdapterLocation) -> Fusion | None:
    """The fusion fitted after training, or else the one stored with the adapter; None without any validation."""
    final = read_final(folder_of(experiment).path, adapter_digest(adapter.folder))
    return final or read_fusion(adapter.folder)


def device_named(name: str) -> torch.device:
    """A device by name; `auto` is the fastest.

    Raises:
        ConfigError: there is no such device.
    """
    try:
        device = torch.device(_default_device() if name == "auto" else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"--device {name}: not on this machine",
            expected=f"auto, cpu{', ' + _default_device() if has_accelerator() else ''}",
            found=str(error).partition("\n")[0],
        ) from error
    return device


def _default_device() -> str:
    accelerator = torch.accelerator.current_accelerator() if has_accelerator() else None
    return accelerator.type if accelerator is not None else "cpu"


def _first(prior: tuple[float, ...], count: int) -> tuple[float, ...]:
    """The prior of `count` letters; zero without calibration."""
    return prior[:count] if prior else (0.0,) * count

"""A trained retriever that proposes items for any history."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load

from llamarec.checkpoints.storage.json_shapes import ShapeError, parsed, shaped
from llamarec.data.prepared import PreparedData, check_same_data
from llamarec.errors import ArtifactError
from llamarec.experts.build import ExpertBuilder
from llamarec.experts.expert_sum import ExpertSum
from llamarec.experts.known import Known, known_now, now
from llamarec.experts.queries import Expert, Queries
from llamarec.experts.weights import EXPERTS_FILE, ExpertWeights, only
from llamarec.files import stored
from llamarec.retriever.config import RetrieverConfig
from llamarec.retriever.learned_expert import MODEL, Learned, learned_from
from llamarec.retriever.members import member_weights
from llamarec.retriever.model import LRURec, model_for
from llamarec.retriever.published import (
    has_experts,
    published_names,
    read_metrics,
    read_published,
    weights_digests,
)
from llamarec.retriever.rebuild_command import rebuild_command
from llamarec.vocabulary import ASKED, Asked, Experiment


class Retriever:
    """Proposes the next items after a history.

    Args:
        expert_sum: Orders the catalogue.
        moment: When the next item is asked for unless a question says so, in seconds since 1970.
        digest: Hash of what orders the candidates of validation and test.
        made_of: Hashes of everything that the order depends on.
    """

    def __init__(self, expert_sum: ExpertSum, moment: int, digest: str = "", made_of: Sequence[str] = ()) -> None:
        self.expert_sum, self.digest, self.made_of = expert_sum, digest, made_of
        self._moment = moment

    def queries(self, histories: Sequence[NDArray[np.int32]], times: Sequence[int] | None = None) -> Queries:
        """The histories as questions; the arguments are those of `propose`."""
        moments = np.full(len(histories), self._moment) if times is None else np.array(times)
        return Queries(histories, moments.astype(np.int64))

    def propose(
        self, histories: Sequence[NDArray[np.int32]], k: int, times: Sequence[int] | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The k best items after each history.

        Args:
            histories: Item ids, oldest first, none of them empty.
            k: Number of items for each.
            times: When each is asked, in seconds since 1970; None: at the last interaction of the data set.

        Returns:
            item_ids [num_histories, k] best first, 0 where no item is left; scores [num_histories, k], minus infinity
            where no item is left.
        """
        return self.expert_sum.propose(self.queries(histories, times), k)


@dataclass(frozen=True, kw_only=True)
class TrainedStage:
    """A trained retriever's model, the experts beside it, and the weights of all.

    Attributes:
        learned: The model, by the time that it is asked.
        builder: Makes the experts beside it.
        weights: Weights of the retriever's own order.
        has_experts: Whether experts were trained beside the model.
        num_items: Items of the catalogue.
        excludes_history: Whether items of the history are never proposed.
        made_of: Hashes of everything that an order depends on; the first: of what orders validation and test.
    """

    learned: Learned
    builder: ExpertBuilder
    weights: ExpertWeights
    has_experts: bool
    num_items: int
    excludes_history: bool
    made_of: Sequence[str]

    @property
    def digest(self) -> str:
        """Hash of what orders the candidates of validation and test."""
        return self.made_of[0]

    def experts(self, known: Known, names: Iterable[str] | None = None) -> list[Expert]:
        """The model, and experts beside it.

        Args:
            known: Interactions that are counted.
            names: Which experts; None: all that the data set allows, or none where the retriever has none.
        """
        if names is None and not self.has_experts:
            return [self.learned.at(known)]
        return [self.learned.at(known), *self.builder.experts(known, names)]

    def sum_of(self, experts: Sequence[Expert], weights: ExpertWeights | None = None) -> ExpertSum:
        """The weighted sum that orders the catalogue.

        Args:
            experts: Those that count, at least.
            weights: Their weights; None: those of the retriever.

        Raises:
            ArtifactError: there is a weight for an expert that is not among them.
        """
        by_name = (self.weights if weights is None else weights).by_name
        return ExpertSum(experts, by_name, self.num_items, excludes_history=self.excludes_history)


def load_stage(experiment: Experiment, data: PreparedData, *, only_new: bool = False) -> TrainedStage:
    """The trained first stage of a data set.

    Args:
        experiment: Paths of the run.
        data: The data it must have been made from.
        only_new: Propose no item of the history, even where users repeat items.

    Raises:
        ArtifactError: there is none, it is damaged, or it was made from other data; names the command that makes it.
    """
    hint = rebuild_command(experiment)
    made_by = read_metrics(experiment, hint)
    if not made_by:
        raise ArtifactError(f"{experiment.retriever}: no trained retriever", hint=hint)
    check_same_data(f"{experiment.retriever}: this retriever was", made_by.get("data_fingerprint"), data, hint)

    config = stored(made_by.get("config") or {}, RetrieverConfig, experiment.retriever_metrics)
    is_beside = has_experts(experiment)
    return TrainedStage(
        learned=learned_from(_models(experiment, data, config, hint), data, config.max_length, has_experts=is_beside),
        builder=ExpertBuilder(data),
        weights=read_expert_weights(experiment, hint),
        has_experts=is_beside,
        num_items=data.num_items,
        excludes_history=only_new or config.excludes(data.has_repeats),
        made_of=weights_digests(experiment),
    )


def load_retriever(
    experiment: Experiment, data: PreparedData, *, only_new: bool = False, known: Known | None = None
) -> Retriever:
    """The trained retriever of a data set.

    Args:
        experiment: Paths of the run.
        data: The data it must have been made from.
        only_new: Propose no item of the history, even where users repeat items.
        known: Interactions that are counted; None: the whole data set.

    Raises:
        ArtifactError: there is none, it is damaged, or it was made from other data; names the command that makes it.
    """
    stage = load_stage(experiment, data, only_new=only_new)
    experts = stage.experts(known_now(data) if known is None else known, stage.weights.by_name)
    return Retriever(stage.sum_of(experts), now(data), stage.digest, stage.made_of)


def _models(
    experiment: Experiment, data: PreparedData, config: RetrieverConfig, hint: str
) -> dict[Asked, list[LRURec]]:
    """The members, by the questions that they answer."""
    published, found = published_names(experiment), dict[Asked, list[LRURec]]()
    for asked in ASKED:
        first, *others = (
            member_weights(experiment.retriever_weights, number, asked) for number in range(1, config.num_members + 1)
        )
        if asked == "validation" or first.name in published:
            found[asked] = _loaded([first, *others], data, config, hint)
    return found


def _loaded(paths: Sequence[Path], data: PreparedData, config: RetrieverConfig, hint: str) -> list[LRURec]:
    models = []
    for path in paths:
        model = model_for(data.num_items, config)
        content = read_published(path, hint)
        try:
            model.load_state_dict(load(content))
        except (SafetensorError, RuntimeError) as error:
            raise ArtifactError(f"{path}: cannot be read", found=str(error).partition("\n")[0], hint=hint) from error
        models.append(model.eval())
    return models


def read_expert_weights(experiment: Experiment, hint: str) -> ExpertWeights:
    """The weights of model and experts; the model's alone without experts, as in earlier versions.

    Args:
        experiment: Paths of the run.
        hint: The command that makes the files again, for an error.

    Raises:
        ArtifactError: experts.json is missing, has changed, or is of another form.
    """
    if not has_experts(experiment):
        return only(MODEL)

    path = experiment.retriever / EXPERTS_FILE
    content = read_published(path, hint)
    try:
        return shaped(parsed(content, dict[str, object]), ExpertWeights)
    except ShapeError as error:
        raise ArtifactError(f"{path}: cannot be read", found=str(error), hint=hint) from error

"""The order of a run of letters: the first stage proposes candidates, the language model orders them.

P histories, K items of a list, C candidates
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llamarec.checkpoints.storage.durable import sha256_of
from llamarec.checkpoints.storage.layout import weight_files
from llamarec.data.prepared import PreparedData
from llamarec.evaluation.catalogue_tables import terms_text
from llamarec.evaluation.tables import first_stage_name
from llamarec.experts.reasons import Reason, reasons
from llamarec.ranker.prompts.template import LETTERS
from llamarec.ranker.trained.loading import AdapterLocation
from llamarec.ranker.trained.serving import Answer, LetterRanker, Question, load_ranker
from llamarec.recommend.orders import Histories, ItemIds, Ranked
from llamarec.retriever.serving import Retriever, load_retriever
from llamarec.vocabulary import PADDING_ITEM, Experiment


class LetterOrder:
    """The candidates of a retriever in the order of letters, then its next items.

    Args:
        retriever: Proposes candidates.
        ranker: Orders them.
    """

    def __init__(self, retriever: Retriever, ranker: LetterRanker) -> None:
        self._retriever, self.ranker = retriever, ranker

    @property
    def adapter(self) -> AdapterLocation:
        """See `Order`."""
        return self.ranker.adapter

    @property
    def uses_model(self) -> bool:
        """See `Order`."""
        return bool(self.ranker.fusion.letters)

    @property
    def formula(self) -> str:
        """See `Order`."""
        fusion = self.ranker.fusion
        titles = f" + {fusion.title_weight:.2f} title similarity" if fusion.title_weight else ""
        first_stage = f"first stage = {terms_text(self._retriever.expert_sum.weights)}{titles}"
        if not fusion.letters:
            return first_stage
        return (
            "log-probability of the item's letter (less the model's preference for each letter) + "
            f"{fusion.alpha:.2f} x first stage (standardised); {first_stage}"
        )

    @property
    def note(self) -> str:
        """See `Order`."""
        fusion = self.ranker.fusion
        if not fusion.num_prompts:
            why = "this checkpoint was never validated, so the language model has no weight"
            return f"The order is the first stage's: {why}."
        if not fusion.letters:
            why = "on validation users the language model added nothing to it"
            return f"The order is {first_stage_name(fusion)}: {why}."
        return ""

    @property
    def made_of(self) -> list[str]:
        """See `Order`."""
        weights = map(sha256_of, weight_files(self.adapter.folder))
        return [*self._retriever.made_of, *weights, self.ranker.fusion.as_bytes().hex()]

    def lists(self, histories: Histories, k: int, times: Sequence[int] | None) -> list[list[Ranked]]:
        """See `Order`. Items beyond the ranker's candidates (20) are in the retriever's order."""
        ranked = self.ranker.num_candidates
        items_PK, scores_PK = self._retriever.propose(histories, max(k, ranked), times)
        questions = [
            Question(history, items_K[:ranked], scores_K[:ranked])
            for history, items_K, scores_K in zip(histories, items_PK, scores_PK, strict=True)
        ]
        answers = self.ranker.answer(questions)
        return [_ordered(*of_one) for of_one in zip(items_PK, scores_PK, answers, strict=True)]

    def reasons(self, history: ItemIds, items: ItemIds, titles: Sequence[str]) -> list[list[Reason]]:
        """Why items are among the candidates; a letter has no reason. See `Order`."""
        return reasons(self._retriever.expert_sum, self._retriever.queries([history]), [items], titles)[0]


def _ordered(items_K: NDArray[np.int32], scores_K: NDArray[np.float32], answer: Answer) -> list[Ranked]:
    ranked = len(answer.final_C)
    # Among equal scores the retriever's order decides.
    order = [*np.argsort(-answer.final_C, kind="stable").tolist(), *range(ranked, len(items_K))]

    return [
        Ranked(
            item=int(items_K[position]),
            score=float(answer.final_C[position]) if position < ranked else None,
            retriever_rank=position + 1,
            retriever_score=float(scores_K[position]),
            title_similarity=float(answer.similarities_C[position]) if position < ranked else None,
            letter=LETTERS[int(answer.slots_C[position])] if position < ranked else None,
            letter_log_probability=float(answer.letters_C[position]) if position < ranked else None,
        )
        for position in order
        if items_K[position] != PADDING_ITEM
    ]


def load_letter_order(experiment: Experiment, data: PreparedData, *, device: str, only_new: bool) -> LetterOrder:
    """The order of a run of letters.

    Args:
        experiment: Experiment of the run.
        data: Data it was trained on.
        device: `auto`, or a name of torch.
        only_new: Propose no item of the history.

    Raises:
        LlamarecError: something is missing, damaged, or from other data.
    """
    retriever = load_retriever(experiment, data, only_new=only_new)
    return LetterOrder(retriever, load_ranker(experiment, data, retriever_digest=retriever.digest, device=device))

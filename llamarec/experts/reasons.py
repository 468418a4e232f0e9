"""Why an item is recommended, in the words of the experts that speak for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llamarec.experts.expert_sum import ExpertSum
from llamarec.experts.queries import Queries


class Reason(NamedTuple):
    """One expert's part in a recommendation.

    expert: Its name.
    contribution: Its weighted score of the item, less that of the mean item of the catalogue: log-odds.
    text: Its reason in words.
    """

    expert: str
    contribution: float
    text: str


def reasons(
    expert_sum: ExpertSum, queries: Queries, items: Sequence[NDArray[np.int32]], titles: Sequence[str]
) -> list[list[list[Reason]]]:
    """The experts that speak for each item, the strongest first.

    Args:
        expert_sum: Orders the catalogue.
        queries: A block of histories.
        items: For each of them, the items that were recommended.
        titles: By item id.

    Returns:
        By query and item.
    """
    found: list[list[list[Reason]]] = [[[] for _ in of_query] for of_query in items]
    for expert in expert_sum.experts:
        weight, scores_QN = expert_sum.weights[expert.name], expert.scores(queries)
        for row, of_query in enumerate(items):
            average = float(scores_QN[row, 1:].mean(dtype=np.float64))
            for column, item in enumerate(of_query.tolist()):
                contribution = weight * (float(scores_QN[row, item]) - average)
                text = expert.reason(queries.histories[row], int(queries.times[row]), item, titles)
                if contribution > 0 and text:
                    found[row][column].append(Reason(expert.name, contribution, text))

    for of_query_found in found:
        for of_item in of_query_found:
            of_item.sort(key=lambda reason: -reason.contribution)
    return found

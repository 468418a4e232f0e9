"""Answers to a block of requests, as the lines of a batch's output."""

from __future__ import annotations

import json
from collections.abc import Sequence

from llamarec.errors import LlamarecError
from llamarec.recommend.recommender import Recommender
from llamarec.recommend.requests import Request


def answer_lines(recommender: Recommender, requests: Sequence[Request], k: int) -> bytes:
    """A line of JSON for each request: recommendations, or the reason why there are none.

    Args:
        recommender: A trained run.
        requests: One block. In another block, the last digit of a score may differ.
        k: Items per request.
    """
    histories = [_history(recommender, request) for request in requests]
    known = [history for history in histories if isinstance(history, list)]
    lists = iter(recommender.recommend_many(known, k))

    answers: list[dict[str, object]] = [
        {"error": history} if isinstance(history, str) else {"recommendations": [one.as_dict() for one in next(lists)]}
        for history in histories
    ]

    # ensure_ascii=True, so that no line contains a line separator of Unicode.
    return b"".join(
        json.dumps({"id": request.id, **found}).encode() + b"\n"
        for request, found in zip(requests, answers, strict=True)
    )


def _history(recommender: Recommender, request: Request) -> list[int] | str:
    """Item ids, or the reason why there are none."""
    try:
        if request.user is not None:
            return recommender.items_of(request.user, propose=False)
        return recommender.catalogue.items(request.history, propose=False)
    except LlamarecError as error:
        return error.problem

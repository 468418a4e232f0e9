"""The web application: /recommend, /items, /health, /metrics, and a page at /."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Annotated, Final, NamedTuple, TypeAlias

from fastapi import FastAPI, Query
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

from llamarec import __version__
from llamarec.data.prepared import PreparedData
from llamarec.recommend.recommender import Recommendation, Recommender
from llamarec.serve.batching import Batcher, QueueFullError
from llamarec.serve.limits import Limits
from llamarec.serve.metrics import Metrics
from llamarec.serve.middleware import Counted, LimitedBody
from llamarec.serve.problems import PROBLEMS, add_problems
from llamarec.serve.schema import Health, Item, QuestionBase, Recommendations, question_model

_PATHS: Final = ("/", "/recommend", "/items", "/health", "/metrics", "/openapi.json")


class _Request(NamedTuple):
    """A request whose items have been looked up.

    Attributes:
        history: Item ids, oldest first.
        k: Length of the list.
    """

    history: list[int]
    k: int


_Batcher: TypeAlias = Batcher[_Request, list[Recommendation]]


def create_app(
    recommender: Recommender, limits: Limits | None = None, *, allowed_hosts: Sequence[str] = ("*",)
) -> FastAPI:
    """A web application that serves a loaded run.

    Args:
        recommender: The run; used by one thread at a time.
        limits: Limits of requests and queue; None for the defaults.
        allowed_hosts: Accepted values of the Host header. A local service accepts only its own names, so that pages of
            other sites cannot reach it by DNS rebinding.
    """
    limits, metrics = limits or Limits(), Metrics()
    batcher = _Batcher(lambda requests: _answer(recommender, requests), limits, metrics.batches.observe)
    metrics.waiting.set_function(lambda: batcher.num_waiting)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await batcher.start()
        yield
        await batcher.stop()

    app = FastAPI(
        title="llamarec",
        version=__version__,
        lifespan=lifespan,
        # FastAPI's own pages load scripts from other sites.
        docs_url=None,
        redoc_url=None,
    )

    app.add_middleware(LimitedBody, max_bytes=limits.max_body_bytes)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts))
    app.add_middleware(Counted, metrics=metrics, paths=_PATHS)
    add_problems(app)
    _add_recommend(app, recommender, batcher, limits)
    _add_items(app, recommender)
    _add_status(app, recommender, batcher, metrics)
    _add_page(app)
    return app


def _answer(recommender: Recommender, requests: Sequence[_Request]) -> list[list[Recommendation]]:
    lists = recommender.recommend_many([one.history for one in requests], max(one.k for one in requests))
    return [found[: one.k] for found, one in zip(lists, requests, strict=True)]


def _add_recommend(app: FastAPI, recommender: Recommender, batcher: _Batcher, limits: Limits) -> None:
    lookups = asyncio.Semaphore(limits.max_queue)

    def items_of(question: QuestionBase) -> list[int]:
        if "user" in question.model_fields_set:
            return recommender.items_of(str(question.user))
        return recommender.catalogue.items([str(item) for item in question.history])

    async def recommend(question: QuestionBase) -> dict[str, object]:
        """Recommendations for a user of the data set or for a history.

        A run of letters orders the candidates of the first stage, whose next items follow if `k` is larger than their
        number. A run of items orders the whole catalogue.
        """
        if lookups.locked():
            raise QueueFullError

        async with lookups, asyncio.timeout(limits.timeout_seconds):
            # In a thread, because the search for titles like an unknown one takes long and would block all requests.
            history = await asyncio.to_thread(items_of, question)
        found = await batcher.ask(_Request(history, question.k))

        return {
            "history": _named(recommender.data, history),
            "recommendations": [one.as_dict() for one in found],
        }

    # The schema contains the limits, which are known only now.
    recommend.__annotations__["question"] = question_model(limits)
    app.post("/recommend", response_model=Recommendations, responses=PROBLEMS)(recommend)


def _add_items(app: FastAPI, recommender: Recommender) -> None:
    @app.get("/items", response_model=list[Item], responses={422: PROBLEMS[422]})
    async def items(
        query: Annotated[str, Query(max_length=200)], limit: Annotated[int, Query(ge=1, le=100)] = 20
    ) -> list[dict[str, str]]:
        """Items whose titles contain all words of the query, most popular first; the last word may be incomplete."""
        return _named(recommender.data, await asyncio.to_thread(recommender.catalogue.search, query, limit))


def _add_status(app: FastAPI, recommender: Recommender, batcher: _Batcher, metrics: Metrics) -> None:
    @app.get(
        "/health", response_model=Health, responses={503: {"model": Health, "description": "Nothing is answered."}}
    )
    async def health(response: Response) -> dict[str, object]:
        """The loaded run, the length of the queue, and whether questions are answered."""
        order, trouble = recommender.order, batcher.trouble
        if trouble:
            response.status_code = 503
        return {
            "status": trouble or "ok",
            "dataset_code": recommender.data.dataset_code,
            "step": order.adapter.step,
            "is_best": order.adapter.is_best,
            "uses_letters": order.uses_model,
            "order": order.formula,
            "waiting": batcher.num_waiting,
        }

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """Counters and timings in Prometheus' text format."""
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_page(app: FastAPI) -> None:
    page = files("llamarec.serve").joinpath("page.html").read_text(encoding="utf-8")

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": "default-src 'self' 'unsafe-inline'"})


def _named(data: PreparedData, items: Sequence[int]) -> list[dict[str, str]]:
    return [{"item": data.items[item], "title": data.titles[item]} for item in items]

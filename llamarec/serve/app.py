"""The application: /recommend, /items, /health, /metrics, and a page on /."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Annotated, Any, Final, NamedTuple

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from llamarec import __version__
from llamarec.errors import LlamarecError
from llamarec.recommend.catalogue import UnknownError
from llamarec.recommend.recommender import Recommendation, Recommender
from llamarec.serve.batching import Batcher, QueueFullError
from llamarec.serve.limits import Limits
from llamarec.serve.metrics import Metrics
from llamarec.serve.middleware import Counted, LimitedBody
from llamarec.serve.schema import Health, Item, Problem, QuestionBase, Recommendations, question_model

_PATHS: Final = ("/", "/recommend", "/items", "/health", "/metrics", "/openapi.json")
_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"model": Problem, "description": "The body cannot be read at all."},
    404: {"model": Problem, "description": "An unknown user, key or title."},
    413: {"model": Problem, "description": "The request is too large."},
    422: {"model": Problem, "description": "The request does not fit."},
    503: {"model": Problem, "description": "Too many requests wait."},
    504: {"model": Problem, "description": "It took too long."},
}


class _Wanted(NamedTuple):
    history: list[int]
    k: int


def create_app(
    recommender: Recommender, limits: Limits | None = None, *, allowed_hosts: Sequence[str] = ("*",)
) -> FastAPI:
    """A service over a loaded run.

    Args:
        recommender: Answers; used by one thread at a time.
        limits: Of requests and queue.
        allowed_hosts: Names by which it may be asked; on a machine of one's own only its own, so that no page of
            another site reaches it.
    """
    limits, metrics = limits or Limits(), Metrics()
    batcher = Batcher[_Wanted, list[Recommendation]](
        lambda wanted: _answer(recommender, wanted), limits, metrics.batches.observe
    )
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
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(LimitedBody, max_bytes=limits.max_body_bytes)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts))
    app.add_middleware(Counted, metrics=metrics, paths=_PATHS)
    _add_problems(app)
    _add_routes(app, recommender, batcher, limits, metrics)
    return app


def _answer(recommender: Recommender, wanted: Sequence[_Wanted]) -> list[list[Recommendation]]:
    lists = recommender.recommend_many([one.history for one in wanted], max(one.k for one in wanted))
    return [found[: one.k] for found, one in zip(lists, wanted, strict=True)]


def _add_routes(
    app: FastAPI,
    recommender: Recommender,
    batcher: Batcher[_Wanted, list[Recommendation]],
    limits: Limits,
    metrics: Metrics,
) -> None:
    data, catalogue = recommender.data, recommender.catalogue
    looking_up = 0
    page = files("llamarec.serve").joinpath("page.html").read_text(encoding="utf-8")

    def named(items: Sequence[int]) -> list[dict[str, str]]:
        return [{"item": data.items[item], "title": data.titles[item]} for item in items]

    def items_of(question: QuestionBase) -> list[int]:
        if "user" in question.model_fields_set:
            return recommender.items_of(str(question.user))
        return catalogue.items([str(item) for item in question.history])

    async def recommend(question: Any) -> dict[str, Any]:
        nonlocal looking_up
        if looking_up >= limits.max_queue:
            raise QueueFullError
        looking_up += 1
        try:
            async with asyncio.timeout(limits.timeout_seconds):
                # Near titles of an unknown one take a while to be found: not here, where everybody waits.
                history = await asyncio.to_thread(items_of, question)
        finally:
            looking_up -= 1
        found = await batcher.ask(_Wanted(history, question.k))
        return {"history": named(history), "recommendations": [one.as_dict() for one in found]}

    # The limits are known only now, and stand in the schema.
    recommend.__annotations__["question"] = question_model(limits)
    app.post("/recommend", response_model=Recommendations, responses=_PROBLEMS)(recommend)

    @app.get("/items", response_model=list[Item], responses={422: _PROBLEMS[422]})
    async def items(
        query: Annotated[str, Query(max_length=200)], limit: Annotated[int, Query(ge=1, le=100)] = 20
    ) -> list[dict[str, str]]:
        """Items whose titles have all words of the query, the last one perhaps unfinished; most taken first."""
        return named(await asyncio.to_thread(catalogue.search, query, limit))

    @app.get("/health", response_model=Health)
    async def health() -> dict[str, Any]:
        adapter = recommender.ranker.adapter
        return {
            "status": "ok",
            "dataset_code": data.dataset_code,
            "step": adapter.step,
            "is_best": adapter.is_best,
            "uses_letters": bool(recommender.ranker.fusion.letters),
            "waiting": batcher.num_waiting,
        }

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": "default-src 'self' 'unsafe-inline'"})


def _add_problems(app: FastAPI) -> None:
    """Every error of ours in the one form of `Problem`."""

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        texts = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        return _problem(422, "; ".join(texts))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return _problem(error.status_code, str(error.detail), headers=dict(error.headers or {}))

    @app.exception_handler(UnknownError)
    async def _unknown(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, UnknownError)
        return _problem(404, error.problem, error.near)

    @app.exception_handler(LlamarecError)
    async def _refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, LlamarecError)
        return _problem(422, str(error))

    @app.exception_handler(QueueFullError)
    async def _full(request: Request, error: Exception) -> JSONResponse:
        return _problem(503, "too many requests wait; try again", headers={"Retry-After": "1"})

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> JSONResponse:
        return _problem(500, f"an error in the service: {type(error).__name__}; its log says more")

    @app.exception_handler(TimeoutError)
    async def _late(request: Request, error: Exception) -> JSONResponse:
        return _problem(504, "it took too long; try again")


def _problem(status: int, detail: str, near: Sequence[str] = (), headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": detail, "near": list(near)}, status_code=status, headers=headers)

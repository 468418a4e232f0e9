"""Error answers, all in the form of `Problem`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from llamarec.errors import LlamarecError
from llamarec.recommend.catalogue import UnknownError
from llamarec.serve.batching import NotServingError, QueueFullError
from llamarec.serve.schema import Problem

PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"model": Problem, "description": "The body cannot be read."},
    404: {"model": Problem, "description": "Unknown user, key or title."},
    413: {"model": Problem, "description": "The request is too large."},
    422: {"model": Problem, "description": "The request is invalid."},
    503: {"model": Problem, "description": "Too many requests are waiting, or the service is stopping."},
    504: {"model": Problem, "description": "The answer took too long."},
}
"""Error answers by status, for the schema."""


def add_problems(app: FastAPI) -> None:
    """Registers handlers that answer every error in the form of `Problem`."""

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        texts = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        if any(one["type"] == "extra_forbidden" for one in error.errors()):
            texts.append("the fields are user or history, and k")
        if "json" not in request.headers.get("content-type", "") and request.method == "POST":
            texts.append("send the header Content-Type: application/json")
        return problem(422, "; ".join(texts))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers or {})
        detail = str(error.detail)
        if error.status_code == 405:
            allowed = headers.get("Allow", "another method")
            detail = f"{request.method} {request.url.path}: {allowed} was expected; see /openapi.json"
        elif error.status_code == 404 and detail == "Not Found":
            detail = f"{request.url.path}: no such path; see /openapi.json"
        return problem(error.status_code, detail, headers=headers)

    @app.exception_handler(UnknownError)
    async def _unknown(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, UnknownError)
        return problem(404, error.problem, error.near)

    @app.exception_handler(LlamarecError)
    async def _refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, LlamarecError)
        return problem(422, str(error))

    @app.exception_handler(QueueFullError)
    async def _full(request: Request, error: Exception) -> JSONResponse:
        return problem(503, "too many requests are waiting; try again later", headers={"Retry-After": "1"})

    @app.exception_handler(NotServingError)
    async def _stopped(request: Request, error: Exception) -> JSONResponse:
        return problem(503, f"{error}; try again later", headers={"Retry-After": "10"})

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> JSONResponse:
        return problem(500, f"an error in the service ({type(error).__name__}); its log has the details")

    @app.exception_handler(TimeoutError)
    async def _late(request: Request, error: Exception) -> JSONResponse:
        return problem(504, "the answer took too long; try again later")


def problem(status: int, detail: str, near: Sequence[str] = (), headers: dict[str, str] | None = None) -> JSONResponse:
    """The answer to a request that failed.

    Args:
        status: HTTP status.
        detail: What is wrong.
        near: Titles, keys or users that look like the unknown one.
        headers: Additional headers.
    """
    return JSONResponse({"detail": detail, "near": list(near)}, status_code=status, headers=headers)

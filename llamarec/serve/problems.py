"""What goes wrong, in the one form of `Problem`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from llamarec.errors import LlamarecError
from llamarec.recommend.catalogue import UnknownError
from llamarec.serve.batching import QueueFullError
from llamarec.serve.schema import Problem

PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"model": Problem, "description": "The body cannot be read at all."},
    404: {"model": Problem, "description": "An unknown user, key or title."},
    413: {"model": Problem, "description": "The request is too large."},
    422: {"model": Problem, "description": "The request does not fit."},
    503: {"model": Problem, "description": "Too many requests wait."},
    504: {"model": Problem, "description": "It took too long."},
}
"""By status, for the schema."""


def add_problems(app: FastAPI) -> None:
    """Every error of ours in the one form of `Problem`."""

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        texts = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        if any(one["type"] == "extra_forbidden" for one in error.errors()):
            texts.append("known are user or history, and k")
        if "json" not in request.headers.get("content-type", "") and request.method == "POST":
            texts.append("send it with the header Content-Type: application/json")
        return problem(422, "; ".join(texts))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers or {})
        detail = str(error.detail)
        if error.status_code == 405:
            wanted = headers.get("Allow", "another method")
            detail = f"{request.method} {request.url.path}: {wanted} was expected; see /openapi.json"
        elif error.status_code == 404 and detail == "Not Found":
            detail = f"{request.url.path}: there is nothing here; see /openapi.json"
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
        return problem(503, "too many requests wait; try again", headers={"Retry-After": "1"})

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> JSONResponse:
        return problem(500, f"an error in the service: {type(error).__name__}; its log says more")

    @app.exception_handler(TimeoutError)
    async def _late(request: Request, error: Exception) -> JSONResponse:
        return problem(504, "it took too long; try again")


def problem(status: int, detail: str, near: Sequence[str] = (), headers: dict[str, str] | None = None) -> JSONResponse:
    """The answer that says so."""
    return JSONResponse({"detail": detail, "near": list(near)}, status_code=status, headers=headers)

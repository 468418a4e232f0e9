"""Recommendations for a file of users, into a file: can be killed anywhere and goes on when the same is typed again.

Until all are done, answers are appended as JSON lines to OUTPUT.partial, beside a small OUTPUT.partial.json that says
what they were made of; then OUTPUT takes their place at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import polars as pl
from filelock import FileLock, Timeout

from llamarec.errors import ConfigError, LlamarecError, LockedError
from llamarec.files import read_json, replacing, write_json
from llamarec.recommend.recommender import Recommender
from llamarec.recommend.requests import Request

ENDINGS: Final = (".jsonl", ".parquet")
_AT_ONCE: Final = 64
_SCHEMA: Final = {
    "id": pl.String,
    "rank": pl.Int32,
    "item": pl.String,
    "title": pl.String,
    "score": pl.Float64,
    "retriever_rank": pl.Int32,
    "retriever_score": pl.Float64,
    "error": pl.String,
}


@dataclass(frozen=True)
class Done:
    """What came out.

    Attributes:
        num_requests: In the file.
        num_before: Already answered by an earlier call.
        num_failed: With an error in the place of recommendations (an unknown user or title).
    """

    num_requests: int
    num_before: int
    num_failed: int


class BatchJob:
    """One file of requests becoming one file of recommendations.

    Args:
        recommender: Answers.
        requests: In their order.
        output: .jsonl (a line per request) or .parquet (a row per recommendation).
        k: Items each.

    Raises:
        ConfigError: `output` is of another kind.
    """

    def __init__(self, recommender: Recommender, requests: Sequence[Request], output: Path, *, k: int) -> None:
        check_output(output)
        self._recommender, self._requests, self._output, self._k = recommender, requests, output, k
        self._partial = output.with_name(output.name + ".partial")
        self._made_of = output.with_name(output.name + ".partial.json")

    def run(self, *, restart: bool = False, progress: Callable[[int], None] = lambda done: None) -> Done:
        """Answers what is not answered yet, and publishes the file.

        Args:
            restart: Begin anew, and replace what is there. A restart that was killed goes on too.
            progress: Is told the number of answered requests, those of an earlier call included.

        Raises:
            ConfigError: there is a file already, or what an earlier call left was made of something else.
            LockedError: another process writes the same file.
        """
        self._output.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._output.with_name(self._output.name + ".partial.lock"), blocking=False)
        try:
            with lock:
                try:
                    return self._run(restart, progress)
                finally:
                    self._tidy(lock)
        except Timeout:
            raise LockedError(
                f"{self._output}: another process is writing it", hint="wait for it, or write to another file"
            ) from None

    @staticmethod
    def _tidy(lock: FileLock) -> None:
        """Nothing but the file is left; on Windows an open one cannot be removed, and stays."""
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink()

    def _run(self, restart: bool, progress: Callable[[int], None]) -> Done:
        self._prepare(restart)
        if not self._partial.is_file():
            return self._published()
        before = self._whole_lines()
        progress(before)
        with self._partial.open("a", encoding="utf-8", newline="\n") as file:
            for start in range(before, len(self._requests), _AT_ONCE):
                self._append(file, self._requests[start : start + _AT_ONCE])
                progress(min(start + _AT_ONCE, len(self._requests)))
        failed = sum("error" in line for line in self._lines())
        self._publish()
        return Done(len(self._requests), before, failed)

    def _published(self) -> Done:
        """Of an earlier call that was killed when it had only to tidy up."""
        if self._output.suffix == ".parquet":
            failed = pl.read_parquet(self._output, columns=["error"], glob=False)["error"].count()
        else:
            with self._output.open(encoding="utf-8") as file:
                failed = sum("error" in json.loads(line) for line in file)
        self._made_of.unlink()
        return Done(len(self._requests), len(self._requests), failed)

    def _prepare(self, restart: bool) -> None:
        """Leaves what an earlier call did where it can be gone on with, or begins."""
        made_of, left = self._identity(), self._left()
        was_restart = left.pop("restarted", False) if left is not None else False
        if left == made_of and (was_restart or not restart):
            return
        if not restart:
            self._refuse_another(left, made_of)
        # In this order: no call may take other answers for its own.
        self._partial.write_bytes(b"")
        write_json(self._made_of, {**made_of, "restarted": restart})

    def _left(self) -> dict[str, Any] | None:
        """What an earlier call says that its answers are made of, where they are there."""
        return read_json(self._made_of) if self._partial.is_file() or self._output.is_file() else None

    def _refuse_another(self, left: dict[str, Any] | None, made_of: dict[str, Any]) -> None:
        if left is not None:
            changed = sorted(name for name in {*left, *made_of} if left.get(name) != made_of.get(name))
            changed = [f"k {left.get('k')} -> {self._k}" if name == "k" else name for name in changed]
            raise ConfigError(
                f"{self._partial}: an earlier call with something else was not finished",
                found=f"other: {', '.join(changed)}",
                hint="type the same as then to go on, or add --restart to begin anew",
            )
        if self._output.exists():
            raise ConfigError(
                f"--output {self._output}: there is such a file already",
                found=f"a finished one; one that was stopped is called {self._partial.name}",
                hint="another name, or --restart to replace it",
            )

    def _identity(self) -> dict[str, Any]:
        digest = hashlib.sha256(json.dumps([[one.id, one.user, one.history] for one in self._requests]).encode())
        return {"k": self._k, "model": self._recommender.fingerprint, "requests": digest.hexdigest()}

    def _whole_lines(self) -> int:
        """Lines that are there; those of a part that a kill cut are taken off.

        Parts are answered together, and in another company a score may differ in its last digit.
        """
        with self._partial.open("r+b") as file:
            lines = file.read().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith(b"\n")]
            if len(whole) < len(self._requests):
                del whole[len(whole) - len(whole) % _AT_ONCE :]
            file.truncate(sum(map(len, whole)))
        return len(whole)

    def _append(self, file: IO[str], requests: Sequence[Request]) -> None:
        for request, found in zip(requests, self._answers(requests), strict=True):
            # ensure_ascii=True: no line separator of Unicode may stand in a line.
            file.write(json.dumps({"id": request.id, **found}) + "\n")
        file.flush()
        os.fsync(file.fileno())

    def _answers(self, requests: Sequence[Request]) -> list[dict[str, Any]]:
        histories = [self._history(request) for request in requests]
        known = [history for history in histories if isinstance(history, list)]
        lists = iter(self._recommender.recommend_many(known, self._k))
        return [
            {"error": history}
            if isinstance(history, str)
            else {"recommendations": [one.as_dict() for one in next(lists)]}
            for history in histories
        ]

    def _history(self, request: Request) -> list[int] | str:
        """Item ids, or why there are none."""
        try:
            if request.user is not None:
                return self._recommender.items_of(request.user, propose=False)
            return self._recommender.catalogue.items(request.history, propose=False)
        except LlamarecError as error:
            return error.problem

    def _lines(self) -> Iterator[dict[str, Any]]:
        with self._partial.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)

    def _publish(self) -> None:
        if self._output.suffix == ".parquet":
            with replacing(self._output) as staging:
                pl.DataFrame(list(self._rows()), schema=_SCHEMA).write_parquet(staging, compression="zstd")
            self._partial.unlink()
        else:
            os.replace(self._partial, self._output)
        with contextlib.suppress(OSError):
            self._made_of.unlink()

    def _rows(self) -> Iterator[dict[str, Any]]:
        for line in self._lines():
            if "error" in line:
                yield {"id": line["id"], "error": line["error"]}
            for one in line.get("recommendations", ()):
                yield {"id": line["id"], **{name: value for name, value in one.items() if name in _SCHEMA}}


def check_output(output: Path) -> None:
    """Before anything is loaded.

    Raises:
        ConfigError: it is of a kind that is not written.
    """
    if output.suffix not in ENDINGS:
        raise ConfigError(f"--output {output}: a file that ends in {' or '.join(ENDINGS)} was expected")

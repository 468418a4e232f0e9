"""Recommendations for a file of users, written to a file. After a kill the same command continues.

Until all are answered, answers are appended as JSON lines to OUTPUT.partial. OUTPUT.partial.json beside it identifies
what they were made from, and holds size and hash of the lines so far. Then one rename publishes OUTPUT.

The requests are cut into blocks here, and blocks are written in their order, whoever computes them
(`llamarec.recommend.engines`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, TypedDict

import polars as pl
from filelock import FileLock, Timeout

from llamarec.checkpoints.storage import durable, json_shapes
from llamarec.checkpoints.storage.json_shapes import ShapeError
from llamarec.checkpoints.storage.os_errors import naming
from llamarec.data.lines import POLARS_ERRORS
from llamarec.data.parquet import write_parquet
from llamarec.errors import ConfigError, LockedError
from llamarec.files import read_json, replacing, write_json
from llamarec.recommend.engines import Engine
from llamarec.recommend.requests import Request

ENDINGS: Final = (".jsonl", ".parquet")
_AT_ONCE: Final = 64
_MARKS: Final = "marks"
_SCHEMA: Final = {
    "id": pl.String,
    "rank": pl.Int32,
    "item": pl.String,
    "title": pl.String,
    "score": pl.Float64,
    "retriever_rank": pl.Int32,
    "retriever_score": pl.Float64,
    "language_model_score": pl.Float64,
    "error": pl.String,
}


@dataclass(frozen=True)
class Done:
    """The outcome of a batch.

    Attributes:
        num_requests: Requests in the file.
        num_before: Requests that an earlier call had answered.
        num_failed: Requests with an error instead of recommendations (an unknown user or title).
    """

    num_requests: int
    num_before: int
    num_failed: int


class _Mark(NamedTuple):
    """How far the lines reach after a group, in bytes, and the SHA-256 of all of them."""

    num_bytes: int
    sha256: str


class _Line(TypedDict, total=False):
    """One line of the output: recommendations, or an error instead."""

    id: str
    error: str
    recommendations: list[dict[str, object]]


class BatchJob:
    """The work from a file of requests to a file of recommendations.

    Args:
        engine: Computes the answers. Another one continues what this one began, and ends with the same bytes.
        requests: In the order of the output.
        output: .jsonl (a line per request) or .parquet (a row per recommendation).
        k: Items per request.

    Raises:
        ConfigError: `output` has another ending.
    """

    def __init__(self, engine: Engine, requests: Sequence[Request], output: Path, *, k: int) -> None:
        check_output(output)
        self._engine, self._requests, self._output, self._k = engine, requests, output, k
        self._partial = output.with_name(output.name + ".partial")
        self._made_of = output.with_name(output.name + ".partial.json")
        self._made_from: dict[str, object] = {}
        # Marks in the lines of an earlier call; None where it wrote none down.
        self._marks: object = None

    def run(self, *, restart: bool = False, progress: Callable[[int], None] = lambda done: None) -> Done:
        """Answers the requests that are not answered yet, and publishes the file.

        Args:
            restart: Replace an existing output. A restart that was killed continues, too.
            progress: Called with the number of answered requests, including those of an earlier call.

        Raises:
            ConfigError: the output exists, or an earlier call with other arguments was not finished.
            LockedError: another process writes the same file.
        """
        self._output.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._output.with_name(self._output.name + ".partial.lock"), blocking=False)

        try:
            with lock, naming(self._output):
                try:
                    return self._run(restart, progress)
                finally:
                    self._tidy(lock)
        except Timeout:
            raise LockedError(
                f"{self._output}: another process is writing it", hint="wait for it to finish, or write to another file"
            ) from None

    @staticmethod
    def _tidy(lock: FileLock) -> None:
        """Removes the lock file. On Windows it stays if another process has it open."""
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink()

    def _run(self, restart: bool, progress: Callable[[int], None]) -> Done:
        self._prepare(restart)
        if not self._partial.is_file():
            return self._published()

        written = self._whole_lines()
        before = written.count(b"\n")
        digest, num_bytes = hashlib.sha256(written), len(written)
        marks = [_Mark(num_bytes, digest.hexdigest())]
        progress(before)

        starts = range(before, len(self._requests), _AT_ONCE)
        blocks = [self._requests[start : start + _AT_ONCE] for start in starts]
        with self._partial.open("ab") as file:
            for start, lines in zip(starts, self._engine.answered(blocks, self._k), strict=True):
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())

                digest.update(lines)
                num_bytes += len(lines)
                # After the lines, which count only as far as this reaches. The mark before stays for a disk that
                # loses the end of a file in spite of the sync.
                marks = [marks[-1], _Mark(num_bytes, digest.hexdigest())]
                write_json(self._made_of, {**self._made_from, _MARKS: marks})
                progress(min(start + _AT_ONCE, len(self._requests)))

        failed = sum("error" in line for line in self._lines())
        self._publish()
        return Done(len(self._requests), before, failed)

    def _published(self) -> Done:
        """The outcome of an earlier call that was killed after it had published its file."""
        try:
            failed = self._num_failed()
        except (*POLARS_ERRORS, ValueError) as error:
            raise ConfigError(
                f"--output {self._output}: the file has changed since an earlier call published it",
                found=str(error).partition("\n")[0],
                hint="add --restart to answer all again",
            ) from error
        self._made_of.unlink()
        return Done(len(self._requests), len(self._requests), failed)

    def _num_failed(self) -> int:
        if self._output.suffix == ".parquet":
            return pl.read_parquet(self._output, columns=["error"], glob=False)["error"].count()

        with self._output.open(encoding="utf-8") as file:
            return sum("error" in json.loads(line) for line in file)

    def _prepare(self, restart: bool) -> None:
        """Keeps the answers of an earlier call if this one can continue it, or starts a new file."""
        made_of, left = self._identity(), self._left()
        was_restart = bool(left.pop("restarted", False)) if left is not None else False
        self._marks = left.pop(_MARKS, None) if left is not None else None
        self._made_from = {**made_of, "restarted": was_restart}
        if left == made_of and (was_restart or not restart):
            return

        if not restart:
            self._refuse_another(left, made_of)

        # In this order, so that no call mistakes other answers for its own.
        self._partial.write_bytes(b"")
        self._made_from, self._marks = {**made_of, "restarted": restart}, [[0, hashlib.sha256().hexdigest()]]
        write_json(self._made_of, {**self._made_from, _MARKS: self._marks})

    def _left(self) -> dict[str, object] | None:
        """What the answers of an earlier call were made from; None if there are none."""
        return read_json(self._made_of) if self._partial.is_file() or self._output.is_file() else None

    def _refuse_another(self, left: dict[str, object] | None, made_of: dict[str, object]) -> None:
        if left is not None:
            changed = sorted(name for name in {*left, *made_of} if left.get(name) != made_of.get(name))
            changed = [f"k {left.get('k')} -> {self._k}" if name == "k" else name for name in changed]
            raise ConfigError(
                f"{self._partial}: an earlier call with other arguments was not finished",
                found=f"different: {', '.join(changed)}",
                hint="type the earlier command to continue it, or add --restart to replace it",
            )

        if self._output.exists():
            raise ConfigError(
                f"--output {self._output}: the file exists",
                found=f"a finished output; an unfinished one is named {self._partial.name}",
                hint="choose another name, or add --restart to replace it",
            )

    def _identity(self) -> dict[str, object]:
        digest = hashlib.sha256(json.dumps([[one.id, one.user, one.history] for one in self._requests]).encode())
        return {"k": self._k, "model": self._engine.fingerprint, "requests": digest.hexdigest()}

    def _whole_lines(self) -> bytes:
        """The answers of an earlier call, after cutting off the lines of an unfinished group.

        Requests are answered in groups, and in another group the last digit of a score may differ.

        Raises:
            ConfigError: they have changed since they were written.
        """
        with self._partial.open("r+b") as file:
            content = self._verified(file.read())
            lines = content.splitlines(keepends=True)
            whole = [line for line in lines if line.endswith(b"\n")]
            if len(whole) < len(self._requests):
                del whole[len(whole) - len(whole) % _AT_ONCE :]
            content = b"".join(whole)
            file.truncate(len(content))
        return content

    def _verified(self, content: bytes) -> bytes:
        """As much of the content as an earlier call wrote down the hash of; all of it where it wrote none."""
        if self._marks is None:
            return content

        try:
            marks = json_shapes.shaped(self._marks, list[_Mark])
        except ShapeError:
            marks = []
        for num_bytes, digest in reversed(marks):
            known = content[:num_bytes]
            if len(known) == num_bytes and hashlib.sha256(known).hexdigest() == digest:
                return known
            if len(known) == num_bytes:
                break
        raise ConfigError(
            f"{self._partial}: the answers of the earlier call have changed since they were written",
            found=f"{len(content):,} bytes, other than those whose SHA-256 is in {self._made_of.name}",
            hint="add --restart to answer all again",
        )

    def _lines(self) -> Iterator[_Line]:
        with self._partial.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)

    def _publish(self) -> None:
        if self._output.suffix == ".parquet":
            rows = pl.DataFrame(list(self._rows()), schema=_SCHEMA)
            with replacing(self._output) as staging:
                write_parquet(rows, staging)
            self._partial.unlink()
        else:
            os.replace(self._partial, self._output)
            # Before the note goes by which the next call knows what these are.
            durable.fsync_folder(self._output.parent)
        with contextlib.suppress(OSError):
            self._made_of.unlink()

    def _rows(self) -> Iterator[dict[str, object]]:
        for line in self._lines():
            if "error" in line:
                yield {"id": line["id"], "error": line["error"]}
            for one in line.get("recommendations", ()):
                yield {"id": line["id"], **{name: value for name, value in one.items() if name in _SCHEMA}}


def check_output(output: Path) -> None:
    """Checks the name of an output file, before anything is loaded.

    Raises:
        ConfigError: files with this ending cannot be written, or it is a folder.
    """
    if output.suffix not in ENDINGS:
        raise ConfigError(f"--output {output}: the file name must end in {' or '.join(ENDINGS)}")
    if output.is_dir():
        raise ConfigError(f"--output {output}: this is a folder", expected="a file, new or to be replaced")

"""Which starts came to nothing: the first process records them, and refuses one too many."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from llamarec.checkpoints.resume.decision import Resume
from llamarec.checkpoints.storage.failed_starts import check_starts, digest_of, forget_starts, note_end, note_start
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.trainer.distributed.agreement import in_first_process
from llamarec.checkpoints.trainer.signals import EndNow, Interrupted
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer
from llamarec.errors import LlamarecError


class StartRecord:
    """This start, and those before it.

    Args:
        trainer: The live Trainer.
        folder: Of the run.
        most: Failed starts in a row from one step; 0 refuses none.
    """

    def __init__(self, trainer: LiveTrainer, folder: RunFolder, most: int) -> None:
        self._trainer, self._folder, self._most = trainer, folder, most
        self._step = 0

    def check(self, wanted: str | Path | bool | None, resume: Resume | None) -> None:
        """Refuses this start if too many like it have failed. One that resumes nothing may begin.

        Raises:
            CheckpointError: says what ended them.
        """
        if wanted is not None:
            look = partial(check_starts, self._folder, _step(resume), self._most, _changes(resume))
            in_first_process(self._trainer.args, "the starts before this one", look)

    def begin(self, wanted: str | Path | bool | None, resume: Resume | None, started: str) -> None:
        """Records this start.

        Args:
            wanted: As `train` takes it.
            resume: What was decided.
            started: ISO time, UTC.
        """
        self._step = _step(resume)
        changes = _changes(resume)
        note = partial(note_start, self._folder, self._step, started, is_first=wanted is None, changes=changes)
        in_first_process(self._trainer.args, "the record of this start", note)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Within, training runs. An end that is neither its own nor somebody's wish is recorded."""
        is_writer = self._trainer.args.process_index == 0
        try:
            yield
        except (Interrupted, EndNow):
            if is_writer:
                forget_starts(self._folder)
            raise
        except BaseException as error:
            if is_writer:
                note_end(self._folder, self._step, self._text(error))
            raise
        if is_writer:
            forget_starts(self._folder)

    def _text(self, error: BaseException) -> str:
        found = f" ({error.found})" if isinstance(error, LlamarecError) and error.found else ""
        first = str(error).partition("\n")[0]
        return f"after step {self._trainer.state.global_step:,}: {type(error).__name__}: {first}{found}"


def _step(resume: Resume | None) -> int:
    return resume.step if resume is not None else 0


def _changes(resume: Resume | None) -> str:
    applied = [one for one in resume.plan.changes if one.decision == "applied"] if resume is not None else []
    return digest_of(f"{one.name}: {one.new}" for one in applied)

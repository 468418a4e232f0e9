"""The one tree of exceptions; every message says what was expected, what was found, and what to type next.

    LlamarecError
    ├── ConfigError      a flag or several: unknown, contradictory, out of range
    ├── DataError        a raw file: missing, malformed, unreadable
    ├── AssetError       a file from elsewhere: cannot be fetched, has the wrong hash
    ├── ArtifactError    what an earlier stage should have written: absent, stale, damaged
    ├── ModelError       a base model or tokenizer: absent, gated, unfit for letters
    ├── CheckpointError  a checkpoint: not found, damaged, incomplete, hostile, of another run
    ├── SpaceError       the disk has no room for a checkpoint
    ├── LockedError      another process trains in this folder
    └── DoesNotFitError  one sample alone does not fit into memory

The commands print these without a traceback and exit with `EXIT_USAGE`; anything else is a bug and keeps
its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence

EXIT_FINISHED = 0
EXIT_FAILED = 1  # a bug: there is a traceback
EXIT_USAGE = 2  # a problem that the user can solve; what to do is said
EXIT_SAVE_FAILED = 74  # training went on, but its last checkpoint could not be written (sysexits: EX_IOERR)
EXIT_KILLED = 130  # Ctrl-C where there is nothing to save, or the third request to stop
EXIT_INTERRUPTED = 75  # stopped by a signal, saved: type the same again with --resume_from_checkpoint (EX_TEMPFAIL)


class LlamarecError(Exception):
    """A problem that the user can solve.

    Args:
        problem: One sentence that names the object (file and line, flag, model, folder).
        expected: What would have been right.
        found: What was there instead.
        hint: What to type or do next.
        retry_with: Flags with which the same command works, in the place of those of the same names. A command that
            knows how it was typed prints it whole.
    """

    def __init__(
        self,
        problem: str,
        *,
        expected: str | None = None,
        found: str | None = None,
        hint: str | None = None,
        retry_with: Sequence[str] = (),
    ) -> None:
        self.problem, self.expected, self.found, self.hint = problem, expected, found, hint
        self.retry_with = tuple(retry_with)
        rows = [("expected", expected), ("found", found), ("next", hint)]
        super().__init__("\n".join([problem, *(f"  {name + ':':<10}{text}" for name, text in rows if text)]))


class ConfigError(LlamarecError):
    """A flag or several: unknown, contradictory, out of range."""


class DataError(LlamarecError):
    """A raw file: missing, malformed, unreadable."""


class AssetError(LlamarecError):
    """A file from elsewhere: cannot be fetched, has the wrong size or hash."""


class ArtifactError(LlamarecError):
    """What an earlier stage should have written: absent, stale, damaged."""


class ModelError(LlamarecError):
    """A base model or tokenizer: absent, gated, unfit for letters."""


class CheckpointError(LlamarecError):
    """A checkpoint: not found, damaged, incomplete, hostile, or of another run."""


class SpaceError(LlamarecError):
    """The disk has no room for a checkpoint."""


class LockedError(LlamarecError):
    """Another process trains in this folder."""


class DoesNotFitError(LlamarecError):
    """One sample alone does not fit into memory."""

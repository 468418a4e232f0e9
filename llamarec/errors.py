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
    ├── DisagreementError  processes of one training that differ in what they must share
    ├── PeerLostError    another process of the same training is gone, or does not answer
    ├── DivergedError    a loss or score that is not finite ended a training
    └── DoesNotFitError  one sample alone does not fit into memory

The commands print these without a traceback and exit with `EXIT_USAGE`, or with `EXIT_INTERRUPTED` after a
`PeerLostError`; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from llamarec.credentials import without_credentials

EXIT_FINISHED = 0
EXIT_FAILED = 1  # a bug: there is a traceback
EXIT_USAGE = 2  # a problem that the user can solve; what to do is said
EXIT_SAVE_FAILED = 74  # training went on, but its last checkpoint could not be written (sysexits: EX_IOERR)
EXIT_KILLED = 130  # Ctrl-C where there is nothing to save, or the third request to stop
EXIT_INTERRUPTED = 75  # stopped by a signal, saved: type the same again with --resume_from_checkpoint (EX_TEMPFAIL)


_LABEL_WIDTH = 10
_NEXT_LINE = "\n" + " " * (2 + _LABEL_WIDTH)

Lines = str | Sequence[str] | None
"""A text of one line, or its lines."""


# What moves a terminal's cursor, sets its title or turns the direction of text; and halves of characters.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""A text from elsewhere with its control characters spelled out; line feeds and tabs stay.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class LlamarecError(Exception):
    """A problem that the user can solve.

    Args:
        problem: One sentence that names the object (file and line, flag, model, folder).
        expected: What would have been right; one line or a list of lines.
        found: What was there instead; likewise.
        hint: What to type or do next; likewise.
        retry_with: Flags that make the same command work. They replace flags of the same name. A command that
            knows how it was typed prints itself with them.

    Attributes:
        exit_code: Of a command that it ends.
        expected: The text, its lines joined by newlines; None where nothing was given.
        found: Likewise.
        hint: Likewise.
    """

    exit_code = EXIT_USAGE

    def __init__(
        self,
        problem: str,
        *,
        expected: Lines = None,
        found: Lines = None,
        hint: Lines = None,
        retry_with: Sequence[str] = (),
    ) -> None:
        # An address in any of these may carry a password.
        self.problem = without_credentials(problem)
        self.expected, self.found, self.hint = _joined(expected), _joined(found), _joined(hint)
        self.retry_with = tuple(retry_with)

        rows = [("expected", expected), ("found", found), ("next", hint)]
        text = "\n".join([problem, *(_row(label, lines) for label, lines in rows if lines)])
        super().__init__(printable(without_credentials(text)))


def _joined(lines: Lines) -> str | None:
    if lines is None:
        return None
    return without_credentials(lines if isinstance(lines, str) else "\n".join(lines))


def _row(label: str, lines: Lines) -> str:
    """One labelled entry of a message; further lines start below the first."""
    text = lines if isinstance(lines, str) else _NEXT_LINE.join(lines or ())
    return f"  {label + ':':<{_LABEL_WIDTH}}{text}"


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


class DisagreementError(LlamarecError):
    """Processes of one training differ in what they must have in common."""


class PeerLostError(LlamarecError):
    """Another process of the same training is gone, or does not answer in time."""

    exit_code = EXIT_INTERRUPTED


class DivergedError(LlamarecError):
    """A loss, a gradient or a score that is not finite ended a training; the last good state is kept."""


class DoesNotFitError(LlamarecError):
    """One sample alone does not fit into memory."""


def check_all(
    problem: str, rules: Iterable[tuple[bool, str]], *, expected: Lines = None, found: Lines = None, hint: Lines = None
) -> None:
    """Raises one error that lists every rule that does not hold.

    Args:
        problem: What does not fit, without a colon.
        rules: Pairs of whether a rule holds and its sentence, which names the flag and what it takes.
        expected: As in `LlamarecError`.
        found: As in `LlamarecError`.
        hint: As in `LlamarecError`.

    Raises:
        ConfigError: at least one rule does not hold.

    >>> check_all("these options do not fit", [(True, "--seed: 0 or more"), (False, "--rate -1: above 0")])
    Traceback (most recent call last):
    llamarec.errors.ConfigError: these options do not fit:
        --rate -1: above 0
    """
    broken = [sentence for holds, sentence in rules if not holds]

    if broken:
        listed = "\n".join(f"    {sentence}" for sentence in broken)
        raise ConfigError(f"{problem}:\n{listed}", expected=expected, found=found, hint=hint)

"""What is done to the calls of a command: a fault at one, a record of what a power loss could leave, a guest."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from tests.resume.torture.recorder import Recorder
from tests.resume.torture.syscalls.calls import NEEDS_ROOM, Call
from tests.resume.torture.syscalls.tracer import GO, Do

What = Literal["kill", "killed-after", "torn", "short", "full", "full-once", "error"]
FAULTS: Final[dict[What, str]] = {
    "kill": "SIGKILL before the call",
    "killed-after": "SIGKILL after it",
    "torn": "half of the write, then SIGKILL",
    "short": "half of the write, as a system may",
    "full": "ENOSPC from there on",
    "full-once": "ENOSPC once",
    "error": "EIO once",
}


@dataclass
class Watch:
    """Counts the calls under a folder.

    Attributes:
        folder: Where changes are expected.
        spared: Another folder that may be changed, uncounted: of the tracer's own files.
        calls: So far.
        outside: What was changed elsewhere.
    """

    folder: Path
    spared: Path
    calls: list[Call] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def before(self, call: Call) -> Do:
        """Counts it, and asks what to do where it is expected."""
        if any(path.is_relative_to(self.spared) for path in call.paths):
            return GO
        inside = [path for path in call.paths if path.is_relative_to(self.folder)]
        if len(inside) < len(call.paths) and not _is_scratch(call):
            self.outside.append(f"{call.shape.name} {' -> '.join(map(str, call.paths))}")
        if not inside:
            return GO
        self.calls.append(call)
        return self.decide(call, len(self.calls) - 1)

    def decide(self, call: Call, number: int) -> Do:
        """What becomes of a call."""
        return GO

    def after(self, call: Call) -> None:
        """Nothing."""


def _is_scratch(call: Call) -> bool:
    """Anonymous files of the system and bytecode are nobody's; `tempfile` makes and unlinks its trials."""
    return all(
        str(path).startswith(("/memfd:", "/dev/", "/tmp/")) or "__pycache__" in path.parts for path in call.paths
    )


@dataclass
class Spoil(Watch):
    """A fault at one call.

    Attributes:
        what: Which.
        number: Of the call, from 0.
        hit: The calls that it struck.
    """

    what: What = "kill"
    number: int = 0
    hit: list[Call] = field(default_factory=list)

    def decide(self, call: Call, number: int) -> Do:
        """The fault, at its call or (a full disk) from there on."""
        goes_on = self.what == "full" and call.shape.effect in NEEDS_ROOM
        if number < self.number or (number > self.number and not goes_on):
            return GO
        self.hit.append(call)
        return {
            "kill": Do(kill="before"),
            "killed-after": Do(kill="after"),
            "torn": Do(kill="after", halve=True),
            "short": Do(halve=True),
            "full": Do(error=errno.ENOSPC),
            "full-once": Do(error=errno.ENOSPC),
            "error": Do(error=errno.EIO),
        }[self.what]


def numbers_for(what: What, calls: list[Call]) -> list[int]:
    """The calls at which a fault means something."""
    if what in ("torn", "short"):
        return [number for number, call in enumerate(calls) if call.shape.effect == "write" and call.size > 1]
    if what in ("full", "full-once"):
        return [number for number, call in enumerate(calls) if call.shape.effect in NEEDS_ROOM]
    if what == "killed-after":
        # Elsewhere it is the same as before the next one.
        return [len(calls) - 1]
    return list(range(len(calls)))


class Record(Watch):
    """Records every change under a folder, and each real sync, for `after_power_loss`."""

    def __init__(self, folder: Path, spared: Path) -> None:
        super().__init__(folder, spared)
        self.recorder = Recorder(folder)

    def decide(self, call: Call, number: int) -> Do:
        """Looks at the folder as it is before the call."""
        self.recorder.look(str(call))
        return GO

    def after(self, call: Call) -> None:
        """A sync counts when it was made."""
        if call.shape.effect == "sync" and call.paths[0].is_relative_to(self.folder):
            self.recorder.look(f"end of {call}")
            with contextlib.suppress(FileNotFoundError):
                self.recorder.synced(os.stat(call.paths[0]).st_ino)

    def end(self) -> None:
        """Looks once more, when the command has ended."""
        self.recorder.look("the end")


@dataclass
class Visit(Watch):
    """Something else happens while a command stands still at a call."""

    number: int = 0
    visit: Callable[[], None] = lambda: None

    def decide(self, call: Call, number: int) -> Do:
        """Lets the guest in, once."""
        if number == self.number:
            self.visit()
        return GO

"""Files that a callback's `on_save` writes into `checkpoint-N`, which is published only after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llamarec.checkpoints.storage import durable
from llamarec.checkpoints.storage.entries import entries_below, kind_of
from llamarec.checkpoints.storage.layout import RunFolder, is_written_by_save


class CallbackFiles:
    """Moves what callbacks write into the checkpoint that they write it for.

    Args:
        folder: Of the run.
        warn: Told of a file that cannot be kept.
        settle: Waits for the save that is being written, which may delete an older line's checkpoint of the same step.
    """

    def __init__(self, folder: RunFolder, *, warn: Callable[[str], None], settle: Callable[[], None]) -> None:
        self._folder, self._warn, self._settle = folder, warn, settle
        self._step: int | None = None
        self._before: dict[str, tuple[int, int]] = {}

    def note(self, step: int) -> None:
        """Before the callbacks: a checkpoint of this step may be there already, or its half from another program."""
        folder = self._folder.checkpoint(step)
        if folder.exists():
            self._settle()

        self._step, self._before = step, _listed(folder)

    def collect(self, step: int, target: Path) -> bool:
        """Moves what was written since then into a folder beside the checkpoints.

        Args:
            step: Of the save; files for another one stay where they are.
            target: The folder, which does not exist yet.

        Returns:
            Whether there is anything.
        """
        source = self._folder.checkpoint(step)
        if step != self._step or not source.is_dir():
            return False

        written = [name for name, stamp in _listed(source).items() if self._before.get(name) != stamp]
        for name in written:
            if is_written_by_save(name):
                self._warn(
                    f"WARNING: on_save of a callback wrote {source.name}/{name}, which the checkpoint itself has; "
                    "it is not kept (give it another name, or write it in after_save)"
                )
                continue
            durable.make_folders((target / name).parent)
            durable.rename(source / name, target / name)

        if written and not self._before:
            # The half of a checkpoint is none, and would look like one.
            durable.remove(source)
        return target.is_dir()


def _listed(folder: Path) -> dict[str, tuple[int, int]]:
    """Files by relative path, each with its size and time."""
    if not folder.is_dir():
        return {}

    files = (path for path in entries_below(folder) if kind_of(path) == "file")
    found = {path.relative_to(folder).as_posix(): path.lstat() for path in files}
    return {name: (status.st_size, status.st_mtime_ns) for name, status in found.items()}

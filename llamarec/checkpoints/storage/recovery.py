"""Recovery: what a killed save or deletion left in a run's folder is finished or removed.

The names are the writer's own, but a folder may come from elsewhere: nothing is read or deleted through a link.
"""

from __future__ import annotations

import os
from typing import Final

from llamarec.checkpoints.config import ProgramHints
from llamarec.checkpoints.storage import durable
from llamarec.checkpoints.storage.best_model import recover_best
from llamarec.checkpoints.storage.entries import described, kind_of, not_a_folder
from llamarec.checkpoints.storage.layout import ADAPTER_CONFIG, BEST_MANIFEST, WEIGHTS, RunFolder
from llamarec.checkpoints.storage.os_errors import advice
from llamarec.checkpoints.storage.publish import is_complete
from llamarec.errors import CheckpointError

_WRITERS: Final = {"saving": "save", "replaced": "save", "deleting": "deletion"}


def recover(run: RunFolder, hints: ProgramHints | None = None) -> list[str]:
    """Finishes or removes what a killed save or deletion left; the caller holds the run's lock.

    Args:
        run: The folder.
        hints: Advice in the program's words.

    Returns:
        One sentence for each thing done.

    Raises:
        CheckpointError: the folder cannot be written; nothing is lost.
    """
    try:
        _check_own_files(run)
        return _recover(run)
    except OSError as error:
        raise CheckpointError(
            f"the leftovers of a killed save in {run.path} could not be removed",
            found=str(error),
            hint=advice(error, run.path, (hints or ProgramHints()).other_folder),
        ) from error


def _recover(run: RunFolder) -> list[str]:
    done = []
    left = run.leftovers()
    # A step killed between two renames has no checkpoint: use the new folder if it is complete, else the old one.
    for kind, step in sorted(left, key=lambda item: item[0] != "saving"):
        final = run.checkpoint(step)
        if kind_of(final) != "nothing":
            continue
        # Nobody saves into a link. An old checkpoint may have been one, though.
        if kind == "saving" and kind_of(run.saving(step)) == "folder" and is_complete(run.saving(step)):
            durable.rename(run.saving(step), final)
            done.append(f"{final.name}: finished; the save was killed just before its last rename")
        elif kind == "replaced" and run.replaced(step).is_dir():
            durable.rename(run.replaced(step), final)
            done.append(f"{final.name}: put back; the save that should have replaced it was killed")

    for kind, step in run.leftovers():
        folder = {"saving": run.saving, "replaced": run.replaced, "deleting": run.deleting}[kind](step)
        what = not_a_folder(folder)
        durable.remove(folder)
        done.append(f"{folder.name}: cleared; {what or f'left by a killed {_WRITERS[kind]}'}")

    if run.path.is_dir():
        for folder in run.live_leftovers():
            durable.remove(folder)
        done += recover_best(run)
        durable.fsync_folder(run.path)
    return done


def _check_own_files(run: RunFolder) -> None:
    """Raises if something that is no file has the name of a file that this program writes into the run's folder."""
    of_best = (run.path / name for name in (BEST_MANIFEST, ADAPTER_CONFIG, *WEIGHTS))
    for path in (*of_best, run.restarted, run.lock, run.holder):
        what = described(path)
        if what not in ("nothing", "a file", "a link to a file", "a link to nothing", "a link in a circle"):
            raise CheckpointError(
                f"{path} is {what}",
                expected="no such entry, or the file that a training writes under this name",
                found=what,
                hint=f"give it another name: {'ren' if os.name == 'nt' else 'mv'} {path} {path}.old",
            )

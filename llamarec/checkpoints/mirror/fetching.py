"""The newest good checkpoint of a run, from its mirror to its folder: what a start on an empty disk goes on from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from filelock import FileLock

from llamarec.checkpoints.backup.copies import restore
from llamarec.checkpoints.backup.stores import Store, UnreachableError
from llamarec.checkpoints.mirror.inventory import Inventory, MirroredCheckpoint, inventory_of
from llamarec.checkpoints.mirror.pauses import Pauses, patiently
from llamarec.checkpoints.storage import durable
from llamarec.checkpoints.storage.discovery import ResumeChoice, latest, newest_manifest, of_this_run
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.manifest import Manifest
from llamarec.checkpoints.storage.publish import is_complete
from llamarec.checkpoints.storage.readable_units import readable
from llamarec.checkpoints.storage.restart import recorded_in
from llamarec.checkpoints.storage.verification import Check, checked, verify
from llamarec.errors import CheckpointError

_LABEL = "mirror:      "


def bring_newest(
    mirror: Store,
    run: RunFolder,
    *,
    say: Callable[[str], object],
    warn: Callable[[str], object],
    check: Check | None = None,
    pauses: Pauses | None = None,
) -> ResumeChoice | None:
    """Downloads the newest good checkpoint of a run, and the one with its best model, unless they are here.

    The caller is alone in this (`one_at_a_time`), and nobody trains in the folder yet.

    Args:
        mirror: Of this run.
        run: The run's folder.
        say: Told what was downloaded.
        warn: Told what is passed over, and that a mirror does not answer.
        check: A condition beyond hashes; a copy that fails it is passed over.
        pauses: Between tries.

    Returns:
        What `latest` found before, where nothing was downloaded.

    Raises:
        UnreachableError: the mirror does not answer, and nothing here can be resumed.
        CheckpointError: the mirror has checkpoints, but none that is good and nothing here can be resumed; or it has
            another run.
        SpaceError: a checkpoint does not fit on the disk.
    """
    here = _newest_here(run, check)
    try:
        inventory = patiently(lambda: inventory_of(mirror), pauses or Pauses())
    except UnreachableError as error:
        if here is None:
            raise _nothing_here(mirror, run, error) from None
        warn(f"WARNING: {error.problem}; whether it has a newer checkpoint than {here.verdict.path.name} is unknown")
        return here

    ours = newest_manifest(of_this_run(run))
    if ours is not None:
        check_is_of(inventory, mirror, ours.run_id)
    wanted = _candidates(inventory, run, here)
    if not wanted:
        return here

    for text in inventory.unreadable:
        warn(f"passed over {text}")
    newest = _brought(wanted, run, here, check, say, warn, pauses or Pauses())
    if newest is not None:
        _bring_best(newest, inventory, run, say, warn, pauses or Pauses())
        return None
    if here is None:
        raise CheckpointError(
            f"none of the {len(wanted)} checkpoints in {mirror.url} can be resumed",
            hint=["look at them: llamarec checkpoints list ADDRESS --verify", "or start over with --restart"],
        )
    return here


@contextlib.contextmanager
def one_at_a_time(run: RunFolder) -> Iterator[None]:
    """Within, no other process of this machine brings a checkpoint into this folder; the others wait."""
    durable.make_folders(run.path)
    with FileLock(run.fetch_lock):
        yield


def check_is_of(inventory: Inventory, mirror: Store, run_id: str) -> None:
    """Raises if the newest checkpoint of a mirror belongs to another run.

    Raises:
        CheckpointError: it does.
    """
    theirs = inventory.of_this_run[0].manifest if inventory.of_this_run else None
    if theirs is None or theirs.run_id == run_id:
        return
    raise CheckpointError(
        f"the mirror {mirror.url} holds the checkpoints of another run",
        expected=f"run {run_id}, or nothing",
        found=f"step {theirs.step:,} of run {theirs.run_id}",
        hint=["another --mirror", "or another --output_dir, to continue the run that is in the mirror"],
    )


def check_mirror_is_free(mirror: Store, inventory: Inventory) -> None:
    """Raises if a training that starts at step 0 without --restart finds checkpoints in its mirror.

    Raises:
        CheckpointError: there are checkpoints.
    """
    existing = inventory.of_this_run
    if not existing:
        return
    raise CheckpointError(
        f"the mirror {mirror.url} holds the checkpoints of an earlier run; starting at step 0 would replace them",
        found=", ".join(one.name for one in existing),
        hint=[
            "to continue: --resume_from_checkpoint (takes the newest)",
            "to start over: --restart, or another --mirror",
        ],
        retry_with=("--resume_from_checkpoint",),
    )


def _newest_here(run: RunFolder, check: Check | None) -> ResumeChoice | None:
    try:
        return latest(run, check=check)
    except CheckpointError:
        # Nothing here is good. If there is nothing good in the mirror either, the resume will say all of this.
        return None


def _candidates(inventory: Inventory, run: RunFolder, here: ResumeChoice | None) -> list[MirroredCheckpoint]:
    """Copies that are newer than what is here, the newest first; none from before a restart that this folder knows."""
    given_up = recorded_in(run)
    of_this_run = [one for one in inventory.of_this_run if given_up.get(one.name) != one.manifest.sequence]
    return [one for one in of_this_run if here is None or _is_newer(one.manifest, here)]


def _is_newer(there: Manifest, here: ResumeChoice) -> bool:
    ours = here.verdict.manifest
    # Where there is none, a plain Trainer has gone on from what the mirror has.
    return ours is not None and there.sequence > ours.sequence


def _brought(
    wanted: list[MirroredCheckpoint],
    run: RunFolder,
    here: ResumeChoice | None,
    check: Check | None,
    say: Callable[[str], object],
    warn: Callable[[str], object],
    pauses: Pauses,
) -> Manifest | None:
    """Downloads the first one that is good; None where there is none."""
    for one in wanted:
        try:
            path = patiently(partial(restore, one.store, run, replace=True), pauses)
        except UnreachableError:
            raise
        except CheckpointError as error:
            warn(f"passed over {one.name} in the mirror: {error.problem}")
            continue

        verdict = checked(verify(path), check)
        if not verdict.is_resumable:
            warn(f"passed over {one.name} in the mirror: {verdict.reason}")
            continue
        than = here.verdict.path.name if here is not None else "nothing"
        say(f"{_LABEL}{one.store.url}: downloaded and verified, {_size(one)} (here: {than})")
        return one.manifest
    return None


def _bring_best(
    newest: Manifest,
    inventory: Inventory,
    run: RunFolder,
    say: Callable[[str], object],
    warn: Callable[[str], object],
    pauses: Pauses,
) -> None:
    """Downloads the checkpoint with the best model that the newest one records; without it the resume goes on too."""
    step = newest.best_step
    if step is None or step == newest.step or is_complete(run.checkpoint(step)):
        return
    for one in inventory.of_this_run:
        if one.manifest.step == step:
            try:
                patiently(partial(restore, one.store, run, replace=True), pauses)
            except CheckpointError as error:
                warn(f"the best model so far ({one.name}) is not downloaded: {error.problem}")
                return
            say(f"{_LABEL}{one.store.url}: downloaded and verified, {_size(one)} (the best so far)")


def _size(one: MirroredCheckpoint) -> str:
    return readable(one.manifest.num_bytes)


def _nothing_here(mirror: Store, run: RunFolder, error: UnreachableError) -> UnreachableError:
    return UnreachableError(
        f"the mirror {mirror.url} cannot be reached, and {run.path} has no checkpoint to resume",
        expected="a mirror with the run's checkpoints",
        found=error.found,
        hint=["try again when it answers", "or start at step 0: without --resume_from_checkpoint and --mirror"],
    )


def folder_in_mirror(mirror: Store, run: RunFolder, output_dir: Path) -> Store:
    """Where a run's checkpoints are in a mirror: a trial of a search has a folder of its own below it, as here."""
    try:
        below = run.path.relative_to(output_dir).as_posix()
    except ValueError:
        return mirror
    return mirror if below == "." else mirror.below(below)

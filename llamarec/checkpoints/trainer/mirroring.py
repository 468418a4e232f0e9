"""A training and its mirror: what is fetched before it starts, what is refused, and the thread that copies."""

from __future__ import annotations

from pathlib import Path

from llamarec.checkpoints.backup.stores import Store, UnreachableError, open_store
from llamarec.checkpoints.mirror.fetching import (
    bring_newest,
    check_is_of,
    check_mirror_is_free,
    folder_in_mirror,
    one_at_a_time,
)
from llamarec.checkpoints.mirror.inventory import Inventory, inventory_of
from llamarec.checkpoints.mirror.keeper import Continued, MirrorKeeper
from llamarec.checkpoints.resume.decision import Resume
from llamarec.checkpoints.resume.readable import check_readable
from llamarec.checkpoints.storage.discovery import BEST, LATEST, ResumeChoice
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.restart import recorded_in
from llamarec.checkpoints.trainer.console import Console
from llamarec.checkpoints.trainer.distributed.agreement import in_first_process
from llamarec.checkpoints.trainer.distributed.channel import exchange
from llamarec.checkpoints.trainer.run_state import Lineage
from llamarec.checkpoints.trainer.trainer_access import LiveTrainer
from llamarec.errors import ConfigError, LlamarecError


class TrainingMirror:
    """The mirror of one training; does nothing where there is none.

    Args:
        trainer: The live Trainer.
        folder: The run's folder.
        address: `CheckpointConfig.mirror`.
        console: For what is fetched.

    Raises:
        ConfigError: the mirror is the run's own folder.
        CheckpointError: this kind of address is unknown, or its package is not installed.

    Attributes:
        keeper: Copies, in the first process; None elsewhere.
        next_sequence: Number that the next save must at least have; 0 as long as that is unknown.
    """

    def __init__(self, trainer: LiveTrainer, folder: RunFolder, address: str, console: Console) -> None:
        self._trainer, self._folder, self._console = trainer, folder, console
        self._store = _opened(address, folder, Path(str(trainer.args.output_dir))) if address else None
        self._inventory = Inventory()
        self.next_sequence = 0
        self.keeper = self._new_keeper()

    def _new_keeper(self) -> MirrorKeeper | None:
        args = self._trainer.args
        if self._store is None or args.process_index != 0:
            return None
        return MirrorKeeper(self._store, self._folder, limit=args.save_total_limit, warn=self._console.warn)

    def fetch(self, wanted: str | Path | bool | None) -> ResumeChoice | None:
        """Brings what `latest` or `best` means from the mirror, if it is newer than what is here: once on each machine.

        Args:
            wanted: As in `choose_checkpoint`.

        Returns:
            The newest good checkpoint here, where this process has looked for it and has downloaded none.

        Raises:
            LlamarecError: it cannot be fetched, and there is nothing here.
        """
        store, args = self._store, self._trainer.args
        if store is None or wanted not in (True, LATEST, BEST):
            return None

        found: list[ResumeChoice | None] = []
        in_first_process(args, "the checkpoint in the mirror", lambda: found.append(self._fetch(store)))
        if args.world_size == 1:
            return found[0]

        # Other machines may have disks of their own.
        failed = None
        if args.process_index != 0 and args.local_process_index == 0:
            try:
                self._fetch(store)
            except LlamarecError as error:
                failed = str(error)
        failures = [text for text in exchange(args, "the mirror on each machine", failed) if text]
        if failures:
            raise UnreachableError(failures[0])
        return None

    def _fetch(self, store: Store) -> ResumeChoice | None:
        with one_at_a_time(self._folder):
            return bring_newest(
                store, self._folder, say=self._console.print, warn=self._console.warn, check=check_readable
            )

    def check(self, resume: Resume | None, *, is_restart: bool) -> None:
        """Looks at what the mirror has, in the first process; one that does not answer is no reason not to train.

        Args:
            resume: What is resumed.
            is_restart: The user has given up the run before.

        Raises:
            CheckpointError: it has another run, or an earlier one that a start at step 0 would replace.
        """
        if self._store is None:
            return
        try:
            self._inventory = inventory_of(self._store)
        except UnreachableError as error:
            self._console.warn(f"WARNING: {error.problem}; training starts, and the copies are tried again")
            return

        self.next_sequence = self._inventory.next_sequence
        manifest = resume.choice.verdict.manifest if resume is not None else None
        if manifest is not None:
            check_is_of(self._inventory, self._store, manifest.run_id)
        elif not (is_restart or recorded_in(self._folder)):
            check_mirror_is_free(self._store, self._inventory)

    def begin(self, resume: Resume | None, lineage: Lineage, *, is_restart: bool) -> None:
        """Starts to copy, in the first process."""
        if self.keeper is not None:
            given_up = resume is None and (is_restart or bool(recorded_in(self._folder)))
            self.keeper.begin(
                Continued(run_id=lineage.run_id, first_sequence=lineage.next_sequence, is_restart=given_up)
            )


def _opened(address: str, folder: RunFolder, output_dir: Path) -> Store:
    store = open_store(address)
    if store.is_local and Path(store.path).resolve() in (folder.path.resolve(), output_dir.resolve()):
        raise ConfigError(
            f"--mirror {store.url} is the folder in which this run trains",
            expected="a folder on another disk, or an address",
            hint="another --mirror",
        )
    return folder_in_mirror(store, folder, output_dir)

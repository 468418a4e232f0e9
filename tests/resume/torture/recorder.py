"""What a run does to a file system, entry by entry, and what of it a power loss leaves.

POSIX promises of a crash only this: content is there once the file was synced, an entry of a folder once the folder
was synced. Anything else may be there, or not, in any combination; only a rename happens as a whole. The tree is
looked at before every effect and every real `os.fsync`, whatever is announced, so that a sync that is only announced
does not count.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from tests.resume.observers import observed

ROOT: Final = 0
Place = tuple[int, str]
"""A folder's node, and a name in it."""


@dataclass(frozen=True)
class Change:
    """One change of the tree.

    Attributes:
        kind: link (a new entry), unlink, rename, write, sync, or over (a save is over).
        node: What it is about; nodes are numbered as they appear, and never again used.
        place: Of link, unlink and rename: the entry.
        source: Of rename: where it was.
        data: Of write: the whole content; of over: the number of the save.
    """

    kind: Literal["link", "unlink", "rename", "write", "sync", "over"]
    node: int = -1
    place: Place = (-1, "")
    source: Place = (-1, "")
    data: Any = None

    @property
    def folders(self) -> set[int]:
        """Whose entries it changes."""
        return {self.place[0], self.source[0]} - {-1}


class Recorder:
    """Records the changes below a folder.

    Attributes:
        changes: In their order.
        moments: A power loss may happen after so many changes; with the effect that was to come.
        folders: Nodes that are folders.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.changes: list[Change] = []
        self.moments: list[tuple[int, str]] = []
        self.folders = {ROOT}
        self._next, self._nodes = 1, {os.stat(root).st_ino: ROOT}
        self._entries: dict[Place, int] = {}
        self._stamps: dict[int, tuple[int, int]] = {}
        # What is there already is taken to be on the medium.
        self.look("begin")
        self.changes += [Change("sync", node) for node in sorted(self._nodes.values())]
        self.moments.clear()

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Within, everything is recorded."""
        before = os.fsync

        def fsync(fd: Any) -> None:
            self.look("os.fsync")
            before(fd)
            self.synced(os.fstat(fd).st_ino)

        os.fsync = fsync
        try:
            with observed(lambda effect, path: self.look(f"{effect} {path.name}")):
                yield
            self.look("end")
        finally:
            os.fsync = before

    def synced(self, inode: int) -> None:
        """Notes that a file or a folder was synced, if it is one of these."""
        node = self._nodes.get(inode)
        if node is not None:
            self.changes.append(Change("sync", node))

    def unsynced(self) -> list[str]:
        """Paths whose content or entry a power loss could take by now."""
        last = {(change.kind, change.node): number for number, change in enumerate(self.changes)}
        named = {(change.place, change.node): number for number, change in enumerate(self.changes)}

        left = []
        for (folder, name), node in self._entries.items():
            has_entry = last.get(("sync", folder), -1) > named[(folder, name), node]
            has_content = last.get(("sync", node), -1) >= last.get(("write", node), -1)
            if not has_entry or not has_content:
                left.append(self._path(folder, name))
        return sorted(left)

    def _path(self, folder: int, name: str) -> str:
        if folder == ROOT:
            return name
        above, own = next(place for place, node in self._entries.items() if node == folder)
        return f"{self._path(above, own)}/{name}"

    def over(self, number: int) -> None:
        """Notes that a save is over: from now on it must survive."""
        self.look(f"save {number} over")
        self.changes.append(Change("over", data=number))

    def look(self, coming: str) -> None:
        """Finds what has changed since the last time."""
        entries, contents = self._scan()
        appeared = {place: node for place, node in entries.items() if self._entries.get(place) != node}
        gone = {place: node for place, node in self._entries.items() if entries.get(place) != node}
        sources = {node: place for place, node in gone.items()}
        for place, node in appeared.items():
            if node in sources:
                source = sources.pop(node)
                gone.pop(source)
                self.changes.append(Change("rename", node, place, source))
            else:
                self.changes.append(Change("link", node, place))
            gone.pop(place, None)  # replaced
        # The deepest first: a folder goes when it is empty.
        for place, node in sorted(gone.items(), reverse=True):
            self.changes.append(Change("unlink", node, place))
        self.changes += [Change("write", node, data=data) for node, data in contents.items()]
        self._entries = entries
        alive = {ROOT, *entries.values()}
        self._nodes = {inode: node for inode, node in self._nodes.items() if node in alive}
        self.moments.append((len(self.changes), coming))

    def _scan(self) -> tuple[dict[Place, int], dict[int, bytes]]:
        """All entries, folders before what is in them, and the contents that changed."""
        entries: dict[Place, int] = {}
        contents: dict[int, bytes] = {}
        pending = [(ROOT, self._root)]
        while pending:
            parent, folder = pending.pop()
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                if entry.name.startswith(".run."):
                    continue
                status = entry.stat(follow_symlinks=False)
                node = self._node(status.st_ino)
                entries[parent, entry.name] = node
                if entry.is_dir(follow_symlinks=False):
                    self.folders.add(node)
                    pending.append((node, Path(entry.path)))
                elif self._stamps.get(node) != (status.st_size, status.st_mtime_ns):
                    self._stamps[node] = (status.st_size, status.st_mtime_ns)
                    contents[node] = Path(entry.path).read_bytes()
        return entries, contents

    def _node(self, inode: int) -> int:
        if inode not in self._nodes:
            self._nodes[inode], self._next = self._next, self._next + 1
        return self._nodes[inode]


Entries = Literal["lost", "applied", "some"]
Contents = Literal["lost", "torn", "some"]


@dataclass(frozen=True)
class Loss:
    """What becomes of that which was not synced: of entries and of contents."""

    entries: Entries
    contents: Contents


LOSSES: Final = (
    Loss("lost", "lost"),
    Loss("applied", "lost"),
    Loss("applied", "torn"),
    Loss("some", "lost"),
    Loss("some", "some"),
)


def after_power_loss(recorder: Recorder, num_changes: int, loss: Loss, draw: random.Random, target: Path) -> None:
    """Writes what a power loss leaves of the recorded tree into an empty folder."""
    changes = recorder.changes[:num_changes]
    tree: dict[int, dict[str, int]] = {folder: {} for folder in recorder.folders}
    for number, change in enumerate(changes):
        if change.folders and (_is_synced(changes, number) or _survives(loss.entries, draw)):
            _apply(change, tree)
    _write(ROOT, tree, _contents(changes, loss.contents, draw), target)


def newest_over(recorder: Recorder, num_changes: int) -> int:
    """Number of the newest save that was over; -1 if none was."""
    return max((change.data for change in recorder.changes[:num_changes] if change.kind == "over"), default=-1)


def _is_synced(changes: list[Change], number: int) -> bool:
    folders = changes[number].folders
    return any(later.kind == "sync" and later.node in folders for later in changes[number + 1 :])


def _survives(entries: Entries, draw: random.Random) -> bool:
    return entries == "applied" or (entries == "some" and draw.random() < 0.5)


def _apply(change: Change, tree: dict[int, dict[str, int]]) -> None:
    """Makes a change where what came before it allows it."""
    folder, name = change.place
    if change.kind == "link":
        tree[folder].setdefault(name, change.node)
    elif change.kind == "unlink":
        # A folder that went was empty: whether its entries' going was synced no longer matters.
        if tree[folder].get(name) == change.node:
            del tree[folder][name]
    elif change.kind == "rename":
        source, old_name = change.source
        replaced = tree[folder].get(name)
        if tree[source].get(old_name) == change.node and not (replaced is not None and tree.get(replaced)):
            del tree[source][old_name]
            tree[folder][name] = change.node


def _contents(changes: list[Change], contents: Contents, draw: random.Random) -> dict[int, bytes]:
    now: dict[int, bytes] = {}
    synced: dict[int, bytes] = {}
    for change in changes:
        if change.kind == "write":
            now[change.node] = change.data
        elif change.kind == "sync" and change.node in now:
            synced[change.node] = now[change.node]
    left = {}
    for node, data in now.items():
        safe = synced.get(node, b"")
        fates = {"lost": safe, "torn": data[: (len(safe) + len(data)) // 2], "whole": data}
        fate = draw.choice(("lost", "torn", "whole")) if contents == "some" else contents
        left[node] = fates[fate] if data != safe else data
    return left


def _write(folder: int, tree: dict[int, dict[str, int]], contents: dict[int, bytes], target: Path) -> None:
    target.mkdir(exist_ok=True)
    for name, node in tree[folder].items():
        if node in tree:
            _write(node, tree, contents, target / name)
        else:
            (target / name).write_bytes(contents.get(node, b""))

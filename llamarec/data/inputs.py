"""The raw files a data set was prepared from: size and SHA-256 of each, hashed again only after a change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple, TypedDict

from llamarec.checkpoints.storage import json_shapes
from llamarec.checkpoints.storage.durable import sha256_of
from llamarec.checkpoints.storage.json_shapes import ShapeError
from llamarec.data.containers import is_hidden, real_file
from llamarec.data.prepared import FileDescription, read_manifest
from llamarec.files import write_bytes

INTERACTIONS_FLAG: Final = "--dataset_code"  # the name of a user's own table among the inputs
TITLES_FLAG: Final = "--items_file"  # the name of its second table
_CACHE_FILE: Final = ".inputs.json"  # a cache of hashes, not an artifact


class _CachedHash(TypedDict):
    """A hash, and the file that it belongs to: path, size, time of change in ns."""

    mark: tuple[str, int, int]
    described: FileDescription


class Inputs(NamedTuple):
    """Size and hash of each raw file, and the file's state when it was hashed."""

    described: dict[str, FileDescription]
    cached: dict[str, _CachedHash]

    def remember(self, folder: Path) -> None:
        """Keeps the hashes, so that an unchanged file is not read again."""
        # Merged: a table of titles that was not named this time stays known.
        before = _read_cache(folder)
        merged = {**before, **self.cached}

        if merged != before:
            write_bytes(folder / _CACHE_FILE, json.dumps(merged).encode())


def hash_inputs(paths: Mapping[str, Path], folder: Path) -> Inputs:
    """Size and SHA-256 of raw files; a file unchanged since it was last hashed is not read.

    Args:
        paths: Files by their names among the inputs.
        folder: The prepared set, with its cache of hashes.
    """
    cache, described, cached = _read_cache(folder), {}, {}

    for name, path in sorted(paths.items()):
        mark = (str(path.resolve()), *_state_of(path))
        known = cache.get(name)
        is_unchanged = known is not None and known["mark"] == mark

        described[name] = known["described"] if known is not None and is_unchanged else describe(path)
        cached[name] = _CachedHash(mark=mark, described=described[name])

    return Inputs(described, cached)


def changed_inputs(folder: Path, table: str = "") -> list[str]:
    """Paths of raw files whose content changed after the data set was prepared; absent files are not listed.

    Args:
        folder: The prepared set.
        table: The current path of a user's own table, which may have moved.
    """
    manifest, cache = read_manifest(folder), _read_cache(folder)
    then = manifest["inputs"] if manifest is not None else {}

    paths = {name: Path(known["mark"][0]) for name, known in cache.items() if name in then}
    if INTERACTIONS_FLAG in paths and table and real_file(Path(table)) is not None:
        paths[INTERACTIONS_FLAG] = Path(table)

    changed = []
    for name, path in paths.items():
        # A file of somebody else may be unreadable, and this is only a warning.
        with contextlib.suppress(OSError):
            if real_file(path) is None:
                continue
            inputs = hash_inputs({name: path}, folder)
            if inputs.described[name] != then[name]:
                changed.append(str(path))
            elif name != INTERACTIONS_FLAG or not table:
                inputs.remember(folder)
    return changed


def known_titles_path(folder: Path) -> str:
    """Path of the table of titles that a data set was prepared with; empty where it is gone or was never given."""
    known = _read_cache(folder).get(TITLES_FLAG)
    with contextlib.suppress(OSError):
        return known["mark"][0] if known and real_file(Path(known["mark"][0])) is not None else ""
    return ""


def describe(path: Path) -> FileDescription:
    """Size and SHA-256 of a file, or of all files in a folder; a path into an archive counts with its hash."""
    file = real_file(path) or path
    if not file.is_dir():
        whole = sha256_of(file)
        inside = path.relative_to(file).as_posix()
        digest = whole if path == file else hashlib.sha256(f"{whole}\0{inside}".encode()).hexdigest()
        return {"bytes": file.stat().st_size, "sha256": digest}

    parts = {one.relative_to(file).as_posix(): describe(one) for one in files_of(file)}
    digests = "".join(f"{name}\0{part['sha256']}\n" for name, part in parts.items())
    return {
        "bytes": sum(part["bytes"] for part in parts.values()),
        "sha256": hashlib.sha256(digests.encode()).hexdigest(),
    }


def files_of(folder: Path) -> list[Path]:
    """The files in a folder and in those below it, in the order of their names and numbers, but hidden ones."""
    found = [one for one in folder.rglob("*") if one.is_file() and not is_hidden(one.relative_to(folder).as_posix())]
    return sorted(found, key=lambda one: _natural(one.relative_to(folder).as_posix()))


def _natural(name: str) -> list[tuple[int, str]]:
    """What part-2 comes by before part-10."""
    pieces = re.split(r"(\d+)", name)
    return [(int(piece), "") if number % 2 else (0, piece) for number, piece in enumerate(pieces)]


def _state_of(path: Path) -> tuple[int, int]:
    """Size and time of the last change; of a folder, numbers that change with any of its files."""
    file = real_file(path) or path
    if not file.is_dir():
        return file.stat().st_size, file.stat().st_mtime_ns

    states = [(one.relative_to(file).as_posix(), one.stat().st_size, one.stat().st_mtime_ns) for one in files_of(file)]
    digest = hashlib.sha256(repr(states).encode()).digest()
    return sum(size for _, size, _ in states), int.from_bytes(digest[:7])


def _read_cache(folder: Path) -> dict[str, _CachedHash]:
    try:
        return json_shapes.read(folder / _CACHE_FILE, dict[str, _CachedHash])
    except (OSError, ShapeError):
        return {}

"""A retriever's files as one: weights, lists and metrics are published together, and each reader verifies them.

The folder is published as a checkpoint is (`llamarec.checkpoints.storage.file_set`): a kill leaves one retriever or the
other, and a file that has changed since is refused by name. One process at a time trains in it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from llamarec.checkpoints.config import ProgramHints
from llamarec.checkpoints.storage.durable import sha256_of, sha256_of_bytes
from llamarec.checkpoints.storage.file_set import ChangedError, FileSet
from llamarec.checkpoints.storage.json_shapes import ShapeError, parsed, shaped
from llamarec.checkpoints.storage.layout import MANIFEST, RunFolder
from llamarec.checkpoints.storage.lock import RunLock
from llamarec.checkpoints.storage.os_errors import naming
from llamarec.checkpoints.storage.publish import Staging
from llamarec.errors import ArtifactError
from llamarec.experts.weights import EXPERTS_FILE
from llamarec.vocabulary import METRICS_FILE, Experiment, RetrieverMetrics

DIGEST: Final = "retriever_digest"
"""Name of `digest_of` the weights in what was made from them."""

_log: Final = logging.getLogger(__name__)
_told: Final[set[Path]] = set()


def locked(experiment: Experiment) -> RunLock:
    """The lock of a retriever's folder, held while it is trained or its files are replaced."""
    return _locked(experiment.retriever)


def _locked(folder: Path) -> RunLock:
    return RunLock(RunFolder(folder), ProgramHints(other_folder="another --experiment_root"))


def publish(experiment: Experiment, files: Mapping[str, bytes], about: Mapping[str, Any]) -> None:
    """Replaces a retriever's files, all of them or none; the caller holds the lock.

    Args:
        experiment: Paths of the run.
        files: Contents by name.
        about: More values for the manifest.
    """

    def fill(staging: Staging) -> None:
        for name, content in files.items():
            staging.write(name, content)

    before = published_names(experiment)
    with naming(experiment.retriever):
        FileSet(experiment.retriever).publish(fill, about)
    for name in before - set(files):
        # A member or an expert of an earlier training: nothing reads it now.
        (experiment.retriever / name).unlink(missing_ok=True)


def read_published(path: Path, hint: str) -> bytes:
    """The content of one of a retriever's files, as it was published.

    Args:
        path: The file.
        hint: The command that makes the files again, for an error.

    Raises:
        ArtifactError: the file is missing or has changed since; names it and the command.
    """
    files = FileSet(path.parent)
    finish_interrupted(path.parent)
    with _refused(path, hint):
        if files.entries() is None:
            _check_is_older(path.parent)
        return files.read(path.name)


def published_names(experiment: Experiment) -> set[str]:
    """The files of a retriever that were published together; without a manifest, those that order the catalogue."""
    with contextlib.suppress(ChangedError):
        entries = FileSet(experiment.retriever).entries()
        if entries is not None:
            return set(entries)
    folder = experiment.retriever
    return {path.name for path in folder.iterdir() if _orders(path.name)} if folder.is_dir() else set()


def has_experts(experiment: Experiment) -> bool:
    """Whether experts order the catalogue beside the model."""
    return EXPERTS_FILE in published_names(experiment)


def _orders(name: str) -> bool:
    return name == EXPERTS_FILE or (name.endswith(".safetensors") and not _is_for_now(name))


def _is_for_now(name: str) -> bool:
    """Whether a file has weights of a model that recommends only: no list and no ranker depends on it."""
    return name.endswith("-now.safetensors")


def check_published(experiment: Experiment, hint: str) -> None:
    """Checks all files of a retriever; does nothing where there is none.

    Hard negatives that were removed are missed by training alone, which reads them.

    Raises:
        ArtifactError: one of them has changed; names it.
    """
    finish_interrupted(experiment.retriever)
    with _refused(experiment.retriever / MANIFEST, hint):
        entries = FileSet(experiment.retriever).entries()
        if entries is None and experiment.retriever_metrics.is_file():
            _check_is_older(experiment.retriever)
    for name in entries or {}:
        path = experiment.retriever / name
        if path.exists() or path != experiment.hard_negatives:
            read_published(path, hint)


def finish_interrupted(folder: Path) -> None:
    """Ends the publication of a whole set of files that a kill has interrupted.

    Raises:
        LockedError: another process is at it.
        CheckpointError: the folder cannot be written.
    """
    files = FileSet(folder)
    if files.is_unfinished:
        with _locked(folder):
            files.finish()


def read_metrics(experiment: Experiment, hint: str) -> dict[str, Any]:
    """metrics.json of the retriever; empty where there is none.

    Raises:
        ArtifactError: it has changed since it was written, or is of another form.
    """
    path = experiment.retriever_metrics
    finish_interrupted(path.parent)
    if not path.is_file() and not (path.parent / MANIFEST).is_file():
        return {}

    raw = read_published(path, hint)
    try:
        content = parsed(raw, dict[str, Any])
        shaped(content, RetrieverMetrics)
    except ShapeError as error:
        raise ArtifactError(f"{path}: cannot be read", found=str(error), hint=hint) from error
    return content


def intact_metrics(experiment: Experiment) -> dict[str, Any]:
    """metrics.json of the retriever; empty where there is none, or it has changed."""
    with contextlib.suppress(ArtifactError):
        return read_metrics(experiment, "")
    return {}


def weights_digest(experiment: Experiment) -> str:
    """`digest_of` the weights as they were published; "" where there are none."""
    weights = experiment.retriever_weights
    if not weights.is_file():
        return ""

    with contextlib.suppress(ChangedError):
        entries = FileSet(weights.parent).entries() or {}
        if weights.name in entries:
            return digest_of({name: entry.sha256 for name, entry in entries.items()})
    names = published_names(experiment)
    return digest_of({name: sha256_of(weights.parent / name) for name in names if _orders(name)})


def weights_digests(experiment: Experiment) -> list[str]:
    """`weights_digest`, and the hashes of the models that recommend, as they were published."""
    with contextlib.suppress(ChangedError):
        entries = FileSet(experiment.retriever).entries() or {}
        for_now = [entries[name].sha256 for name in sorted(entries) if _is_for_now(name)]
        return [weights_digest(experiment), *for_now]
    return [weights_digest(experiment)]


def digest_of(hashes: Mapping[str, str]) -> str:
    """One hash for all that orders the catalogue: the weights of the members, and of the experts.

    Args:
        hashes: Hex SHA-256 by name of a file; files of other kinds do not count.
    """
    ordering = [hashes[name] for name in sorted(hashes) if _orders(name)]
    # As in earlier versions, which had one file.
    return ordering[0] if len(ordering) == 1 else sha256_of_bytes("".join(ordering).encode())


def check_same_weights(path: Path, origin: Mapping[str, object], experiment: Experiment, hint: str) -> None:
    """Checks that lists were made by the weights beside them.

    Args:
        path: File of the lists.
        origin: Its metadata; those of earlier versions do not name the weights.
        experiment: Paths of the run.
        hint: The command that makes the files again, for an error.

    Raises:
        ArtifactError: they were made by others.
    """
    then, now = origin.get(DIGEST), weights_digest(experiment)
    if then is not None and then != now:
        raise ArtifactError(
            f"{path}: these lists were made by another retriever",
            expected=f"the weights in {experiment.retriever_weights}, SHA-256 {now[:12] or 'none'}",
            found=f"SHA-256 {str(then)[:12]}",
            hint=hint,
        )


@contextlib.contextmanager
def _refused(path: Path, hint: str) -> Iterator[None]:
    try:
        yield
    except (ChangedError, OSError) as error:
        problem = "not as it was written" if path.exists() else "the file is missing"
        raise ArtifactError(
            f"{path}: {problem}", found=str(error), hint=[hint, "or restore the folder from a copy"]
        ) from error


def _check_is_older(folder: Path) -> None:
    """Without a manifest a folder is of an earlier version, or the manifest is lost.

    Raises:
        ChangedError: it is lost.
    """
    with contextlib.suppress(OSError, ShapeError):
        if DIGEST in parsed((folder / METRICS_FILE).read_bytes(), dict[str, Any]):
            raise ChangedError(f"{MANIFEST} is missing (the files were written with one)")
    if folder not in _told:
        _told.add(folder)
        _log.warning("%s: written by an earlier version, without hashes; its files are not verified", folder)

"""Weights of the final score that are fitted after training.

`fusion.json`, beside the best adapter and in each checkpoint, holds the weights that a validation fitted. After
training they are fitted again on more users, and written to `final_fusion.json` in the run's folder with the hash of
the adapter, so that they are never used with another adapter.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import Final

from llamarec.checkpoints.storage.best_model import read_best
from llamarec.checkpoints.storage.layout import WEIGHTS
from llamarec.checkpoints.storage.manifest import read_manifest
from llamarec.errors import ArtifactError, CheckpointError
from llamarec.evaluation.fusion import Fusion
from llamarec.files import read_json, stored, write_json

FINAL_FUSION: Final = "final_fusion.json"
ADAPTER: Final = "adapter_sha256"


def adapter_digest(folder: Path) -> str:
    """SHA-256 of the saved adapter in a checkpoint, or of the best one in a run's folder; "" if unknown."""
    with contextlib.suppress(CheckpointError):
        manifest = read_manifest(folder) or read_best(folder)
        files = manifest.files if manifest is not None else {}
        return next((files[name].sha256 for name in WEIGHTS if name in files), "")
    return ""


def write_final(run: Path, fusion: Fusion, digest: str) -> None:
    """Writes a fusion into a run's folder, replacing an earlier one.

    Args:
        run: Folder of the checkpoints.
        fusion: The fitted weights.
        digest: SHA-256 of the adapter that they belong to.
    """
    write_json(run / FINAL_FUSION, {ADAPTER: digest, **asdict(fusion)})


def read_final(run: Path, digest: str) -> Fusion | None:
    """The stored fusion of this adapter; None if there is none, or it cannot be read."""
    content = read_json(run / FINAL_FUSION) or {}
    if not digest or content.get(ADAPTER) != digest:
        return None
    try:
        return stored(content, Fusion, run / FINAL_FUSION)
    except ArtifactError:
        return None

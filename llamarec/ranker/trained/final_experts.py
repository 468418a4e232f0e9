"""Weights of all experts that are fitted after a training with `--readout items`: `final_experts.json`.

It lies in the run's folder, beside the best adapter: the form of a retriever's experts.json, with the hash of the
adapter and of the retriever that the weights belong to, so that they are never used with others.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Final

from llamarec.checkpoints.storage.json_shapes import ShapeError, read_object, shaped
from llamarec.errors import ArtifactError, Lines
from llamarec.experts.weights import ExpertWeights
from llamarec.files import write_json
from llamarec.ranker.trained.final_fusion import ADAPTER
from llamarec.retriever.published import DIGEST

FINAL_EXPERTS: Final = "final_experts.json"


def write_final_experts(run: Path, weights: ExpertWeights, *, adapter_digest: str, retriever_digest: str) -> None:
    """Writes weights into a run's folder, replacing earlier ones.

    Args:
        run: Folder of the checkpoints.
        weights: The fitted weights.
        adapter_digest: SHA-256 of the adapter that they belong to.
        retriever_digest: Hash of the retriever that they belong to.
    """
    write_json(run / FINAL_EXPERTS, {ADAPTER: adapter_digest, DIGEST: retriever_digest, **asdict(weights)})


def read_final_experts(run: Path, *, adapter_digest: str, retriever_digest: str, hint: Lines) -> ExpertWeights | None:
    """The stored weights of this adapter and this retriever; None where none were fitted for them.

    Args:
        run: Folder of the checkpoints.
        adapter_digest: SHA-256 of the adapter; "" if unknown.
        retriever_digest: Hash of the retriever.
        hint: The command that fits them again, for an error.

    Raises:
        ArtifactError: the file is damaged.
    """
    path = run / FINAL_EXPERTS
    if not path.is_file():
        return None
    try:
        content = read_object(path)
        weights = shaped(content, ExpertWeights)
        _check_finite(weights)
    except (OSError, ShapeError) as error:
        raise ArtifactError(f"{path}: cannot be read", found=str(error), hint=hint) from error

    is_of_these = adapter_digest and content.get(ADAPTER) == adapter_digest and content.get(DIGEST) == retriever_digest
    return weights if is_of_these else None


def _check_finite(weights: ExpertWeights) -> None:
    for one in weights.experts:
        if not (math.isfinite(one.weight) and one.weight >= 0):
            raise ShapeError(f"weight of {one.name}: expected a number from 0, found {one.weight}")

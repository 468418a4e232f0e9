"""Run folders with checkpoints as training leaves them, without training."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch

from llamarec.checkpoints.storage.best_model import publish_best
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.manifest import Manifest, Session
from llamarec.checkpoints.storage.publish import Staging, publish

STEPS = (100, 200, 300)
_TENSOR = "base_model.model.layers.{layer}.self_attn.q_proj.lora_A.weight"


def make_run(
    folder: Path,
    steps: Sequence[int] = STEPS,
    *,
    best: int | None = 200,
    limit: int | None = 3,
    minutes: float = 30,
    newest_minutes_ago: float = 5,
    reason: str = "scheduled",
    last_reason: str | None = None,
    best_model: bool = False,
) -> RunFolder:
    """A run with one good checkpoint for each step, saved in that order.

    Args:
        folder: The checkpoints folder.
        steps: In the order of their saves.
        best: The best step, known from that step on.
        limit: save_total_limit.
        minutes: Between two saves.
        newest_minutes_ago: Age of the last one.
        reason: Why they were saved.
        last_reason: The same for the last one.
        best_model: Whether the best model lies in the folder itself too.
    """
    run = RunFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    start = datetime.now(UTC) - timedelta(minutes=newest_minutes_ago + minutes * (len(steps) - 1))
    for number, step in enumerate(steps):
        known = best if best is not None and best in steps[: number + 1] else None
        why = last_reason if last_reason and number == len(steps) - 1 else reason
        made = manifest(step, number, start + timedelta(minutes=minutes * number), best=known, limit=limit, reason=why)
        publish(run, made, partial(fill, step=step))
    if best_model and best is not None:
        publish_best(run, manifest(best, len(steps), start, best=best, limit=limit), partial(fill_weights, step=best))
    return run


def manifest(
    step: int,
    sequence: int,
    created: datetime,
    *,
    best: int | None = None,
    limit: int | None = 3,
    reason: str = "scheduled",
) -> Manifest:
    """As training writes it: two sessions from step 200 on, the second with a lower learning rate."""
    rate = 1e-4 if step < 200 else 5e-5
    sessions = [Session(started="2026-01-01T10:00:00+00:00", from_step=0, host="host-a")]
    if step >= 200:
        change = "learning_rate: 0.0001 -> 5e-05"
        sessions.append(
            Session(
                started="2026-01-02T10:00:00+00:00",
                from_step=100,
                resumed_from="checkpoint-100",
                host="host-b",
                changes=(change,),
            )
        )
    metrics: dict[str, Any] = {"loss": 2.0 - step / 1000}
    if best is not None:
        metrics |= {"best_metric": 0.5, "best_step": best, "metric_name": "overall_ndcg@10"}
    metrics["evaluation"] = {"step": step, "eval_overall_ndcg@10": 0.5 if step == best else 0.25}
    return Manifest(
        step=step,
        epoch=step / 200,
        position={"epoch": step // 200, "sample": (step % 200) * 16, "num_samples": 3200, "batch": 16},
        sequence=sequence,
        reason=reason,
        created=created.isoformat(timespec="seconds"),
        run_id="run-1",
        metrics=metrics,
        hyperparameters={"learning_rate": rate, "seed": 42, "save_total_limit": limit, "lora_r": 8},
        given={"learning_rate": rate},
        fingerprints={"dataset": "a" * 64, "model": "tiny"},
        environment={"python": "3.11.9", "host": sessions[-1].host, "num_processes": 1},
        sessions=tuple(sessions),
    )


def fill(staging: Staging, step: int) -> None:
    """The files of a checkpoint."""
    fill_weights(staging, step)
    staging.write_with("optimizer.pt", lambda file: torch.save({"state": torch.ones(64) * step}, file))
    staging.write_with("scheduler.pt", lambda file: torch.save({"last_epoch": step}, file))
    staging.write_with("rng_state.pth", lambda file: torch.save({"cpu": torch.zeros(16, dtype=torch.uint8)}, file))
    staging.write("training_args.bin", pickle.dumps({"seed": 42}))
    staging.write("trainer_state.json", trainer_state(step))


def fill_weights(staging: Staging, step: int) -> None:
    """An adapter of two tensors, of which the second grows with the step."""
    tensors = {_TENSOR.format(layer=0): torch.ones(4, 8), _TENSOR.format(layer=1): torch.full((4, 8), step / 100)}
    staging.write_with("adapter_model.bin", lambda file: torch.save(tensors, file))
    staging.write("adapter_config.json", json.dumps({"peft_type": "LORA", "r": 8}).encode())


def trainer_state(step: int, best: int | None = None, folder: str = "") -> bytes:
    """trainer_state.json as a plain Trainer writes it."""
    content = {
        "global_step": step,
        "max_steps": 1000,
        "epoch": step / 200,
        "num_train_epochs": 5,
        "best_global_step": best,
        "best_metric": 0.5 if best else None,
        "best_model_checkpoint": f"{folder}/checkpoint-{best}" if best else None,
        "log_history": [
            {"epoch": step / 200, "step": step, "loss": 2.0 - step / 1000, "learning_rate": 1e-4},
            {"epoch": step / 200, "step": step, "eval_loss": 1.5},
        ],
    }
    return json.dumps(content).encode()


def make_plain_run(folder: Path, steps: Sequence[int] = STEPS, *, best: int | None = None) -> RunFolder:
    """What a plain Trainer leaves: the same files without manifests."""
    run = make_run(folder, steps, best=None)
    for step in steps:
        (run.checkpoint(step) / "manifest.json").unlink()
        known = best if best is not None and best <= step else None
        (run.checkpoint(step) / "trainer_state.json").write_bytes(trainer_state(step, known, str(folder)))
    return run


def damage(checkpoint: Path, name: str = "optimizer.pt") -> None:
    """Flips a byte in the middle of a file; its size and time stay."""
    path = checkpoint / name
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

"""Out of memory in a step: the same samples again in smaller pieces, and the same result."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llamarec.checkpoints.trainer import out_of_memory
from llamarec.checkpoints.trainer.out_of_memory import MemoryUse, is_out_of_memory
from llamarec.checkpoints.trainer.resumable import ResumableTrainer
from llamarec.errors import DoesNotFitError
from llamarec.ranker.training.trainer import RankerTrainer
from tests.resume.runs import Watch, quiet_trainer, samples_in, stopped
from tests.resume.training import make_trainer, state_of

LIMIT = 3
"""Samples that fit."""
ERRORS: dict[str, Callable[[], Exception]] = {
    "torch": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cuda": lambda: RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 14.76 GiB total capacity)"),
    "cuda call": lambda: RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
    "cublas": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cudnn": lambda: RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed ..."),
    "rocm": lambda: RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"),
    "mps": lambda: RuntimeError("MPS backend out of memory (MPS allocated: 17.9 GB, max allowed: 18.1 GB)."),
    "windows": lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory"),
    "bad_alloc": lambda: RuntimeError("std::bad_alloc"),
    "python": MemoryError,
}


def _real_cpu_error() -> Exception:
    with pytest.raises(RuntimeError) as error:
        torch.empty(10**16)
    return error.value


@pytest.mark.parametrize("name", [*ERRORS, "this machine's"])
def test_recognised(name: str) -> None:
    assert is_out_of_memory(_real_cpu_error() if name == "this machine's" else ERRORS[name]())


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("out of memory"),
        OSError(28, "No space left on device"),
        KeyboardInterrupt(),
    ],
    ids=str,
)
def test_other_errors_are_none(error: BaseException) -> None:
    assert not is_out_of_memory(error)


class _Failed(list[int]):
    """Sizes that failed. A plain list on the Trainer would be set back with the step that is repeated."""


def _large(forward_batch: int, model: Any, make: Callable[[], Exception], place: str) -> _Failed:
    """Makes the model fail with more samples than fit; returns the sizes that failed, as they come."""
    failed = _Failed()

    def before(_: Any, __: Any, inputs: dict[str, Any]) -> None:
        size = len(inputs["input_ids"])
        model.size = size
        if place == "forward" and size > forward_batch and torch.is_grad_enabled():
            failed.append(size)
            raise make()

    def in_backward(_: torch.Tensor) -> None:
        if model.size > forward_batch:
            failed.append(model.size)
            raise make()

    model.register_forward_pre_hook(before, with_kwargs=True)
    if place == "backward":
        # Of the first layer, so that the others have gradients already when it fails.
        next(p for p in model.parameters() if p.requires_grad).register_hook(in_backward)
    return failed


def _run(folder: Path, *, place: str = "", error: str = "torch", limit: int = LIMIT, **changes: Any) -> Any:
    watch = Watch()
    small = {"num_samples": 20, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    trainer = quiet_trainer(folder, callbacks=(watch,), **{**small, "noisy": False, **changes})
    trainer.watch, trainer.failed = watch, _large(limit, trainer.model, ERRORS[error], place)
    return trainer


@pytest.mark.parametrize(
    ("place", "error"), [("forward", "torch"), ("backward", "torch"), ("backward", "mps"), ("forward", "windows")]
)
def test_a_step_is_the_same_in_smaller_pieces(
    place: str, error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = _run(tmp_path / "whole")
    whole.train()
    split = _run(tmp_path / "split", place=place, error=error, seen=tmp_path / "seen")
    split.train()
    assert split.failed == [4]
    assert split.state.global_step == whole.state.global_step == 6
    for found, expected in zip(split.watch.gradients, whole.watch.gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(split.watch.weights[-1], whole.watch.weights[-1], rtol=1e-4, atol=1e-6)
    losses = [[row["loss"] for row in trainer.state.log_history if "loss" in row] for trainer in (split, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    # No sample is read twice: what was collated is cut.
    assert sorted(samples_in(tmp_path / "seen")) == sorted(2 * list(range(20)))
    said = capsys.readouterr().err
    assert "out of memory with 4 samples per forward pass" in said
    assert "--per_device_train_batch_size 2 --gradient_accumulation_steps 4" in said


class CountingTrainer(ResumableTrainer):
    """Counts samples in the Trainer's state and logs, as the Trainers of trl do in their losses."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if model.training:
            self.state.num_input_tokens_seen += len(inputs["input_ids"])
            self.state.log_history.append({"count": self.state.num_input_tokens_seen, "step": self.state.global_step})
        return super().compute_loss(model, inputs, *args, **kwargs)


def test_what_a_loss_counts_in_the_trainers_state_is_counted_once(tmp_path: Path) -> None:
    split = _run(tmp_path, cls=CountingTrainer, place="backward")
    split.train()

    assert split.failed == [4]
    assert split.state.num_input_tokens_seen == 2 * 20
    counts = [row["count"] for row in split.state.log_history if "count" in row]
    assert counts == list(range(2, 41, 2))


def test_the_size_that_fits_is_remembered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = _run(tmp_path, place="forward")
    stopped(first, 2)
    assert first.failed == [4]
    state = json.loads((tmp_path / "checkpoint-2/trainer_state.json").read_text(encoding="utf-8"))
    assert state["stateful_callbacks"]["ResumableTrainer"]["attributes"]["micro_batch"] == 2
    capsys.readouterr()
    second = _run(tmp_path, place="forward")
    second.train("latest")
    assert second.failed == []
    assert "micro-batches of 2, found after an out-of-memory error" in capsys.readouterr().out


def test_a_new_micro_batch_is_tried_as_given(tmp_path: Path) -> None:
    stopped(_run(tmp_path, place="forward"), 2)
    second = _run(tmp_path, place="forward", per_device_train_batch_size=8, gradient_accumulation_steps=1)
    second.train("latest")
    # 4 samples were left in the epoch.
    assert second.failed == [4]


def _failing_optimizer(trainer: Any, step: int, *, times: int, changes: bool) -> None:
    """The optimizer goes out of memory in a step, some parameters being updated already."""
    create, left = trainer.create_optimizer, [times]

    def patched(*args: Any, **kwargs: Any) -> Any:
        optimizer = create(*args, **kwargs)
        update = optimizer.step

        def failing(closure: Any = None) -> Any:
            if trainer.state.global_step == step and left[0]:
                left[0] -= 1
                if changes:
                    update()
                    parameters = [p for group in optimizer.param_groups for p in group["params"]]
                    for parameter in parameters[1:]:
                        optimizer.state.pop(parameter)
                raise ERRORS["torch"]()
            return update(closure)

        optimizer.step = failing
        return optimizer

    trainer.create_optimizer = patched


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("step", [0, 3])
@pytest.mark.parametrize("changes", [False, True], ids=["before", "half-way"])
def test_in_the_optimizer_it_is_undone_and_done_again(step: int, changes: bool, tmp_path: Path) -> None:
    whole = _run(tmp_path / "whole", noisy=True)
    whole.train()
    again = _run(tmp_path / "again", noisy=True)
    _failing_optimizer(again, step, times=1, changes=changes)
    again.train()
    assert state_of(tmp_path / "again/checkpoint-6") == state_of(tmp_path / "whole/checkpoint-6")


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_an_optimizer_that_never_fits_leaves_a_checkpoint(tmp_path: Path) -> None:
    _run(tmp_path / "whole", noisy=True).train()
    failing = _run(tmp_path / "run", noisy=True)
    _failing_optimizer(failing, 4, times=2, changes=True)
    with pytest.raises(DoesNotFitError, match=r"(?s)second time.*model and optimizer.*adamw_8bit"):
        failing.train()
    _run(tmp_path / "run", noisy=True).train("latest")
    assert state_of(tmp_path / "run/checkpoint-6") == state_of(tmp_path / "whole/checkpoint-6")


def test_one_sample_that_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = _run(tmp_path, place="forward", limit=0, save_steps=1)
    trainer.memory_flags = RankerTrainer.memory_flags
    stopped(_run(tmp_path, save_steps=1), 3)
    monkeypatch.setattr(out_of_memory, "memory_use", lambda _: MemoryUse(40_000, 61_000, 65_000, "Tiny GPU"))
    with pytest.raises(DoesNotFitError) as error:
        trainer.train("latest")
    assert trainer.failed == [4, 2, 1]
    # A step of 8 samples stays one.
    assert "--per_device_train_batch_size 1 --gradient_accumulation_steps 8" in capsys.readouterr().err
    said = str(error.value)
    assert "peak 61.0 kB, 40.0 kB of model and optimizer, 65.0 kB in all on Tiny GPU" in said
    assert "the longest sample of the step has 8 tokens" in said
    assert "samples shorter than 8 tokens (a smaller --max_prompt_tokens" in said
    assert "--gradient_checkpointing true (the activations of 1 layer of 2 at a time" in said
    # 2 layers of 7 matrices of 16 x 16 in float32, of which 4.127 bits each would stay.
    assert pytest.approx(12_487, abs=1) == 2 * 7 * 16 * 16 * (4 - 4.127 / 8)
    assert "--quantization nf4 --allow_changed base_model), which frees 12.5 kB" in said
    assert f"then --resume_from_checkpoint {tmp_path / 'checkpoint-3'}, which is good" in said
    again = _run(tmp_path, save_steps=1)
    assert again.train("latest").global_step == 6


def test_what_is_used_already_is_not_advised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = _run(tmp_path, place="forward", limit=0, activation_checkpointing=True)
    monkeypatch.setattr(out_of_memory, "memory_use", lambda _: MemoryUse(10**9, 0, 10**9, "this machine"))
    with pytest.raises(DoesNotFitError) as error:
        trainer.train()
    said = str(error.value)
    assert "--gradient_checkpointing" not in said
    # 12.5 kB of 1 GB would not help.
    assert "nf4" not in said
    assert said.endswith("then --resume_from_checkpoint")


def test_with_dropout_and_validation_a_run_goes_on_exactly(tmp_path: Path) -> None:
    """Out of memory, a stop and a resume: the same as out of memory alone."""

    def make(name: str) -> Any:
        trainer = make_trainer(tmp_path / name, num_samples=20, per_device_train_batch_size=4)
        _large(LIMIT, trainer.model, ERRORS["torch"], "backward")
        return trainer

    make("whole").train()
    stopped(make("run"), 3)
    make("run").train("latest")
    assert state_of(tmp_path / "run/checkpoint-6") == state_of(tmp_path / "whole/checkpoint-6")


def _evaluates_at_most(trainer: Any, limit: int) -> list[int]:
    """Makes forward passes without gradients fail with more samples; returns the sizes of all of them."""
    sizes: list[int] = []

    def before(_: Any, __: Any, inputs: dict[str, Any]) -> None:
        if not torch.is_grad_enabled():
            sizes.append(len(inputs["input_ids"]))
            if sizes[-1] > limit:
                raise ERRORS["torch"]()

    trainer.model.register_forward_pre_hook(before, with_kwargs=True)
    return sizes


def test_a_validation_is_done_again_in_smaller_batches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A part of a batch is seen before the one that fails, and the callbacks draw random numbers meanwhile.
    changes: dict[str, Any] = {"num_samples": 20, "per_device_eval_batch_size": 8}
    whole = make_trainer(tmp_path / "whole", **{**changes, "per_device_eval_batch_size": 4})
    whole.train()
    trainer = make_trainer(tmp_path / "run", **changes)
    sizes = _evaluates_at_most(trainer, 4)
    trainer.train()
    assert sizes[:3] == [8, 4, 4]
    assert max(sizes[1:]) == 4
    said = capsys.readouterr().err
    assert "out of memory in an evaluation with 8 samples per forward pass" in said
    assert "--per_device_eval_batch_size 4" in said
    ours, theirs = (state_of(tmp_path / name / "checkpoint-10") for name in ("run", "whole"))
    assert {name: ours[name] for name in ("adapter", "optimizer", "rng")} == {
        name: theirs[name] for name in ("adapter", "optimizer", "rng")
    }
    manifest = json.loads((tmp_path / "run/checkpoint-10/manifest.json").read_text(encoding="utf-8"))
    # What was asked for: a resume says nothing of a change.
    assert manifest["hyperparameters"]["per_device_eval_batch_size"] == 8


def test_a_validation_that_never_fits_is_saved_and_explained(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, num_samples=20)
    sizes = _evaluates_at_most(trainer, 0)
    with pytest.raises(DoesNotFitError, match=r"(?s)in an evaluation.*eval_accumulation_steps"):
        trainer.train()
    assert sizes == [8, 4, 2, 1]
    assert make_trainer(tmp_path, num_samples=20).train("latest").global_step == 10


class Sums:
    """Counts samples over the batches of an evaluation, in an attribute and in containers."""

    def __init__(self, held: Any = None) -> None:
        self.seen, self.sizes, self.counts, self.held = 0, [0], {"batches": 0}, held

    def __call__(self, predictions: Any, compute_result: bool) -> dict[str, float]:
        self.seen += len(predictions.label_ids)
        self.sizes.append(len(predictions.label_ids))
        self.counts["batches"] += 1
        return {"seen": self.seen, "listed": sum(self.sizes), "batches": self.counts["batches"]}


class CountsBatches(ResumableTrainer):
    """A Trainer that adds up what it has evaluated."""

    evaluated = in_all = 0

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        size = len(args[1]["input_ids"])
        self.evaluated += size
        self.late = getattr(self, "late", 0) + size
        CountsBatches.in_all += size
        return super().prediction_step(*args, **kwargs)


def _closure() -> Callable[..., dict[str, float]]:
    seen, total = 0, torch.zeros(1)

    def compute(predictions: Any, compute_result: bool) -> dict[str, float]:
        nonlocal seen
        seen += len(predictions.label_ids)
        total.add_(len(predictions.label_ids))
        return {"seen": seen, "listed": float(total)}

    return compute


def _counting(folder: Path, compute_metrics: Any) -> Any:
    trainer = make_trainer(
        folder, cls=CountsBatches, num_samples=8, max_steps=1, eval_steps=1, batch_eval_metrics=True,
        per_device_eval_batch_size=4, metric_for_best_model="loss",
    )  # fmt: skip
    trainer.compute_metrics, trainer.evaluated = compute_metrics, 0
    CountsBatches.in_all = 0
    passes = [0]

    def before(_: Any, __: Any, inputs: dict[str, Any]) -> None:
        passes[0] += not torch.is_grad_enabled()
        # The second batch of the first try does not fit.
        if passes[0] == 2 and not torch.is_grad_enabled():
            raise ERRORS["torch"]()

    trainer.model.register_forward_pre_hook(before, with_kwargs=True)
    return trainer


COUNTED: int


class CountsLate:
    """Begins to count at the first batch: in attributes of the object and of its class, and in a variable."""

    listed: int

    def __call__(self, predictions: Any, compute_result: bool) -> dict[str, float]:
        size = len(predictions.label_ids)
        self.seen = getattr(self, "seen", 0) + size
        CountsLate.listed = getattr(CountsLate, "listed", 0) + size
        global COUNTED
        COUNTED = (COUNTED if "COUNTED" in globals() else 0) + size
        return {"seen": self.seen, "listed": CountsLate.listed, "counted": COUNTED}


@pytest.mark.parametrize("make", [Sums, _closure, CountsLate])
def test_a_validation_that_is_done_again_counts_no_sample_twice(make: Any, tmp_path: Path) -> None:
    trainer = _counting(tmp_path, make())
    num_samples = len(trainer.eval_dataset)
    assert num_samples == 8
    trainer.train()
    metrics = next(row for row in trainer.state.log_history if "eval_seen" in row)
    assert metrics["eval_seen"] == metrics["eval_listed"] == num_samples
    assert metrics.get("eval_counted", num_samples) == num_samples
    assert trainer.evaluated == trainer.late == CountsBatches.in_all == num_samples


def test_a_validation_whose_sums_cannot_be_put_back_is_not_done_again(tmp_path: Path) -> None:
    with pytest.raises(DoesNotFitError, match=r"(?s)compute_metrics\.held.*--per_device_eval_batch_size 2"):
        _counting(tmp_path, Sums(iter([1]))).train()

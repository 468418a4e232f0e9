"""One process, two, and back: the same samples, the same gradients, one checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.lock import RunLock
from llamarec.checkpoints.storage.verification import verify
from tests.resume.processes import error_there, run_in_processes, train_there
from tests.resume.runs import epoch_orders, quiet_trainer

SMALL = {"num_samples": 25, "noisy": False, "save_steps": 50, "include_num_input_tokens_seen": "all"}


def _train(num_processes: int, folder: Path, resume: Any = None, stop_after: int | None = None, **changes: Any) -> Any:
    return run_in_processes(num_processes, train_there, folder, resume, stop_after, {**SMALL, **changes})


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    """25 samples in steps of 4: the last step is one sample, and one of the two processes has none."""
    (one,) = _train(1, tmp_path / "one")
    two = _train(2, tmp_path / "two", gradient_accumulation_steps=1)
    assert [found["world_size"] for found in two] == [2, 2]
    orders = epoch_orders(quiet_trainer(tmp_path / "order"), 2, 25)
    assert one["seen"] == orders
    assert sorted(two[0]["seen"] + two[1]["seen"]) == sorted(orders)
    for found in two:
        assert found["step"] == one["step"] == 14
        assert found["rates"] == one["rates"]
        np.testing.assert_allclose(found["gradients"], one["gradients"], rtol=1e-4, atol=1e-7)
    assert two[0]["weights"] == two[1]["weights"]
    assert {found["tokens"] for found in (one, *two)} == {2 * 25 * 8}
    # The loss of every step, also of the short one, is the mean over its samples.
    np.testing.assert_allclose(two[0]["losses"], one["losses"], rtol=1e-5)


def test_a_process_without_samples_does_not_thin_a_mean_of_own_tokens(tmp_path: Path) -> None:
    """All samples are of one length, so that the mean of the processes' means is the step's."""
    (one,) = _train(1, tmp_path / "one")
    two = _train(2, tmp_path / "two", gradient_accumulation_steps=1, average_tokens_across_devices=False)
    # The steps of two processes with unequal numbers of samples differ by their weights; the last is of one sample.
    np.testing.assert_allclose(two[0]["gradients"][0], one["gradients"][0], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(two[0]["gradients"][6], one["gradients"][6], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_another_number_of_processes_in_mid_epoch(before: int, after: int, tmp_path: Path) -> None:
    whole = _train(1, tmp_path / "whole")[0]
    first = _train(before, tmp_path / "run", stop_after=4, gradient_accumulation_steps=2 // before)
    assert [found["code"] for found in first] == [75] * before
    assert verify(tmp_path / "run/checkpoint-4").health == "good"
    second = _train(after, tmp_path / "run", "latest", gradient_accumulation_steps=2 // after)
    seen = sorted(index for found in (*first, *second) for index in found["seen"])
    assert seen == sorted(2 * list(range(25)))
    assert second[0]["step"] == whole["step"]
    assert second[0]["rates"] == whole["rates"]
    np.testing.assert_allclose(second[0]["weights"], whole["weights"], rtol=1e-3, atol=1e-6)


def test_two_processes_resume_exactly(tmp_path: Path) -> None:
    """With dropout, and a signal that reaches one of them only."""
    noisy = {"noisy": True, "gradient_accumulation_steps": 1}
    whole = _train(2, tmp_path / "whole", **noisy)
    first = _train(2, tmp_path / "run", stop_after=5, **noisy)
    assert [found["code"] for found in first] == [75, 75]
    second = _train(2, tmp_path / "run", "latest", **noisy)
    for rank in (0, 1):
        assert first[rank]["seen"] + second[rank]["seen"] == whole[rank]["seen"]
        assert second[rank]["weights"] == whole[rank]["weights"]


def test_an_error_of_the_first_process_is_everybodys(tmp_path: Path) -> None:
    with RunLock(RunFolder(tmp_path / "run")):
        first, second = run_in_processes(2, error_there, tmp_path / "run")
    assert first["kind"] == "LockedError"
    assert str(tmp_path / "run") in first["problem"]
    assert first["hint"]
    assert second == first


def test_out_of_memory_in_one_process_halves_in_both(tmp_path: Path) -> None:
    """The last step is 5 samples: 3 in the first process, 2 in the second, which must not take itself for too small."""
    changes = {**SMALL, "num_samples": 13, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
    whole, tight = (
        run_in_processes(2, train_there, tmp_path / str(fits), None, None, changes, fits) for fits in (1000, 1)
    )
    for before, found in zip(whole, tight, strict=True):
        assert found["micro_batch"] == 1
        assert found["step"] == before["step"] == 4
        np.testing.assert_allclose(found["gradients"], before["gradients"], rtol=1e-4, atol=1e-7)
    assert tight[0]["weights"] == tight[1]["weights"]

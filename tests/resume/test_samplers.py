"""A sampler of the program gives the order of the samples: the same in every process, or the resume is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Sampler, SequentialSampler, WeightedRandomSampler
from transformers import Trainer

from llamarec.checkpoints import ResumableMixin, ResumableTrainer
from llamarec.errors import ConfigError
from tests.resume.runs import quiet_trainer, samples_in, stopped
from tests.resume.training import state_of

_SAMPLES = 10
_CHANGES: dict[str, Any] = {"num_samples": _SAMPLES, "num_train_epochs": 3.0, "save_steps": 100}


class _Held(Sampler[int]):
    """Draws from a generator that it makes, as many libraries' do."""

    def __init__(self, size: int) -> None:
        self._size, self._generator = size, torch.Generator().manual_seed(7)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(self._size, generator=self._generator).tolist())


class _Counting(_Held):
    """Counts its epochs itself."""

    epoch = 0

    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        return iter([(index * self.epoch) % self._size for index in range(self._size)])


class _Told(_Held):
    """Is told its epoch, as samplers for several processes are."""

    epoch = -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter([(index + self.epoch) % self._size for index in range(self._size)])


class _Global(_Held):
    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(self._size).tolist())


class _Repeated(_Held):
    """Three times as many as there are samples."""

    def __len__(self) -> int:
        return 3 * self._size

    def __iter__(self) -> Iterator[int]:
        return iter([index for index in torch.randperm(self._size).tolist() for _ in range(3)])


def _weighted(size: int) -> Sampler[int]:
    return WeightedRandomSampler([1.0] * 3 + [0.0] * (size - 3), num_samples=size)


_KINDS: dict[str, Any] = {
    "held": _Held,
    "counting": _Counting,
    "told": _Told,
    "global": _Global,
    "repeated": _Repeated,
    "weighted": _weighted,
    "sequential": lambda size: SequentialSampler(range(size)),
}


def _class(make: Any) -> type[Any]:
    class Mine(ResumableTrainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return make(len(train_dataset))

    return Mine


def _end(folder: Path) -> dict[str, str]:
    return state_of(max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2])))


@pytest.mark.parametrize("kind", _KINDS)
def test_resumed_in_the_second_epoch_is_uninterrupted(kind: str, tmp_path: Path) -> None:
    cls, log = _class(_KINDS[kind]), tmp_path / "seen"
    quiet_trainer(tmp_path / "whole", cls=cls, seen=log, **_CHANGES).train()
    whole = samples_in(log)

    stop = len(whole) // 4 // 2
    log.unlink()
    stopped(quiet_trainer(tmp_path / "run", cls=cls, seen=log, **_CHANGES), stop)
    quiet_trainer(tmp_path / "run", cls=cls, seen=log, **_CHANGES).train("latest")
    assert samples_in(log) == whole
    assert _end(tmp_path / "run") == _end(tmp_path / "whole")


def test_the_order_is_the_samplers(tmp_path: Path) -> None:
    orders = {}
    for kind, make in _KINDS.items():
        log = tmp_path / kind
        quiet_trainer(tmp_path / f"run-{kind}", cls=_class(make), seen=log, **_CHANGES).train()
        orders[kind] = samples_in(log)

    every = list(range(_SAMPLES))
    assert orders["sequential"] == every * 3
    assert orders["told"] == [*every, *every[1:], 0, *every[2:], 0, 1]
    assert orders["counting"] == [(index * epoch) % _SAMPLES for epoch in (1, 2, 3) for index in every]
    assert set(orders["weighted"]) == {0, 1, 2}
    assert len(orders["repeated"]) == 90
    for kind in ("held", "global"):
        first, second = orders[kind][:_SAMPLES], orders[kind][_SAMPLES : 2 * _SAMPLES]
        assert sorted(first) == sorted(second) == every
        assert first != second


def test_an_own_loader_with_the_trainers_help_counts(tmp_path: Path) -> None:
    class Mine(ResumableTrainer):
        """Hands the step twice as much at once, as libraries do that generate for several steps."""

        def get_train_dataloader(self) -> DataLoader[Any]:
            return self._get_dataloader(
                dataset=self.train_dataset,
                description="Training",
                batch_size=self._train_batch_size * 2,
                sampler_fn=lambda dataset: _Held(len(dataset)),
                is_training=True,
            )

    changes: dict[str, Any] = {**_CHANGES, "gradient_accumulation_steps": 1}
    sizes: list[int] = []
    trainer = quiet_trainer(tmp_path / "whole", cls=Mine, **changes)
    collate = trainer.data_collator

    def collated(samples: list[Any]) -> Any:
        sizes.append(len(samples))
        return collate(samples)

    trainer.data_collator = collated
    trainer.train()
    assert set(sizes) == {4, 2}
    assert trainer.state.global_step == 9

    stopped(quiet_trainer(tmp_path / "run", cls=Mine, **changes), 4)
    quiet_trainer(tmp_path / "run", cls=Mine, **changes).train("latest")
    assert _end(tmp_path / "run") == _end(tmp_path / "whole")


class _ByLoss(_Held):
    """Its order follows what training has found so far, which no sampler made anew knows."""

    shift = 0

    def __iter__(self) -> Iterator[int]:
        return iter([(index + _ByLoss.shift) % self._size for index in range(self._size)])


def test_an_order_that_follows_the_training_is_refused_on_resume(tmp_path: Path) -> None:
    cls = _class(_ByLoss)
    stopped(quiet_trainer(tmp_path, cls=cls, **_CHANGES), 2)
    _ByLoss.shift = 3
    trainer = quiet_trainer(tmp_path, cls=cls, **_CHANGES)
    with pytest.raises(ConfigError, match="another order of epoch 0 than the one that was begun"):
        trainer.train("latest")
    assert trainer.state.global_step == 2


def test_a_sampler_of_batches_is_refused(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, cls=_class(lambda size: [[0, 1], [2, 3]]), **_CHANGES)
    with pytest.raises(ConfigError, match="does not give the index of one sample at a time"):
        trainer.train()


def test_a_loader_of_an_own_making_is_refused_before_the_first_step(tmp_path: Path) -> None:
    class Mine(ResumableTrainer):
        def get_train_dataloader(self) -> Any:
            return DataLoader(super().get_train_dataloader().dataset, batch_size=2)

    trainer = quiet_trainer(tmp_path, cls=Mine, **_CHANGES)
    with pytest.raises(ConfigError, match="makes a loader of its own"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_below_the_mixin_it_counts_too(tmp_path: Path) -> None:
    class Theirs(Trainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return SequentialSampler(train_dataset)

    class Mine(ResumableMixin, Theirs):
        pass

    log = tmp_path / "seen"
    trainer = quiet_trainer(tmp_path / "run", cls=Mine, seen=log, max_steps=2, **_CHANGES)
    trainer.train()
    # Two are drawn twice by the check before the first step, and the last micro-batch again at the save.
    assert samples_in(log)[-10:-2] == list(range(8))

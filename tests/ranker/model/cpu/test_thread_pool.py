"""Several prompts at once: the same numbers, errors that arrive, memory that is used again."""

from __future__ import annotations

import errno
import mmap
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from llamarec.ranker.model.cpu import step, thread_pool
from llamarec.ranker.model.cpu.buffers import Buffers
from llamarec.ranker.model.cpu.thread_pool import at_once, on_all_cores
from tests.ranker.model.cpu.models import loss_and_gradients, prompts, small_model


@pytest.fixture
def two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_cores")
def test_the_numbers_do_not_depend_on_who_ends_first(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = small_model(dropout=0.3), prompts()
    torch.manual_seed(5)
    first = loss_and_gradients(model, batch)
    plain = step._Step._row

    def late(self: Any, row: int, *rest: Any) -> Any:
        time.sleep(0.05 if row in (0, 2) else 0.0)
        return plain(self, row, *rest)

    monkeypatch.setattr(step._Step, "_row", late)
    torch.manual_seed(5)
    second = loss_and_gradients(model, batch)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    for name, gradient in first[2].items():
        assert torch.equal(gradient, second[2][name]), name


@pytest.mark.usefixtures("two_cores")
def test_each_prompt_has_a_core_and_torch_keeps_its_number_of_threads() -> None:
    seen = on_all_cores(lambda number: (number, torch.get_num_threads(), threading.current_thread().name), [2, 0, 1])
    assert [number for number, _, _ in seen] == [0, 1, 2]
    assert {threads for _, threads, _ in seen} == {1}
    assert all(name.startswith("llamarec") for _, _, name in seen)
    assert torch.get_num_threads() == 2
    fresh = []
    thread = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert fresh == [2]


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_an_error_stops_what_has_not_begun_and_waits_for_what_has(error: BaseException) -> None:
    begun, ended = [], []

    def task(number: int) -> None:
        begun.append(number)
        if number == 0:
            raise error
        time.sleep(0.1)
        ended.append(number)

    with pytest.raises(type(error)):
        on_all_cores(task, list(range(12)))
    assert len(begun) < 12
    assert sorted([0, *ended]) == sorted(begun)


@pytest.mark.usefixtures("two_cores")
def test_after_an_error_the_next_step_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = small_model(), prompts()
    expected = loss_and_gradients(model, batch)
    plain = step._Step._loss

    def failing(self: Any, answer: Any, label: Any) -> Any:
        raise RuntimeError("not enough memory: you tried to allocate")

    monkeypatch.setattr(step._Step, "_loss", failing)
    with pytest.raises(RuntimeError, match="not enough memory"):
        model(**batch)
    monkeypatch.setattr(step._Step, "_loss", plain)
    again = loss_and_gradients(model, batch)
    assert torch.equal(expected[0], again[0])
    assert all(torch.equal(gradient, again[2][name]) for name, gradient in expected[2].items())


def test_prompts_at_once_are_as_many_as_cores_but_not_more_than_four() -> None:
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3, 16):
            torch.set_num_threads(threads)
            found.append([at_once(prompts) for prompts in (1, 2, 12)])
    finally:
        torch.set_num_threads(before)
    assert found == [[1, 1, 1], [1, 2, 2], [1, 2, 3], [1, 2, thread_pool.MOST_AT_ONCE]]


def test_memory_is_used_again_by_the_next_batch() -> None:
    model, batch = small_model(dropout=0.1), prompts()
    # Of a first prompt every piece is a block; from the second one on they are one.
    for _ in range(2):
        loss_and_gradients(model, batch)
    spaces = step._SPACES[model.get_base_model()]
    before = [(id(space), space.num_bytes) for space in spaces]
    loss_and_gradients(model, {name: values[1:] for name, values in batch.items()})
    loss_and_gradients(model, batch)
    assert [(id(space), space.num_bytes) for space in step._SPACES[model.get_base_model()]] == before
    assert max(size for _, size in before) > 0


def test_buffers_are_told_apart_by_name_and_type_and_keep_what_is_in_them() -> None:
    buffers = Buffers()
    for _ in range(3):
        buffers.begin()
        first = buffers.take("a", 2, 3).fill_(1.0)
        other = buffers.take("b", 300).fill_(2.0)
        flags = buffers.take("a", 6, dtype=torch.bool).fill_(True)
        assert buffers.take("a", 3, 2).data_ptr() == first.data_ptr()
        assert (first == 1).all()
        assert (other == 2).all()
        assert flags.dtype == torch.bool
        assert all(tensor.data_ptr() % 64 == 0 for tensor in (first, other, flags))
        assert buffers.take("b", 10).data_ptr() == other.data_ptr()
    assert buffers.num_bytes == 64 + 1216 + 64


def test_a_block_grows_with_the_longest_prompt_and_stays() -> None:
    buffers, sizes = Buffers(), []
    for count in (1000, 1000, 800_000, 800_000, 10, 800_000):
        buffers.begin()
        buffers.take("a", count).fill_(1.0)
        buffers.take("b", count).fill_(2.0)
        assert (buffers.take("a", count) == 1).all()
        sizes.append(buffers.num_bytes)
    assert sizes[0] == sizes[1] == 2 * 4032
    assert len(set(sizes[2:])) == 1
    assert 6_400_000 <= sizes[2] < 6_410_000


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="only Linux gives huge pages")
@pytest.mark.parametrize("call", ["mmap", "madvise"])
def test_a_system_that_refuses_is_done_without(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    class Refusing(mmap.mmap):
        def madvise(self, *_: Any) -> None:
            raise OSError(errno.EINVAL, "no huge pages in this kernel")

    def no_memory(*_: Any) -> Any:
        raise OSError(errno.ENOMEM, "no memory")

    monkeypatch.setattr(mmap, "mmap", no_memory if call == "mmap" else Refusing)
    buffers = Buffers()
    assert buffers.take("a", 2**20).fill_(3.0).sum() == 3 * 2**20
    assert buffers.num_bytes == 4 * 2**20

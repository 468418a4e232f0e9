"""The parallel scan is the recurrence; packing is what masked padding would be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llamarec.retriever.batches import pack
from llamarec.retriever.model import LinearRecurrentUnit, LRURec
from llamarec.retriever.scan import scan


def _sequential(inputs_TH: Tensor, decay_H: Tensor, positions_T: Tensor) -> Tensor:
    """h_t = decay * h_(t-1) + input_t, as it is written."""
    states: list[Tensor] = []
    for index, position in enumerate(positions_T.tolist()):
        before = states[index - 1] if position else torch.zeros_like(inputs_TH[0])
        states.append(decay_H * before + inputs_TH[index])
    return torch.stack(states)


def _positions(lengths: list[int]) -> Tensor:
    return torch.cat([torch.arange(length) for length in lengths])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 2**31))
def test_scan_equals_the_sequential_recurrence(lengths: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    positions = _positions(lengths)
    inputs = torch.randn(len(positions), 5, dtype=torch.cdouble, generator=generator)
    decay = torch.polar(torch.rand(5, generator=generator, dtype=torch.double), torch.rand(5, dtype=torch.double) * 6)
    torch.testing.assert_close(scan(inputs, decay, positions), _sequential(inputs, decay, positions))


def test_gradients_equal_the_sequential_recurrences() -> None:
    positions = _positions([7, 1, 12])
    generator = torch.Generator().manual_seed(0)
    gradients = []
    for recurrence in (scan, _sequential):
        generator.manual_seed(0)
        inputs = torch.randn(20, 4, dtype=torch.cdouble, generator=generator).requires_grad_()
        decay = torch.polar(torch.full((4,), 0.9, dtype=torch.double), torch.arange(4.0, dtype=torch.double))
        decay.requires_grad_()
        weights = torch.randn(20, 4, dtype=torch.cdouble, generator=generator)
        (recurrence(inputs, decay, positions) * weights).real.sum().backward()  # type: ignore[no-untyped-call]
        gradients.append((inputs.grad, decay.grad))
    for ours, defined in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, defined)


def _model() -> LRURec:
    torch.manual_seed(0)
    return LRURec(50, width=16, num_blocks=2, dropout=0.1).eval()


def _layer(model: LRURec) -> LinearRecurrentUnit:
    layer = model.recurrences[0]
    assert isinstance(layer, LinearRecurrentUnit)
    return layer


def test_a_sequence_is_not_influenced_by_its_neighbours() -> None:
    model = _model()
    sequences = [np.arange(1, n, dtype=np.int32) for n in (4, 9, 2, 17)]
    together = pack(sequences)
    states = model(together.items_T, together.positions_T)
    for index, sequence in enumerate(sequences):
        alone = pack([sequence])
        expected = model(alone.items_T, alone.positions_T)[-1]
        torch.testing.assert_close(states[together.lasts_B[index]], expected)


def test_packing_equals_a_left_padded_masked_recurrence() -> None:
    """The same layer on [batch, length] with zeros on the left, step by step, the padding's inputs masked."""
    model = _model()
    layer = _layer(model)
    sequences = [np.arange(1, n, dtype=np.int32) for n in (4, 9, 2)]
    packed = pack(sequences)
    x_TD = model.norm(model.embedding(packed.items_T))
    ours = layer(x_TD, packed.positions_T)[packed.lasts_B]
    length = 8
    padded = torch.tensor([[0] * (length - len(s)) + s.tolist() for s in sequences])
    x_BLD, mask_BL = model.norm(model.embedding(padded)), padded > 0
    real, imaginary = layer.into(x_BLD).chunk(2, dim=-1)
    inputs = torch.complex(real, imaginary) * torch.exp(layer.log_gain) * mask_BL[..., None]
    state = torch.zeros_like(inputs[:, 0])
    for step in range(length):
        state = layer.decay() * state + inputs[:, step]
    y_BD = layer.out(torch.cat([state.real, state.imag], dim=-1))
    torch.testing.assert_close(ours, layer.norm(x_BLD[:, -1] + y_BD))


def test_states_do_not_see_the_future() -> None:
    model = _model()
    one, other = (pack([np.array([3, 4, 5, last], dtype=np.int32)]) for last in (6, 7))
    before, after = (model(p.items_T, p.positions_T) for p in (one, other))
    torch.testing.assert_close(before[:3], after[:3])
    assert not torch.allclose(before[3], after[3])


def test_the_recurrence_is_stable_at_any_parameter() -> None:
    layer = _layer(_model())
    with torch.no_grad():
        layer.log_decay.normal_(std=3)
        layer.log_phase.normal_(std=3)
    assert (layer.decay().abs() <= 1).all()


@pytest.mark.parametrize("width", [16, 24])
def test_scores_are_embeddings_times_state_plus_bias(width: int) -> None:
    model = LRURec(9, width=width, num_blocks=1, dropout=0.0)
    state = torch.randn(3, width)
    expected = torch.stack([(model.embedding.weight * s).sum(-1) + model.item_bias for s in state])
    torch.testing.assert_close(model.scores(state), expected)

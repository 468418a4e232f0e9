"""The retriever's three costly pieces beside the obvious way of writing them, forward and backward, on one thread.

python -m benchmarks.retriever.speed
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness.machine import describe
from llamarec.retriever.dropout import Dropout, Masks
from llamarec.retriever.loss import catalogue_cross_entropy
from llamarec.retriever.scan import scan

NUM_ITEMS, NUM_POSITIONS, WIDTH = 12_087, 750, 64  # a step of Beauty
LENGTHS, NUM_STATES = range(60, 200, 4), 256  # a step of MovieLens
REPEATS = 5


def main() -> None:
    """Prints a Markdown table."""
    argparse.ArgumentParser(description=__doc__).parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{describe('torch', 'numpy')}; one thread, fastest of {REPEATS}\n")
    print("| piece | written plainly | milliseconds | here | milliseconds |\n|---|---|---|---|---|")
    for row in (*_losses(), _scans(), _dropouts()):
        piece, plain_name, plain, our_name, ours = row
        print(f"| {piece} | {plain_name} | {_milliseconds(plain):.1f} | {our_name} | {_milliseconds(ours):.1f} |")


def _losses() -> list[tuple[str, str, Callable[[], Tensor], str, Callable[[], Tensor]]]:
    states, items = (torch.randn(size, WIDTH).requires_grad_() for size in (NUM_POSITIONS, NUM_ITEMS))
    bias, labels = torch.zeros(NUM_ITEMS, requires_grad=True), torch.randint(1, NUM_ITEMS, (NUM_POSITIONS,))
    ours = partial(catalogue_cross_entropy, states, items, bias, labels)

    def plain() -> Tensor:
        return F.cross_entropy(states @ items.T + bias, labels)

    piece = f"loss, {NUM_POSITIONS} positions, {NUM_ITEMS:,} items"
    return [
        (piece, "F.cross_entropy", plain, "blocks, float32", partial(ours, product_type=torch.float32)),
        (piece, "F.cross_entropy", plain, "blocks, bfloat16", partial(ours, product_type=torch.bfloat16)),
    ]


def _scans() -> tuple[str, str, Callable[[], Tensor], str, Callable[[], Tensor]]:
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    inputs = torch.randn(len(positions), NUM_STATES, dtype=torch.cfloat, requires_grad=True)
    decay = torch.polar(torch.full((NUM_STATES,), 0.9), torch.rand(NUM_STATES)).requires_grad_()

    def plain() -> Tensor:
        return _hillis_steele(inputs, decay, positions).real.sum()

    piece = f"scan, {len(positions):,} tokens, {NUM_STATES} states"
    return piece, "Hillis-Steele", plain, "blocks of 16", lambda: scan(inputs, decay, positions).real.sum()


def _hillis_steele(states_TH: Tensor, decay_H: Tensor, positions_T: Tensor) -> Tensor:
    """After sweep k each state holds the last 2^k inputs."""
    reach, longest = 1, int(positions_T.max())
    while reach <= longest:
        later = torch.nonzero(positions_T >= reach).squeeze(1)
        states_TH = states_TH.index_add(0, later, states_TH[later - reach] * decay_H)
        decay_H, reach = decay_H * decay_H, 2 * reach
    return states_TH


def _dropouts() -> tuple[str, str, Callable[[], Tensor], str, Callable[[], Tensor]]:
    x = torch.randn(4_000, 512, requires_grad=True)
    ours = Dropout(0.5, Masks())
    return "dropout, 2 million numbers", "F.dropout", lambda: F.dropout(x).sum(), "8 bits", lambda: ours(x).sum()


def _milliseconds(forward: Callable[[], Tensor]) -> float:
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        forward().backward()  # type: ignore[no-untyped-call]
        seconds.append(time.perf_counter() - started)
    return 1000 * min(seconds)


if __name__ == "__main__":
    main()

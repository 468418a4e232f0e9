"""Dropout for LoRA's inputs on a CPU: masks from 16 random bits an entry.

Torch draws a CPU mask one number at a time, which was 6% of a training step with SmolLM2-135M. Four entries from each
random word take a quarter of that time. The words come from torch's own generators, whose state is in every checkpoint,
so a resumed run draws the same masks. The share is rounded to 1/65536.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

_LEVELS: Final = 2**16
_ENTRIES_PER_WORD: Final = 4


class BitDropout(nn.Dropout):
    """`nn.Dropout` with faster masks on a CPU; unchanged on other devices."""

    def forward(self, input: Tensor) -> Tensor:
        """Drops entries of a tensor of any shape."""
        if input.device.type != "cpu" or not self.training or not drops(self.p):
            return super().forward(input)
        words = torch.empty(num_words(input.numel()), dtype=torch.int64)
        keep = draw_kept(self.p, words, torch.empty(input.shape, dtype=torch.bool), None)
        return input * keep.to(input.dtype).mul_(scale_of(self.p))


def drops(share: float) -> bool:
    """Whether some entries are dropped and others are not."""
    return 0 < round(share * _LEVELS) < _LEVELS


def scale_of(share: float) -> float:
    """Factor of the entries that are kept."""
    return _LEVELS / (_LEVELS - round(share * _LEVELS))


def num_words(count: int) -> int:
    """Number of random words for `count` entries."""
    return -(-count // _ENTRIES_PER_WORD)


def draw_kept(share: float, words: Tensor, out: Tensor, generator: torch.Generator | None) -> Tensor:
    """Mask of the entries that are kept.

    Args:
        share: Share of entries to drop.
        words: [num_words] int64, overwritten.
        out: Bool tensor in the shape of the entries.
        generator: Source of random words; None means torch's default generator.
    """
    levels = words.random_(-(2**63), None, generator=generator).view(torch.int16)[: out.numel()]
    return torch.ge(levels.view(out.shape), round(share * _LEVELS) - _LEVELS // 2, out=out)


def replace_dropout(model: nn.Module) -> None:
    """Puts `BitDropout` into every LoRA layer of a PEFT model."""
    for module in model.modules():
        dropouts = getattr(module, "lora_dropout", None)
        if isinstance(dropouts, nn.ModuleDict):
            for name, dropout in dropouts.items():
                if type(dropout) is nn.Dropout:
                    dropouts[name] = BitDropout(dropout.p)

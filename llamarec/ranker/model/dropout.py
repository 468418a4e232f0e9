"""Dropout for LoRA's inputs on a CPU: masks from 16 random bits an entry.

Torch draws a CPU mask one number at a time: with SmolLM2-135M that was 6% of a training step. Four entries from each
random word take a quarter of it. The words come from torch's own generators, whose state is in every checkpoint, so a
resumed run draws the same masks. The share is rounded to 1/65536.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

_LEVELS: Final = 2**16
_ENTRIES_PER_WORD: Final = 4


class BitDropout(nn.Dropout):
    """As `nn.Dropout`; on other devices than a CPU it is that."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape."""
        if input.device.type != "cpu" or not self.training or not drops(self.p):
            return super().forward(input)
        words = torch.empty(num_words(input.numel()), dtype=torch.int64)
        keep = draw_kept(self.p, words, torch.empty(input.shape, dtype=torch.bool), None)
        return input * keep.to(input.dtype).mul_(scale_of(self.p))


def drops(share: float) -> bool:
    """Whether some entries are dropped and others are not."""
    return 0 < round(share * _LEVELS) < _LEVELS


def scale_of(share: float) -> float:
    """What the kept entries are multiplied with."""
    return _LEVELS / (_LEVELS - round(share * _LEVELS))


def num_words(count: int) -> int:
    """Random words for so many entries."""
    return -(-count // _ENTRIES_PER_WORD)


def draw_kept(share: float, words: Tensor, out: Tensor, generator: torch.Generator | None) -> Tensor:
    """True where an entry is kept.

    Args:
        share: Of entries to drop.
        words: [num_words] int64, overwritten.
        out: Bool, of the entries' shape.
        generator: None: torch's default one.
    """
    levels = words.random_(-(2**63), None, generator=generator).view(torch.int16)[: out.numel()]
    return torch.ge(levels.view(out.shape), round(share * _LEVELS) - _LEVELS // 2, out=out)


def replace_dropout(model: Any) -> None:
    """Puts it into every LoRA layer of a PEFT model."""
    for module in model.modules():
        dropouts = getattr(module, "lora_dropout", None)
        if isinstance(dropouts, nn.ModuleDict):
            for name, dropout in dropouts.items():
                if type(dropout) is nn.Dropout:
                    dropouts[name] = BitDropout(dropout.p)

"""Dropout for LoRA's inputs on a CPU: masks from 16 random bits an entry.

Torch draws a CPU mask one number at a time: with SmolLM2-135M that was 6% of a training step. Four entries from each
random word take a quarter of it. The words come from torch's own generator, whose state is in every checkpoint, so a
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
        dropped = round(self.p * _LEVELS)
        if input.device.type != "cpu" or not self.training or not 0 < dropped < _LEVELS:
            return super().forward(input)
        keep = _random_levels(input.numel()) >= dropped - _LEVELS // 2
        return input * keep.view(input.shape).to(input.dtype).mul_(_LEVELS / (_LEVELS - dropped))


def _random_levels(count: int) -> Tensor:
    """[count] numbers from -32768 to 32767, each as likely."""
    words = torch.randint(-(2**63), 2**63 - 1, (-(-count // _ENTRIES_PER_WORD),))
    return words.view(torch.int16)[:count]


def quicken_dropout(model: Any) -> None:
    """Puts it into every LoRA layer of a PEFT model."""
    for module in model.modules():
        dropouts = getattr(module, "lora_dropout", None)
        if isinstance(dropouts, nn.ModuleDict):
            for name, dropout in dropouts.items():
                if type(dropout) is nn.Dropout:
                    dropouts[name] = BitDropout(dropout.p)

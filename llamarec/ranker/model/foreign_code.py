"""Code that comes with a base model, which is never run: what is on a hub or in a run's folder may be anybody's.

Every `from_pretrained` says `trust_remote_code=False`, since without it transformers asks on a terminal, and "y" runs
the code. Kernels that a configuration names are code too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from transformers import AutoConfig, PretrainedConfig

from llamarec.errors import ModelError
from llamarec.ranker.model.hub import load_options
from llamarec.ranker.options.config import SMOLLM2_135M

_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
_IMPLEMENTATIONS: Final = ("_attn_implementation", "_experts_implementation")


def configuration(name: str, source: str) -> PretrainedConfig:
    """The configuration of a base model that needs no code but transformers'.

    Args:
        name: Name as the user gave it, for messages.
        source: Argument for `from_pretrained`.

    Raises:
        ModelError: it names code of its own.
        OSError, ValueError: it cannot be loaded.
    """
    config: PretrainedConfig = AutoConfig.from_pretrained(source, trust_remote_code=False, **load_options(source))
    for one in _with_parts(config):
        for attribute in _IMPLEMENTATIONS:
            found = getattr(one, attribute, None)
            if isinstance(found, str) and not _NAME.fullmatch(found):
                raise refusal(name, f"{attribute.strip('_')} is {found!r}")
    return config


def refusal(name: str, found: str) -> ModelError:
    """The error for a base model that comes with code."""
    return ModelError(
        f"the base model {name} comes with code of its own, which is never run here",
        expected="a model whose code is transformers' own",
        found=found,
        hint=[f"train on another one: --llm_base_model {SMOLLM2_135M}", "or a later transformers that has this model"],
    )


def _with_parts(config: PretrainedConfig) -> Iterator[PretrainedConfig]:
    yield config
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if isinstance(part, PretrainedConfig):
            yield from _with_parts(part)

"""What the two readouts have of their own: defaults, flags, metrics.

letters   a prompt with a history and 20 candidates; the letter that follows orders them (LlamaRec)
items     a history; the state after each item scores the whole catalogue
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Final

from llamarec.errors import ConfigError, check_all
from llamarec.ranker.options.config import ITEMS, LOGGED, VALIDATED, RankerConfig

DEFAULTS_OF_ITEMS: Final[dict[str, object]] = {
    "lora_r": 16,
    "lora_target_modules": "all-linear",
    "lora_dropout": 0.0,
    "max_title_tokens": 16,
    "learning_rate": 5e-4,
    # The metrics of the best items are steps of single users; the likelihood counts all of them.
    "metric_for_best_model": "loss",
}
BATCH_OF_ITEMS: Final = 16
EVAL_BATCH_OF_ITEMS: Final = 128
"""On a CPU: LoRA is merged into the weights for each batch, which is worth it for some thousand tokens."""

_ONLY_LETTERS: Final = {
    "prompt_template": "a history has no other words than titles",
    "num_candidates": "the whole catalogue is scored",
    "hard_negatives": "every other item is a negative",
    "hard_negatives_at": "every other item is a negative",
    "candidate_order": "there are no letters",
    "test_shuffles": "there are no letters",
    "order_prompts": "there are no letters",
    "max_train_prompts": "a part of an epoch: --num_train_epochs 0.1",
    "latest_prompts": "a part of an epoch: --num_train_epochs 0.1",
    "title_similarity": "titles are an expert of the first stage",
}
_METRICS_OF_ITEMS: Final = tuple(f"overall_{name}" for name in LOGGED)


def check_readout(config: RankerConfig, given: Collection[str]) -> None:
    """Refuses flags that mean nothing with a run's readout.

    Args:
        config: The options.
        given: Names of the flags on the command line.

    Raises:
        ConfigError: names each of them, and what to type.
    """
    if config.readout != ITEMS:
        return
    rules = [(name not in given, f"--{name}: {why}") for name, why in _ONLY_LETTERS.items()]
    names = [f"--{name}" for name in _ONLY_LETTERS if name in given]
    check_all(
        "these flags belong to --readout letters", rules, hint=f"without {', '.join(names)}, or with --readout letters"
    )


def check_same_readout(then: str, now: str) -> None:
    """Refuses to continue a run with another readout.

    Raises:
        ConfigError: it is another one.
    """
    if then != now:
        raise ConfigError(
            f"--readout {now}: the run was started with --readout {then}",
            hint="without --readout, or a new run: another --output_dir without --resume_from_checkpoint",
        )


def check_metric(name: str, readout: str) -> None:
    """Refuses a metric of the best adapter that a validation does not have.

    Args:
        name: `--metric_for_best_model`; may be empty.
        readout: `--readout`.

    Raises:
        ConfigError: names the nearest.
    """
    name = name.removeprefix("eval_")
    known = _METRICS_OF_ITEMS if readout == ITEMS else VALIDATED
    if name and name != "loss" and name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
        raise ConfigError(
            f"--metric_for_best_model {name}: validation has no such metric",
            expected=", ".join([*known, "loss"]),
            hint=f"--metric_for_best_model {near[0] if near else known[0]}",
        )

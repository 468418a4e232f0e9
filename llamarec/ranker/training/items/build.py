"""The parts of a run with `--readout items`, built before its first step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from transformers import set_seed

from llamarec.command import flags_of
from llamarec.data.prepared import PreparedData
from llamarec.experts.prompts import MOST_USERS
from llamarec.ranker.model.base_models import base_model_source, load_item_model, load_tokenizer, pad_token_of
from llamarec.ranker.model.items.features import title_features
from llamarec.ranker.model.items.head import ItemHead
from llamarec.ranker.model.items.stored import stored_features
from llamarec.ranker.options.command_line import Parsed
from llamarec.ranker.options.config import RankerConfig
from llamarec.ranker.prompts.history_samples import HistorySamples, NextItemSamples
from llamarec.ranker.prompts.history_text import HistoryEncoder, history_encoder_for
from llamarec.ranker.training.apply_plan import planned
from llamarec.ranker.training.build import announce_start, log_into, own_options
from llamarec.ranker.training.fingerprints import fingerprint_sources, fingerprints_of_items
from llamarec.ranker.training.init_adapter import InitialAdapter
from llamarec.ranker.training.items.trainer import ItemTrainer
from llamarec.vocabulary import Experiment


@dataclass(frozen=True)
class ItemRanker:
    """The parts of a run; `config` includes the choices of the plan."""

    experiment: Experiment
    config: RankerConfig
    encoder: HistoryEncoder
    trainer: ItemTrainer
    train: HistorySamples
    validation: NextItemSamples
    fusion_samples: NextItemSamples
    test: NextItemSamples
    num_trainable: int


@dataclass(frozen=True)
class ItemSamples:
    """Samples of a run."""

    train: HistorySamples
    validation: NextItemSamples
    fusion_samples: NextItemSamples
    test: NextItemSamples

    @property
    def num_after_training(self) -> int:
        """Histories that are read after training."""
        fitted = 0 if self.fusion_samples is self.validation else len(self.fusion_samples)
        return fitted + len(self.test)


def item_samples(parsed: Parsed, data: PreparedData, encoder: HistoryEncoder) -> ItemSamples:
    """Training samples, and the users of validation, of the fit after training, and of the test."""
    config = parsed.ranker
    validation = NextItemSamples(data, encoder, "validation", max_users=config.max_eval_users)
    return ItemSamples(
        train=HistorySamples(data, encoder, parsed.training.seed),
        validation=validation,
        fusion_samples=validation.widened(min(config.max_fusion_users or MOST_USERS, MOST_USERS)),
        test=NextItemSamples(data, encoder, "test", max_users=config.max_test_users),
    )


def build_item_ranker(
    experiment: Experiment,
    data: PreparedData,
    parsed: Parsed,
    console: Console,
    *,
    excludes: bool,
    initial: InitialAdapter | None = None,
) -> ItemRanker:
    """Builds tokenizer, samples, plan, model and Trainer; the model late, because loading it takes longest.

    Args:
        experiment: Paths of the run.
        data: Prepared data.
        parsed: The command line.
        console: Receives the progress.
        excludes: Whether a user's history is left out of what is ranked.
        initial: First weights of LoRA; None means fresh ones.
    """
    config, args, name = parsed.ranker, parsed.training, parsed.ranker.llm_base_model
    log_into(str(experiment.ranker / "logs"))
    # First weights are drawn below; the same seed must give the same weights.
    set_seed(args.seed)

    with args.main_process_first(local=False):
        source = base_model_source(name, data, experiment.ranker)
    tokenizer = load_tokenizer(name, source)
    encoder = history_encoder_for(tokenizer, data.titles, config, experiment.ranker)
    samples = item_samples(parsed, data, encoder)
    parsed = planned(
        parsed,
        source,
        samples.train,
        console,
        validation_prompts=len(samples.validation),
        test_prompts=samples.num_after_training,
    )
    config = parsed.ranker

    from_checkpoint = parsed.choice.verdict.path if parsed.choice is not None else None
    head = partial(_first_head, data, encoder, from_checkpoint, console)
    model = load_item_model(name, source, config, bf16=args.bf16, head=head)
    if initial is not None:
        initial.put_into(model)
        announce_start(initial.describe(source, config), console)

    trainer = ItemTrainer(
        model,
        args,
        config=config,
        checkpoint_config=parsed.checkpoints,
        train=samples.train,
        validation=samples.validation,
        excludes=excludes,
        pad_token_id=pad_token_of(tokenizer),
        fingerprints=fingerprints_of_items(data, encoder, samples.validation.user_ids),
        origins=fingerprint_sources(experiment, flags_of(parsed.data)),
        own_options=own_options(parsed),
        given=parsed.given,
        defaults=parsed.defaults,
        choice=parsed.choice,
    )

    num_trainable = sum(int(p.numel()) for p in model.parameters() if p.requires_grad)
    return ItemRanker(
        experiment,
        config,
        encoder,
        trainer,
        samples.train,
        samples.validation,
        samples.fusion_samples,
        samples.test,
        num_trainable,
    )


def _first_head(
    data: PreparedData, encoder: HistoryEncoder, checkpoint: Path | None, console: Console, model: Any
) -> ItemHead:
    """A head with the features of a checkpoint, or those of the base model, and fresh weights."""
    features_NF = stored_features(checkpoint) if checkpoint is not None else None
    if features_NF is None:
        console.print(f"items        reads {data.num_items:,} titles with the base model", soft_wrap=True)
        features_NF = title_features(model, encoder.title_ids[1:])

    sequences = data.sequences
    taken = np.concatenate([sequences.train(user) for user in range(data.num_users)])
    counts_N = np.bincount(taken, minlength=data.num_items + 1)[1:]
    return ItemHead(features_NF, torch.from_numpy(counts_N), model.config.hidden_size)

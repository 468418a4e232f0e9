"""One run with `--readout items`, from options to the final test."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.console import Console

from llamarec.data.prepared import PreparedData
from llamarec.evaluation.catalogue import CatalogueOutcome
from llamarec.experts.weights import ExpertWeights, weights_text
from llamarec.planning.plan import Plan
from llamarec.ranker.model.base_models import base_model_source, load_configuration, load_tokenizer
from llamarec.ranker.model.cpu.form import why_by_modules
from llamarec.ranker.model.items.features import NUM_FEATURES
from llamarec.ranker.model.items.head import head_weights
from llamarec.ranker.options.command_line import Parsed
from llamarec.ranker.prompts.history_text import history_encoder_for
from llamarec.ranker.training.apply_plan import plan_run
from llamarec.ranker.training.callbacks import OnTrainBegin
from llamarec.ranker.training.init_adapter import InitialAdapter
from llamarec.ranker.training.items.build import ItemRanker, build_item_ranker, item_samples
from llamarec.ranker.training.items.final import assess_items, fit_all, write_item_test
from llamarec.ranker.training.items.trainer import ItemTrainer
from llamarec.ranker.training.results import write_description, write_metrics
from llamarec.retriever.serving import load_stage


def train_items(
    parsed: Parsed, data: PreparedData, console: Console, initial: InitialAdapter | None = None
) -> tuple[CatalogueOutcome, ItemTrainer]:
    """Trains (or resumes), tests and writes the results.

    Args:
        parsed: The command line.
        data: Prepared data.
        console: Receives the progress.
        initial: First weights of LoRA; None means fresh ones.

    Raises:
        LlamarecError: something is missing or does not fit; nothing was trained.
        Interrupted: a signal stopped the training, which is saved.
    """
    experiment = parsed.experiment
    # Only needed after training, and refused before it.
    stage = load_stage(experiment, data)

    ranker = build_item_ranker(experiment, data, parsed, console, excludes=stage.excludes_history, initial=initial)
    _announce(ranker, stage.weights, console)
    describe = partial(write_description, ranker, data, str(parsed.training.output_dir))
    ranker.trainer.add_callback(OnTrainBegin(describe))
    ranker.trainer.train()

    trainer = ranker.trainer
    weights = fit_all(stage, trainer.read(ranker.fusion_samples), data, ranker.fusion_samples.user_ids)
    model = trainer.read(ranker.test)
    outcome, ranks = assess_items(stage, model, weights, data, ranker.test, step=trainer.tested_step)
    if parsed.training.process_index == 0:
        trainer.write_experts(weights, stage.digest)
        write_item_test(experiment.test, ranks, ranker.test, data)
        write_metrics(ranker, data, outcome)
    return outcome, trainer


def plan_items(parsed: Parsed, data: PreparedData) -> Plan:
    """The plan of a run. Loads no weights and trains nothing."""
    config, folder = parsed.ranker, parsed.experiment.ranker
    source = base_model_source(config.llm_base_model, data, folder)
    tokenizer = load_tokenizer(config.llm_base_model, source)
    samples = item_samples(parsed, data, history_encoder_for(tokenizer, data.titles, config, Path(folder)))
    hidden_size = int(load_configuration(config.llm_base_model, source)["hidden_size"])
    return plan_run(
        parsed,
        source,
        samples.train,
        validation_prompts=len(samples.validation),
        test_prompts=samples.num_after_training,
        head_weights=head_weights(data.num_items, min(NUM_FEATURES, hidden_size), hidden_size),
    )


def _announce(ranker: ItemRanker, first_stage: ExpertWeights, console: Console) -> None:
    args, config = ranker.trainer.args, ranker.config
    trainable = f"{ranker.num_trainable:,} trainable weights of LoRA and item vectors"
    console.print(f"base model   {config.llm_base_model}, {trainable}")

    difference = why_by_modules(ranker.trainer.model.get_base_model())
    if difference is not None:
        text = f"their own code, slower than prompt by prompt: {difference}"
        console.print(f"layers       {text}", soft_wrap=True)

    effective = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    labels = f"{ranker.train.num_positions:,} next items in {len(ranker.train):,} histories"
    console.print(f"training     {labels}, {effective} histories per step", soft_wrap=True)
    console.print("negatives    all other items of the catalogue")

    parts = [("validation", ranker.validation, ""), ("test", ranker.test, "")]
    if ranker.fusion_samples is not ranker.validation:
        parts.insert(1, ("fusion", ranker.fusion_samples, " from validation, once after training"))
    for name, samples, what in parts:
        console.print(f"{name:<12} {len(samples):,} users{what}", soft_wrap=True)
    if not first_stage.is_alone:
        console.print(f"experts      {weights_text(first_stage)}", soft_wrap=True)
    console.print(f"checkpoints  {args.output_dir}", soft_wrap=True)

"""One run of the ranker, from options to the final test: the steps of train_ranker.py."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.ownership import check_can_start
from llamarec.checkpoints.trainer.distributed.channel import apply_timeout
from llamarec.checkpoints.trainer.guards.sharding import asks_for_shards, check_sharding_flags
from llamarec.command import flags_of
from llamarec.data.prepare import prepare
from llamarec.data.prepared import PreparedData
from llamarec.errors import ConfigError
from llamarec.evaluation.catalogue import CatalogueOutcome
from llamarec.evaluation.outcome import Outcome
from llamarec.experts.weights import weights_text
from llamarec.planning.plan import Plan
from llamarec.ranker.model.base_models import base_model_source, load_tokenizer
from llamarec.ranker.model.cpu.form import why_by_modules
from llamarec.ranker.options.command_line import Parsed
from llamarec.ranker.options.config import HINTS, ITEMS, RankerConfig
from llamarec.ranker.prompts.encoding import encoder_for
from llamarec.ranker.prompts.first_stage import first_stage_text
from llamarec.ranker.prompts.template import load_template
from llamarec.ranker.prompts.training_samples import TrainingSamples
from llamarec.ranker.trained.locations import check_output_dir
from llamarec.ranker.training.apply_plan import plan_run
from llamarec.ranker.training.build import (
    Ranker,
    build_ranker,
    candidates_for,
    evaluation_samples,
    num_prompts_after_training,
    training_samples,
)
from llamarec.ranker.training.callbacks import OnTrainBegin
from llamarec.ranker.training.final_test import answer_in_orders, answer_prompts, assess, write_test
from llamarec.ranker.training.fingerprints import of_data
from llamarec.ranker.training.init_adapter import starting
from llamarec.ranker.training.items.run import plan_items, train_items
from llamarec.ranker.training.results import write_description, write_metrics
from llamarec.retriever.dependent_rankers import dependent_rankers
from llamarec.retriever.rebuild_command import rebuild_command
from llamarec.retriever.serving import read_expert_weights
from llamarec.vocabulary import Experiment


@dataclass(frozen=True)
class RankerResult:
    """The end of a run.

    Attributes:
        outcome: Metrics on the test users.
        last_save_failed: Whether the last checkpoint could not be written.
        lost_best_step: Step of a best adapter that was not there at the resume; None where it was.
    """

    outcome: Outcome | CatalogueOutcome
    last_save_failed: bool
    lost_best_step: int | None


def train_ranker(parsed: Parsed, console: Console) -> RankerResult:
    """Prepares, trains (or resumes), tests and writes the results.

    Raises:
        LlamarecError: something is missing or does not fit; nothing was trained.
        Interrupted: a signal stopped the training, which is saved.
    """
    experiment = parsed.experiment
    check_output_dir(experiment, Path(str(parsed.training.output_dir)))
    parsed, initial = starting(parsed)

    # With several processes (torchrun), the first one writes and the others read.
    apply_timeout(parsed.training)
    with parsed.training.main_process_first(local=False):
        data = prepare(parsed.data, console)
        _check_can_start(parsed, data)
        candidates = candidates_for(parsed.data, data, parsed.ranker, resumes=bool(parsed.kept))

    if parsed.ranker.readout == ITEMS:
        of_items, trainer = train_items(parsed, data, console, initial)
        return RankerResult(of_items, trainer.last_save_failed, trainer.lost_best_step)

    ranker = build_ranker(experiment, data, candidates, parsed, console, initial=initial)
    _announce(ranker, parsed, console)
    ranker.trainer.add_callback(OnTrainBegin(partial(write_description, ranker, data, str(parsed.training.output_dir))))
    ranker.trainer.train()

    answers = answer_prompts(ranker.trainer, ranker.test, ranker.config.test_shuffles)
    outcome = assess(answers, answer_in_orders(ranker.trainer, ranker.test, ranker.config.order_prompts))
    if parsed.training.process_index == 0:
        write_test(experiment.test, answers, data)
        write_metrics(ranker, data, outcome)
    return RankerResult(outcome, ranker.trainer.last_save_failed, ranker.trainer.lost_best_step)


def _check_can_start(parsed: Parsed, data: PreparedData) -> None:
    """Refuses early what the Trainer would refuse after training the retriever and loading the base model."""
    check_sharding_flags(parsed.training)
    if asks_for_shards(parsed.training) and parsed.ranker.readout == ITEMS:
        raise ConfigError(
            "--readout items has not been tried with FSDP2", expected="--readout letters", hint="leave --fsdp out"
        )
    if parsed.training.resume_from_checkpoint is None and not parsed.checkpoints.restart:
        run, beyond = RunFolder(Path(str(parsed.training.output_dir))), of_data(data.fingerprint)
        check_can_start(run, beyond, parsed.checkpoints.changes_allowed, HINTS)


def plan_ranker(parsed: Parsed, console: Console) -> Plan:
    """The plan of a run. Prepares the data, but loads no weights and trains nothing.

    Raises:
        LlamarecError: something is missing or does not fit.
    """
    parsed, _ = starting(parsed)
    experiment, config = parsed.experiment, parsed.ranker
    data = prepare(parsed.data, console)
    if config.readout == ITEMS:
        return plan_items(parsed, data)

    source = base_model_source(config.llm_base_model, data, experiment.ranker)
    tokenizer = load_tokenizer(config.llm_base_model, source)
    encoder = encoder_for(tokenizer, data.titles, load_template(config.prompt_template), config, experiment.ranker)
    has_retriever = experiment.candidates.is_file()

    # The choice of wrong candidates changes a prompt's length by a few tokens only.
    train = training_samples(parsed, data, encoder, uniform=not has_retriever)
    if not has_retriever:
        # Without proposals it is unknown which users cost a prompt.
        return plan_run(parsed, source, train, validation_prompts=0, test_prompts=None)

    candidates = candidates_for(parsed.data, data, config)
    validation = evaluation_samples(data, candidates, encoder, "validation", config)
    fusion_samples = validation.widened(config.max_fusion_users)
    test = evaluation_samples(data, candidates, encoder, "test", config)
    num_prompts = num_prompts_after_training(test, validation, fusion_samples, config)
    return plan_run(parsed, source, train, validation_prompts=len(validation), test_prompts=num_prompts)


def _announce(ranker: Ranker, parsed: Parsed, console: Console) -> None:
    args, config = ranker.trainer.args, ranker.config
    console.print(f"base model   {config.llm_base_model}, {ranker.num_trainable:,} trainable LoRA weights")

    difference = why_by_modules(ranker.trainer.model.get_base_model())
    if difference is not None:
        text = f"their own code, slower than prompt by prompt: {difference}"
        console.print(f"layers       {text}", soft_wrap=True)

    effective = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    console.print(f"training     {len(ranker.train):,} prompts, {effective} per step")
    if left_out := ranker.train.num_left_out:
        text = f"{left_out:,} more are left out: fewer than {config.num_candidates} items are outside the history"
        console.print(f"             {text} (--num_candidates)", soft_wrap=True)
    console.print(f"negatives    {_negatives_text(config, ranker.train)}", soft_wrap=True)

    lists = ranker.train.lists
    if lists and lists.num_folds == 1 and not parsed.kept:
        console.print(f"             ({_list_source(ranker.experiment, parsed)})", soft_wrap=True)

    parts = [("validation", ranker.validation, ""), ("test", ranker.test, "")]
    if ranker.fusion_samples is not ranker.validation:
        parts.insert(1, ("fusion", ranker.fusion_samples, " from validation, once after training"))

    for name, samples, what in parts:
        console.print(f"{name:<12} {len(samples.user_ids):,} users, {len(samples):,} prompts{what}", soft_wrap=True)

    weights = read_expert_weights(ranker.experiment, rebuild_command(ranker.experiment, flags_of(parsed.data)))
    if not weights.is_alone:
        console.print(f"experts      {weights_text(weights)}", soft_wrap=True)
    elif config.title_similarity:
        console.print(f"titles       {first_stage_text(ranker.validation.first_stage)}", soft_wrap=True)
    console.print(f"checkpoints  {args.output_dir}", soft_wrap=True)


def _list_source(experiment: Experiment, parsed: Parsed) -> str:
    text = "from the retriever that was trained on these items"
    if dependent_rankers(experiment):
        # Other rankers need the lists that exist.
        return text

    command = rebuild_command(parsed.experiment, flags_of(parsed.data), hard_negative_folds=2)
    return f"{text}; to use others: {command}"


def _negatives_text(config: RankerConfig, train: TrainingSamples) -> str:
    if train.lists is None:
        return "uniform"

    text = "a retriever's" if config.hard_negatives == 1 else f"{config.hard_negatives:.0%} a retriever's"
    if config.hard_negatives_at == "all":
        return f"{text} in all prompts"
    return f"{text} in the {train.num_proposed:,} prompts whose right item it also proposes, uniform in the others"

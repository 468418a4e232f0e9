"""One run of the ranker from flags to figures: the steps of `train_ranker.py`, each a function of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from transformers import TrainerCallback, TrainingArguments, set_seed

from llamarec.checkpoints.storage.durable import sha256_of
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.ownership import check_can_start
from llamarec.command import flags_of
from llamarec.data.config import DataConfig
from llamarec.data.prepare import prepare
from llamarec.data.prepared import PreparedData
from llamarec.errors import ArtifactError
from llamarec.evaluation.outcome import Outcome
from llamarec.files import read_json, write_json
from llamarec.planning.plan import Plan
from llamarec.ranker.model.base_models import base_model_source, load_letter_model, load_tokenizer, pad_token_of
from llamarec.ranker.model.cpu.form import why_by_modules
from llamarec.ranker.options.command_line import Parsed
from llamarec.ranker.options.config import HINTS, RankerConfig
from llamarec.ranker.prompts.encoding import PromptEncoder, encoder_for
from llamarec.ranker.prompts.evaluation_samples import EvaluationSamples
from llamarec.ranker.prompts.first_stage import FirstStage, first_stage_text, fit_first_stage
from llamarec.ranker.prompts.template import load_template
from llamarec.ranker.prompts.training_samples import Negatives, TrainingSamples
from llamarec.ranker.trained.locations import check_output_dir
from llamarec.ranker.training.apply_plan import plan_run, planned
from llamarec.ranker.training.final_test import TESTED_ORDERS, answer_in_orders, answer_prompts, assess, write_test
from llamarec.ranker.training.fingerprints import fingerprint_sources, fingerprints, of_data
from llamarec.ranker.training.init_adapter import read_initial
from llamarec.ranker.training.trainer import RankerTrainer
from llamarec.retriever.candidates import Candidates, load_candidates
from llamarec.retriever.dependents import dependent_rankers
from llamarec.retriever.hard_negatives import load_hard_negatives
from llamarec.retriever.rebuild_command import rebuild_command
from llamarec.vocabulary import DESCRIPTION, Experiment, RetrieverMetrics, Split

_LOGS: Final = "TENSORBOARD_LOGGING_DIR"
_logged_into: dict[str, str] = {}
_PACKAGES = ("llamarec", "torch", "transformers", "peft", "accelerate")


@dataclass(frozen=True)
class Ranker:
    """What a run is made of, built before the first step; `config` is as it was planned."""

    experiment: Experiment
    config: RankerConfig
    encoder: PromptEncoder
    trainer: RankerTrainer
    train: TrainingSamples
    validation: EvaluationSamples
    fusion_samples: EvaluationSamples
    test: EvaluationSamples
    num_trainable: int


@dataclass(frozen=True)
class RankerResult:
    """How a run ended.

    Attributes:
        outcome: On the test users.
        last_save_failed: The last checkpoint could not be written.
    """

    outcome: Outcome
    last_save_failed: bool


def train_ranker(parsed: Parsed, console: Console) -> RankerResult:
    """Prepares, trains (or resumes), tests and reports.

    Raises:
        LlamarecError: something is missing or does not fit; nothing was trained.
        Interrupted: stopped by a signal, and saved.
    """
    experiment = parsed.experiment
    check_output_dir(experiment, Path(str(parsed.training.output_dir)))
    # Of several processes (torchrun) the first one writes; the others find what it wrote.
    with parsed.training.main_process_first(local=False):
        data = prepare(parsed.data, console)
        _refuse_to_begin(parsed, data)
        candidates = _candidates(parsed.data, data, parsed.ranker, resumes=bool(parsed.kept))
    ranker = build_ranker(experiment, data, candidates, parsed, console)
    _announce(ranker, parsed, console)
    ranker.trainer.add_callback(
        _OnceItBegins(partial(_write_description, ranker, data, str(parsed.training.output_dir)))
    )
    ranker.trainer.train()
    answers = answer_prompts(ranker.trainer, ranker.test, ranker.config.test_shuffles)
    outcome = assess(answers, answer_in_orders(ranker.trainer, ranker.test, ranker.config.order_prompts))
    if parsed.training.process_index == 0:
        write_test(experiment.test, answers, data)
        _write_metrics(ranker, data, outcome)
    return RankerResult(outcome, ranker.trainer.last_save_failed)


def _refuse_to_begin(parsed: Parsed, data: PreparedData) -> None:
    """What the Trainer would say too, after the retriever's training and the base model's loading."""
    if parsed.training.resume_from_checkpoint is None and not parsed.checkpoints.restart:
        run, beyond = RunFolder(Path(str(parsed.training.output_dir))), of_data(data.fingerprint)
        check_can_start(run, beyond, parsed.checkpoints.changes_allowed, HINTS)


def build_ranker(
    experiment: Experiment, data: PreparedData, candidates: dict[Split, Candidates], parsed: Parsed, console: Console
) -> Ranker:
    """Tokenizer, samples, plan, model and Trainer; the model last, because it takes longest."""
    config, args = parsed.ranker, parsed.training
    _log_into(str(experiment.ranker / "logs"))
    # LoRA's first weights are drawn here, and the same seed must give the same ones.
    set_seed(args.seed)
    name = config.llm_base_model
    with args.main_process_first(local=False):
        source = base_model_source(name, data, experiment.ranker)
    # A resume has the checkpoint's weights; the other run may be gone by then.
    initial = read_initial(config, experiment.root) if config.init_adapter and not parsed.kept else None
    tokenizer = load_tokenizer(name, source)
    template = load_template(config.prompt_template)
    encoder = encoder_for(tokenizer, data.titles, template, config, experiment.ranker)
    train = _training(parsed, data, encoder)
    use_titles = config.title_similarity
    first_stage = fit_first_stage(data, candidates["validation"], encoder.num_candidates) if use_titles else None
    validation = _evaluated(data, candidates, encoder, "validation", config, first_stage)
    fusion_samples = validation.widened(config.max_fusion_users)
    test = _evaluated(data, candidates, encoder, "test", config, first_stage)
    num_asked = _num_asked(test, validation, fusion_samples, config)
    parsed = planned(parsed, source, train, console, validation_prompts=len(validation), test_prompts=num_asked)
    config = parsed.ranker
    model = load_letter_model(name, source, config, encoder.letter_ids, bf16=args.bf16)
    if initial is not None:
        initial.put_into(model)
        console.print(f"adapter      {initial.describe(source, template)}", soft_wrap=True)
    trainer = RankerTrainer(
        model,
        args,
        config=config,
        checkpoint_config=parsed.checkpoints,
        train=train,
        validation=validation,
        fusion_samples=fusion_samples,
        pad_token_id=pad_token_of(tokenizer),
        fingerprints=fingerprints(data, encoder, train, validation.users, validation.order),
        origins=fingerprint_sources(experiment, flags_of(parsed.data)),
        own_options=own_options(parsed),
        given=parsed.given,
        defaults=parsed.defaults,
        choice=parsed.choice,
    )
    num_trainable = sum(int(p.numel()) for p in model.parameters() if p.requires_grad)
    return Ranker(experiment, config, encoder, trainer, train, validation, fusion_samples, test, num_trainable)


def _log_into(folder: str) -> None:
    """Where TensorBoard's files go, unless the user says another place; each run of a process has its own."""
    if os.environ.get(_LOGS) in (None, _logged_into.get(_LOGS)):
        os.environ[_LOGS] = _logged_into[_LOGS] = folder


def plan_ranker(parsed: Parsed, console: Console) -> Plan:
    """What a run would need and how it would go about it. Prepares the data; loads no weights and trains nothing.

    Raises:
        LlamarecError: something is missing or does not fit.
    """
    experiment, config = parsed.experiment, parsed.ranker
    if config.init_adapter and not parsed.kept:
        read_initial(config, experiment.root)
    data = prepare(parsed.data, console)
    source = base_model_source(config.llm_base_model, data, experiment.ranker)
    tokenizer = load_tokenizer(config.llm_base_model, source)
    encoder = encoder_for(tokenizer, data.titles, load_template(config.prompt_template), config, experiment.ranker)
    has_retriever = experiment.candidates.is_file()
    # Which items are the wrong ones changes a prompt's length by a few tokens.
    train = _training(parsed, data, encoder, uniform=not has_retriever)
    if not has_retriever:
        # Before the retriever has proposed anything nobody knows which users cost a prompt.
        return plan_run(parsed, source, train, validation_prompts=0, test_prompts=None)
    candidates = _candidates(parsed.data, data, config)
    validation = _evaluated(data, candidates, encoder, "validation", config)
    fusion_samples = validation.widened(config.max_fusion_users)
    test = _evaluated(data, candidates, encoder, "test", config)
    num_asked = _num_asked(test, validation, fusion_samples, config)
    return plan_run(parsed, source, train, validation_prompts=len(validation), test_prompts=num_asked)


def own_options(parsed: Parsed) -> dict[str, Any]:
    """The hyperparameters that are not the Trainer's own."""
    return {**asdict(parsed.data), **asdict(parsed.ranker), **asdict(parsed.checkpoints)}


def _candidates(
    data_config: DataConfig, data: PreparedData, config: RankerConfig, *, resumes: bool = False
) -> dict[Split, Candidates]:
    if config.train_retriever and not data_config.experiment.candidates.is_file():
        from llamarec.retriever.train import train_retriever_for

        has_lists = config.hard_negatives > 0
        console = Console(markup=False, emoji=False)
        train_retriever_for(config.num_candidates, data, data_config, console, has_lists=has_lists)
    flags = flags_of(data_config)
    candidates = load_candidates(data_config.experiment, data, flags)
    for split, of_split in candidates.items():
        proposed = of_split.item_ids.shape[1]
        if proposed < config.num_candidates:
            command = rebuild_command(data_config.experiment, flags, top_k=config.num_candidates)
            raise ArtifactError(
                f"the retriever proposed {proposed} items per user for {split}",
                expected=f"{config.num_candidates} (--num_candidates)",
                hint=f"--num_candidates {proposed}, or {command}",
                # With fewer it is another run.
                retry_with=() if resumes else ("--num_candidates", str(proposed)),
            )
    return candidates


def _num_asked(
    test: EvaluationSamples, validation: EvaluationSamples, fusion_samples: EvaluationSamples, config: RankerConfig
) -> int:
    """Prompts after training: of the last fit of the weights, of the test, and those asked again in other orders."""
    shuffles = config.test_shuffles
    fitted = 0 if fusion_samples is validation and shuffles == 1 else shuffles * len(fusion_samples)
    return fitted + shuffles * len(test) + len(TESTED_ORDERS) * min(config.order_prompts, len(test))


def _training(parsed: Parsed, data: PreparedData, encoder: PromptEncoder, *, uniform: bool = False) -> TrainingSamples:
    config, hard = parsed.ranker, None
    if config.hard_negatives and not uniform:
        wanted = encoder.num_candidates - 1
        lists = load_hard_negatives(parsed.data.experiment, data, wanted, flags_of(parsed.data))
        hard = Negatives(lists, config.hard_negatives, everywhere=config.hard_negatives_at == "all")
    return TrainingSamples(
        data,
        encoder,
        parsed.training.seed,
        hard,
        max_prompts=config.max_train_prompts,
        latest=config.latest_prompts,
    )


def _evaluated(
    data: PreparedData,
    candidates: dict[Split, Candidates],
    encoder: PromptEncoder,
    split: Split,
    config: RankerConfig,
    first_stage: FirstStage | None = None,
) -> EvaluationSamples:
    max_users = config.max_eval_users if split == "validation" else config.max_test_users
    samples = EvaluationSamples(
        data, candidates[split], encoder, split, max_users=max_users, first_stage=first_stage, order=config.order
    )
    if not len(samples):
        raise ArtifactError(
            f"no {split} user has the next item among the retriever's candidates: a ranker cannot be judged",
            found=f"0 of {len(samples.user_ids)} users",
            hint="train a better retriever, or look at more users (--max_eval_users 0 --max_test_users 0)",
        )
    return samples


def _announce(ranker: Ranker, parsed: Parsed, console: Console) -> None:
    args, config = ranker.trainer.args, ranker.config
    console.print(f"base model   {config.llm_base_model}, {ranker.num_trainable:,} trainable LoRA weights")
    difference = why_by_modules(ranker.trainer.model.get_base_model())
    if difference is not None:
        text = f"their own code, slower than prompt by prompt: {difference}"
        console.print(f"layers       {text}", soft_wrap=True)
    effective = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    console.print(f"training     {len(ranker.train):,} prompts, {effective} per step")
    console.print(f"negatives    {_negatives_text(config, ranker.train)}", soft_wrap=True)
    lists = ranker.train.lists
    if lists and lists.num_folds == 1 and not parsed.kept:
        console.print(f"             ({_of_own_lists(ranker.experiment, parsed)})", soft_wrap=True)
    parts = [("validation", ranker.validation, ""), ("test", ranker.test, "")]
    if ranker.fusion_samples is not ranker.validation:
        parts.insert(1, ("fusion", ranker.fusion_samples, ", of validation, once after training"))
    for name, samples, what in parts:
        console.print(f"{name:<12} {len(samples.user_ids):,} users, {len(samples):,} prompts{what}", soft_wrap=True)
    if config.title_similarity:
        console.print(f"titles       {first_stage_text(ranker.validation.first_stage)}", soft_wrap=True)
    console.print(f"checkpoints  {args.output_dir}", soft_wrap=True)


def _of_own_lists(experiment: Experiment, parsed: Parsed) -> str:
    text = "by the retriever that was trained on these very items"
    if dependent_rankers(experiment):
        # They need the lists that lie there.
        return text
    return f"{text}; by others: {rebuild_command(parsed.experiment, flags_of(parsed.data), hard_negative_folds=2)}"


def _negatives_text(config: RankerConfig, train: TrainingSamples) -> str:
    if train.lists is None:
        return "uniform"
    text = "a retriever's" if config.hard_negatives == 1 else f"{config.hard_negatives:.0%} a retriever's"
    if config.hard_negatives_at == "all":
        return f"{text} in all prompts"
    return f"{text} in the {train.num_proposed:,} prompts whose right item it proposes too, uniform in the others"


class _OnceItBegins(TrainerCallback):
    """What the folder says of its run is changed when nothing can refuse the new one any more."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action

    def on_train_begin(self, args: TrainingArguments, *_: Any, **__: Any) -> None:
        if args.process_index == 0:
            self._action()


def _write_description(ranker: Ranker, data: PreparedData, output_dir: str) -> None:
    experiment = ranker.experiment
    weights = experiment.retriever_weights
    write_json(
        experiment.ranker / DESCRIPTION,
        {
            "config": asdict(ranker.config),
            "dataset_code": data.dataset_code,
            "run_id": ranker.trainer.run_id,
            "prepared_data": str(experiment.data.resolve()),
            "checkpoints": str(Path(output_dir).resolve()),
            "prompt": ranker.encoder.template.as_dict(),
            "letter_ids": ranker.encoder.letter_ids,
            "data_fingerprint": data.fingerprint,
            "retriever_digest": sha256_of(weights) if weights.is_file() else "",
            "retriever_config": _retriever_config(experiment),
            "versions": _versions(),
        },
    )


def _retriever_config(experiment: Experiment) -> Any:
    return (read_json(experiment.retriever_metrics, RetrieverMetrics) or {}).get("config")


def _versions() -> dict[str, str]:
    return {name: version(name) for name in _PACKAGES}


def _write_metrics(ranker: Ranker, data: PreparedData, outcome: Outcome) -> None:
    state, config = ranker.trainer.state, ranker.config
    content = {
        "dataset_code": data.dataset_code,
        "llm_base_model": config.llm_base_model,
        "split": "test",
        "run_id": ranker.trainer.run_id,
        "step": state.global_step,
        "best_step": state.best_global_step,
        "tested_step": ranker.trainer.tested_step,
        "best_validation": state.best_metric,
        "max_steps": state.max_steps,
        "stopped_early": ranker.trainer.stopped_early,
        "seed": ranker.trainer.args.seed,
        "learning_rate": ranker.trainer.args.learning_rate,
        "config": asdict(config),
        "retriever_config": _retriever_config(ranker.experiment),
        "versions": _versions(),
        **outcome.as_dict(),
    }
    write_json(ranker.experiment.ranker_metrics, content)

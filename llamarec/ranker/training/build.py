"""The parts of a run, built before its first step: tokenizer, samples, plan, model and Trainer."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Final

from rich.console import Console
from transformers import set_seed

from llamarec.checkpoints.trainer.guards.sharding import asks_for_shards
from llamarec.command import flags_of
from llamarec.data.config import DataConfig
from llamarec.data.prepared import PreparedData
from llamarec.errors import ArtifactError
from llamarec.ranker.model.base_models import base_model_source, load_letter_model, load_tokenizer, pad_token_of
from llamarec.ranker.options.command_line import Parsed
from llamarec.ranker.options.config import LETTERS, RankerConfig
from llamarec.ranker.prompts.encoding import PromptEncoder, encoder_for
from llamarec.ranker.prompts.evaluation_samples import EvaluationSamples
from llamarec.ranker.prompts.first_stage import FirstStage, fit_first_stage
from llamarec.ranker.prompts.template import load_template
from llamarec.ranker.prompts.training_samples import Negatives, TrainingSamples
from llamarec.ranker.training.apply_plan import planned
from llamarec.ranker.training.final_test import TESTED_ORDERS
from llamarec.ranker.training.fingerprints import fingerprint_sources, fingerprints
from llamarec.ranker.training.init_adapter import InitialAdapter
from llamarec.ranker.training.trainer import RankerTrainer
from llamarec.retriever.candidates import Candidates, load_candidates
from llamarec.retriever.hard_negatives import load_hard_negatives
from llamarec.retriever.published import has_experts
from llamarec.retriever.rebuild_command import rebuild_command
from llamarec.vocabulary import Experiment, Split

_LOGS: Final = "TENSORBOARD_LOGGING_DIR"
_logged_into: dict[str, str] = {}


@dataclass(frozen=True)
class Ranker:
    """The parts of a run; `config` includes the choices of the plan."""

    experiment: Experiment
    config: RankerConfig
    encoder: PromptEncoder
    trainer: RankerTrainer
    train: TrainingSamples
    validation: EvaluationSamples
    fusion_samples: EvaluationSamples
    test: EvaluationSamples
    num_trainable: int


def build_ranker(
    experiment: Experiment,
    data: PreparedData,
    candidates: dict[Split, Candidates],
    parsed: Parsed,
    console: Console,
    *,
    initial: InitialAdapter | None = None,
) -> Ranker:
    """Builds tokenizer, samples, plan, model and Trainer; the model late, because loading it takes longest."""
    config, args = parsed.ranker, parsed.training
    log_into(str(experiment.ranker / "logs"))
    # LoRA's first weights are drawn below; the same seed must give the same weights.
    set_seed(args.seed)
    name = config.llm_base_model

    with args.main_process_first(local=False):
        source = base_model_source(name, data, experiment.ranker)
    tokenizer = load_tokenizer(name, source)
    template = load_template(config.prompt_template)
    encoder = encoder_for(tokenizer, data.titles, template, config, experiment.ranker)

    train = training_samples(parsed, data, encoder)
    # With experts, titles are part of the order of the candidates.
    use_titles = config.title_similarity and not has_experts(experiment)
    first_stage = fit_first_stage(data, candidates["validation"], encoder.num_candidates) if use_titles else None
    validation = evaluation_samples(data, candidates, encoder, "validation", config, first_stage)
    fusion_samples = validation.widened(config.max_fusion_users)
    test = evaluation_samples(data, candidates, encoder, "test", config, first_stage)
    num_prompts = num_prompts_after_training(test, validation, fusion_samples, config)

    parsed = planned(parsed, source, train, console, validation_prompts=len(validation), test_prompts=num_prompts)
    config = parsed.ranker

    model = load_letter_model(name, source, config, encoder.letter_ids, bf16=args.bf16, sharded=asks_for_shards(args))
    if initial is not None:
        initial.put_into(model)
        announce_start(initial.describe(source, config, template), console)

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


def announce_start(lines: list[str], console: Console) -> None:
    """Prints where the first weights come from."""
    for title, line in zip(["adapter", *[""] * len(lines)], lines, strict=False):
        console.print(f"{title:<12} {line}", soft_wrap=True)


def log_into(folder: str) -> None:
    """Sends TensorBoard's files to a folder of this run, unless the user has set another folder."""
    if os.environ.get(_LOGS) in (None, _logged_into.get(_LOGS)):
        os.environ[_LOGS] = _logged_into[_LOGS] = folder


def own_options(parsed: Parsed) -> dict[str, object]:
    """Hyperparameters beyond those of the Trainer."""
    return {**asdict(parsed.data), **asdict(parsed.ranker), **asdict(parsed.checkpoints)}


def candidates_for(
    data_config: DataConfig, data: PreparedData, config: RankerConfig, *, resumes: bool = False
) -> dict[Split, Candidates]:
    """The retriever's candidates by split; trains the retriever first if that is wanted and needed.

    Raises:
        ArtifactError: there are no candidates, or too few for a prompt.
    """
    if config.train_retriever and not data_config.experiment.candidates.is_file():
        from llamarec.retriever.train import train_retriever_for

        has_lists = config.readout == LETTERS and config.hard_negatives > 0
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
                # A resume cannot change the number of candidates.
                retry_with=() if resumes else ("--num_candidates", str(proposed)),
            )
    return candidates


def training_samples(
    parsed: Parsed, data: PreparedData, encoder: PromptEncoder, *, uniform: bool = False
) -> TrainingSamples:
    """Training samples; with `uniform` no hard negatives are read."""
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


def evaluation_samples(
    data: PreparedData,
    candidates: dict[Split, Candidates],
    encoder: PromptEncoder,
    split: Split,
    config: RankerConfig,
    first_stage: FirstStage | None = None,
) -> EvaluationSamples:
    """Prompts of a split.

    Raises:
        ArtifactError: no user's next item is among the candidates.
    """
    max_users = config.max_eval_users if split == "validation" else config.max_test_users
    samples = EvaluationSamples(
        data, candidates[split], encoder, split, max_users=max_users, first_stage=first_stage, order=config.order
    )
    if not len(samples):
        raise ArtifactError(
            f"no {split} user has the next item among the retriever's candidates, so a ranker cannot be evaluated",
            found=f"0 of {len(samples.user_ids)} users",
            hint="train a better retriever, or evaluate all users: --max_eval_users 0 --max_test_users 0",
        )
    return samples


def num_prompts_after_training(
    test: EvaluationSamples, validation: EvaluationSamples, fusion_samples: EvaluationSamples, config: RankerConfig
) -> int:
    """Prompts after training: for the last fit of the weights, for the test, and for other orders."""
    shuffles = config.test_shuffles
    fitted = 0 if fusion_samples is validation and shuffles == 1 else shuffles * len(fusion_samples)
    return fitted + shuffles * len(test) + len(TESTED_ORDERS) * min(config.order_prompts, len(test))

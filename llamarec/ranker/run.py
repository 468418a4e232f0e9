"""One run of the ranker from flags to figures: the steps of `train_ranker.py`, each a function of its own."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import TrainingArguments, set_seed

from llamarec.data.config import DataConfig
from llamarec.data.prepare import prepare
from llamarec.data.prepared import PreparedData
from llamarec.errors import ArtifactError, ConfigError
from llamarec.evaluation.comparison import Comparison, compare
from llamarec.files import write_json
from llamarec.ranker.arguments import LATEST
from llamarec.ranker.base_models import base_model_source, load_letter_model, load_tokenizer
from llamarec.ranker.config import RankerConfig
from llamarec.ranker.encoding import PromptEncoder
from llamarec.ranker.prompt import PromptTemplate, load_template
from llamarec.ranker.samples import EvaluationSamples, TrainingSamples
from llamarec.ranker.trainer import RankerTrainer
from llamarec.retriever.candidates import Candidates, load_candidates
from llamarec.vocabulary import Experiment, Split

_PACKAGES = ("llamarec", "torch", "transformers", "peft", "accelerate")


@dataclass(frozen=True)
class Ranker:
    """What a run is made of, built before the first step."""

    experiment: Experiment
    encoder: PromptEncoder
    trainer: RankerTrainer
    train: TrainingSamples
    validation: EvaluationSamples
    test: EvaluationSamples
    num_trainable: int


def train_ranker(
    data_config: DataConfig, config: RankerConfig, args: TrainingArguments, console: Console
) -> Comparison:
    """Prepares, trains (or resumes), tests and reports.

    Raises:
        LlamarecError: something is missing or does not fit; nothing was trained.
    """
    experiment = data_config.experiment
    checkpoint = checkpoint_to_resume(args)
    data = prepare(data_config)
    candidates = _candidates(data_config, data, config)
    ranker = build_ranker(experiment, data, candidates, config, args)
    _announce(ranker, config, checkpoint, console)
    ranker.trainer.train(resume_from_checkpoint=checkpoint)
    comparison = test_ranker(ranker)
    _write_metrics(ranker, data, config, comparison)
    return comparison


def build_ranker(
    experiment: Experiment,
    data: PreparedData,
    candidates: dict[Split, Candidates],
    config: RankerConfig,
    args: TrainingArguments,
) -> Ranker:
    """Tokenizer, samples, model and Trainer; the model last, because it takes longest."""
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(experiment.ranker / "logs"))
    # LoRA's first weights are drawn here, and the same seed must give the same ones.
    set_seed(args.seed)
    name = config.llm_base_model
    source = base_model_source(name, data, experiment.ranker)
    tokenizer = load_tokenizer(name, source)
    template = load_template(config.prompt_template)
    encoder = _encoder(tokenizer, data, template, config)
    train = TrainingSamples(data, encoder, args.seed)
    validation = _evaluated(data, candidates, encoder, "validation", config.max_eval_users)
    test = _evaluated(data, candidates, encoder, "test", config.max_test_users)
    model = load_letter_model(name, source, config, encoder.letter_ids, bf16=args.bf16)
    pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    trainer = RankerTrainer(
        model, args, config=config, train=train, validation=validation, pad_token_id=pad_token_id or 0
    )
    _write_description(experiment, data, config, template, encoder)
    num_trainable = sum(int(p.numel()) for p in model.parameters() if p.requires_grad)
    return Ranker(experiment, encoder, trainer, train, validation, test, num_trainable)


def test_ranker(ranker: Ranker) -> Comparison:
    """Both stages on the test users, with the adapter that the Trainer holds now."""
    return compare(ranker.test.retriever_ranks, ranker.trainer.predict_ranks(ranker.test))


def checkpoint_to_resume(args: TrainingArguments) -> str | None:
    """The checkpoint folder that `--resume_from_checkpoint` means, or None for a fresh start.

    Raises:
        ConfigError: the path is not a checkpoint; lists the ones there are.
    """
    wanted = args.resume_from_checkpoint
    if wanted is None:
        return None
    there = _checkpoints(Path(str(args.output_dir)))
    if wanted == LATEST:
        return str(there[-1]) if there else None
    if (Path(wanted) / "trainer_state.json").is_file():
        return str(wanted)
    raise ConfigError(
        f"--resume_from_checkpoint {wanted}: there is no checkpoint",
        expected="a folder checkpoint-{step} with trainer_state.json in it",
        found=f"in {args.output_dir}: " + (", ".join(path.name for path in there) or "no checkpoint at all"),
        hint=f"--resume_from_checkpoint {there[-1]}" if there else "start without --resume_from_checkpoint",
    )


def _checkpoints(folder: Path) -> list[Path]:
    named = ((re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in folder.glob("checkpoint-*"))
    return [path for _, path in sorted((int(match[1]), path) for match, path in named if match)]


def _candidates(data_config: DataConfig, data: PreparedData, config: RankerConfig) -> dict[Split, Candidates]:
    if config.train_retriever and not (data_config.experiment.retriever / "candidates.parquet").is_file():
        from llamarec.retriever.train import train_retriever_with_defaults

        train_retriever_with_defaults(data_config, Console())
    candidates = load_candidates(data_config.experiment, data)
    for split, of_split in candidates.items():
        if of_split.item_ids.shape[1] < config.num_candidates:
            raise ArtifactError(
                f"the retriever proposed {of_split.item_ids.shape[1]} items per user for {split}",
                expected=f"{config.num_candidates} (--num_candidates)",
                hint=f"python train_retriever.py --dataset_code {data.dataset_code} --top_k {config.num_candidates}",
            )
    return candidates


def _evaluated(
    data: PreparedData,
    candidates: dict[Split, Candidates],
    encoder: PromptEncoder,
    split: Split,
    max_users: int,
) -> EvaluationSamples:
    samples = EvaluationSamples(data, candidates[split], encoder, split, max_users=max_users)
    if not len(samples):
        raise ArtifactError(
            f"no {split} user has the next item among the retriever's candidates: a ranker cannot be judged",
            found=f"0 of {len(samples.user_ids)} users",
            hint="train a better retriever, or look at more users (--max_eval_users 0 --max_test_users 0)",
        )
    return samples


def _encoder(tokenizer: Any, data: PreparedData, template: PromptTemplate, config: RankerConfig) -> PromptEncoder:
    return PromptEncoder(
        tokenizer,
        data.titles,
        template,
        num_candidates=config.num_candidates,
        max_history=config.max_history,
        max_title_tokens=config.max_title_tokens,
        max_prompt_tokens=config.max_prompt_tokens,
    )


def _announce(ranker: Ranker, config: RankerConfig, checkpoint: str | None, console: Console) -> None:
    args = ranker.trainer.args
    console.print(f"base model   {config.llm_base_model}, {ranker.num_trainable:,} trainable LoRA weights")
    effective = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    console.print(f"training     {len(ranker.train):,} prompts, {effective} per step")
    for name, samples in (("validation", ranker.validation), ("test", ranker.test)):
        console.print(f"{name:<12} {len(samples.user_ids):,} users, {len(samples):,} prompts")
    start = f"resumes from {checkpoint}" if checkpoint else "starts at step 0"
    if args.resume_from_checkpoint == LATEST and not checkpoint:
        start += f": there is no checkpoint in {args.output_dir} yet"
    console.print(f"this run     {start}", soft_wrap=True)


def _write_description(
    experiment: Experiment,
    data: PreparedData,
    config: RankerConfig,
    template: PromptTemplate,
    encoder: PromptEncoder,
) -> None:
    write_json(
        experiment.ranker / "ranker.json",
        {
            "config": asdict(config),
            "prompt": template.as_dict(),
            "letter_ids": encoder.letter_ids,
            "data_fingerprint": data.fingerprint,
            "versions": {name: version(name) for name in _PACKAGES},
        },
    )


def _write_metrics(ranker: Ranker, data: PreparedData, config: RankerConfig, comparison: Comparison) -> None:
    state = ranker.trainer.state
    content = {
        "dataset_code": data.dataset_code,
        "llm_base_model": config.llm_base_model,
        "split": "test",
        "step": state.global_step,
        "best_step": state.best_global_step,
        "best_validation": state.best_metric,
        **comparison.as_dict(),
    }
    write_json(ranker.experiment.ranker / "metrics.json", content)

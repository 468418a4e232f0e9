"""Trainings with other libraries, each uninterrupted, and stopped and resumed: the same bits, or refused at once.

`JOBS` names them; a job returns "equal", "different: WHAT" or "refused: WHY". `missing()` says what is not installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

from llamarec.checkpoints import Interrupted, ResumableMixin
from llamarec.checkpoints.resume.safe_load import load_pickled
from llamarec.errors import LlamarecError
from tests.ecosystem import tiny
from tests.resume.runs import At
from tests.resume.training import digest

# trl reports every Trainer that is made.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

Make: TypeAlias = Callable[[str], Any]
"""From an output folder to a Trainer, alike at every call."""
Job: TypeAlias = Callable[[], str]

_NEEDED: Final = ("trl", "datasets", "optuna", "galore_torch", "apollo_torch")
_STOP, _END = 5, 8
_COMMON: Final[dict[str, Any]] = {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "max_steps": _END,
    "save_steps": 3,
    "logging_steps": 2,
    "learning_rate": 1e-2,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "dataloader_pin_memory": False,
}
# Of the clock, which no resume repeats.
_TIMES: Final = ("runtime", "per_second", "step_time")


def missing() -> str:
    """Why these trainings cannot run here; empty where everything is installed."""
    names = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    return f"{', '.join(names)} not installed: python make.py test-ecosystem" if names else ""


def resumable(trainer: type[Any]) -> type[Any]:
    """A Trainer of a library below the mixin."""
    return type(f"Resumable{trainer.__name__}", (ResumableMixin, trainer), {})


def resumed(make: Make) -> str:
    """Trains whole, and stopped and resumed, and compares the two."""
    with tempfile.TemporaryDirectory() as folder:
        whole, run = Path(folder, "whole"), Path(folder, "run")
        try:
            make(str(whole)).train()
        except LlamarecError as refusal:
            return f"refused: {' '.join(refusal.problem.split())}"

        trainer = make(str(run))
        trainer.add_callback(At(_STOP))
        try:
            trainer.train()
        except Interrupted:
            make(str(run)).train("latest")
        names = list(_differences(whole / f"checkpoint-{_END}", run / f"checkpoint-{_END}"))
        return f"different: {', '.join(names)}" if names else "equal"


def _differences(one: Path, other: Path) -> Iterator[str]:
    contents = [_contents(folder) for folder in (one, other)]
    for name in sorted(contents[0].keys() | contents[1].keys()):
        if contents[0].get(name) != contents[1].get(name):
            yield name


def _contents(checkpoint: Path) -> dict[str, str]:
    """By file, a digest of what must be the same."""
    found = {path.name: digest(load_file(path)) for path in checkpoint.glob("*.safetensors")}
    pickled = [*checkpoint.glob("adapter_model.bin"), *checkpoint.glob("*.pt"), checkpoint / "rng_state.pth"]
    found |= {path.name: digest(_without_times(load_pickled(path))) for path in pickled}
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return {**found, "log_history": digest(_without_times(state["log_history"]))}


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if not any(word in str(key) for word in _TIMES)}
        return {key: _without_times(item) for key, item in kept.items()}

    if isinstance(value, list):
        return [_without_times(item) for item in value]

    # A projection of an optimizer.
    return _without_times(vars(value)) if type(value).__module__.startswith(("galore_torch", "apollo_torch")) else value


# ---- trl ----


def _trl(name: str, rows: Callable[[], list[dict[str, Any]]], *, scores: bool = False, **options: Any) -> Make:
    """A Trainer of trl by its name; options whose values are functions are called for each, others are its config's."""
    import trl
    from datasets import Dataset

    made = {key: value for key, value in options.items() if callable(value)}
    given = {key: value for key, value in options.items() if not callable(value)}

    def make(folder: str) -> Any:
        parts = {key: value() for key, value in made.items()}
        args = getattr(trl, name.replace("Trainer", "Config"))(output_dir=folder, bf16=False, **{**_COMMON, **given})
        if parts.pop("passes_reference", False):
            parts["stateful"] = {"ref_model": parts["ref_model"]}

        return resumable(getattr(trl, name))(
            model=parts.pop("model", None) or (tiny.scorer() if scores else tiny.llama()),
            args=args,
            train_dataset=Dataset.from_list(rows()),
            eval_dataset=Dataset.from_list(rows()[:4]) if "eval_strategy" in given else None,
            processing_class=tiny.tokenizer(),
            **parts,
        )

    return make


def _lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=4, lora_dropout=0.1, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def _adapted() -> Any:
    """Has an adapter already, of which trl keeps a copy as the reference."""
    from peft import get_peft_model

    return get_peft_model(tiny.llama(), _lora())


def _length_reward() -> Any:
    def length(completions: list[str], **_: object) -> list[float]:
        return [float(len(text)) for text in completions]

    return length


def _judged() -> list[dict[str, Any]]:
    rows = enumerate(tiny.preferences())
    return [{"prompt": row["prompt"], "completion": row["chosen"], "label": number % 2 == 0} for number, row in rows]


_GENERATES: Final[dict[str, Any]] = {"num_generations": 2, "max_completion_length": 6, "reward_funcs": _length_reward}
_TAUGHT: Final[dict[str, Any]] = {"teacher_model": lambda: tiny.llama(seed=2), "max_completion_length": 6}
_SYNC: Final[dict[str, Any]] = {"sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 0.5}


def _reference() -> Any:
    return tiny.llama(seed=2)


# ---- Data sets with transforms ----


def _transformed(transform: Callable[[dict[str, list[Any]]], dict[str, Any]]) -> Make:
    def make(folder: str) -> Any:
        from datasets import Dataset

        rows = [{"input_ids": tiny.tokenizer()(tiny.sentence(number))["input_ids"][:3]} for number in range(22)]
        dataset = Dataset.from_list(rows)
        dataset.set_transform(transform)
        args = TrainingArguments(folder, **{**_COMMON, "remove_unused_columns": False})
        return resumable(Trainer)(model=tiny.llama(), args=args, train_dataset=dataset)

    return make


def _draws_globally(rows: dict[str, list[Any]]) -> dict[str, Any]:
    ids = torch.tensor(rows["input_ids"])
    ids[:, 0] = torch.randint(4, 14, (len(ids),))
    return {"input_ids": list(ids), "labels": list(ids)}


class _Draws:
    """Draws from a generator of its own."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(7)

    def __call__(self, rows: dict[str, list[Any]]) -> dict[str, Any]:
        ids = torch.tensor(rows["input_ids"])
        ids[:, 0] = torch.randint(4, 14, (len(ids),), generator=self._generator)
        return {"input_ids": list(ids), "labels": list(ids)}


class _Counts:
    """Gives another sample at each reading."""

    readings = 0

    def __call__(self, rows: dict[str, list[Any]]) -> dict[str, Any]:
        self.readings += 1
        ids = torch.tensor(rows["input_ids"])
        ids[:, 0] = 4 + self.readings % 10
        return {"input_ids": list(ids), "labels": list(ids)}


def _own_generator() -> Make:
    return lambda folder: _transformed(_Draws())(folder)


def _mapped(folder: str) -> Any:
    """Random replacements made once, by `map`, whose result another process draws again."""
    from datasets import Dataset

    generator = torch.Generator().manual_seed(3)

    def replaced(row: dict[str, Any]) -> dict[str, Any]:
        ids = tiny.tokenizer()(row["text"])["input_ids"][:3]
        ids[0] = int(torch.randint(4, 14, (1,), generator=generator))
        return {"input_ids": ids, "labels": ids}

    dataset = Dataset.from_list(tiny.texts()).map(replaced, remove_columns=["text"], new_fingerprint="replaced")
    args = TrainingArguments(folder, **_COMMON)
    return resumable(Trainer)(model=tiny.llama(), args=args, train_dataset=dataset)


# ---- Optimizers, generation, a search ----


class _Words(torch.utils.data.Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return tiny.NUM_SAMPLES

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = torch.tensor([4 + (index + i) % 10 for i in range(5)])
        return {"input_ids": ids, "labels": ids.clone()}


def _projected(optim: str, **changes: Any) -> Make:
    def make(folder: str) -> Any:
        # GaLore projects anew every other step.
        given = "rank=4, update_proj_gap=2, scale=1.0"
        targets = ["q_proj", "v_proj", "mlp"]
        options = {**_COMMON, "optim": optim, "optim_target_modules": targets, "optim_args": given}
        args = TrainingArguments(folder, **{**options, **changes})
        return resumable(Trainer)(model=tiny.llama(), args=args, train_dataset=_Words())

    return make


def _seq2seq(folder: str) -> Any:
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, T5Config, T5ForConditionalGeneration, set_seed

    set_seed(1)
    sizes: dict[str, Any] = {"vocab_size": 16, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    sizes |= {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 2}
    model = T5ForConditionalGeneration(T5Config(**sizes))
    args = Seq2SeqTrainingArguments(
        folder, **_COMMON, predict_with_generate=True, generation_max_length=6, eval_strategy="steps", eval_steps=3
    )
    return resumable(Seq2SeqTrainer)(
        model=model,
        args=args,
        train_dataset=_Words(),
        eval_dataset=_Words(),
        compute_metrics=lambda found: {"tokens": float((found.predictions > 0).sum())},
    )


def _searcher(folder: str, **changes: Any) -> Any:
    options = {**_COMMON, "eval_strategy": "steps", "eval_steps": 4, **changes}
    return resumable(Trainer)(
        model_init=lambda: tiny.llama(),
        args=TrainingArguments(folder, **options),
        train_dataset=_Words(),
        eval_dataset=_Words(),
    )


def _search() -> str:
    """Every trial of a search is the training with its arguments, bit for bit."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        rates: list[float] = []

        def space(trial: Any) -> dict[str, float]:
            rates.append(trial.suggest_float("learning_rate", 1e-4, 1e-2))
            return {"learning_rate": rates[-1]}

        searcher = _searcher(f"{folder}/search")
        sampler = optuna.samplers.RandomSampler(seed=1)
        best = searcher.hyperparameter_search(
            space, n_trials=3, direction="minimize", backend="optuna", sampler=sampler
        )
        for number, rate in enumerate(dict.fromkeys(rates)):
            alone = Path(folder, f"alone-{number}")
            _searcher(str(alone), learning_rate=rate).train()
            trial = Path(folder, f"search/run-{number}/checkpoint-{_END}")
            # A trial's random states have that of the search's sampler too.
            names = set(_differences(alone / f"checkpoint-{_END}", trial)) - {"rng_state.pth"}
            if names:
                return f"different: trial {number}: {', '.join(sorted(names))}"

        return "equal" if best.run_id in ("0", "1", "2") else "different: no best trial"


# ---- The list ----


def _of(name: str, rows: Callable[[], list[dict[str, Any]]], **options: Any) -> Job:
    return lambda: resumed(_trl(name, rows, **options))


JOBS: Final[list[tuple[str, Job]]] = [
    ("SFTTrainer", _of("SFTTrainer", tiny.texts, max_length=16, eval_strategy="steps", eval_steps=3)),
    ("SFTTrainer, packed", _of("SFTTrainer", tiny.texts, max_length=8, packing=True)),
    ("SFTTrainer, padding-free", _of("SFTTrainer", tiny.texts, max_length=None, padding_free=True)),
    ("SFTTrainer, LoRA", _of("SFTTrainer", tiny.texts, max_length=16, peft_config=_lora)),
    ("DPOTrainer, LoRA", _of("DPOTrainer", tiny.preferences, peft_config=_lora)),
    ("DPOTrainer, reference adapter", _of("DPOTrainer", tiny.preferences, model=_adapted)),
    ("DPOTrainer, reference model", _of("DPOTrainer", tiny.preferences, ref_model=_reference)),
    ("DPOTrainer, sync_ref_model", _of("DPOTrainer", tiny.preferences, ref_model=_reference, **_SYNC)),
    (
        "DPOTrainer, sync_ref_model, reference passed as stateful",
        _of("DPOTrainer", tiny.preferences, ref_model=_reference, passes_reference=lambda: True, **_SYNC),
    ),
    ("KTOTrainer", _of("KTOTrainer", _judged, ref_model=_reference)),
    ("RewardTrainer", _of("RewardTrainer", tiny.preferences, scores=True)),
    ("GRPOTrainer", _of("GRPOTrainer", tiny.prompts, **_GENERATES)),
    (
        "GRPOTrainer, completions used for several steps",
        _of("GRPOTrainer", tiny.prompts, **_GENERATES, steps_per_generation=4, num_iterations=2),
    ),
    ("RLOOTrainer", _of("RLOOTrainer", tiny.prompts, **_GENERATES, beta=0.0)),
    (
        "DistillationTrainer",
        _of("DistillationTrainer", tiny.prompts, **_TAUGHT),
    ),
    ("Seq2SeqTrainer, predict_with_generate", lambda: resumed(_seq2seq)),
    ("hyperparameter_search with optuna", _search),
    ("optim=galore_adamw", lambda: resumed(_projected("galore_adamw"))),
    ("optim=galore_adafactor", lambda: resumed(_projected("galore_adafactor"))),
    (
        "optim=galore_adamw_layerwise",
        lambda: resumed(_projected("galore_adamw_layerwise", gradient_accumulation_steps=1)),
    ),
    ("optim=apollo_adamw", lambda: resumed(_projected("apollo_adamw"))),
    ("datasets, transform that draws globally", lambda: resumed(_transformed(_draws_globally))),
    ("datasets, transform with a generator", lambda: resumed(_own_generator())),
    ("datasets, transform that counts its calls", lambda: resumed(_transformed(_Counts()))),
    ("datasets, random map", lambda: resumed(_mapped)),
]
"""Names, and functions that train. Each takes a few seconds."""

"""Every method of the installed PEFT in a training that is stopped and resumed: from PEFT's own registry.

A method that a later PEFT adds is trained too, with `SMALL` values for the options that it shares with others.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import peft
import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Trainer, TrainerCallback, set_seed

from llamarec.checkpoints import Interrupted, ResumableTrainer
from llamarec.errors import CheckpointError, LlamarecError
from tests.resume.runs import At
from tests.resume.training import make_args, state_of
from tests.resume.worker_data import Seen, Words
from tests.tiny_llama import tiny_llama

Make = Callable[..., Any]
"""From the seed that a fresh adapter is drawn with to a model. The base model is always the same."""
EQUAL: Final = "equal"
REFUSED: Final = "refused: "
NOT_HERE: Final = "not trained by a plain Trainer either: "

QV: Final = ["q_proj", "v_proj"]
STEPS, STOPPED_AT = 6, 3
SEED, OTHER_SEED = 3, 4

SMALL: Final[dict[str, Any]] = {
    "r": 2,
    "target_modules": QV,
    "num_virtual_tokens": 3,
    "n_frequency": 20,
    "block_size": 4,
    "projection_prng_key": 1,
}
"""Options by name, for every method that has one of this name."""

OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "ADALORA": {"init_r": 4, "target_r": 2, "tinit": 1, "tfinal": 1, "deltaT": 1, "total_step": STEPS},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 2, "target_modules": None},
    "BOFT": {"boft_block_size": 4, "target_modules": ["q_proj"]},
    "CPT": {"cpt_token_ids": [1, 2, 3], "cpt_mask": [1, 1, 1], "cpt_tokens_type_mask": [1, 2, 3]},
    "IA3": {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "LN_TUNING": {"target_modules": None},
    "ROAD": {"group_size": 4},
    "SHADOW": {"target_modules": None},
    "XLORA": {"hidden_size": 16},
    "MULTITASK_PROMPT_TUNING": {"num_tasks": 2, "num_ranks": 1},
    "POLY": {"n_tasks": 2, "n_skills": 2},
    "OFT": {"r": 2, "oft_block_size": 0},
    "P_TUNING": {"encoder_hidden_size": 8},
    "PREFIX_TUNING": {"prefix_projection": True},
    "TRAINABLE_TOKENS": {"token_indices": [3, 5], "target_modules": ["embed_tokens"]},
    "VBLORA": {"num_vectors": 8, "vector_length": 4},
}
"""What single methods need besides, by their name in PEFT's registry."""


def llama(**changes: Any) -> Any:
    """The base model of all of them, always the same."""
    set_seed(1)
    defaults = {"vocab_size": 32, "num_hidden_layers": 2, "max_position_embeddings": 32, "tie_word_embeddings": False}
    return tiny_llama(**{**defaults, **changes})


def adapted(config: type[Any], base: Callable[[], Any] = llama, *, seed: int = SEED, **options: Any) -> Any:
    """A base model with an adapter whose first gradients reach every weight."""
    names = {field.name for field in dataclasses.fields(config)}
    small = {name: value for name, value in SMALL.items() if name in names}
    model = base()

    set_seed(seed)
    return stirred(get_peft_model(model, config(task_type="CAUSAL_LM", **{**small, **options})))


def stirred(model: Any) -> Any:
    """Fresh adapters hold zeros, which no gradient passes; here none does."""
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad and value.is_floating_point() and not value.any():
                value.copy_(0.02 * torch.randn(value.shape))
    return model


# ---- Beside the registry: variants of methods, and several adapters ----


def _two(*, trained: bool, seed: int = SEED) -> Any:
    model: Any = adapted(LoraConfig, seed=seed)
    model.add_adapter("second", LoraConfig(r=2, target_modules=QV, task_type="CAUSAL_LM", init_lora_weights=False))
    model.base_model.set_adapter(["default", "second"] if trained else "default")
    return model


def _native(*names: str, base: Callable[[], Any] = llama, active: int = 0, seed: int = SEED) -> Any:
    """Adapters of transformers' own, of which the first `active` are trained; all by default."""
    model = base()
    set_seed(seed)
    for name in names:
        model.add_adapter(LoraConfig(r=2, target_modules=QV, init_lora_weights=False), adapter_name=name)
    model.set_adapter(list(names[: active or len(names)]))
    return model


def _with_experts(*, seed: int = SEED, **options: Any) -> Any:
    """X-LoRA, which reads the LoRA adapters that it mixes from the disk."""
    with TemporaryDirectory() as folder:
        adapted(LoraConfig).save_pretrained(folder)
        return adapted(peft.XLoraConfig, seed=seed, adapters={"0": folder, "1": folder}, **options)


def _quantised(**options: Any) -> Any:
    """The base model as bitsandbytes keeps it."""
    with TemporaryDirectory() as folder:
        llama().save_pretrained(folder)
        quantised = AutoModelForCausalLM.from_pretrained(folder, quantization_config=BitsAndBytesConfig(**options))
    return prepare_model_for_kbit_training(quantised, use_gradient_checkpointing=False)


_nf4 = partial(_quantised, load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)


def _resized() -> Any:
    model = llama()
    model.resize_token_embeddings(40)
    return model


_lora: Callable[..., Make] = partial(partial, adapted, LoraConfig)

VARIANTS: Final[dict[str, Make]] = {
    "LORA, rsLoRA and bias": _lora(use_rslora=True, bias="all"),
    "LORA, DoRA": _lora(use_dora=True),
    "LORA, PiSSA": _lora(init_lora_weights="pissa"),
    "LORA, PiSSA by random SVD": _lora(init_lora_weights="pissa_niter_4"),
    "LORA, OLoRA": _lora(init_lora_weights="olora"),
    "LORA, orthogonal": _lora(init_lora_weights="orthogonal"),
    "LORA, modules_to_save": _lora(modules_to_save=["lm_head"]),
    "LORA, trainable_token_indices": _lora(trainable_token_indices=[3, 5]),
    "LORA, embeddings as target": _lora(target_modules=["q_proj", "embed_tokens"]),
    "LORA, tied embeddings": _lora(
        base=partial(llama, tie_word_embeddings=True), modules_to_save=["embed_tokens"], ensure_weight_tying=True
    ),
    "LORA, resized embeddings": _lora(base=_resized),
    "LORA, resized embeddings as target": _lora(base=_resized, target_modules=["q_proj", "embed_tokens", "lm_head"]),
    "LORA, replicated layers": _lora(layer_replication=[[0, 2], [0, 2]]),
    "LORA, target_parameters": _lora(target_modules=[], target_parameters=["q_proj.weight"]),
    "LORA, lora_bias": _lora(lora_bias=True),
    "LORA, two adapters trained": partial(_two, trained=True),
    "LORA, a frozen reference adapter": partial(_two, trained=False),
    "LORA, native add_adapter": partial(_native, "default"),
    "LORA, NF4 base": _lora(base=_nf4),
    "LORA, 8-bit base": _lora(base=partial(_quantised, load_in_8bit=True)),
    "LORA, native add_adapter on an NF4 base": partial(_native, "default", base=_nf4),
    "LORA, native add_adapter under a name": partial(_native, "own"),
    "LORA, native add_adapter of two": partial(_native, "first", "second"),
    "LORA, native reference adapter": partial(_native, "first", "reference", active=1),
    "ADALORA, modules_to_save": partial(adapted, peft.AdaLoraConfig, modules_to_save=["lm_head"], **OPTIONS["ADALORA"]),
    "P_TUNING, modules_to_save": partial(
        adapted, peft.PromptEncoderConfig, encoder_hidden_size=8, modules_to_save=["lm_head"]
    ),
    "VERA, projection not saved": partial(adapted, peft.VeraConfig, save_projection=False),
    "XLORA, trained experts": partial(_with_experts, hidden_size=16, use_trainable_adapters=True),
    "PREFIX_TUNING, without projection": partial(adapted, peft.PrefixTuningConfig),
    "P_TUNING, LSTM": partial(
        adapted, peft.PromptEncoderConfig, encoder_reparameterization_type="LSTM", encoder_hidden_size=8
    ),
}


def methods() -> dict[str, Make]:
    """A model for every method of the installed PEFT, and for the variants."""
    registry = {
        kind.value: partial(adapted, config, **OPTIONS.get(kind.value, {}))
        for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()
    }
    return {**registry, "XLORA": partial(_with_experts, **OPTIONS["XLORA"]), **VARIANTS}


# ---- A training of each ----


class Allocates(TrainerCallback):
    """Has a method that spends a budget of ranks allocate it after each step, as PEFT's documentation says."""

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """See there."""
        allocate = getattr(objects["model"], "update_and_allocate", None)
        if allocate is not None:
            allocate(state.global_step + 1)


class Tasks(Seen):
    """Names the task of each sample, where a method trains several."""

    def __call__(self, samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """See there."""
        tasks = torch.stack([sample["index"] % 2 for sample in samples])
        return {**super().__call__(samples), "task_ids": tasks}


def has_tasks(model: Any) -> bool:
    """Whether a method trains one of several tasks with each sample."""
    configs = getattr(model, "peft_config", {}).values()
    return any(getattr(config, name, 0) == 2 for config in configs for name in ("num_tasks", "n_tasks"))


class Plain(TrainerCallback):
    """Saves the live model as a plain program does, at the first save."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_save(self, *_: Any, **objects: Any) -> None:
        """See there."""
        if not self._folder.exists():
            objects["model"].save_pretrained(self._folder)


def train(
    make: Make,
    folder: Path,
    *callbacks: Any,
    seed: int = SEED,
    resume: Any = None,
    cls: Any = ResumableTrainer,
    **changes: Any,
) -> Any:
    """The Trainer after its training."""
    model = make(seed=seed)
    set_seed(2)
    options = {"max_steps": STEPS, "save_steps": STOPPED_AT, "eval_strategy": "no", "load_best_model_at_end": False}
    trainer = cls(
        model=model,
        args=make_args(folder, **{**options, **changes}),
        train_dataset=Words(),
        data_collator=Tasks() if has_tasks(model) else Seen(),
        callbacks=[Allocates(), *callbacks],
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def everything(model: Any) -> dict[str, torch.Tensor]:
    """All tensors of a model, copied; those that its state leaves out too."""
    found = {**dict(model.named_parameters()), **dict(model.named_buffers()), **model.state_dict()}
    return {name: value.detach().clone() for name, value in found.items() if isinstance(value, torch.Tensor)}


def differing(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    """Names whose tensors are not the same."""
    return [name for name in a.keys() | b.keys() if name not in a or name not in b or not torch.equal(a[name], b[name])]


def files_differing(checkpoint: Path, plain: Path) -> list[str]:
    """Files of a plain save that a checkpoint has not, or has with other content."""
    wrong = []
    for path in sorted(path for path in plain.rglob("*") if path.is_file() and path.name != "README.md"):
        name = path.relative_to(plain).as_posix()
        saved = checkpoint / name
        if not saved.is_file():
            wrong.append(name)
        elif path.suffix == ".safetensors":
            wrong += [f"{name}: {key}" for key in differing(load_file(saved), load_file(path))]
        elif _content(saved) != _content(path):
            wrong.append(name)

    weights = {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("adapter_model.*")}
    return wrong + sorted(weights - {path.relative_to(plain).as_posix() for path in plain.rglob("adapter_model.*")})


def _content(path: Path) -> bytes:
    """Content of a file; PEFT writes the names of target modules in the order of a set, which differs between sets."""
    if path.name != "adapter_config.json":
        return path.read_bytes()
    content = json.loads(path.read_bytes())
    targets = content.get("target_modules")
    return json.dumps(content | {"target_modules": sorted(targets) if isinstance(targets, list) else targets}).encode()


def outcome(make: Make, folder: Path) -> str:
    """Whether a stopped and resumed training of a model is the uninterrupted one.

    Raises:
        AssertionError: it is another one, or its files are not those of a plain save.
    """
    try:
        before = everything(make())
        train(make, folder / "none", cls=Trainer, max_steps=2, save_strategy="no")
    except Exception as error:
        return f"{NOT_HERE}{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"

    try:
        whole = train(make, folder / "whole", Plain(folder / "plain"))
    except LlamarecError as error:
        return f"{REFUSED}{error.problem}"

    if not differing(before, everything(whole.model)):
        raise AssertionError("nothing was trained")
    _must_be_none("files", files_differing(folder / "whole" / f"checkpoint-{STOPPED_AT}", folder / "plain"))

    try:
        train(make, folder / "run", At(STOPPED_AT))
    except Interrupted:
        pass
    else:
        raise AssertionError("the training was not stopped")
    resumed = _resumed(make, folder / "run")

    _must_be_none("tensors", differing(everything(whole.model), everything(resumed.model)))
    last, again = (state_of(folder / run / f"checkpoint-{STEPS}") for run in ("whole", "run"))
    _must_be_none("entries", [name for name, value in last.items() if value != again[name]])
    return EQUAL


def _resumed(make: Make, folder: Path) -> Any:
    """The Trainer after the rest of a training, in a program that need not draw the adapter as it was drawn before."""
    try:
        return train(make, folder, seed=OTHER_SEED, resume="latest")
    except CheckpointError as error:
        # What it draws is frozen, or goes into the frozen weights: no checkpoint has it.
        if "base_model" not in str(error):
            raise AssertionError(f"saved, and not resumed: {error}") from error

    return train(make, folder, resume="latest")


def _must_be_none(what: str, names: list[str]) -> None:
    if names:
        raise AssertionError(f"{len(names)} {what} differ: {', '.join(sorted(names)[:4])}")


def peft_jobs() -> Iterator[tuple[str, Callable[[], str]]]:
    """Name of each method, and what trains, stops and resumes it: to EQUAL, or a text after REFUSED or NOT_HERE."""
    for name, make in methods().items():
        yield name, partial(_job, make)


def _job(make: Make) -> str:
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return outcome(make, Path(folder))

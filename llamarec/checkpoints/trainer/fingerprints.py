"""What identifies a run: fingerprints of base model, adapter and data, the same on every machine."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from typing import Any, Final

import torch
from torch import nn

from llamarec.checkpoints.trainer.samples.sampling import KeyedDataset, Samples
from llamarec.checkpoints.trainer.state.tensors import bytes_of, some_values, whole

_VALUES_PER_TENSOR: Final = 16
_NUM_SAMPLES: Final = 4
# Entries of a configuration that say where it is stored or what wrote it, not what it is.
_PASSING: Final = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache", "architectures")
_STORAGE: Final = "bnb_4bit_quant_storage"
_DIGITS: Final = 16


def fingerprints_of(model: nn.Module | None, dataset: Samples, *, seed: int, by_epoch: bool) -> dict[str, object]:
    """Fingerprints of any Trainer's adapter and data.

    Args:
        model: Unwrapped.
        dataset: The training data.
        seed: Of the run, for samples that draw random numbers.
        by_epoch: Whether samples are indexed by (epoch, index).

    Returns:
        lora: shape and scale; data: number of samples and a few of them.
    """
    lora = _adapter(model)
    return {"data": _data(dataset, seed, by_epoch), **({"lora": lora} if lora else {})}


def base_model_of(model: nn.Module) -> str:
    """Fingerprint of a model before training: its configuration and a few values of every frozen weight."""
    digest = hashlib.sha256()
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "to_dict"):
        content = {name: value for name, value in config.to_dict().items() if name not in _PASSING}
        content = _without_storage(content)
        digest.update(json.dumps(content, sort_keys=True, default=str).encode())

    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            value = _bytes_of_four_bits(whole(parameter))
            digest.update(f"{name} {tuple(value.shape)} ".encode())
            digest.update(bytes_of(some_values(value, _VALUES_PER_TENSOR)).tobytes())

    return digest.hexdigest()[:_DIGITS]


def _without_storage(configuration: dict[str, Any]) -> dict[str, Any]:
    """Four bits are the same in every data type that stores them; FSDP2 shards only some."""
    quantised = configuration.get("quantization_config")
    if not isinstance(quantised, dict) or _STORAGE not in quantised:
        return configuration

    return {**configuration, "quantization_config": {**quantised, _STORAGE: "uint8"}}


def _bytes_of_four_bits(parameter: torch.Tensor) -> torch.Tensor:
    """A weight of bitsandbytes in 4 bits as its bytes, in one column as it keeps them; others as they are."""
    if not hasattr(parameter, "quant_state") or not parameter.is_floating_point():
        return parameter

    return parameter.detach().view(torch.uint8).reshape(-1, 1)


def _adapter(model: nn.Module | None) -> dict[str, object]:
    configs = getattr(model, "peft_config", None)
    if not isinstance(configs, dict):
        return {}

    wanted = ("r", "lora_alpha", "target_modules", "use_rslora", "use_dora", "bias", "rank_pattern", "alpha_pattern")
    found: dict[str, object] = {}
    for adapter, config in configs.items():
        for name in wanted:
            value = getattr(config, name, None)
            if value:
                key = name if len(configs) == 1 else f"{adapter}.{name}"
                found[key] = sorted(value) if isinstance(value, set | list) else value
    return found


def _data(dataset: Samples, seed: int, by_epoch: bool) -> str:
    size, keyed = len(dataset), KeyedDataset(dataset, seed, by_epoch=by_epoch)
    digest = hashlib.sha256(str(size).encode())
    for number in range(min(_NUM_SAMPLES, size)):
        index = number * (size - 1) // max(_NUM_SAMPLES - 1, 1)
        _, sample = keyed[(0, index)]
        digest.update(_as_bytes(sample))
    return f"{size} samples, {digest.hexdigest()[:_DIGITS]}"


def _as_bytes(value: object) -> bytes:
    """Content, whatever the container is: two processes pickle equal tensors in different ways."""
    if isinstance(value, torch.Tensor):
        return _of_tensor(value)
    if hasattr(value, "items"):
        return b"".join(str(name).encode() + _as_bytes(item) for name, item in sorted(value.items(), key=str))
    if isinstance(value, list | tuple):
        return b"".join(_as_bytes(item) for item in value)
    if isinstance(value, set | frozenset) and not all(isinstance(item, bool | int | float) for item in value):
        # In the order of a text's hash, which is another one in each process.
        return b"".join(sorted(_as_bytes(item) for item in value))
    if isinstance(value, str | int | float | bool | type(None)):
        return f"{value!r};".encode()
    return _pickled(value)


def _of_tensor(value: torch.Tensor) -> bytes:
    return bytes_of(value).tobytes() if value.numel() else b""


def _pickled(value: object) -> bytes:
    """As pickle writes it; by content where its bytes would be others in another process."""
    found = _ByContent()
    found.dump(value)
    return found.content if found.differs else pickle.dumps(value, protocol=4)


class _ByContent(pickle._Pickler):
    """Writes sets in an order of their own, and tensors without the addresses that their pickles hold.

    Attributes:
        differs: Whether there was one of them.
    """

    def __init__(self) -> None:
        self._file = io.BytesIO()
        super().__init__(self._file, protocol=4)
        self.differs = False

    @property
    def content(self) -> bytes:
        """What was written."""
        return self._file.getvalue()

    def reducer_override(self, value: object) -> Any:  # the pickler takes NotImplemented too
        """Asked of every object, unlike that of the fast pickler."""
        if isinstance(value, torch.Tensor):
            content = f"{value.dtype}{list(value.shape)}".encode() + _of_tensor(value)
        elif isinstance(value, set | frozenset) and not all(isinstance(item, bool | int | float) for item in value):
            content = b"".join(sorted(map(_pickled, value)))
        else:
            return NotImplemented

        self.differs = True
        return bytes, (content,)

"""LoRA's rank, scale and layers: those of an adapter in a folder, and those of a run."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import MISSING, Field, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from peft import LoraConfig, PeftConfig

from llamarec.checkpoints.storage.layout import ADAPTER_CONFIG
from llamarec.errors import ConfigError
from llamarec.ranker.options.config import ALL_LINEAR, LINEAR_LAYERS, RankerConfig

# Fields of PEFT's configuration that do not change what the weights compute, or that are compared on their own. Any
# other field has PEFT's default in the ranker's adapters, also one that a later PEFT adds.
_FREE: Final = frozenset(
    {
        *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        *("inference_mode", "lora_dropout", "megatron_core", "qalora_group_size", "runtime_config"),
        *("r", "lora_alpha", "target_modules", "init_lora_weights"),
    }
)
# The others (PiSSA, OLoRA, LoftQ, ...) change the base model's weights too, and no adapter has those.
_PLAIN_STARTS: Final = (True, False, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class LoraOptions:
    """What the weights of an adapter belong to; names as in `RankerConfig`."""

    lora_r: int
    lora_alpha: int
    lora_target_modules: str

    @classmethod
    def of_run(cls, config: RankerConfig) -> LoraOptions:
        """Those of a command line."""
        return cls(config.lora_r, config.lora_alpha, _named(config.target_modules))

    @classmethod
    def of_adapter(cls, theirs: LoraConfig) -> LoraOptions:
        """Those of an adapter that `configuration_in` has read."""
        return cls(int(theirs.r), int(theirs.lora_alpha), _named(theirs.target_modules or ()))

    def put_into(self, config: RankerConfig) -> RankerConfig:
        """The options of a run, with these."""
        return replace(
            config,
            lora_r=self.lora_r,
            lora_alpha=self.lora_alpha,
            lora_target_modules=self.lora_target_modules,
        )

    def differing(self, other: LoraOptions) -> list[str]:
        """Names of the options whose values differ."""
        return [one.name for one in fields(self) if getattr(self, one.name) != getattr(other, one.name)]

    def typed(self, names: Collection[str] | None = None) -> str:
        """The flags as they are typed; None means all."""
        wanted = [one.name for one in fields(self) if names is None or one.name in names]
        return " ".join(f"--{name} {getattr(self, name)}" for name in wanted)


def configuration_in(folder: Path) -> LoraConfig:
    """PEFT's configuration of an adapter that the ranker could have trained.

    Raises:
        ConfigError: it cannot be read, or its weights would compute something else in the ranker's LoRA layers.
    """
    try:
        found = PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder / ADAPTER_CONFIG}: cannot be read", found=str(error).partition("\n")[0]) from error

    if not isinstance(found, LoraConfig):
        raise ConfigError(
            f"--init_adapter: the adapter in {folder} is no LoRA adapter",
            found=str(getattr(found.peft_type, "value", found.peft_type)),
        )
    strange = [f"{name}={getattr(found, name)!r}" for name in _strange(found)]
    if strange:
        raise ConfigError(
            f"--init_adapter: the ranker does not train adapters like the one in {folder}",
            expected="plain LoRA with one rank and a whole lora_alpha, on layers by name",
            found=", ".join(strange),
        )
    return found


def _strange(theirs: LoraConfig) -> list[str]:
    """Names of the fields that the ranker's adapters never have so."""
    names = [one.name for one in fields(theirs) if one.name not in _FREE and not _is_default(one, theirs)]
    names += ["init_lora_weights"] if theirs.init_lora_weights not in _PLAIN_STARTS else []
    names += [name for name in ("r", "lora_alpha") if not _is_whole(getattr(theirs, name))]
    names += ["target_modules"] if isinstance(theirs.target_modules, str) or not theirs.target_modules else []
    return names


def _is_whole(value: object) -> bool:
    return isinstance(value, int | float) and value >= 1 and value == int(value)


def _is_default(field: Field[Any], theirs: LoraConfig) -> bool:
    value, default = getattr(theirs, field.name), field.default
    if field.default_factory is not MISSING:
        default = field.default_factory()
    # An empty list or mapping asks for nothing, as None does.
    return bool(value == default) or (not value and not default)


def _named(layers: Collection[str]) -> str:
    """Layers in one order, whatever order they were named in."""
    if set(layers) == set(LINEAR_LAYERS):
        return ALL_LINEAR
    known = [name for name in LINEAR_LAYERS if name in layers]
    return ",".join([*known, *sorted(set(layers) - set(known))])

"""The first weights of a run, where they are those of another run's adapter (`--init_adapter`).

For data that have grown since, or other data of the same kind: a new run, with a schedule of its own, that need not
learn again what a letter stands for. To go on with the same run is `--resume_from_checkpoint`.
"""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any, Final, NamedTuple

from torch import Tensor

from llamarec.checkpoints.integrity import verify, verify_best
from llamarec.checkpoints.layout import BEST_MANIFEST, MANIFEST
from llamarec.checkpoints.loading import load_json, load_weights
from llamarec.checkpoints.weights import put_weights
from llamarec.errors import CheckpointError, ConfigError
from llamarec.ranker.config import RankerConfig
from llamarec.vocabulary import CHECKPOINTS

_CONFIGURATION: Final = "adapter_config.json"


class InitialAdapter(NamedTuple):
    """Another run's weights.

    Attributes:
        folder: Where they lie.
        weights: By name.
        base_model: That they were trained on, as far as they say.
    """

    folder: Path
    weights: dict[str, Tensor]
    base_model: str

    def put_into(self, model: Any) -> None:
        """In the place of fresh LoRA layers.

        Raises:
            CheckpointError: they are those of another base model.
        """
        put_weights(model, self.weights, self.folder, "default")


def read_initial(config: RankerConfig) -> InitialAdapter:
    """The adapter that `config.init_adapter` names; no base model is needed for it.

    Args:
        config: Which adapter, and the LoRA options that it has to have.

    Raises:
        ConfigError: there is no adapter, or it has other LoRA options; says which flags fit it.
        CheckpointError: its weights are damaged or hostile.
    """
    folder = _folder(config.init_adapter)
    theirs = load_json(folder / _CONFIGURATION)
    _check_options(folder, theirs, config)
    _check_health(folder)
    weights = load_weights(folder)
    if weights is None:
        raise ConfigError(
            f"--init_adapter {config.init_adapter}: there are no weights in {folder}",
            expected="adapter_model.bin or adapter_model.safetensors",
        )
    base_model = str(theirs.get("base_model_name_or_path") or "a base model that it does not name")
    return InitialAdapter(folder, weights, PurePath(base_model.replace("\\", "/")).name)


def _folder(given: str) -> Path:
    path = Path(given)
    for folder in (path, path / CHECKPOINTS):
        if (folder / _CONFIGURATION).is_file():
            return folder
    raise ConfigError(
        f"--init_adapter {given}: there is no adapter",
        expected=f"a folder with {_CONFIGURATION} and weights: a run's folder with its best adapter "
        "(experiments/llm/NAME), a checkpoint, or what llamarec export wrote",
        found="a folder without it" if path.is_dir() else "no such folder",
    )


def _check_options(folder: Path, theirs: dict[str, Any], config: RankerConfig) -> None:
    """All that differs at once, as flags that can be typed."""
    targets = theirs.get("target_modules")
    pairs = [("r", config.lora_r), ("lora_alpha", config.lora_alpha)]
    flags = [(f"--lora_{name.removeprefix('lora_')}", str(theirs.get(name)), str(ours)) for name, ours in pairs]
    if isinstance(targets, list) and set(targets) != set(config.target_modules):
        flags.append(("--lora_target_modules", ",".join(sorted(targets)), config.lora_target_modules))
    other = [(flag, then, now) for flag, then, now in flags if then != now]
    if other:
        raise ConfigError(
            f"--init_adapter {config.init_adapter}: the adapter in {folder} has other LoRA options than this run",
            expected=" ".join(f"{flag} {then}" for flag, then, _ in other),
            found=" ".join(f"{flag} {now}" for flag, _, now in other),
            retry_with=tuple(word for flag, then, _ in other for word in (flag, then)),
        )


def _check_health(folder: Path) -> None:
    """What was saved with hashes has to match them."""
    if (folder / BEST_MANIFEST).is_file():
        verdict = verify_best(folder)
    elif (folder / MANIFEST).is_file():
        verdict = verify(folder)
    else:
        return
    if verdict.health == "damaged":
        raise CheckpointError(
            f"--init_adapter: the adapter in {folder} is not as it was saved",
            found=verdict.reason,
            hint=f"llamarec checkpoints verify {folder}",
        )

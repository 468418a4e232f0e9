"""First weights of a run from another run's adapter (`--init_adapter`).

It serves data that have grown, or similar data: a new run with its own schedule that already knows what a letter stands
for. `--resume_from_checkpoint` continues the same run instead.
"""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any, Final, NamedTuple

from peft import LoraConfig, PeftConfig
from torch import Tensor

from llamarec.checkpoints.resume.safe_load import load_weights
from llamarec.checkpoints.storage.layout import ADAPTER_CONFIG, MANIFEST, RunFolder
from llamarec.checkpoints.storage.verification import verify
from llamarec.checkpoints.trainer.state.into_model import put_weights
from llamarec.errors import CheckpointError, ConfigError
from llamarec.files import read_json
from llamarec.ranker.options.config import RankerConfig
from llamarec.ranker.prompts.template import PROMPT_FILE, PromptTemplate
from llamarec.ranker.trained.loading import adapter_in
from llamarec.ranker.trained.locations import codes_under, experiment_at, experiment_of, folder_of
from llamarec.vocabulary import CHECKPOINTS, DESCRIPTION, Experiment, RankerDescription

# Options that the ranker's LoRA layers never have; each changes the meaning of the weights.
_UNSUPPORTED: Final = (
    "use_rslora",
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "layers_to_transform",
)


class InitialAdapter(NamedTuple):
    """Another run's weights.

    Attributes:
        folder: Folder of the adapter.
        weights: Weights by name.
        base_model: Name of the base model they were trained on; empty if unknown.
        prompt: Prompt they were trained with (`PromptTemplate.as_dict`); None if unknown.
    """

    folder: Path
    weights: dict[str, Tensor]
    base_model: str
    prompt: dict[str, str] | None = None

    def put_into(self, model: Any) -> None:
        """Replaces the fresh LoRA weights of a model.

        Raises:
            CheckpointError: the weights belong to another base model.
        """
        try:
            put_weights(model, self.weights, self.folder, "default")
        except CheckpointError as error:
            raise CheckpointError(
                f"--init_adapter: {error.problem}",
                expected=f"the base model that the adapter was trained on ({self.base_model})",
                found=error.found,
                hint="--llm_base_model with that base model, or no --init_adapter",
            ) from error

    def describe(self, source: str, prompt: PromptTemplate) -> str:
        """One line on where the weights come from, with a warning if they may be useless here.

        Args:
            source: Source of this run's base model.
            prompt: Prompt of this run.
        """
        other = _last_part(source)
        warnings = [f"this run trains {other}"] if self.base_model and self.base_model != other else []
        # The meaning of a letter is learned with one prompt.
        warnings += ["the prompt differs"] if self.prompt not in (None, prompt.as_dict()) else []
        text = f"starts from {self.folder}, trained on {self.base_model or 'an unknown base model'}"
        return text + (f" (WARNING: {', '.join(warnings)})" if warnings else "")


def read_initial(config: RankerConfig, root: Path) -> InitialAdapter:
    """The adapter that `config.init_adapter` names, read without a base model.

    Args:
        config: Name of the adapter, and the LoRA options that it must have.
        root: Experiment root, in which data set codes are looked up.

    Raises:
        ConfigError: there is no adapter, or it has other LoRA options; names the flags that fit it.
        CheckpointError: its weights are damaged or hostile.
    """
    folder = _folder(config.init_adapter, root)
    theirs = _options_in(folder)
    _check_options(folder, theirs, config)
    weights = load_weights(folder)
    if weights is None:
        raise ConfigError(
            f"--init_adapter {config.init_adapter}: {folder} has no weights",
            expected="adapter_model.bin or adapter_model.safetensors",
        )
    base_model = _last_part(str(theirs.base_model_name_or_path or ""))
    return InitialAdapter(folder, weights, base_model, _prompt_of(folder))


def _folder(given: str, root: Path) -> Path:
    """The folder of a run's best adapter, or the given folder itself."""
    of_code = experiment_at(Experiment(root, given).ranker)
    path = of_code.ranker if of_code is not None else Path(given)
    experiment = of_code or (experiment_at(path) if path.is_dir() else None)
    for run in (folder_of(experiment) if experiment is not None else RunFolder(path), RunFolder(path / CHECKPOINTS)):
        found = adapter_in(run)
        if found is not None:
            return found.folder
    if not (path / ADAPTER_CONFIG).is_file():
        raise _no_adapter(given, path, root)
    verdict = verify(path) if (path / MANIFEST).is_file() else None
    if verdict is not None and verdict.health == "damaged":
        raise CheckpointError(
            f"--init_adapter: the adapter in {path} is damaged",
            found=verdict.reason,
            hint=f"llamarec checkpoints verify {path}",
        )
    return path


def _no_adapter(given: str, path: Path, root: Path) -> ConfigError:
    none = "a folder without an adapter" if path.is_dir() else "a file" if path.exists() else "no such folder"
    siblings = [step.name for step in RunFolder(path.parent).checkpoints()] if path.parent.is_dir() else []
    codes = codes_under(root)
    there = f"beside it {', '.join(siblings)}" if siblings else f"under {root}: {', '.join(codes) or 'no run'}"
    return ConfigError(
        f"--init_adapter {given}: there is no adapter (nothing is fetched from the hub)",
        expected=f"the code of a data set with a run, a run's folder, or a folder with {ADAPTER_CONFIG} and weights (a "
        "checkpoint or an export)",
        found=f"{none}; {there}",
    )


def _prompt_of(folder: Path) -> dict[str, str] | None:
    """The prompt in an export, or else that of the run to which a folder of checkpoints belongs."""
    said = read_json(folder / PROMPT_FILE)
    for experiment in (experiment_of(RunFolder(run)) for run in (folder, folder.parent)):
        if said is None and experiment is not None:
            said = (read_json(experiment.ranker / DESCRIPTION, RankerDescription) or {}).get("prompt")
    names = PromptTemplate().as_dict().keys()
    return {name: said[name] for name in names} if said is not None and names <= said.keys() else None


def _options_in(folder: Path) -> LoraConfig:
    try:
        found = PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder / ADAPTER_CONFIG}: cannot be read", found=str(error).partition("\n")[0]) from error
    if not isinstance(found, LoraConfig):
        raise ConfigError(
            f"--init_adapter: the adapter in {folder} is no LoRA adapter",
            found=str(getattr(found.peft_type, "value", found.peft_type)),
        )
    return found


def _check_options(folder: Path, theirs: LoraConfig, config: RankerConfig) -> None:
    """Refuses other LoRA options, all at once, as flags that can be typed."""
    strange = [name for name in _UNSUPPORTED if getattr(theirs, name, None)]
    if strange or isinstance(theirs.target_modules, str):
        raise ConfigError(
            f"--init_adapter: the ranker does not train adapters like the one in {folder}",
            expected="plain LoRA with one rank, on layers by name",
            found=", ".join(f"{name}={getattr(theirs, name)}" for name in strange) or f"'{theirs.target_modules}'",
        )
    targets = sorted(theirs.target_modules or [])
    pairs = [
        ("--lora_r", str(theirs.r), str(config.lora_r)),
        ("--lora_alpha", f"{theirs.lora_alpha:g}", str(config.lora_alpha)),
        ("--lora_target_modules", ",".join(targets), ",".join(sorted(config.target_modules))),
    ]
    other = [(flag, then, now) for flag, then, now in pairs if then != now]
    if other:
        raise ConfigError(
            f"--init_adapter {config.init_adapter}: the adapter in {folder} has other LoRA options than this run",
            expected=" ".join(f"{flag} {then}" for flag, then, _ in other),
            found=" ".join(f"{flag} {now}" for flag, _, now in other),
            retry_with=tuple(word for flag, then, _ in other for word in (flag, then)),
        )


def _last_part(name: str) -> str:
    """Last part of a hub name, or of a folder of either operating system."""
    return PurePath(name.replace("\\", "/")).name

"""First weights of a run from another run's adapter (`--init_adapter`).

It serves data that have grown, similar data, and letters after items: a new run with its own schedule that already
knows something. `--resume_from_checkpoint` continues the same run instead.

Only LoRA is taken. Its rank, scale and layers are the adapter's, unless they are typed; item vectors are always fresh.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from torch import Tensor

from llamarec.checkpoints.resume.safe_load import load_weights
from llamarec.checkpoints.storage.layout import ADAPTER_CONFIG, MANIFEST, RunFolder
from llamarec.checkpoints.storage.verification import verify
from llamarec.checkpoints.trainer.state.into_model import put_weights
from llamarec.errors import CheckpointError, ConfigError
from llamarec.files import read_json
from llamarec.ranker.model.items.stored import ITEM_FEATURES
from llamarec.ranker.options.command_line import Parsed
from llamarec.ranker.options.config import ITEMS, LETTERS, RankerConfig
from llamarec.ranker.prompts.template import PROMPT_FILE, PromptTemplate
from llamarec.ranker.trained.loading import adapter_in
from llamarec.ranker.trained.locations import codes_under, experiment_at, experiment_of, folder_of
from llamarec.ranker.training.lora_options import LoraOptions, configuration_in
from llamarec.vocabulary import CHECKPOINTS, DESCRIPTION, Experiment, RankerDescription


@dataclass(frozen=True)
class InitialAdapter:
    """Another run's weights.

    Attributes:
        folder: Folder of the adapter.
        weights: Weights by name.
        lora: LoRA options of the adapter.
        base_model: Name of the base model they were trained on; empty if unknown.
        readout: What was read from the model in its training.
        prompt: Prompt they were trained with (`PromptTemplate.as_dict`); None if unknown, or if there was none.
    """

    folder: Path
    weights: dict[str, Tensor]
    lora: LoraOptions
    base_model: str
    readout: str = LETTERS
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

    def describe(self, source: str, config: RankerConfig, prompt: PromptTemplate | None = None) -> list[str]:
        """Where the weights come from, with a warning if they may be useless here; and LoRA's options.

        Args:
            source: Source of this run's base model.
            config: Options of this run.
            prompt: Prompt of this run; None for histories.
        """
        other = _last_part(source)
        warnings = [f"this run trains {other}"] if self.base_model and self.base_model != other else []
        # The meaning of a letter is learned with one prompt.
        differs = prompt is not None and self.prompt not in (None, prompt.as_dict())
        warnings += ["the prompt differs"] if differs else []

        text = f"starts from {self.folder}, trained on {self.base_model or 'an unknown base model'}"
        if self.readout == ITEMS:
            text += " with --readout items; its item vectors stay behind"
        if config.readout == ITEMS:
            text += "; item vectors are fresh" if self.readout == LETTERS else ", fresh ones are trained"
        text += f" (WARNING: {', '.join(warnings)})" if warnings else ""
        return [text, f"its LoRA: {self.lora.typed()}"]


def starting(parsed: Parsed) -> tuple[Parsed, InitialAdapter | None]:
    """A command line with the LoRA options of the adapter that it starts from, and this adapter.

    A resume takes weights and options from its own checkpoint, so the other run may be gone by then.

    Raises:
        ConfigError: as `read_initial`.
        CheckpointError: likewise.
    """
    if not parsed.ranker.init_adapter or parsed.kept:
        return parsed, None
    initial = read_initial(parsed.ranker, parsed.experiment.root, parsed.given)
    return parsed._replace(ranker=initial.lora.put_into(parsed.ranker)), initial


def read_initial(config: RankerConfig, root: Path, given: Collection[str] = ()) -> InitialAdapter:
    """The adapter that `config.init_adapter` names, read without a base model.

    Args:
        config: Name of the adapter, and the LoRA options of the command line.
        root: Experiment root, in which data set codes are looked up.
        given: Names of the options that were typed; the adapter must have their values.

    Raises:
        ConfigError: there is no adapter, or it has other LoRA options; names the flags that fit it.
        CheckpointError: its weights are damaged or hostile.
    """
    folder = _folder(config.init_adapter, root)
    theirs = configuration_in(folder)
    lora = LoraOptions.of_adapter(theirs)
    _check_given(folder, lora, config, given)

    weights = load_weights(folder)
    if weights is None:
        raise ConfigError(
            f"--init_adapter {config.init_adapter}: {folder} has no weights",
            expected="adapter_model.bin or adapter_model.safetensors",
        )
    base_model = _last_part(str(theirs.base_model_name_or_path or ""))
    return InitialAdapter(folder, weights, lora, base_model, _readout_of(folder), _prompt_of(folder))


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


def _check_given(folder: Path, theirs: LoraOptions, config: RankerConfig, given: Collection[str]) -> None:
    """Refuses LoRA options that were typed and are not the adapter's, all at once, as flags that can be typed."""
    ours = LoraOptions.of_run(config)
    other = [name for name in theirs.differing(ours) if name in given]
    if other:
        raise ConfigError(
            f"--init_adapter {config.init_adapter}: the adapter in {folder} has other LoRA options than this run",
            expected=f"{theirs.typed(other)}; without these flags the adapter's values are used",
            found=ours.typed(other),
            retry_with=tuple(theirs.typed(other).split()),
        )


def _readout_of(folder: Path) -> str:
    """What was read from the model that an adapter was trained in."""
    said = read_json(folder / PROMPT_FILE)
    of_export = isinstance(said, dict) and said.get("readout") == ITEMS
    return ITEMS if of_export or (folder / ITEM_FEATURES).is_file() else LETTERS


def _last_part(name: str) -> str:
    """Last part of a hub name, or of a folder of either operating system."""
    return PurePath(name.replace("\\", "/")).name

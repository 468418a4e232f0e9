"""Starting one readout from the adapter of the other: LoRA alone is taken, exactly, and a resume needs nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftConfig
from rich.console import Console
from safetensors.torch import load_file

from llamarec.errors import ConfigError
from llamarec.ranker.options.command_line import parse
from llamarec.ranker.training.init_adapter import read_initial
from llamarec.ranker.training.run import plan_ranker, train_ranker
from tests.ranker.shop import QUIET, argv_of, checkpoints_of, tensors

LETTERS, ITEMS = ("--readout", "letters", "--order_prompts", "0"), ("--readout", "items")
ADAPTER, HEAD = "adapter_model.bin", "extra_state.safetensors"


def run(folder: Path, *more: str, console: Console = QUIET) -> None:
    train_ranker(parse(argv_of(folder, *more)), console)


def from_other(folder: Path, first: tuple[str, ...]) -> Path:
    """The best adapter of a first run, moved away from where the second one trains."""
    run(folder, *first, "--max_steps", "4", "--learning_rate", "1e-2")
    return Path(shutil.move(checkpoints_of(folder).parent, folder / "other")) / "checkpoints"


def saved(folder: Path, step: int) -> Path:
    return checkpoints_of(folder) / f"checkpoint-{step}"


def bits(checkpoint: Path) -> dict[str, object]:
    """Everything that training moves, by name."""
    found: dict[str, object] = dict(tensors(checkpoint / ADAPTER))
    if (checkpoint / HEAD).is_file():
        found |= {name: value.numpy().tobytes() for name, value in load_file(checkpoint / HEAD).items()}
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"]
    moments = {f"{key} {name}": value for key, entry in state.items() for name, value in entry.items()}
    return found | {name: value.numpy().tobytes() for name, value in moments.items()}


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        (ITEMS, LETTERS, "trained on tiny with --readout items; its item vectors stay behind"),
        (LETTERS, ITEMS, "trained on tiny; item vectors are fresh"),
        (ITEMS, ITEMS, "trained on tiny with --readout items; its item vectors stay behind, fresh ones are trained"),
    ],
    ids=["letters after items", "items after letters", "items after items"],
)
def test_lora_is_the_other_runs_and_nothing_else(
    folder: Path, capsys: pytest.CaptureFixture[str], first: tuple[str, ...], then: tuple[str, ...], said: str
) -> None:
    other = from_other(folder, first)
    if then == ITEMS:
        run(folder, *ITEMS, "--learning_rate", "0", "--max_steps", "4")
        fresh = load_file(saved(folder, 4) / HEAD)
        shutil.rmtree(checkpoints_of(folder).parent)
    capsys.readouterr()

    # A rate of 0 leaves everything as it began.
    more = ("--init_adapter", str(other.parent), "--learning_rate", "0", "--max_steps", "4")
    run(folder, *then, *more, console=Console(markup=False))
    assert tensors(saved(folder, 4) / ADAPTER) == tensors(other / ADAPTER)

    printed = capsys.readouterr().out
    assert f"starts from {other}, {said}\n" in printed
    r, layers = (16, "all-linear") if first == ITEMS else (8, "q_proj,v_proj")
    assert f"its LoRA: --lora_r {r} --lora_alpha 32 --lora_target_modules {layers}\n" in printed

    theirs, ours = (PeftConfig.from_pretrained(str(one)) for one in (other, saved(folder, 4)))
    assert (ours.r, ours.lora_alpha, ours.target_modules) == (theirs.r, theirs.lora_alpha, theirs.target_modules)
    metrics = json.loads((checkpoints_of(folder).parent / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["config"]["lora_r"], metrics["config"]["lora_target_modules"]) == (r, layers)

    head = saved(folder, 4) / HEAD
    assert head.is_file() == (then == ITEMS)
    if then == ITEMS:
        again = load_file(head)
        assert again.keys() == fresh.keys()
        assert all(torch.equal(again[name], fresh[name]) for name in again)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "then"), [(ITEMS, LETTERS), (LETTERS, ITEMS)], ids=["letters after items", "items after letters"]
)
def test_a_resume_is_exact_without_the_other_run_and_without_a_flag(
    folder: Path, first: tuple[str, ...], then: tuple[str, ...]
) -> None:
    other = from_other(folder, first)
    run(folder, *then, "--init_adapter", str(other))
    whole = bits(saved(folder, 12))
    for step in (8, 12):
        shutil.rmtree(saved(folder, step))
    shutil.rmtree(other.parent)

    run(folder, "--resume_from_checkpoint", str(saved(folder, 4)))
    assert bits(saved(folder, 12)) == whole


def test_typed_options_of_another_lora_are_refused_before_anything_else(folder: Path) -> None:
    other = from_other(folder, ITEMS)
    start = ("--init_adapter", str(other))
    for act in (run, lambda *words: plan_ranker(parse(argv_of(*words)), QUIET)):
        with pytest.raises(ConfigError, match=r"expected: --lora_r 16; without these flags") as caught:
            act(folder, *LETTERS, *start, "--lora_r", "8")
        assert caught.value.retry_with == ("--lora_r", "16")
    assert not checkpoints_of(folder).exists()
    # The same value may be typed.
    run(folder, *LETTERS, *start, "--lora_r", "16", "--max_steps", "2")
    with pytest.raises(ConfigError, match=r"--lora_alpha 32"):
        run(folder, *LETTERS, *start, "--lora_alpha", "64", "--max_steps", "2")


def test_the_readout_of_an_export_is_known(folder: Path) -> None:
    other = from_other(folder, ITEMS)
    export = Path(shutil.copytree(other / "checkpoint-4", folder / "export"))
    for name in ("item_features.safetensors", HEAD, "manifest.json"):
        (export / name).unlink()
    parsed = parse(argv_of(folder, *LETTERS, "--init_adapter", str(export)))
    assert read_initial(parsed.ranker, parsed.experiment.root).readout == "letters"
    (export / "prompt.json").write_text(json.dumps({"readout": "items", "max_history": 20}), encoding="utf-8")
    assert read_initial(parsed.ranker, parsed.experiment.root).readout == "items"

"""The trainings, answers and figures of the ablation are what they are called."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from benchmarks.ranker import answers, quality
from benchmarks.ranker.answers import Answers, ids_after_a_space, read, write
from benchmarks.ranker.published_loss import whole_vocabulary
from benchmarks.ranker.steps import STEPS, TRAININGS, AdapterAnswers, ndcg_of_covered
from llamarec.data.prepared import PreparedData
from llamarec.ranker.model.base_models import load_letter_model
from llamarec.ranker.model.letter_model import collate
from llamarec.ranker.options.config import RankerConfig
from llamarec.ranker.prompts.encoding import PromptEncoder
from llamarec.ranker.prompts.training_samples import TrainingSamples
from tests.ranker.shop import argv_of, checkpoints_of, run_shop


@pytest.fixture(name="model")
def _model(tiny_folder: Path, encoder: PromptEncoder) -> Any:
    config = RankerConfig(llm_base_model="tiny", lora_dropout=0.0)
    return load_letter_model("tiny", str(tiny_folder), config, encoder.letter_ids, bf16=False)


def _plain(folder: Path) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    return model.eval()


def test_the_loss_is_over_the_whole_vocabulary(
    model: Any, data: PreparedData, encoder: PromptEncoder, tiny_folder: Path
) -> None:
    samples = TrainingSamples(data, encoder, seed=0)
    batch = collate([samples[0, i] for i in (3, 40)], pad_token_id=1)
    plain = _plain(tiny_folder)
    with torch.no_grad():
        found = whole_vocabulary(model.get_base_model(), **batch)
        losses = []
        for row, end in enumerate(batch["answer_positions"].tolist()):
            logits_V = plain(input_ids=batch["input_ids"][row : row + 1, : end + 1]).logits[0, -1]
            losses.append(F.cross_entropy(logits_V, torch.tensor(encoder.letter_ids)[batch["labels"][row]]))
            torch.testing.assert_close(found["logits"][row], logits_V[encoder.letter_ids])
    torch.testing.assert_close(found["loss"], torch.stack(losses).mean())


class _Spaced:
    """A tokenizer in which a letter after a space is another token."""

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [7, 100 + ord(text[-1])]}


def test_letters_after_a_space_are_the_last_token() -> None:
    assert ids_after_a_space(_Spaced(), 3) == [165, 166, 167]


def test_an_adapter_is_asked_as_its_own_run_asked_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "ids_after_a_space", lambda tokenizer, num_letters: list(range(num_letters)))
    run_shop(folder)
    there = {path: path.read_bytes() for path in checkpoints_of(folder).parent.rglob("*") if path.is_file()}
    next(folder.rglob("hard_negatives.parquet")).unlink()  # only training needs it
    output = tmp_path / "answers" / "test.npz"
    own = ["--adapter", str(checkpoints_of(folder).parent), "--output", str(output), "--split", "test"]
    assert answers.main([*own, "--", *argv_of(folder)]) == 0
    assert {path: path.read_bytes() for path in checkpoints_of(folder).parent.rglob("*") if path.is_file()} == there
    read_back = read(output)
    metrics = json.loads((checkpoints_of(folder).parent / "metrics.json").read_text(encoding="utf-8"))
    prior_C = np.array(metrics["fusion"]["letter_prior"])
    logits_PC = read_back.letters_PC.astype(np.float64)
    corrected_PC = logits_PC - np.logaddexp.reduce(logits_PC, axis=1, keepdims=True) - prior_C
    found = ndcg_of_covered(read_back.ranks_by(corrected_PC), read_back.retriever_ranks_U).mean()
    (wanted,) = (row["ranker"] for row in metrics["letters"]["subset"] if row["metric"] == "ndcg@10")
    assert found == pytest.approx(wanted, abs=1e-6)
    assert not np.allclose(read_back.spaced_PC, read_back.letters_PC)


def _answers(signal: float, seed: int, num_prompts: int = 400, num_users: int = 900) -> Answers:
    """Letters that know something of the label beside a retriever that knows something else."""
    rng = np.random.default_rng(seed)
    shape = (num_prompts, 20)
    labels_P = rng.integers(20, size=num_prompts)
    right_PC = np.eye(20)[labels_P]
    scores_PC = rng.normal(size=shape) + right_PC
    letters_PC = rng.normal(size=shape) + signal * right_PC + np.linspace(0, 6, 20)
    positions_PC = np.argsort(np.argsort(-scores_PC, axis=1), axis=1)
    rows_P = rng.choice(num_users, num_prompts, replace=False)
    ranks_U = np.zeros(num_users, dtype=np.int64)
    ranks_U[rows_P] = 1 + positions_PC[np.arange(num_prompts), labels_P]
    spaced_PC = rng.normal(size=shape)
    letters, spaced = letters_PC.astype(np.float32), spaced_PC.astype(np.float32)
    return Answers(letters, spaced, scores_PC, scores_PC + right_PC, labels_P, positions_PC, rows_P, ranks_U)


def test_every_step_does_what_it_is_called() -> None:
    asked = AdapterAnswers(_answers(1.0, seed=0), _answers(1.0, seed=1))
    retriever_U = asked.test.retriever_ranks_U

    def ndcg(score: Any) -> float:
        return float(ndcg_of_covered(asked.ranks(score), retriever_U).mean())

    retriever = float(ndcg_of_covered(retriever_U, retriever_U).mean())
    # Other tokens know nothing; a liking for letters hides what is known until it is taken off.
    assert ndcg("spaced") == pytest.approx(0.227, abs=0.04)
    assert ndcg("letters") < ndcg("calibrated") - 0.1
    assert ndcg("fused") > max(ndcg("calibrated"), retriever) + 0.03
    assert ndcg("all") > ndcg("titles") > retriever + 0.1
    assert asked.nats().mean() > 0.2
    assert asked.gain("fused")[1]


def test_letters_that_know_nothing_leave_the_retrievers_order() -> None:
    asked = AdapterAnswers(_answers(0.0, seed=2), _answers(0.0, seed=3))
    np.testing.assert_array_equal(asked.ranks("fused"), asked.test.retriever_ranks_U)
    assert abs(asked.nats().mean()) < 0.01
    assert not asked.gain("fused")[1]


def test_nothing_is_fitted_on_the_test() -> None:
    with pytest.raises(ValueError, match="without validation users"):
        AdapterAnswers(_answers(1.0, seed=0)).ranks("calibrated")


def _sweep(root: Path, *trainings: str, flags: str = "") -> quality.Sweep:
    options = argparse.Namespace(
        trainings=list(trainings), flags=flags, data_root="data", validation_users=0, test_users=0, jobs=1
    )
    return quality.Sweep(options, root)


def test_the_tables_have_every_step_and_every_adapter(tmp_path: Path) -> None:
    sweep = _sweep(tmp_path, *TRAININGS, flags="--init_adapter elsewhere --max_steps 5")
    for name, code, split, order in sweep.questions("shop"):
        write(sweep.answers(name, code, split, order), _answers(1.0, seed=split == "test"))
    lines = quality.tables(sweep, "shop")
    for step in STEPS:
        assert any(line.startswith(f"| {step.name} | 0.") for line in lines), step.name
    for name in ("initial", *TRAININGS):
        (row,) = (line for line in lines if line.startswith(f"| {name} | 0."))
        assert (row.split(" | ")[3:5] == ["", ""]) == (name == "initial")
    assert "900 test users, 400 prompts" in "".join(lines)


def test_what_is_there_is_not_done_again(tmp_path: Path) -> None:
    sweep = _sweep(tmp_path, "mixed")
    question = ("mixed", "shop", "test", "shuffled")
    assert quality._question(sweep, *question)[:2] == ["-m", "benchmarks.ranker.answers"]  # type: ignore[arg-type]
    write(sweep.answers(*question), _answers(1.0, seed=0))  # type: ignore[arg-type]
    assert quality._question(sweep, *question) == []  # type: ignore[arg-type]


def test_trainings_are_commands() -> None:
    assert quality.command_of("mixed")[0] == "train_ranker.py"
    assert quality.command_of("published")[:2] == ["-m", "benchmarks.ranker.published_loss"]
    assert all("--hard_negatives" in quality.command_of(name) for name in TRAININGS)

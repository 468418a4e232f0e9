"""What a trained adapter says to prompts, kept in a file: figures can then be made of it as often as one likes.

    python -m benchmarks.ranker.answers --adapter experiments/llm/games --output answers.npz --split test \
        --order shuffled -- --dataset_code games --llm_base_model smollm2-135m --max_test_users 5000

After `--`: flags of train_ranker.py. Nothing is trained, and nothing in the adapter's folder is written.

    P prompts, C candidates, U users
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from llamarec.data.prepare import prepare
from llamarec.evaluation.metrics import ranks_of_users
from llamarec.files import replacing
from llamarec.ranker.model.base_models import base_model_source, load_tokenizer
from llamarec.ranker.options.command_line import Parsed, parse
from llamarec.ranker.prompts.evaluation_samples import ORDERS, EvaluationSamples
from llamarec.ranker.prompts.template import LETTERS
from llamarec.ranker.training.build import Ranker, build_ranker
from llamarec.ranker.training.init_adapter import starting
from llamarec.retriever.candidates import load_candidates


@dataclass(frozen=True)
class Answers:
    """Of one adapter to the users of one split, in one order of the candidates.

    Attributes:
        letters_PC: Logits of the tokens that stand after the prompt, which training teaches.
        spaced_PC: Of those that a letter has after a space. That is what encoding a letter by itself gives with Llama
            2's tokenizer, and what the published code reads.
        scores_PC: The retriever's.
        first_stage_PC: Retriever and titles.
        labels_P: Letter of the label, 0 = A.
        positions_PC: Of the letters' candidates in the retriever's list, from 0.
        rows_P: Which user each prompt is of.
        retriever_ranks_U: Of the label, 0 = not among the candidates.
    """

    letters_PC: NDArray[np.float32]
    spaced_PC: NDArray[np.float32]
    scores_PC: NDArray[np.float64]
    first_stage_PC: NDArray[np.float64]
    labels_P: NDArray[np.int64]
    positions_PC: NDArray[np.int64]
    rows_P: NDArray[np.int64]
    retriever_ranks_U: NDArray[np.int64]

    def ranks_by(self, scores_PC: NDArray[Any]) -> NDArray[np.int64]:
        """[U] as `EvaluationSamples.ranks_by`."""
        return ranks_of_users(scores_PC, self.positions_PC, self.rows_P, self.retriever_ranks_U)

    def by_user(self, values_P: NDArray[np.float64]) -> NDArray[np.float64]:
        """[P] in the order of the users, which is the same whatever the order of the candidates."""
        return values_P[np.argsort(self.rows_P)]


def ask(ranker: Ranker, samples: EvaluationSamples, spaced_ids: list[int]) -> Answers:
    """Asks about every prompt once; both kinds of tokens are read off the same pass."""
    model: Any = ranker.trainer.model
    base = model.get_base_model()
    num_letters, letter_ids_C = samples.scores_PC.shape[1], base.letter_ids_C
    base.letter_ids_C = torch.cat([letter_ids_C, torch.tensor(spaced_ids, dtype=letter_ids_C.dtype)])
    try:
        logits_PC = ranker.trainer.predict_letters(samples)
    finally:
        base.letter_ids_C = letter_ids_C
    return Answers(
        logits_PC[:, :num_letters],
        logits_PC[:, num_letters:],
        samples.scores_PC.astype(np.float64),
        samples.first_stage_PC.astype(np.float64),
        samples.labels_P,
        samples.positions_PC,
        samples.rows,
        samples.retriever_ranks.astype(np.int64),
    )


def ids_after_a_space(tokenizer: Any, num_letters: int) -> list[int]:
    """Of the first letters."""
    return [tokenizer(f" {letter}", add_special_tokens=False)["input_ids"][-1] for letter in LETTERS[:num_letters]]


def write(path: Path, answers: Answers) -> None:
    """As .npz, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as staging, staging.open("wb") as file:
        np.savez_compressed(file, **{one.name: getattr(answers, one.name) for one in fields(Answers)})


def read(path: Path) -> Answers:
    """What `write` wrote."""
    with np.load(path) as content:
        return Answers(**{one.name: content[one.name] for one in fields(Answers)})


def main(argv: list[str]) -> int:
    """Asks and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--split", choices=["validation", "test"], default="test")
    parser.add_argument("--order", choices=ORDERS, default="shuffled")
    cut = argv.index("--") if "--" in argv else len(argv)
    own, flags = argv[:cut], argv[cut + 1 :]
    options = parser.parse_args(own)
    with tempfile.TemporaryDirectory() as folder:
        own_flags = ["--init_adapter", options.adapter, "--output_dir", str(Path(folder, "checkpoints"))]
        # Nothing is trained: the lists for training need not be there.
        parsed = parse([*flags, *own_flags, "--hard_negatives", "0"])
        ranker, spaced_ids = _ranker(parsed)
        samples = (ranker.validation if options.split == "validation" else ranker.test).reordered(options.order)
        write(Path(options.output), ask(ranker, samples, spaced_ids))
    return 0


def _ranker(parsed: Parsed) -> tuple[Ranker, list[int]]:
    console = Console(quiet=True)
    parsed, initial = starting(parsed)
    data = prepare(parsed.data, console)
    candidates = load_candidates(parsed.experiment, data)
    ranker = build_ranker(parsed.experiment, data, candidates, parsed, console, initial=initial)
    name = parsed.ranker.llm_base_model
    tokenizer = load_tokenizer(name, base_model_source(name, data, parsed.experiment.ranker))
    return ranker, ids_after_a_space(tokenizer, ranker.encoder.num_candidates)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

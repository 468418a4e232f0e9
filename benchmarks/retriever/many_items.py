"""The retriever on catalogues of ten thousand to a million items: a step, and the top 20, in time and memory.

    python -m benchmarks.retriever.many_items                 # some minutes; one thread
    python -m benchmarks.retriever.many_items --items 10000 --steps 5

Users, items and titles are generated: 20,000 users with 10 to 40 items each, three quarters of which are popular ones
(Zipf). Each row is measured in a process of its own, so that its memory is its own. The top 20 are compared with those
of a sort of all scores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rich.console import Console

from benchmarks.harness.machine import describe
from benchmarks.harness.memory import Peak
from llamarec.data.prepared import PreparedData, Sequences
from llamarec.experts.build import ExpertBuilder
from llamarec.experts.expert_sum import ExpertSum
from llamarec.experts.known import known_at, queries_of
from llamarec.experts.queries import Queries
from llamarec.retriever.batches import epoch_batches
from llamarec.retriever.config import RetrieverConfig
from llamarec.retriever.fit import RetrieverTrainer
from llamarec.retriever.learned_expert import LearnedExpert

NUM_USERS: Final = 20_000
TOP_K: Final = 20
_CHECKED: Final = 20
_NUM_WORDS: Final = 30_000
_HEADS: Final = (
    *("items", "softmax", "ms per step", "memory of training, MB"),
    *("s per 1,000 users, model", "the sum", "memory of it, MB", "as a sort"),
)


def main() -> None:
    """Prints a Markdown table."""
    options = _parser().parse_args()
    if options.child:
        print(json.dumps(_measure(options.items[0], options.child, options)))
        return

    print(f"{describe('torch', 'numpy')}; one thread\n")
    print(f"| {' | '.join(_HEADS)} |\n|{'---|' * len(_HEADS)}")
    for num_items in options.items:
        for softmax in options.softmax:
            print(_row(num_items, softmax, options), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--softmax", nargs="+", choices=("whole", "sampled"), default=["whole", "sampled"])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--users", type=int, default=1000, help="of the top 20")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    return parser


def _row(num_items: int, softmax: str, options: argparse.Namespace) -> str:
    command = [
        *(sys.executable, "-W", "ignore", "-m", "benchmarks.retriever.many_items", "--items", str(num_items)),
        *("--steps", str(options.steps), "--users", str(options.users), "--child", softmax),
    ]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    cells = [
        f"{num_items:,}",
        softmax,
        f"{found['step'] * 1000:,.0f}",
        f"{found['training'] / 1e6:,.0f}",
        f"{found['model']:.1f}",
        f"{found['sum']:.1f}",
        f"{found['asked'] / 1e6:,.0f}",
        "yes" if found["is_exact"] else "NO",
    ]
    return f"| {' | '.join(cells)} |"


def _measure(num_items: int, softmax: str, options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    data = generated(num_items)
    config = RetrieverConfig(softmax=softmax, init_from_titles=False)

    with tempfile.TemporaryDirectory() as folder, Peak() as training:
        trainer = RetrieverTrainer(data, config, Path(folder), Console(quiet=True))
        batches = list(epoch_batches(len(trainer.windows), config.batch_size, 0, 0))
        trainer.step(batches[0])
        seconds = []
        for chosen in batches[1 : options.steps + 1]:
            started = time.perf_counter()
            trainer.step(chosen)
            seconds.append(time.perf_counter() - started)
        model = trainer.trained()
    del trainer

    known = known_at(data, "test")
    users = data.sequences.users_with_label("test")[: options.users]
    queries = queries_of(data, "test", users)
    learned = LearnedExpert([model], config.max_length, known.counts())
    found = {}
    for name, experts in (("model", [learned]), ("sum", [learned, *ExpertBuilder(data).experts(known)])):
        order = ExpertSum(experts, {one.name: 1.0 for one in experts}, num_items, excludes_history=True)
        with Peak() as asked:
            started = time.perf_counter()
            items, _ = order.propose(queries, TOP_K)
            found[name] = (time.perf_counter() - started) / len(users) * 1000
    return {
        **found,
        "step": float(np.median(seconds)),
        "training": training.extra,
        "asked": asked.extra,
        "is_exact": _is_sorted(order, queries, items),
    }


def _is_sorted(order: ExpertSum, queries: Queries, items_QK: np.ndarray[Any, Any]) -> bool:
    """Whether the first lists have the scores of a sort of the whole catalogue (ties may be in another order)."""
    for row in range(min(_CHECKED, len(items_QK))):
        scores_N = order.scores(queries.part(row, row + 1))[0]
        if not np.allclose(np.sort(scores_N)[: -TOP_K - 1 : -1], scores_N[items_QK[row]], atol=1e-4):
            return False
    return True


def generated(num_items: int, num_users: int = NUM_USERS) -> PreparedData:
    """Users, items and titles, the same for the same numbers."""
    rng = np.random.default_rng(num_items)
    lengths = rng.integers(10, 41, num_users)
    popular = 1 / np.arange(1, num_items + 1)
    drawn = rng.choice(num_items, int(lengths.sum()), p=popular / popular.sum())
    items = np.where(rng.random(len(drawn)) < 0.75, drawn, rng.integers(num_items, size=len(drawn))) + 1
    # As it is with items: the order of ids says nothing about popularity.
    items = (rng.permutation(num_items) + 1)[items - 1]
    words = rng.integers(_NUM_WORDS, size=(num_items, 4)).tolist()

    sequences = Sequences(
        item_ids=items.astype(np.int32),
        timestamps=np.sort(rng.integers(1_500_000_000, 1_600_000_000, len(items))),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        train_ends=(lengths - 2).astype(np.int32),
        validation_ends=(lengths - 1).astype(np.int32),
    )
    return PreparedData(
        dataset_code="generated",
        folder=Path("generated"),
        sequences=sequences,
        titles=["", *(" ".join(f"w{word}" for word in title) for title in words)],
        items=["", *map(str, range(1, num_items + 1))],
        users=[str(user) for user in range(num_users)],
        has_repeats=True,
        fingerprint="0" * 64,
        manifest={
            "dataset_code": "generated",
            "num_interactions": len(items),
            "has_repeats": True,
            "options": {},
            "inputs": {},
            "outputs": {},
            "fingerprint": "",
        },
    )


if __name__ == "__main__":
    main()

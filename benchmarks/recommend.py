"""Users per second that runs recommend to, beside their first stage alone: items against letters on one machine.

    python -m benchmarks.recommend experiments/llm/games experiments/llm/games-letters --users 256

RUN is the folder of a trained run. Every run is asked for the same users of the data set, 64 at once as for a file of
users, after a first round that is not measured. The first stage is the retriever with its experts, without a language
model. Rows name the readout; a run of items whose language model has no weight does not load it, and says so.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.machine import describe
from benchmarks.harness.report import Row, commit, write_rows
from llamarec.data.prepared import PreparedData, load_prepared
from llamarec.ranker.options.config import ITEMS, LETTERS
from llamarec.ranker.trained.loading import readout_of
from llamarec.ranker.trained.locations import find_experiment
from llamarec.recommend.recommender import Recommender
from llamarec.retriever.serving import load_retriever

_AT_ONCE: Final = 64
_TIMES_LETTERS: Final = ">= 10"


def main() -> None:
    """Prints a row for each figure, and writes them to --json."""
    options = _options()
    rows, by_readout = [_first_stage(options)], dict[str, float]()
    for run in options.runs:
        recommender = Recommender.load(run, device=options.device)
        readout = readout_of(find_experiment(run, Path()))
        users = _users(recommender.data, options.users)
        rate = _rate(recommender.data, users, partial(recommender.recommend_many, k=options.k))
        by_readout[readout] = rate
        rows.append(Row(f"{readout}_users_per_second", rate, note=recommender.order.note or recommender.order.formula))

    if {ITEMS, LETTERS} <= by_readout.keys():
        rows.append(Row("items_over_letters", by_readout[ITEMS] / by_readout[LETTERS], _TIMES_LETTERS))
    print(f"commit {commit()}, {describe()}")
    print("\n".join(row.line() for row in rows))
    if options.json:
        write_rows(Path(options.json), rows)


def _first_stage(options: argparse.Namespace) -> Row:
    """Of the first run."""
    experiment = find_experiment(options.runs[0], Path())
    data = load_prepared(experiment.data)
    retriever = load_retriever(experiment, data)
    rate = _rate(data, _users(data, options.users), partial(retriever.propose, k=options.k))
    return Row("first_stage_users_per_second", rate)


def _users(data: PreparedData, wanted: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).permutation(data.num_users)[:wanted]


def _rate(data: PreparedData, users: NDArray[np.int64], ask: Callable[[Any], object]) -> float:
    """Users per second; `ask` takes some histories at once."""
    histories = [data.sequences.whole(int(user)) for user in users]
    ask(histories[:_AT_ONCE])
    started = time.perf_counter()
    for start in range(0, len(histories), _AT_ONCE):
        ask(histories[start : start + _AT_ONCE])
    return len(histories) / (time.perf_counter() - started)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="Folders of trained runs on one retriever.")
    parser.add_argument("--users", type=int, default=256, help="Users that are asked for.")
    parser.add_argument("-k", type=int, default=10, help="Items for each.")
    parser.add_argument("--device", default="auto", help="As of llamarec recommend.")
    parser.add_argument("--json", default="", help="File for the rows.")
    return parser.parse_args()


if __name__ == "__main__":
    main()

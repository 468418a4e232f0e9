"""Users per second of a file of users: this process, and one and two workers on Ray, in turns in one run.

    python -m benchmarks.recommend_ray RUN --users 2000 --rounds 5 --output FILE

RUN is the folder of a trained run. All compute with one thread each. A round asks each engine for the same users, in an
order that changes; what is shown is the median of the rounds, and the median of the ratios inside a round. Loading is
not in it: it is measured once, from the start of Ray until all workers have loaded the run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

import torch

from benchmarks.harness.machine import describe
from benchmarks.harness.report import commit
from llamarec.recommend.batch import BatchJob
from llamarec.recommend.engines import Engine, LocalEngine
from llamarec.recommend.ray_cluster import RayConfig, Share, joined
from llamarec.recommend.ray_engine import RayEngine
from llamarec.recommend.ray_worker import Loading
from llamarec.recommend.recommender import Recommender
from llamarec.recommend.requests import Request

LOCAL: Final = "this process"


def main(argv: list[str] | None = None) -> None:
    """Prints the table, and writes it to --output."""
    options = _options(argv)
    torch.set_num_threads(1)
    started = time.perf_counter()
    recommender = Recommender.load(options.run, device="cpu")
    loading_seconds = {LOCAL: time.perf_counter() - started}
    users = recommender.data.users
    # Users of a small data set are asked for several times, under other names.
    requests = [Request(str(one), user=users[one % len(users)]) for one in range(options.users)]

    loading = Loading(str(Path(options.run).resolve()), "cpu", only_new=False, num_threads=1)
    started = time.perf_counter()
    with joined(RayConfig(num_workers=3, threads_per_worker=1), "cpu") as (ray, _):
        engines: dict[str, Engine] = {LOCAL: LocalEngine(recommender)}
        for num_workers in (1, 2):
            name = f"Ray, {num_workers} worker{'s' if num_workers > 1 else ''}"
            engines[name] = RayEngine(ray, Share(num_workers, 1, 0), loading, address="", say=print)
            loading_seconds[name] = time.perf_counter() - started
        rounds = [_round(engines, requests, number) for number in range(options.rounds + 1)][1:]

    text = _table(rounds, loading_seconds, options)
    print(text)
    if options.output:
        Path(options.output).write_text(text, encoding="utf-8")


def _round(engines: dict[str, Engine], requests: list[Request], number: int) -> dict[str, float]:
    """Users per second of each engine; all files must be the same."""
    names, rates, contents = list(engines), dict[str, float](), set[bytes]()
    shift = number % len(names)
    with tempfile.TemporaryDirectory() as folder:
        for name in names[shift:] + names[:shift]:
            output = Path(folder, f"{names.index(name)}.jsonl")
            started = time.perf_counter()
            BatchJob(engines[name], requests, output, k=10).run()
            rates[name] = len(requests) / (time.perf_counter() - started)
            contents.add(output.read_bytes())

    assert len(contents) == 1, "an engine answers differently"
    return rates


def _table(rounds: list[dict[str, float]], loading: dict[str, float], options: argparse.Namespace) -> str:
    lines = [
        "# A file of users, with workers on Ray",
        "",
        f"`python -m benchmarks.recommend_ray RUN --users {options.users} --rounds {options.rounds}`, "
        f"RUN: {options.about or options.run}",
        "",
        f"Commit {commit()}, {describe('torch', 'ray')}. One thread for each process.{options.beside and ' '}"
        f"{options.beside}",
        "",
        "All three wrote the same bytes in every round.",
        "",
        "| engine | users/s (least to most) | against this process, in the same round | loaded after s |",
        "|---|---|---|---|",
    ]
    for name in loading:
        rates = [one[name] for one in rounds]
        ratios = [one[name] / one[LOCAL] for one in rounds]
        spread = f"{statistics.median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f})"
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append(f"| {name} | {spread} | {ratio} | {loading[name]:.0f} |")
    return "\n".join(lines) + "\n"


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="Folder of a trained run.")
    parser.add_argument("--users", type=int, default=2000, help="Requests of a file.")
    parser.add_argument("--rounds", type=int, default=5, help="After one that is not measured.")
    parser.add_argument("--about", default="", help="What the run is, for the table.")
    parser.add_argument("--beside", default="", help="What ran beside it, for the table.")
    parser.add_argument("--output", default="", help="File for the table.")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()

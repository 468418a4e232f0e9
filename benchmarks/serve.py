"""Load on `llamarec serve`: requests per second, latency and errors, alone, in company, and at saturation.

    python -m benchmarks.serve RUN --seconds 60 --clients 1 4 16 64

RUN is the folder of a trained run. Each client asks for the next user as soon as it has its answer; users are those
of the data set, in a random order. The service is a process of its own on this machine, so it and the clients share the
cores. The last number of clients is meant to be more than the queue holds (--max_queue): then requests are refused at
once (503), which is no error; anything else but an answer is. Beside it stands what the same model answers in one
thread without HTTP.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np

from benchmarks.harness.machine import describe
from benchmarks.harness.report import commit
from llamarec.recommend.recommender import Recommender

_BY_ITSELF_SECONDS = 20.0


@dataclass
class Load:
    """What some clients found.

    Attributes:
        clients: At the same time.
        seconds: From the first request to the last answer.
        latencies: Of answered requests, in seconds.
        refused: 503.
        errors: Everything else, by what it was.
    """

    clients: int
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    refused: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def row(self) -> str:
        """Of the table."""
        p50, p99 = (np.percentile(self.latencies, q) if self.latencies else float("nan") for q in (50, 99))
        rate = len(self.latencies) / self.seconds
        errors = ", ".join(f"{count} x {name}" for name, count in self.errors.items()) or "0"
        cells = (
            self.clients,
            f"{len(self.latencies):,}",
            f"{rate:.2f}",
            f"{p50:.2f}",
            f"{p99:.2f}",
            self.refused,
            errors,
        )
        return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Prints the table, and writes it to --output."""
    options = _options()
    users, alone = _by_itself(options)
    command = [sys.executable, "-m", "llamarec.cli.main", "serve", options.run, "--port", "0"]
    command += ["--max_queue", str(options.max_queue), "--timeout_seconds", "120"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        found = re.search(r"http://\S+", service.stdout.readline())
        assert found is not None, "the service did not start"
        loads = [asyncio.run(_load(found[0], users, clients, options)) for clients in options.clients]
        service.terminate()
    text = _table(loads, alone, options)
    print(text)
    if options.output:
        Path(options.output).write_text(text, encoding="utf-8")


def _by_itself(options: argparse.Namespace) -> tuple[list[str], float]:
    """Users in a random order, and lists per second of the model alone, 16 at once."""
    recommender = Recommender.load(options.run)
    users = [
        recommender.data.users[int(user)] for user in np.random.default_rng(0).permutation(recommender.data.num_users)
    ]
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < min(_BY_ITSELF_SECONDS, options.seconds):
        batch = [recommender.items_of(users[(done + place) % len(users)]) for place in range(16)]
        done += len(recommender.recommend_many(batch, 10))
    return users, done / (time.perf_counter() - started)


async def _load(address: str, users: list[str], clients: int, options: argparse.Namespace) -> Load:
    load, order = Load(clients), iter(users * 1000)
    started = time.perf_counter()
    async with httpx.AsyncClient(base_url=address, timeout=150, limits=httpx.Limits(max_connections=None)) as client:

        async def ask_on() -> None:
            while time.perf_counter() - started < options.seconds:
                await _ask(client, next(order), load)

        await asyncio.gather(*(ask_on() for _ in range(clients)))
    load.seconds = time.perf_counter() - started
    return load


async def _ask(client: httpx.AsyncClient, user: str, load: Load) -> None:
    asked = time.perf_counter()
    try:
        answer = await client.post("/recommend", json={"user": user, "k": 10})
    except httpx.HTTPError as error:
        load.errors[type(error).__name__] += 1
        return
    if answer.status_code == 200:
        load.latencies.append(time.perf_counter() - asked)
    elif answer.status_code == 503:
        load.refused += 1
        await asyncio.sleep(float(answer.headers["Retry-After"]))
    else:
        load.errors[str(answer.status_code)] += 1


def _table(loads: list[Load], alone: float, options: argparse.Namespace) -> str:
    clients = " ".join(map(str, options.clients))
    lines = [
        "# Load on the service",
        "",
        f"`python -m benchmarks.serve RUN --seconds {options.seconds:g} --clients {clients} "
        f"--max_queue {options.max_queue}`, RUN: {options.about or options.run}",
        "",
        f"Commit {commit()}, {describe('torch', 'transformers', 'fastapi', 'uvicorn')}.",
        "",
        f"The model alone, 16 histories at once, no HTTP: {alone:.2f} lists per second.",
        "",
        "| clients | answered | requests/s | p50 s | p99 s | refused (503) | errors |",
        "|" + "---|" * 7,
        *(load.row() for load in loads),
    ]
    return "\n".join(lines) + "\n"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="Folder of a trained run.")
    parser.add_argument("--seconds", type=float, default=60.0, help="Of each number of clients.")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--max_queue", type=int, default=32)
    parser.add_argument("--about", default="", help="What the run is, for the table.")
    parser.add_argument("--output", default="")
    return parser.parse_args()


if __name__ == "__main__":
    main()

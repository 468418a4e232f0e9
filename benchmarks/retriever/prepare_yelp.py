"""Preparing a Yelp of full size: time and peak memory against the obvious line-by-line loop, in one run.

    python -m benchmarks.retriever.prepare_yelp                    # 8 million reviews, about 7 GB on disk for a while

The raw files are synthetic, in the real format (all fields, with text); the loop reads each line with json.loads and
does the same filtering and k-core with dictionaries. Both run in processes of their own, in turn, after the file was
written, and must come to the same counts.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.harness.machine import describe

_YEARS = (2014, 2020)
_MEAN_TEXT_CHARACTERS = 600
_REVIEWS = "yelp_academic_dataset_review.json"
_BUSINESSES = "yelp_academic_dataset_business.json"


def main() -> None:
    """Writes the files, runs both, prints the table."""
    options = _options()
    if options.only:
        _one(options.only, Path(options.folder))
        return
    with tempfile.TemporaryDirectory(dir=options.folder or None) as folder:
        raw = Path(folder) / "yelp2020"
        raw.mkdir()
        num_bytes = _write(raw, options.reviews)
        loop, ours = _measure("loop", folder), _measure("llamarec", folder)
    text = _table(options.reviews, num_bytes, loop, ours)
    print(text)
    if options.output:
        Path(options.output).write_text(text, encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", type=int, default=8_000_000)
    parser.add_argument("--folder", default="", help="Where the raw files are written and removed.")
    parser.add_argument("--output", default="")
    parser.add_argument("--only", default="", choices=["", "loop", "llamarec"], help=argparse.SUPPRESS)
    return parser.parse_args()


def _write(raw: Path, num_reviews: int) -> int:
    """Reviews of seven years by people and places of very different activity, as in the real files."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(5000)]
    texts = [_text(rng, words) for _ in range(2000)]
    num_users, num_places = max(num_reviews // 10, 20), max(num_reviews // 40, 20)
    with (raw / _REVIEWS).open("w", encoding="utf-8") as file:
        for number in range(num_reviews):
            # The powers make a few users and places account for much, as they do.
            user, place = int(num_users * rng.random() ** 4), int(num_places * rng.random() ** 3)
            year, month, day = rng.randint(*_YEARS), rng.randint(1, 12), rng.randint(1, 28)
            file.write(
                f'{{"review_id": "r{number:021}", "user_id": "u{user:021}", "business_id": "b{place:021}", '
                f'"stars": {rng.randint(1, 5)}.0, "useful": 0, "funny": 0, "cool": 0, '
                f'"text": "{texts[number % 2000]}", '
                f'"date": "{year}-{month:02}-{day:02} {rng.randint(0, 23):02}:00:00"}}\n'
            )
    with (raw / _BUSINESSES).open("w", encoding="utf-8") as file:
        file.writelines(
            json.dumps({"business_id": f"b{i:021}", "name": f"Place {i}"}) + "\n" for i in range(num_places)
        )
    return sum(path.stat().st_size for path in raw.iterdir())


def _text(rng: random.Random, words: list[str]) -> str:
    length = int(rng.expovariate(1 / _MEAN_TEXT_CHARACTERS)) + 20
    return " ".join(rng.choices(words, k=length // 6 + 1)) + '\\n\\nSaid \\"so\\".'


def _measure(which: str, folder: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.retriever.prepare_yelp", "--only", which, "--folder", folder]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _one(which: str, folder: Path) -> None:
    started = time.perf_counter()
    counts = _loop(folder / "yelp2020") if which == "loop" else _ours(folder)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": seconds, "peak_gib": peak, "counts": counts}))


def _ours(folder: Path) -> list[int]:
    from llamarec.data.config import DataConfig
    from llamarec.data.prepare import prepare

    data = prepare(DataConfig("yelp2020", data_root=str(folder), experiment_root=str(folder / "experiments")))
    return [data.num_users, data.num_items, data.num_interactions]


def _loop(raw: Path) -> list[int]:
    """What one writes first."""
    titles = {}
    with (raw / _BUSINESSES).open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            titles[row["business_id"]] = row["name"]
    rows = []
    with (raw / _REVIEWS).open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if row["date"].startswith("2019-") and titles.get(row["business_id"]):
                rows.append((row["user_id"], row["business_id"], row["date"]))
    while True:
        users, items = Counter(row[0] for row in rows), Counter(row[1] for row in rows)
        by_user = [row for row in rows if users[row[0]] >= 5]
        items = Counter(row[1] for row in by_user)
        kept = [row for row in by_user if items[row[1]] >= 5]
        if len(kept) == len(rows):
            break
        rows = kept
    sequences: dict[str, list[tuple[str, str]]] = {}
    for user, item, date in rows:
        sequences.setdefault(user, []).append((date, item))
    for sequence in sequences.values():
        sequence.sort(key=lambda pair: pair[0])
    return [len(sequences), len({row[1] for row in rows}), len(rows)]


def _table(num_reviews: int, num_bytes: int, loop: dict[str, Any], ours: dict[str, Any]) -> str:
    same = "the same counts" if loop["counts"] == ours["counts"] else f"OTHER COUNTS: {loop['counts']} {ours['counts']}"
    users, items, interactions = ours["counts"]
    return "\n".join(
        [
            "# Preparing a Yelp of full size",
            "",
            f"`python -m benchmarks.retriever.prepare_yelp --reviews {num_reviews}`",
            "",
            f"{describe('polars')}. Synthetic raw files in the real format, {num_reviews:,} reviews, "
            f"{num_bytes / 2**30:.1f} GiB. Both come to {same}: {users:,} users, {items:,} items, "
            f"{interactions:,} interactions.",
            "",
            "| | seconds | ratio | peak memory |",
            "|---|---|---|---|",
            f"| line by line | {loop['seconds']:.0f} | 1.0 | {loop['peak_gib']:.2f} GiB |",
            f"| llamarec prepare | {ours['seconds']:.0f} | {loop['seconds'] / ours['seconds']:.1f} x faster "
            f"| {ours['peak_gib']:.2f} GiB (goal: under 4) |",
            "",
        ]
    )


if __name__ == "__main__":
    main()

"""Preparing millions of interactions: time and peak memory against a plain pandas script, in one run.

    python -m benchmarks.data_scale --rows 1 3 10          # millions; some minutes, and 7 GB on disk for a while

The tables are synthetic, in the forms of MovieLens (ratings.csv by user, and the same as Parquet) and of Amazon 2023
(reviews as JSON lines in no order, with texts). The script reads the columns that it needs, drops exact copies and
untitled items, takes the k-core, sorts and groups. Each runs in a process of its own, and both must come to the same
counts. The script writes nothing and hashes nothing; `llamarec prepare` does both.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl

from benchmarks.harness.machine import describe

FORMS: Final = ("csv", "parquet", "jsonl")
_PARTS: Final = ("write", "llamarec", "pandas", "load")
_ROWS_AT_ONCE: Final = 1_000_000
_WORDS: Final = (
    "great",
    "product",
    "works",
    "as",
    "it",
    "should",
    "and",
    "family",
    "likes",
    "colour",
    "but",
    "took",
    "weeks",
)


class Measured(NamedTuple):
    """Seconds on the clock and of all cores, peak memory in MiB, and users, items and interactions."""

    seconds: float
    cores: float
    peak: float
    counts: list[int]


def main() -> None:
    """Writes the tables, runs both on each, prints the table."""
    options = _options()
    if options.only:
        _one(options.only, Path(options.folder), options.forms[0], options.millions)
        return

    lines = list[str]()
    for form in options.forms:
        for millions in options.rows:
            with tempfile.TemporaryDirectory(dir=options.folder or None) as folder:
                lines.append(_compared(folder, form, millions, with_pandas=millions <= options.pandas_up_to))
                print(lines[-1], flush=True)

    text = _page(lines, options)
    print(text)
    if options.output:
        Path(options.output).write_text(text, encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, nargs="+", default=[1, 3, 10], help="Millions of interactions.")
    parser.add_argument("--forms", nargs="+", default=[*FORMS], choices=FORMS)
    parser.add_argument("--pandas_up_to", type=float, default=30, help="Millions of rows for the pandas script.")
    parser.add_argument("--folder", default="", help="Where the tables are written and removed.")
    parser.add_argument("--output", default="")
    parser.add_argument("--only", default="", choices=["", *_PARTS], help=argparse.SUPPRESS)
    parser.add_argument("--millions", type=float, default=1, help=argparse.SUPPRESS)
    return parser.parse_args()


def _compared(folder: str, form: str, millions: float, *, with_pandas: bool) -> str:
    """A line of the table."""
    _run("write", folder, form, millions)
    table, _ = _paths(Path(folder), form)
    ours = _run("llamarec", folder, form, millions)
    theirs = _run("pandas", folder, form, millions) if with_pandas and find_spec("pandas") else None
    loaded = _run("load", folder, form, millions)

    num_rows, num_bytes = millions * 1e6, table.stat().st_size
    cells = [form, f"{millions:g}", f"{num_bytes / 2**20:,.0f}", f"{ours.seconds:.1f}", f"{ours.cores:.1f}"]
    cells += [
        f"{ours.peak:,.0f}",
        f"{ours.peak * 2**20 / num_rows:,.0f}",
        f"{loaded.seconds:.1f}",
        f"{loaded.peak:,.0f}",
    ]
    if theirs is None:
        cells += ["", "", "", "", ""]
    else:
        same = "" if theirs.counts == ours.counts else f" OTHER COUNTS {theirs.counts} {ours.counts}"
        cells += [f"{theirs.seconds:.1f}{same}", f"{theirs.cores:.1f}", f"{theirs.peak:,.0f}"]
        cells += [f"{theirs.seconds / ours.seconds:.1f}", f"{theirs.peak / ours.peak:.1f}"]
    return f"| {' | '.join(cells)} |"


def _page(lines: list[str], options: argparse.Namespace) -> str:
    words = f"--rows {' '.join(f'{one:g}' for one in options.rows)}"
    words += "" if options.forms == [*FORMS] else f" --forms {' '.join(options.forms)}"
    return "\n".join(
        [
            "# Preparing millions of interactions",
            "",
            f"`python -m benchmarks.data_scale {words}`",
            "",
            f"{describe('polars', *(['pandas'] if find_spec('pandas') else []))}. Times in seconds, on the "
            "clock and of all cores together; files and memory in MiB (peak of the process); the last two columns are "
            "pandas / llamarec. The time of `llamarec prepare` includes hashes of all files and the written "
            "set; the pandas script writes nothing. The retriever: the prepared set is "
            "read, verified and cut into windows for training; its memory includes torch.",
            "",
            "| form | million rows | file | time | of cores | memory | bytes a row | retriever: time | memory "
            "| pandas: time | of cores | memory | time x | memory x |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
            *lines,
            "",
        ]
    )


def _run(what: str, folder: str, form: str, millions: float) -> Measured:
    command = [sys.executable, "-m", "benchmarks.data_scale", "--only", what, "--folder", folder]
    command += ["--forms", form, "--millions", str(millions)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Measured(*json.loads(done.stdout.splitlines()[-1]))


def _one(what: str, folder: Path, form: str, millions: float) -> None:
    if what == "load":
        import llamarec.retriever.batches  # noqa: F401  # torch takes longer than the rest

    started = time.perf_counter()
    counts = list[int]()
    if what == "write":
        _write(folder, form, round(millions * 1e6))
    else:
        counts = {"llamarec": _with_llamarec, "pandas": _with_pandas, "load": _load}[what](folder, form)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps([time.perf_counter() - started, used.ru_utime + used.ru_stime, _peak(), counts]))


def _peak() -> float:
    """Peak memory of this process in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not that of the process which started this one, as getrusage has it.
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


# ---- The tables ----


def _paths(folder: Path, form: str) -> tuple[Path, Path]:
    return (
        (folder / "reviews.jsonl", folder / "meta.jsonl")
        if form == "jsonl"
        else (folder / f"ratings.{form}", folder / "movies.csv")
    )


def _write(folder: Path, form: str, num_rows: int) -> None:
    table, items = _paths(folder, form)
    if form == "jsonl":
        num_items = max(50, num_rows // 40)
        _write_meta(items, num_items)
        with table.open("wb") as file:
            for rows in _reviews(num_rows, num_items):
                rows.write_ndjson(file)
        return

    ratings, num_items = _ratings(num_rows)
    numbers = range(1, num_items + 1)
    movies = {"movieId": numbers, "title": [f"Film number {n} (1999)" for n in numbers], "genres": "Drama"}
    pl.DataFrame(movies).write_csv(items)
    if form == "csv":
        ratings.write_csv(table)
    else:
        ratings.write_parquet(table)


def _popular(rng: np.random.Generator, num: int, size: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Numbers below `num`, small ones far more often."""
    return np.minimum((num * rng.random(size) ** 3).astype(np.int64), num - 1)


def _ratings(num_rows: int) -> tuple[pl.DataFrame, int]:
    """As in MovieLens: userId, movieId, rating, timestamp by user, of very different activity; some rows twice."""
    rng = np.random.default_rng(0)
    num_users, num_items = max(20, num_rows // 150), max(50, min(60_000, num_rows // 100))
    users = np.sort(_popular(rng, num_users, num_rows)) + 1
    frame = pl.DataFrame(
        {
            "userId": users,
            "movieId": _popular(rng, num_items, num_rows) + 1,
            "rating": rng.integers(1, 11, num_rows) / 2,
            "timestamp": 946_684_800 + users % 10**4 * 50_000 + rng.integers(0, 3 * 10**7, num_rows),
        }
    )
    return pl.concat([frame, frame.gather_every(1_000)]).sort("userId", maintain_order=True).head(num_rows), num_items


def _write_meta(path: Path, num_items: int) -> None:
    numbers = pl.DataFrame({"n": range(num_items)})
    rows = numbers.select(
        main_category=pl.lit("All Beauty"),
        title=pl.format('Bottle No. {} with "cap"', "n"),
        average_rating=pl.lit(4.1),
        parent_asin=pl.format("B0{}", pl.col("n").cast(pl.String).str.zfill(8)),
    )
    rows.write_ndjson(path)


def _reviews(num_rows: int, num_items: int) -> Iterator[pl.DataFrame]:
    """As in Amazon 2023: rating, title, text, images, asin, parent_asin, user_id, timestamp in milliseconds, ..."""
    rng = np.random.default_rng(0)
    num_users = max(20, num_rows // 6)
    texts = pl.Series([" ".join(rng.choice(_WORDS, rng.integers(5, 60))) for _ in range(1_000)])

    for start in range(0, num_rows, _ROWS_AT_ONCE):
        size = min(_ROWS_AT_ONCE, num_rows - start)
        items = pl.Series(_popular(rng, num_items, size)).cast(pl.String).str.zfill(8)
        users = pl.Series(_popular(rng, num_users, size)).cast(pl.String).str.zfill(26)
        yield pl.DataFrame(
            {
                "rating": rng.integers(1, 6, size).astype(np.float64),
                "title": texts.gather(rng.integers(0, 1_000, size)).str.slice(0, 30),
                "text": texts.gather(rng.integers(0, 1_000, size)),
                "images": pl.Series([[]] * size, dtype=pl.List(pl.String)),
                "asin": "B1" + items,
                "parent_asin": "B0" + items,
                "user_id": "AE" + users,
                "timestamp": rng.integers(1_300_000_000_000, 1_690_000_000_000, size),
                "helpful_vote": rng.integers(0, 9, size),
                "verified_purchase": rng.random(size) < 0.9,
            }
        )


# ---- Both ways ----


def _with_llamarec(folder: Path, form: str) -> list[int]:
    from llamarec.cli.main import main as llamarec
    from llamarec.data.prepared import read_manifest

    table, items = _paths(folder, form)
    words = ["prepare", "--dataset_code", str(table), "--items_file", str(items)]
    if code := llamarec([*words, "--experiment_root", str(folder / "experiments")]):
        raise SystemExit(code)

    manifest = read_manifest(folder / "experiments" / "data" / table.stem)
    return [] if manifest is None else [manifest["num_users"], manifest["num_items"], manifest["num_interactions"]]


def _load(folder: Path, form: str) -> list[int]:
    """What a retriever does with a prepared set before it trains."""
    from llamarec.data.prepared import load_prepared
    from llamarec.retriever.batches import training_windows
    from llamarec.retriever.config import RetrieverConfig

    data, config = load_prepared(folder / "experiments" / "data" / _paths(folder, form)[0].stem), RetrieverConfig()
    return [len(training_windows(data.sequences, config.max_length, config.window_stride))]


def _with_pandas(folder: Path, form: str) -> list[int]:
    """What one writes first."""
    import pandas as pd  # type: ignore[import-untyped,import-not-found,unused-ignore]

    table, items_path = _paths(folder, form)
    user, item, when = (
        ("user_id", "parent_asin", "timestamp") if form == "jsonl" else ("userId", "movieId", "timestamp")
    )
    columns = [user, item, when]
    if form == "csv":
        rows = pd.read_csv(table, usecols=columns)
    elif form == "parquet":
        # Without pyarrow, which pandas would read it with.
        rows = pd.DataFrame(
            {name: column.to_numpy() for name, column in pl.read_parquet(table, columns=columns).to_dict().items()}
        )
    else:
        parts = pd.read_json(table, lines=True, chunksize=100_000, dtype=False)
        rows = pd.concat([part[columns] for part in parts], ignore_index=True)
    items = pd.read_json(items_path, lines=True) if form == "jsonl" else pd.read_csv(items_path)

    rows = rows.drop_duplicates()
    rows = rows[rows[item].isin(items[items["title"].notna()][item])]
    while True:
        before = len(rows)
        rows = rows[rows.groupby(user)[item].transform("size") >= 5]
        rows = rows[rows.groupby(item)[user].transform("size") >= 5]
        if len(rows) == before:
            break

    rows = rows.sort_values([user, when], kind="stable")
    sequences = rows.groupby(user, sort=False)[item].agg(list)
    return [len(sequences), int(rows[item].nunique()), len(rows)]


if __name__ == "__main__":
    main()

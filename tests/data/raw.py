"""Small raw files in each public format: 6 users who each took the same 6 items, one day apart."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

NUM_USERS, NUM_ITEMS = 6, 6
DAY_SECONDS = 86_400
START = 1_546_300_800  # 2019-01-01 UTC


def _pairs() -> list[tuple[int, int, int]]:
    return [(u, i, START + DAY_SECONDS * i) for u in range(1, NUM_USERS + 1) for i in range(1, NUM_ITEMS + 1)]


def write_ml_100k(folder: Path) -> None:
    ratings = "".join(f"{u}\t{i}\t3\t{t}\n" for u, i, t in _pairs())
    movies = "".join(f"{i}|Café {i} (1995)|x|\t|y|{'|'.join('0' * 19)}\n" for i in range(1, NUM_ITEMS + 1))
    (folder / "u.data").write_bytes(ratings.encode())
    (folder / "u.item").write_bytes(movies.encode("latin-1"))


def write_ml_latest_small(folder: Path) -> None:
    ratings = "userId,movieId,rating,timestamp\r\n" + "".join(f"{u},{i},4.0,{t}\r\n" for u, i, t in _pairs())
    movies = "movieId,title,genres\r\n" + "".join(
        f'{i},"Film, The {i} (1995)",Drama\r\n' for i in range(1, NUM_ITEMS + 1)
    )
    (folder / "ratings.csv").write_bytes(ratings.encode())
    (folder / "movies.csv").write_bytes(movies.encode())


def _write_amazon(folder: Path, category: str) -> None:
    ratings = "".join(f"U{u},B{i},5.0,{t}\n" for u, i, t in _pairs())
    meta = "".join(f"{{'asin': 'B{i}', 'title': \"Rock &amp; Roll's {i}\"}}\n" for i in range(1, NUM_ITEMS + 1))
    (folder / f"ratings_{category}.csv").write_bytes(ratings.encode())
    (folder / f"meta_{category}.json.gz").write_bytes(gzip.compress(meta.encode()))


def write_beauty(folder: Path) -> None:
    _write_amazon(folder, "Beauty")


def write_games(folder: Path) -> None:
    _write_amazon(folder, "Video_Games")


def write_yelp2020(folder: Path) -> None:
    reviews = "".join(
        json.dumps(
            {"user_id": f"u{u}", "business_id": f"b{i}", "stars": 5.0, "date": f"2019-01-{i:02} 10:00:00", "text": "x"}
        )
        + "\n"
        for u, i, _ in _pairs()
    )
    reviews += json.dumps({"user_id": "u1", "business_id": "b1", "stars": 5.0, "date": "2018-12-31 10:00:00"}) + "\n"
    places = "".join(json.dumps({"business_id": f"b{i}", "name": f"Joe's {i}"}) + "\n" for i in range(1, NUM_ITEMS + 1))
    (folder / "yelp_academic_dataset_review.json").write_text(reviews, encoding="utf-8")
    (folder / "yelp_academic_dataset_business.json").write_text(places, encoding="utf-8")


WRITERS = {
    "ml-100k": write_ml_100k,
    "ml-latest-small": write_ml_latest_small,
    "beauty": write_beauty,
    "games": write_games,
    "yelp2020": write_yelp2020,
}

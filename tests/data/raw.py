"""Small raw files in each public format: 6 users who each took the same 6 items, one day apart, or what is given."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

NUM_USERS, NUM_ITEMS = 6, 6
DAY_SECONDS = 86_400
START = 1_546_300_800  # 2019-01-01 UTC


# (user, item, seconds since 1970) of each interaction.
Pairs = Sequence[tuple[int, int, int]]
PAIRS: Pairs = [(u, i, START + DAY_SECONDS * i) for u in range(1, NUM_USERS + 1) for i in range(1, NUM_ITEMS + 1)]


def walks(num_users: int, num_items: int, length: int) -> Pairs:
    """Users who walk round a circle of items, each from a start and with a stride of their own."""
    return [
        (u, (7 * u + step * (1 + u % 3)) % num_items + 1, START + DAY_SECONDS * step)
        for u in range(1, num_users + 1)
        for step in range(length)
    ]


def _items(pairs: Pairs) -> list[int]:
    return sorted({item for _, item, _ in pairs})


def write_ml_100k(folder: Path, pairs: Pairs = PAIRS) -> None:
    ratings = "".join(f"{u}\t{i}\t3\t{t}\n" for u, i, t in pairs)
    movies = "".join(f"{i}|Café {i} (1995)|x|\t|y|{'|'.join('0' * 19)}\n" for i in _items(pairs))
    (folder / "u.data").write_bytes(ratings.encode())
    (folder / "u.item").write_bytes(movies.encode("latin-1"))


def write_ml_latest_small(folder: Path, pairs: Pairs = PAIRS) -> None:
    ratings = "userId,movieId,rating,timestamp\r\n" + "".join(f"{u},{i},4.0,{t}\r\n" for u, i, t in pairs)
    movies = "movieId,title,genres\r\n" + "".join(f'{i},"Film, The {i} (1995)",Drama\r\n' for i in _items(pairs))
    (folder / "ratings.csv").write_bytes(ratings.encode())
    (folder / "movies.csv").write_bytes(movies.encode())


def _write_dat(folder: Path, pairs: Pairs, rating: str, encoding: str) -> None:
    ratings = "".join(f"{u}::{i}::{rating}::{t}\n" for u, i, t in pairs)
    movies = "".join(f"{i}::Misérables: Les {i} (1995)::Drama|Musical\n" for i in _items(pairs))
    (folder / "ratings.dat").write_bytes(ratings.encode())
    (folder / "movies.dat").write_bytes(movies.encode(encoding))


def write_ml_1m(folder: Path, pairs: Pairs = PAIRS) -> None:
    _write_dat(folder, pairs, "5", "latin-1")


def write_ml_10m(folder: Path, pairs: Pairs = PAIRS) -> None:
    _write_dat(folder, pairs, "3.5", "utf-8")


def _write_amazon(folder: Path, category: str, pairs: Pairs) -> None:
    ratings = "".join(f"U{u},B{i},5.0,{t}\n" for u, i, t in pairs)
    meta = "".join(f"{{'asin': 'B{i}', 'title': \"Rock &amp; Roll's {i}\"}}\n" for i in _items(pairs))
    (folder / f"ratings_{category}.csv").write_bytes(ratings.encode())
    (folder / f"meta_{category}.json.gz").write_bytes(gzip.compress(meta.encode()))


def write_beauty(folder: Path, pairs: Pairs = PAIRS) -> None:
    _write_amazon(folder, "Beauty", pairs)


def write_games(folder: Path, pairs: Pairs = PAIRS) -> None:
    _write_amazon(folder, "Video_Games", pairs)


def write_toys(folder: Path, pairs: Pairs = PAIRS) -> None:
    _write_amazon(folder, "Toys_and_Games", pairs)


def write_sports(folder: Path, pairs: Pairs = PAIRS) -> None:
    _write_amazon(folder, "Sports_and_Outdoors", pairs)


def _write_lines(path: Path, rows: Iterable[object]) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


def write_amazon_2018(folder: Path, pairs: Pairs = PAIRS) -> None:
    reviews = (
        {
            "overall": 5.0,
            "verified": True,
            "reviewTime": "10 17, 2015",
            "reviewerID": f"A{u}",
            "asin": f"B{i}",
            "style": {"Platform:": " PC"},
            "reviewText": "fine\nreally",
            "unixReviewTime": t,
        }
        for u, i, t in pairs
    )
    _write_lines(folder / "Video_Games_5.json.gz", reviews)
    metadata = [
        {"category": ["Video Games"], "title": f"<span id='title'>Rock &amp; Roll {i}</span>", "asin": f"B{i}"}
        for i in _items(pairs)
    ]
    script = {"title": "var aPageStart = (new Date()).getTime();\nvar ue_t0=ue_t0||+new Date();", "asin": "B999"}
    _write_lines(folder / "meta_Video_Games.json.gz", [*metadata, script])


def write_amazon_2023(folder: Path, pairs: Pairs = PAIRS) -> None:
    reviews = (
        {
            "rating": 5.0,
            "title": "Title of the review",
            "text": "fine",
            "images": [],
            "asin": f"B{i}-variant-{u}",
            "parent_asin": f"B{i}",
            "user_id": f"A{u}",
            "timestamp": t * 1_000 + 289,
            "helpful_vote": 0,
            "verified_purchase": True,
        }
        for u, i, t in pairs
    )
    _write_lines(folder / "All_Beauty.jsonl.gz", reviews)
    metadata = (
        {"main_category": "All Beauty", "title": f"Rock &amp; Roll {i}", "price": None, "parent_asin": f"B{i}"}
        for i in _items(pairs)
    )
    _write_lines(folder / "meta_All_Beauty.jsonl.gz", metadata)


def _date(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d} 10:00:00"


def write_yelp2020(folder: Path, pairs: Pairs = PAIRS) -> None:
    reviews = "".join(
        json.dumps({"user_id": f"u{u}", "business_id": f"b{i}", "stars": 5.0, "date": _date(t), "text": "x"}) + "\n"
        for u, i, t in pairs
    )
    reviews += json.dumps({"user_id": "u1", "business_id": "b1", "stars": 5.0, "date": "2018-12-31 10:00:00"}) + "\n"
    places = "".join(json.dumps({"business_id": f"b{i}", "name": f"Joe's {i}"}) + "\n" for i in _items(pairs))
    (folder / "yelp_academic_dataset_review.json").write_text(reviews, encoding="utf-8")
    (folder / "yelp_academic_dataset_business.json").write_text(places, encoding="utf-8")


def write_goodreads(folder: Path, pairs: Pairs = PAIRS) -> None:
    shelved = (
        {
            "user_id": f"8842281e1d1347389f2ab93d6077{u:04}",
            "book_id": f"{i}",
            "review_id": f"{u}-{i}",
            "is_read": True,
            "rating": 4,
            "review_text_incomplete": "",
            "date_added": f"{datetime.fromtimestamp(t, UTC):%a %b %d %H:%M:%S -0700 %Y}",
            "date_updated": "Wed May 09 09:33:44 -0700 2017",
            "read_at": "",
            "started_at": "",
        }
        for u, i, t in pairs
    )
    _write_lines(folder / "goodreads_interactions_poetry.json.gz", shelved)
    books = ({"isbn": "", "series": [], "book_id": f"{i}", "title": f"Poems & {i}"} for i in _items(pairs))
    _write_lines(folder / "goodreads_books_poetry.json.gz", books)


def write_lastfm(folder: Path, pairs: Pairs = PAIRS) -> None:
    # Two tags at one moment are one interaction; of another, the time is no time.
    tagged = "".join(f"{u}\t{i}\t{tag}\t{t}000\n" for u, i, t in pairs for tag in (13, 15))
    bad = "1\t1\t13\t-428720400000\n"
    artists = "".join(f'{i}\tSigur Rós "{i}"\thttp://www.last.fm/music/{i}\t\n' for i in _items(pairs))
    header = "userID\tartistID\ttagID\ttimestamp\n"
    (folder / "user_taggedartists-timestamps.dat").write_text(header + tagged + bad, encoding="utf-8")
    (folder / "artists.dat").write_text("id\tname\turl\tpictureURL\n" + artists, encoding="utf-8")


def write_steam(folder: Path, pairs: Pairs = PAIRS) -> None:
    reviews = "".join(
        f"{{u'username': u'O\\u2019Neil \"{u}\"', u'hours': 0.1, u'product_id': u'{i}', u'page_order': 0, "
        f"u'date': u'{_date(t)[:10]}', u'text': u'it\\'s\\nfine', u'early_access': False, u'page': 1}}\n"
        for u, i, t in pairs
    )
    games = "".join(
        f"{{u'genres': [u'Action'], u'title': u'Hero\\'s Tale {i}', u'id': u'{i}'}}\n" for i in _items(pairs)
    )
    games += "{u'url': u'http://store.steampowered.com/', u'price': 19.99}\n"
    (folder / "steam_reviews.json.gz").write_bytes(gzip.compress(reviews.encode()))
    (folder / "steam_games.json.gz").write_bytes(gzip.compress(games.encode()))


# By code; of a family, one category.
WRITERS = {
    "ml-100k": write_ml_100k,
    "ml-latest-small": write_ml_latest_small,
    "ml-1m": write_ml_1m,
    "ml-10m": write_ml_10m,
    "ml-20m": write_ml_latest_small,
    "ml-25m": write_ml_latest_small,
    "ml-32m": write_ml_latest_small,
    "beauty": write_beauty,
    "games": write_games,
    "toys": write_toys,
    "sports": write_sports,
    "amazon2018-Video_Games": write_amazon_2018,
    "amazon2023-All_Beauty": write_amazon_2023,
    "goodreads-poetry": write_goodreads,
    "lastfm-2k": write_lastfm,
    "steam": write_steam,
    "yelp2020": write_yelp2020,
}

# The rating of every interaction of a sample.
RATINGS_OF = {
    "goodreads-poetry": 4.0,
    "ml-100k": 3.0,
    "ml-1m": 5.0,
    "ml-10m": 3.5,
    **dict.fromkeys(("ml-20m", "ml-25m", "ml-32m", "ml-latest-small"), 4.0),
    **dict.fromkeys(
        ("amazon2018-Video_Games", "amazon2023-All_Beauty", "beauty", "games", "toys", "sports", "yelp2020"), 5.0
    ),
}

"""Options of the data stage."""

from __future__ import annotations

import codecs
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from llamarec.data.tables.endings import can_name_a_folder, data_set_name, is_a_table
from llamarec.errors import check_all
from llamarec.vocabulary import Experiment

SPLIT_METHODS = ("leave_one_out", "temporal")
ON_BAD_LINE = ("stop", "skip")
NO_THRESHOLD = "none"
UNTITLED_ITEMS = ("drop", "key")
DATA_ROOT_VARIABLE = "LLAMAREC_DATA_ROOT"
IGNORED = "_"
"""Name of a column to ignore, in --columns."""
_SEPARATORS = {
    "tab": "tab",
    "\\t": "tab",
    "\t": "tab",
    "space": "space",
    " ": "space",
    "comma": ",",
    "semicolon": ";",
    "pipe": "|",
    "colons": "::",
}
"""By what a person may type, the one value of the option."""
_LONGEST_SEPARATOR = 4


def _canonical(encoding: str) -> str:
    """Python's name of an encoding; empty where it is unknown or encodes a newline as anything but one byte.

    UTF-16 is known by its mark.
    """
    try:
        found = codecs.lookup(encoding).name.removesuffix("-sig")
        return found if found == "utf-16" or "\n".encode(found) == b"\n" else ""
    except (LookupError, UnicodeError, TypeError):
        return ""


def _canonical_rating(text: str) -> str:
    """A threshold in one spelling; empty where it is no finite number."""
    if text.strip().lower() == NO_THRESHOLD:
        return NO_THRESHOLD
    try:
        number = float(text)
    except ValueError:
        return ""
    return f"{number:.15g}" if math.isfinite(number) else ""


def names_of_columns(columns: str) -> tuple[str, ...]:
    """The names that --columns gives, in their order; none without it."""
    return tuple(name.strip() for name in columns.split(",")) if columns else ()


def default_data_root() -> str:
    """`LLAMAREC_DATA_ROOT`, else `data` in the working folder."""
    return os.environ.get(DATA_ROOT_VARIABLE) or "data"


@dataclass(frozen=True)
class DataConfig:
    """Options of the data stage: which data set, where its raw files are, how it is prepared."""

    dataset_code: str = field(
        default="",
        metadata={
            "help": "Data set: beauty, games, sports, toys, amazon2018-CATEGORY, amazon2023-CATEGORY, "
            "goodreads-GENRE, lastfm-2k, steam, yelp2020, "
            "ml-100k, ml-1m, ml-10m, ml-20m, ml-25m, ml-32m, ml-latest-small, or the path of your own "
            "table (CSV, JSON, Parquet, Excel; packed, or a folder of parts)."
        },
    )
    data_root: str = field(
        default_factory=default_data_root,
        metadata={
            "help": "Folder of raw files, which are read from DATA_ROOT/DATASET_CODE (default: the environment "
            f"variable {DATA_ROOT_VARIABLE}, else data)."
        },
    )
    experiment_root: str = field(default="experiments", metadata={"help": "Folder for everything that is written."})
    min_user_interactions: int = field(
        default=5, metadata={"help": "Users with fewer interactions are dropped (k-core)."}
    )
    min_item_interactions: int = field(
        default=5, metadata={"help": "Items with fewer interactions are dropped (k-core)."}
    )
    split: str = field(
        default="leave_one_out",
        metadata={
            "help": "leave_one_out: a user's last item is the test label, the one before it the validation label. "
            "temporal: two points in time for all users; the first item after each is the label."
        },
    )
    temporal_validation_share: float = field(
        default=0.1, metadata={"help": "With --split temporal: share of all interactions between the two points."}
    )
    temporal_test_share: float = field(
        default=0.1, metadata={"help": "With --split temporal: share of all interactions after the second point."}
    )
    on_bad_line: str = field(
        default="stop",
        metadata={"help": "At a malformed line: stop, or skip it (skipped lines are counted and listed)."},
    )
    untitled_items: str = field(
        default="drop",
        metadata={
            "help": "Items without a title: drop, or take their key as title. The title is all that the language model "
            "sees of an item."
        },
    )
    min_rating: str = field(
        default=NO_THRESHOLD,
        metadata={
            "help": "Interactions with a lower rating are dropped, before all else (default: none, ratings are not "
            "read)."
        },
    )
    user_column: str = field(default="", metadata={"help": "Own table: name of the user column (default: recognised)."})
    item_column: str = field(default="", metadata={"help": "Own table: name of the item column (default: recognised)."})
    timestamp_column: str = field(
        default="",
        metadata={"help": "Own table: name of the time column, or DATE,CLOCK for two of them (default: recognised)."},
    )
    timestamp_format: str = field(
        default="",
        metadata={
            "help": "Own table: format of times in the codes of strptime, such as '%%d/%%m/%%Y %%H:%%M' (default: "
            "recognised where it is unambiguous)."
        },
    )
    order_column: str = field(
        default="",
        metadata={"help": "Own table: column of numbers that orders equal times, or all where there is no time."},
    )
    no_timestamp: bool = field(
        default=False, metadata={"help": "Own table: it has no times; the order of its rows counts."}
    )
    title_column: str = field(
        default="", metadata={"help": "Own table: name of the title column (default: recognised)."}
    )
    rating_column: str = field(
        default="",
        metadata={"help": "Own table, with --min_rating: name of the rating column (default: recognised)."},
    )
    columns: str = field(
        default="",
        metadata={
            "help": "Own table without a header line: names of all columns in their order, such as "
            "user,item,rating,timestamp; _ for one to ignore."
        },
    )
    separator: str = field(
        default="",
        metadata={"help": "Own table: what separates fields, as it is or as tab or space (default: recognised)."},
    )
    encoding: str = field(
        default="utf-8",
        metadata={"help": "Own table: text encoding, for example cp1252 for a CSV from an older Excel."},
    )
    items_file: str = field(
        default="", metadata={"help": "Own table: a second table with items and titles, where the first has no titles."}
    )
    items_item_column: str = field(
        default="",
        metadata={"help": "Second table: name of the item column (default: recognised)."},
    )
    items_columns: str = field(default="", metadata={"help": "Second table: as --columns."})
    items_separator: str = field(default="", metadata={"help": "Second table: as --separator."})
    items_encoding: str = field(default="", metadata={"help": "Second table: as --encoding (default: the same)."})

    def __post_init__(self) -> None:
        shares = self.temporal_validation_share + self.temporal_test_share
        rules = [
            (self.min_user_interactions >= 1, f"--min_user_interactions {self.min_user_interactions}: at least 1"),
            (self.min_item_interactions >= 1, f"--min_item_interactions {self.min_item_interactions}: at least 1"),
            (self.split in SPLIT_METHODS, f"--split {self.split!r}: one of {', '.join(SPLIT_METHODS)}"),
            (
                min(self.temporal_validation_share, self.temporal_test_share) > 0 and shares < 1,
                "--temporal_validation_share and --temporal_test_share: above 0, together below 1",
            ),
            (self.on_bad_line in ON_BAD_LINE, f"--on_bad_line {self.on_bad_line!r}: one of {', '.join(ON_BAD_LINE)}"),
            (
                self.untitled_items in UNTITLED_ITEMS,
                f"--untitled_items {self.untitled_items!r}: one of {', '.join(UNTITLED_ITEMS)}",
            ),
        ]

        object.__setattr__(self, "min_rating", _canonical_rating(str(given_rating := self.min_rating)))
        rules.append((bool(self.min_rating), f"--min_rating {given_rating!r}: a number, or {NO_THRESHOLD}"))
        check_all("these data options do not fit", [*rules, *self._rules_of_tables()])
        # UTF8 and utf-8 are the same option, and so are a tab and its name.
        for name in ("encoding", "items_encoding"):
            object.__setattr__(self, name, _canonical(getattr(self, name)))
        for name in ("separator", "items_separator"):
            given = getattr(self, name)
            object.__setattr__(self, name, _SEPARATORS.get(given.lower(), given))

    def _rules_of_tables(self) -> Iterator[tuple[bool, str]]:
        chosen = [self.user_column, self.item_column, self.timestamp_column, self.order_column]
        chosen = [name for name in chosen if name]
        yield (
            len(set(chosen)) == len(chosen),
            "--user_column, --item_column, --timestamp_column, --order_column: different columns",
        )
        yield (
            not (self.no_timestamp and (self.timestamp_column or self.timestamp_format or self.order_column)),
            "--no_timestamp: the order of the rows counts, so leave --timestamp_column, --timestamp_format and "
            "--order_column out",
        )
        yield (
            not self.no_timestamp or self.split != "temporal",
            "--no_timestamp: --split temporal needs times; use --split leave_one_out",
        )

        for prefix in ("", "items_"):
            encoding, separator = getattr(self, f"{prefix}encoding"), getattr(self, f"{prefix}separator")
            problem = "UTF-16 needs its mark, and is then utf-16; or save the file as UTF-8"
            if not encoding.lower().startswith(("utf-16", "utf_16")):
                problem = "one that Python knows (utf-8, cp1252, utf-16, ...)"
            yield bool(_canonical(encoding)) or not encoding, f"--{prefix}encoding {encoding!r}: {problem}"
            is_usual = separator.lower() in _SEPARATORS or len(separator) <= _LONGEST_SEPARATOR
            yield (
                is_usual and not set(separator) & set('"\r\n'),
                f"--{prefix}separator {separator!r}: up to {_LONGEST_SEPARATOR} characters, or one of "
                + ", ".join(name for name in _SEPARATORS if name.isalpha()),
            )
            names = names_of_columns(getattr(self, f"{prefix}columns"))
            kept = [name for name in names if name != IGNORED]
            yield (
                not names or (all(names) and len(set(kept)) == len(kept)),
                f"--{prefix}columns {getattr(self, f'{prefix}columns')}: names that differ, separated by commas",
            )
        yield (
            not self.is_own_table or can_name_a_folder(self.name),
            f"--dataset_code {self.dataset_code}: the file's name without its ending names the folders of all "
            f"results, and {self.name!r} cannot: "
            + (
                "for parts of one table, give the path of their folder"
                if set(self.name) & set("*?")
                else "rename the file, to shop.csv for example"
            ),
        )

    @property
    def is_own_table(self) -> bool:
        """Whether `dataset_code` is a path to a table."""
        return is_a_table(self.dataset_code)

    @property
    def least_rating(self) -> float | None:
        """The lowest rating of interactions that are kept; None where ratings do not count."""
        return None if self.min_rating == NO_THRESHOLD else float(self.min_rating)

    @property
    def name(self) -> str:
        """The data set's short name; a table's is that of its file or folder, without endings."""
        return data_set_name(self.dataset_code) if self.is_own_table else self.dataset_code

    @property
    def experiment(self) -> Experiment:
        """Folders of the results."""
        return Experiment(Path(self.experiment_root), self.name)

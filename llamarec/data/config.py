"""Options of the data stage."""

from __future__ import annotations

import codecs
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from llamarec.errors import check_all
from llamarec.vocabulary import Experiment

SPLIT_METHODS = ("leave_one_out", "temporal")
ON_BAD_LINE = ("stop", "skip")
NO_THRESHOLD = "none"
UNTITLED_ITEMS = ("drop", "key")
TABLE_ENDINGS = (".csv", ".tsv", ".inter", ".jsonl", ".json", ".ndjson", ".parquet")
# Windows opens a device instead of a file of such a name.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}
DATA_ROOT_VARIABLE = "LLAMAREC_DATA_ROOT"


def _canonical(encoding: str) -> str:
    """Python's name of an encoding; empty where it is unknown or encodes a newline as anything but one byte."""
    try:
        found = codecs.lookup(encoding).name
        return found if "\n".encode(found) == b"\n" else ""
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


def _can_name_a_folder(name: str) -> bool:
    """Whether a folder can have this name, on Windows too, and is one inside its parent."""
    stem = name.partition(".")[0].lower()
    is_usual = bool(name.strip(". ")) and name == name.strip() and not name.endswith(".") and name.isprintable()
    return is_usual and not set(name) & set('<>:"/\\|?*') and stem not in _DEVICES


def default_data_root() -> str:
    """`LLAMAREC_DATA_ROOT`, else `data` in the working folder."""
    return os.environ.get(DATA_ROOT_VARIABLE) or "data"


@dataclass(frozen=True)
class DataConfig:
    """Options of the data stage: which data set, where its raw files are, how it is prepared."""

    dataset_code: str = field(
        default="",
        metadata={
            "help": "Data set: beauty, games, sports, toys, amazon2018-CATEGORY, amazon2023-CATEGORY, yelp2020, "
            "ml-100k, ml-1m, ml-10m, ml-20m, ml-25m, ml-32m, ml-latest-small, or the path of your own "
            "table (CSV, TSV, JSON lines, Parquet)."
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
        default="", metadata={"help": "Own table: name of the time column (default: recognised)."}
    )
    timestamp_format: str = field(
        default="",
        metadata={
            "help": "Own table: format of times in the codes of strptime, such as '%%d/%%m/%%Y %%H:%%M' (default: "
            "recognised where it is unambiguous)."
        },
    )
    encoding: str = field(
        default="utf-8",
        metadata={"help": "Own table: text encoding, for example cp1252 for a CSV from an older Excel."},
    )
    title_column: str = field(
        default="", metadata={"help": "Own table: name of the title column (default: recognised)."}
    )
    rating_column: str = field(
        default="",
        metadata={"help": "Own table, with --min_rating: name of the rating column (default: recognised)."},
    )
    items_file: str = field(
        default="", metadata={"help": "Own table: a second table with items and titles, where the first has no titles."}
    )

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
        chosen = [name for name in (self.user_column, self.item_column, self.timestamp_column) if name]
        rules += [
            (bool(self.min_rating), f"--min_rating {given_rating!r}: a number, or {NO_THRESHOLD}"),
            (
                len(set(chosen)) == len(chosen),
                "--user_column, --item_column, --timestamp_column: three different columns",
            ),
            (
                bool(_canonical(self.encoding)),
                f"--encoding {self.encoding!r}: one that Python knows (utf-8, cp1252, ...); save UTF-16 files as UTF-8",
            ),
            (
                not self.is_own_table or _can_name_a_folder(self.name),
                f"--dataset_code {self.dataset_code}: the file's name without its ending names the folders of all "
                f"results, and {self.name!r} cannot: rename the file, to shop.csv for example",
            ),
        ]

        check_all("these data options do not fit", rules)
        # UTF8 and utf-8 are the same option.
        object.__setattr__(self, "encoding", _canonical(self.encoding))

    @property
    def is_own_table(self) -> bool:
        """Whether `dataset_code` is a path to a table."""
        name = self.dataset_code.lower().removesuffix(".gz")
        return name.endswith(TABLE_ENDINGS)

    @property
    def least_rating(self) -> float | None:
        """The lowest rating of interactions that are kept; None where ratings do not count."""
        return None if self.min_rating == NO_THRESHOLD else float(self.min_rating)

    @property
    def name(self) -> str:
        """The data set's short name; a table's is its file name without endings."""
        if not self.is_own_table:
            return self.dataset_code
        # A path typed on Windows gives the same name on every system.
        file_name = self.dataset_code.replace("\\", "/").rpartition("/")[2]
        return file_name.removesuffix(".gz").rpartition(".")[0]

    @property
    def experiment(self) -> Experiment:
        """Folders of the results."""
        return Experiment(Path(self.experiment_root), self.name)

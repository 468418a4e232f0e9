"""Options of the data stage."""

from __future__ import annotations

import codecs
import os
from dataclasses import dataclass, field
from pathlib import Path

from llamarec.errors import check_all
from llamarec.vocabulary import Experiment

SPLIT_METHODS = ("leave_one_out", "temporal")
ON_BAD_LINE = ("stop", "skip")
TABLE_ENDINGS = (".csv", ".tsv", ".jsonl", ".json", ".ndjson", ".parquet")
DATA_ROOT_VARIABLE = "LLAMAREC_DATA_ROOT"


def _canonical(encoding: str) -> str:
    """Its one name; empty for what is none, or one in which a line does not end with the byte of a newline."""
    try:
        found = codecs.lookup(encoding).name
        return found if "\n".encode(found) == b"\n" else ""
    except (LookupError, UnicodeError, TypeError):
        return ""


def default_data_root() -> str:
    """`LLAMAREC_DATA_ROOT`, or `data` in the working folder."""
    return os.environ.get(DATA_ROOT_VARIABLE) or "data"


@dataclass(frozen=True)
class DataConfig:
    """Which data set, where its raw files are, and how it is prepared."""

    dataset_code: str = field(
        default="",
        metadata={
            "help": "beauty, games, yelp2020, ml-100k, ml-latest-small, or a path to a table of your own "
            "(CSV, TSV, JSON lines, Parquet)."
        },
    )
    data_root: str = field(
        default_factory=default_data_root,
        metadata={
            "help": "Raw files are looked for in DATA_ROOT/DATASET_CODE (default: the environment's "
            f"{DATA_ROOT_VARIABLE}, else data)."
        },
    )
    experiment_root: str = field(default="experiments", metadata={"help": "Everything written goes under here."})
    min_user_interactions: int = field(default=5, metadata={"help": "k-core: users with fewer are dropped."})
    min_item_interactions: int = field(default=5, metadata={"help": "k-core: items with fewer are dropped."})
    split: str = field(
        default="leave_one_out",
        metadata={
            "help": "leave_one_out: last item = test, last but one = validation. temporal: one cut in time for all "
            "users; the first item after each cut is the label."
        },
    )
    temporal_validation_share: float = field(
        default=0.1, metadata={"help": "temporal: share of all interactions between the two cuts."}
    )
    temporal_test_share: float = field(
        default=0.1, metadata={"help": "temporal: share of all interactions after the second cut."}
    )
    on_bad_line: str = field(
        default="stop", metadata={"help": "stop at a malformed line, or skip: go on, count and list them."}
    )
    user_column: str = field(default="", metadata={"help": "Own table: name of the user column (empty: recognised)."})
    item_column: str = field(default="", metadata={"help": "Own table: name of the item column (empty: recognised)."})
    timestamp_column: str = field(
        default="", metadata={"help": "Own table: name of the time column (empty: recognised)."}
    )
    timestamp_format: str = field(
        default="",
        metadata={
            "help": "Own table: how times are written, as strptime has it: '%%d/%%m/%%Y %%H:%%M' (empty: recognised, "
            "where it can be told)."
        },
    )
    encoding: str = field(
        default="utf-8", metadata={"help": "Own table: of its text, for example cp1252 for a CSV of an older Excel."}
    )
    title_column: str = field(default="", metadata={"help": "Own table: name of the title column (empty: recognised)."})
    items_file: str = field(
        default="", metadata={"help": "Own table: a second table with item and title, if titles are not in the first."}
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
        ]
        chosen = [name for name in (self.user_column, self.item_column, self.timestamp_column) if name]
        rules += [
            (
                len(set(chosen)) == len(chosen),
                "--user_column, --item_column, --timestamp_column: three different columns",
            ),
            (
                bool(_canonical(self.encoding)),
                f"--encoding {self.encoding!r}: one that Python knows (utf-8, cp1252, ...); of UTF-16 save it as UTF-8",
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
    def name(self) -> str:
        """The data set's short name; a table's is its file name without endings."""
        if not self.is_own_table:
            return self.dataset_code
        # A path typed on Windows has to work on any system that reads the command from a file or a test.
        file_name = self.dataset_code.replace("\\", "/").rpartition("/")[2]
        return file_name.removesuffix(".gz").rpartition(".")[0]

    @property
    def experiment(self) -> Experiment:
        """Where the results lie."""
        return Experiment(Path(self.experiment_root), self.name)

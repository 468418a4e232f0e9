"""The shared vocabulary: column names, id types, splits, and the paths of each stage's results.

Ids are dense. `user_id` runs from 0 to num_users - 1 and is the row in `histories.parquet`; `item_id` runs
from 1 to num_items, and 0 is padding ("no item"). `user` and `item` are the keys of the raw files, as text.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Required, TypedDict

USER: Final = "user"  # raw key, text
ITEM: Final = "item"  # raw key, text
TIMESTAMP: Final = "timestamp"  # seconds since 1970-01-01 UTC, Int64
RATING: Final = "rating"  # Float64, finite
TITLE: Final = "title"  # text, HTML entities resolved

USER_ID: Final = "user_id"  # Int32, 0-based
ITEM_ID: Final = "item_id"  # Int32, 1-based; 0 is PADDING_ITEM
ITEM_IDS: Final = "item_ids"  # list of Int32: a user's whole sequence by time
TIMESTAMPS: Final = "timestamps"  # list of Int64, parallel to ITEM_IDS
TRAIN_END: Final = "train_end"  # Int32: item_ids[:train_end] is for training
VALIDATION_END: Final = "validation_end"  # Int32: item_ids[train_end:validation_end] is for validation

SPLIT: Final = "split"  # "validation" or "test"
CANDIDATE_IDS: Final = "candidate_ids"  # list of Int32, best first
SCORES: Final = "scores"  # list of Float32, parallel to CANDIDATE_IDS
LABEL_ID: Final = "label_id"  # Int32: the item that the user took next
LABEL_RANK: Final = "label_rank"  # Int32: 1 = first candidate, 0 = not among them
CATALOGUE_RANK: Final = "label_place"  # Int32: rank of a training label among all possible candidates, 1 = first

RETRIEVER_RANK: Final = "retriever_rank"  # Int32: rank of the label by the retriever, 0 = not among the candidates
LETTERS_RANK: Final = "letters_rank"  # Int32: likewise, by the ranker's letters alone
FINAL_RANK: Final = "final_rank"  # Int32: likewise, by the final score
FIRST_STAGE_RANK: Final = "first_stage_rank"  # Int32: likewise, by the retriever and titles
TITLE_SIMILARITY: Final = "title_similarity"  # list of Float32: similarity of candidates' titles to the history's
LETTER_LOGP: Final = "letter_logp"  # list of Float32: log-probabilities of the candidates' letters
FINAL_SCORES: Final = "final_scores"  # list of Float32, parallel to CANDIDATE_IDS

PADDING_ITEM: Final = 0

METRICS_FILE: Final = "metrics.json"  # the results of a stage, in its folder
DESCRIPTION: Final = "ranker.json"  # options and inputs of a ranker's run, written when it starts
CHECKPOINTS: Final = "checkpoints"  # folder of a ranker's checkpoints, unless --output_dir names another


class RankerDescription(TypedDict, total=False):
    """The fields of ranker.json that the program reads."""

    config: dict[str, Any]
    prompt: dict[str, str]
    letter_ids: list[int]
    dataset_code: str
    prepared_data: str
    checkpoints: str
    run_id: str
    data_fingerprint: str
    retriever_digest: str
    retriever_config: dict[str, Any] | None
    versions: dict[str, str]


class RetrieverMetrics(TypedDict, total=False):
    """The fields of the retriever's metrics.json that the program reads."""

    config: dict[str, Any]
    data_fingerprint: str
    num_epochs: int
    seconds: float


class MetricRow(TypedDict):
    """One metric of both stages, their difference and its interval."""

    metric: str
    retriever: float
    ranker: float
    difference: float
    low: float
    high: float


class ComparedStages(TypedDict):
    """Rows of a comparison over all users, and over those whose next item is among the candidates."""

    overall: list[MetricRow]
    subset: list[MetricRow]


class RankerMetrics(ComparedStages, total=False):
    """The fields of the ranker's metrics.json that every reader needs."""

    run_id: str
    step: int
    num_users: Required[int]
    num_covered: Required[int]
    coverage: Required[float]
    fusion: Required[dict[str, Any]]
    letters: Required[ComparedStages]
    first_stage: ComparedStages
    added: ComparedStages


Split = Literal["validation", "test"]
SPLITS: Final[tuple[Split, ...]] = ("validation", "test")

Asked = Literal["validation", "test", "now"]
"""When a question is asked: as those of a split, or after all that is known."""
ASKED: Final[tuple[Asked, ...]] = ("validation", "test", "now")


@dataclass(frozen=True)
class Experiment:
    """Paths of the results for one data set.

    Attributes:
        root: The folder `--experiment_root`.
        dataset_code: Short name of the data set.
        ranker_at: Folder of a ranker with its own `--output_dir`; None: llm/{dataset_code}.
    """

    root: Path
    dataset_code: str
    ranker_at: Path | None = None

    @property
    def data(self) -> Path:
        """Folder of the prepared data: histories.parquet, items.parquet, manifest.json."""
        return self.root / "data" / self.dataset_code

    @property
    def retriever(self) -> Path:
        """Folder of the retriever: weights, candidates.parquet, metrics.json."""
        return self.root / "lru" / self.dataset_code

    @property
    def retriever_weights(self) -> Path:
        """Weights of the best epoch."""
        return self.retriever / "retriever.safetensors"

    @property
    def retriever_metrics(self) -> Path:
        """Metrics and options of the trained retriever."""
        return self.retriever / METRICS_FILE

    @property
    def candidates(self) -> Path:
        """The top k items of every validation and test user; there is none before a retriever is finished."""
        return self.retriever / "candidates.parquet"

    @property
    def hard_negatives(self) -> Path:
        """The retriever's lists for the ranker's training prompts."""
        return self.retriever / "hard_negatives.parquet"

    @property
    def ranker(self) -> Path:
        """Folder of the ranker: metrics.json, logs, checkpoints."""
        return self.ranker_at or self.root / "llm" / self.dataset_code

    @property
    def ranker_metrics(self) -> Path:
        """Metrics of the test."""
        return self.ranker / METRICS_FILE

    @property
    def test(self) -> Path:
        """Ranks, candidates and scores of each test user."""
        return self.ranker / "test.parquet"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoint-{step}/ and, beside them, the best adapter."""
        return self.ranker / CHECKPOINTS

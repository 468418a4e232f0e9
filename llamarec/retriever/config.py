"""Options of the retriever, and the defaults chosen per data set."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final

from llamarec.errors import check_all

EXCLUDE_HISTORY = ("auto", "always", "never")
PRODUCTS = ("auto", "float32", "bfloat16")

# What may change between a run and its continuation without making it another run.
_NOT_IDENTITY: Final = (
    *("num_epochs", "patience", "top_k", "num_threads", "exclude_history", "hard_negative_folds", "restart"),
    "save_seconds",
)


@dataclass(frozen=True)
class RetrieverConfig:
    """Model, training and candidates."""

    hidden_size: int = field(default=64, metadata={"help": "Width of item embeddings and of the model."})
    num_blocks: int = field(default=2, metadata={"help": "Recurrence + feed-forward blocks."})
    max_length: int = field(default=50, metadata={"help": "The model reads at most so many last items."})
    window_stride: int = field(
        default=0,
        metadata={
            "help": "Longer training sequences are cut into windows that begin so many items apart; 0 takes only "
            "the last window."
        },
    )
    dropout: float = field(default=0.5, metadata={"help": "Dropout on embeddings and inside the blocks."})
    init_from_titles: bool = field(
        default=True,
        metadata={"help": "Item vectors start from the words of their titles (TF-IDF, SVD) instead of at random."},
    )
    label_smoothing: float = field(default=0.0, metadata={"help": "Share of the target that is spread over all items."})
    learning_rate: float = field(default=1e-3, metadata={"help": "AdamW's rate."})
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW's decay of matrices and embeddings."})
    batch_size: int = field(default=128, metadata={"help": "Sequences per step."})
    max_grad_norm: float = field(default=5.0, metadata={"help": "Gradients are clipped to this norm."})
    num_epochs: int = field(default=500, metadata={"help": "At most so many passes over the data."})
    patience: int = field(
        default=10, metadata={"help": "Stop after so many epochs without a better Recall@10 on validation."}
    )
    seed: int = field(default=42, metadata={"help": "Of first weights, order, dropout and the folds of users."})
    top_k: int = field(default=20, metadata={"help": "Candidates per user."})
    exclude_history: str = field(
        default="auto",
        metadata={
            "help": "Whether items of a user's history can be candidates. auto: excluded, all of them, in validation "
            "and test alike, unless people come back in this data set; or always, never."
        },
    )
    hard_negative_folds: int = field(
        default=2,
        metadata={
            "help": "Users are split into so many parts, and each part's lists for the ranker's training come from a "
            "further retriever that was trained on the others, so that they look like those of validation and test; "
            "1: from the retriever itself, which has seen what came next. Two take about two thirds of its own time."
        },
    )
    save_seconds: float = field(
        default=10.0, metadata={"help": "At an epoch's end the training state is saved if the last save is this old."}
    )
    products: str = field(
        default="auto",
        metadata={
            "help": "Matrix products in training: float32, bfloat16, or auto: bfloat16 where the processor "
            "multiplies it natively."
        },
    )
    num_threads: int = field(default=0, metadata={"help": "CPU threads; 0 leaves it to torch."})
    restart: bool = field(
        default=False, metadata={"help": "Forget an earlier run with these options instead of going on with it."}
    )

    def __post_init__(self) -> None:
        positive = (
            *("hidden_size", "num_blocks", "max_length", "batch_size", "num_epochs", "patience", "top_k"),
            "hard_negative_folds",
        )
        rules = [
            *((getattr(self, name) >= 1, f"--{name} {getattr(self, name)}: at least 1") for name in positive),
            (self.window_stride >= 0, f"--window_stride {self.window_stride}: 0 or more"),
            (0 <= self.dropout < 1, f"--dropout {self.dropout}: from 0 to below 1"),
            (0 <= self.label_smoothing < 1, f"--label_smoothing {self.label_smoothing}: from 0 to below 1"),
            (self.learning_rate > 0, f"--learning_rate {self.learning_rate}: above 0"),
            (self.weight_decay >= 0, f"--weight_decay {self.weight_decay}: 0 or more"),
            (self.max_grad_norm > 0, f"--max_grad_norm {self.max_grad_norm}: above 0"),
            (self.num_threads >= 0, f"--num_threads {self.num_threads}: 0 or more"),
            (
                self.exclude_history in EXCLUDE_HISTORY,
                f"--exclude_history {self.exclude_history!r}: one of {', '.join(EXCLUDE_HISTORY)}",
            ),
            (
                self.products in PRODUCTS,
                f"--products {self.products!r}: one of {', '.join(PRODUCTS)}",
            ),
        ]

        check_all("these retriever options do not fit", rules)

    @property
    def identity(self) -> dict[str, Any]:
        """What makes two runs the same training: all options but its length and what is done with the result."""
        return {name: value for name, value in asdict(self).items() if name not in _NOT_IDENTITY}

    def uses_bfloat16(self, is_fast: bool) -> bool:
        """Whether training multiplies in bfloat16 on a processor where that is fast or not."""
        return self.products == "bfloat16" or (self.products == "auto" and is_fast)

    def excludes(self, has_repeats: bool) -> bool:
        """Whether a user's history is kept out of the candidates."""
        return self.exclude_history == "always" or (self.exclude_history == "auto" and not has_repeats)


# Chosen on validation; see docs/decisions/0002-retriever.md. The dataclass's own suit the Amazon and Yelp sets.
_MOVIES: Final[dict[str, Any]] = {"max_length": 200, "window_stride": 100, "batch_size": 16, "label_smoothing": 0.1}
DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    "ml-100k": _MOVIES,
    "ml-latest-small": {**_MOVIES, "hidden_size": 96},
}


def defaults_for(dataset_code: str) -> dict[str, Any]:
    """Options that differ from the dataclass's for a data set; the user's values come before them."""
    return dict(DEFAULTS.get(dataset_code, {}))

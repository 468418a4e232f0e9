"""Options of the retriever, and their defaults by data set."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Final, TypedDict

from llamarec.errors import check_all
from llamarec.vocabulary import Asked

EXCLUDE_HISTORY = ("auto", "always", "never")
EXPERTS = ("auto", "none")
REFIT = ("auto", "always", "never")
PRODUCTS = ("auto", "float32", "bfloat16")
SOFTMAX = ("auto", "whole", "sampled")
MOST_ITEMS_OF_WHOLE_SOFTMAX: Final = 100_000
"""Up to so many items, `--softmax auto` is over the whole catalogue (benchmarks/results/many_items.md)."""

# Options that a continued run may change.
_NOT_IDENTITY: Final = (
    *("num_epochs", "patience", "top_k", "num_threads", "exclude_history", "hard_negative_folds", "restart"),
    *("save_seconds", "num_members", "experts", "refit", "softmax", "num_sampled"),
)

BEFORE: Final[dict[str, object]] = {
    "hard_negative_folds": 1,
    "experts": "none",
    "title_words": False,
    "refit": "never",
}
"""What earlier versions did, which did not have these options: lists were the retriever's own, and so was the order."""


@dataclass(frozen=True)
class RetrieverConfig:
    """Options of model, training and candidates."""

    hidden_size: int = field(default=64, metadata={"help": "Width of the item embeddings and the model."})
    num_blocks: int = field(
        default=2, metadata={"help": "Number of blocks, each a recurrence and a feed-forward layer."}
    )
    max_length: int = field(default=50, metadata={"help": "The model reads at most this many of a user's last items."})
    window_stride: int = field(
        default=0,
        metadata={
            "help": "Longer training sequences are cut into windows that start this many items apart; 0 uses only the "
            "last window."
        },
    )
    dropout: float = field(default=0.5, metadata={"help": "Dropout of embeddings and blocks."})
    init_from_titles: bool = field(
        default=True,
        metadata={"help": "Initialise item vectors from the words of their titles (TF-IDF, SVD) instead of at random."},
    )
    title_words: bool = field(
        default=True,
        metadata={
            "help": "Add to each item's vector those of its title's words, which rare and new items share with others."
        },
    )
    label_smoothing: float = field(
        default=0.0, metadata={"help": "Share of the target probability spread over all items."}
    )
    softmax: str = field(
        default="auto",
        metadata={
            "help": "What the loss of a position is over. whole: the catalogue. sampled: --num_sampled items drawn for "
            "each step, with a correction for how likely each was. auto: whole up to 100,000 items."
        },
    )
    num_sampled: int = field(default=4096, metadata={"help": "Items drawn for a step of --softmax sampled."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate of AdamW."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of matrices and embeddings."})
    batch_size: int = field(default=128, metadata={"help": "Sequences per step."})
    max_grad_norm: float = field(default=5.0, metadata={"help": "Gradients are clipped to this norm."})
    num_epochs: int = field(default=500, metadata={"help": "Largest number of passes over the data."})
    patience: int = field(
        default=10, metadata={"help": "Stop after this many epochs without a better Recall@10 on validation."}
    )
    seed: int = field(
        default=42, metadata={"help": "Seed of initial weights, data order, dropout and the folds of users."}
    )
    num_members: int = field(
        default=1,
        metadata={
            "help": "Train this many models, with seeds that count up from --seed, and average their log-probabilities."
        },
    )
    experts: str = field(
        default="auto",
        metadata={
            "help": "What orders the catalogue. auto: the sum of the model and of experts that need no training "
            "(titles, transitions, neighbours, popularity, trends), weighted on validation; one that adds nothing "
            "there is left out. none: the model alone."
        },
    )
    refit: str = field(
        default="auto",
        metadata={
            "help": "Train the model once more on all that is known when it is asked, for as many epochs as were best. "
            "auto: on the whole data set, for recommending; with --split temporal also with the validation part, for "
            "the test. always: for the test too with --split leave_one_out. never: what was trained without validation "
            "and test answers everything."
        },
    )
    top_k: int = field(default=20, metadata={"help": "Number of candidates per user."})
    exclude_history: str = field(
        default="auto",
        metadata={
            "help": "Exclude items of a user's history from the candidates: always, never, or auto (unless users of "
            "this data set repeat items)."
        },
    )
    hard_negative_folds: int = field(
        default=2,
        metadata={
            "help": "The ranker's training lists come from this many further retrievers, each trained without the "
            "users it makes lists for, so that the lists resemble those of validation and test. Two take about two "
            "thirds of the retriever's own time. 1: from the retriever itself, which has seen the labels."
        },
    )
    save_seconds: float = field(
        default=10.0,
        metadata={"help": "Least time in seconds between two saves of the training state, at the end of an epoch."},
    )
    products: str = field(
        default="auto",
        metadata={
            "help": "Type of matrix products in training: float32, bfloat16, or auto (bfloat16 where the processor "
            "multiplies it natively)."
        },
    )
    num_threads: int = field(default=0, metadata={"help": "Number of CPU threads; 0: chosen by torch."})
    restart: bool = field(default=False, metadata={"help": "Start over instead of continuing an earlier run."})

    def __post_init__(self) -> None:
        positive = (
            *("hidden_size", "num_blocks", "max_length", "batch_size", "num_epochs", "patience", "top_k"),
            *("hard_negative_folds", "num_members", "num_sampled"),
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
            (self.experts in EXPERTS, f"--experts {self.experts!r}: one of {', '.join(EXPERTS)}"),
            (self.refit in REFIT, f"--refit {self.refit!r}: one of {', '.join(REFIT)}"),
            (self.softmax in SOFTMAX, f"--softmax {self.softmax!r}: one of {', '.join(SOFTMAX)}"),
            (
                self.softmax != "sampled" or not self.label_smoothing,
                "--softmax sampled has no --label_smoothing, which needs every item",
            ),
            (
                self.products in PRODUCTS,
                f"--products {self.products!r}: one of {', '.join(PRODUCTS)}",
            ),
        ]

        check_all("these retriever options do not fit", rules)

    @property
    def identity(self) -> dict[str, object]:
        """Options that make two runs the same training: all but its length and the use of its result."""
        return {name: value for name, value in asdict(self).items() if name not in _NOT_IDENTITY}

    def samples(self, num_items: int) -> bool:
        """Whether the loss is over sampled items; `num_items`: of the catalogue."""
        is_large = num_items > MOST_ITEMS_OF_WHOLE_SOFTMAX and not self.label_smoothing
        return self.softmax == "sampled" or (self.softmax == "auto" and is_large)

    def identity_on(self, num_items: int) -> dict[str, object]:
        """`identity`, and the loss where it is over sampled items; `num_items`: of the catalogue."""
        return {**self.identity, **({"num_sampled": self.num_sampled} if self.samples(num_items) else {})}

    def uses_bfloat16(self, is_fast: bool) -> bool:
        """Whether training multiplies in bfloat16; `is_fast`: the processor does so natively."""
        return self.products == "bfloat16" or (self.products == "auto" and is_fast)

    def refits(self, has_cut: bool) -> tuple[Asked, ...]:
        """For which questions a model is trained once more; `has_cut`: the split is a cut in time."""
        if self.refit == "never":
            return ()
        return ("test", "now") if has_cut or self.refit == "always" else ("now",)

    def excludes(self, has_repeats: bool) -> bool:
        """Whether items of the history are excluded from the candidates; `has_repeats`: users repeat items."""
        return self.exclude_history == "always" or (self.exclude_history == "auto" and not has_repeats)


class Overrides(TypedDict, total=False):
    """Options whose defaults depend on the data set."""

    hidden_size: int
    max_length: int
    window_stride: int
    batch_size: int
    label_smoothing: float


# Chosen on validation; see docs/decisions/0002-retriever.md. The dataclass's defaults suit the Amazon and Yelp sets.
_MOVIES: Final[Overrides] = {"max_length": 200, "window_stride": 100, "batch_size": 16, "label_smoothing": 0.1}
DEFAULTS: Final[dict[str, Overrides]] = {
    "ml-100k": _MOVIES,
    "ml-latest-small": {**_MOVIES, "hidden_size": 96},
    # Not tuned: their sequences are as long.
    **dict.fromkeys(("ml-1m", "ml-10m", "ml-20m", "ml-25m", "ml-32m"), _MOVIES),
}


def defaults_for(dataset_code: str) -> Overrides:
    """Defaults of a data set where they differ from the dataclass's; the user's values override both."""
    return {**DEFAULTS.get(dataset_code, {})}

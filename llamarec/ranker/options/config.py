"""Options of the ranker that are not the Trainer's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from llamarec.checkpoints.config import ProgramHints
from llamarec.errors import check_all

TINY: Final = "tiny"
SMOLLM2_135M: Final = "smollm2-135m"
EMBEDDED: Final = (TINY, SMOLLM2_135M)

MAX_CANDIDATES = 26  # one capital letter each
QUANTIZATIONS = ("auto", "nf4", "none")
# Metrics of a validation by which the best adapter can be chosen.
LOGGED = ("recall@1", "recall@10", "ndcg@10", "mrr@10")
VALIDATED = tuple(f"{part}_{name}" for part in ("overall", "subset", "fused") for name in LOGGED)
CANDIDATE_ORDERS = ("shuffled", "retriever")
HARD_NEGATIVES_AT = ("proposed", "all")
LETTERS: Final = "letters"
ITEMS: Final = "items"
READOUTS: Final = (LETTERS, ITEMS)

ALL_LINEAR = "all-linear"
"""Of `lora_target_modules`, as PEFT calls it: every linear layer of the decoder, not the output layer."""
LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Linear layers of a decoder layer of Llama and its relatives, by name."""


@dataclass(frozen=True)
class RankerConfig:
    """Model, LoRA, prompt and evaluation options; defaults are the recipe's (LlamaRec, section 4.1)."""

    llm_base_model: str = field(
        default="meta-llama/Llama-2-7b-hf",
        metadata={
            "help": "Base model: a hub name, a folder, or an embedded model: 'tiny' (random weights, seconds) or "
            "'smollm2-135m' (pretrained, minutes on a CPU)."
        },
    )
    quantization: str = field(
        default="auto",
        metadata={
            "help": "'nf4' loads the base model in 4 bits with double quantisation, 'none' in whole weights; 'auto' "
            "chooses nf4 if whole weights would take more than half of the memory (see: llamarec plan)."
        },
    )
    readout: str = field(
        default=LETTERS,
        metadata={
            "help": "What is read from the language model: 'letters', one letter for each of 20 candidates; or "
            "'items', scores of the whole catalogue after every item of a history, with a --learning_rate of "
            "0.0005 unless given (docs/ranker.md)."
        },
    )
    lora_r: int = field(default=8, metadata={"help": "LoRA rank (default: 8; with --readout items 16)."})
    lora_alpha: int = field(default=32, metadata={"help": "LoRA scale: updates are multiplied by alpha / r."})
    lora_dropout: float = field(
        default=0.05,
        metadata={"help": "Dropout on the input of each LoRA layer (default: 0.05; with --readout items 0)."},
    )
    lora_target_modules: str = field(
        default="q_proj,v_proj",
        metadata={
            "help": "Linear layers that get LoRA, by name, comma-separated; or all-linear (default: q_proj,v_proj; "
            "with --readout items all-linear)."
        },
    )
    init_adapter: str = field(
        default="",
        metadata={
            "help": "Start from the LoRA weights of another run of either --readout (its code or folder, a checkpoint, "
            "or an export), for example when the data have grown. --lora_r, --lora_alpha and --lora_target_modules "
            "are then that adapter's. Empty = fresh weights. A resume ignores it."
        },
    )
    prompt_template: str = field(
        default="",
        metadata={
            "help": "'letter_last' (letters behind the titles, which a small model can learn), or a JSON file with "
            "your own prompt; empty = the recipe's. See docs/prompt.md."
        },
    )
    max_history: int = field(default=20, metadata={"help": "Items of the history that a prompt shows, at most."})
    num_candidates: int = field(default=20, metadata={"help": "Candidates per prompt, one letter each (2 to 26)."})
    max_title_tokens: int = field(
        default=32,
        metadata={"help": "Tokens of a title; longer titles are cut (default: 32; with --readout items 16)."},
    )
    max_prompt_tokens: int = field(
        default=1536,
        metadata={"help": "Tokens of a prompt; longer prompts lose their oldest history items, never a candidate."},
    )
    hard_negatives: float = field(
        default=1.0,
        metadata={
            "help": "Share of the wrong candidates in a training prompt that a retriever proposed for that position, "
            "as in evaluation; the others are drawn uniformly (0 = all uniform, as published)."
        },
    )
    hard_negatives_at: str = field(
        default="proposed",
        metadata={
            "help": "Training prompts with hard negatives: 'proposed', those whose right item the retriever would "
            "have proposed, as in evaluation; or 'all', where the right item often is the odd one out."
        },
    )
    max_train_prompts: int = field(
        default=0, metadata={"help": "Train on a fixed random sample of this many prompts (0 = all)."}
    )
    latest_prompts: bool = field(
        default=False,
        metadata={"help": "With --max_train_prompts: take each user's latest prompts first, not a random sample."},
    )
    candidate_order: str = field(
        default="shuffled",
        metadata={
            "help": "Order of the candidates' letters in validation and test: 'shuffled', as in training; or "
            "'retriever', best first (as published; letters are then not calibrated)."
        },
    )
    title_similarity: bool = field(
        default=True,
        metadata={
            "help": "Add the similarity of a candidate's title to the history's titles to the retriever's score, if "
            "that helps on validation users. Training does not depend on it."
        },
    )
    max_eval_users: int = field(
        default=1000,
        metadata={
            "help": "Users of a validation, a fixed random sample (0 = all). Users whose next item the retriever "
            "missed count as zero and cost no prompt."
        },
    )
    max_fusion_users: int = field(
        default=5000,
        metadata={
            "help": "After training, the weights of letters and retriever are fitted again on a fixed random sample "
            "of this many validation users (0 = all), because this fit needs more users than choosing an adapter. "
            "With at most --max_eval_users, the weights of the validation are kept."
        },
    )
    max_test_users: int = field(
        default=0,
        metadata={"help": "Users of the final test, a fixed random sample (0 = all)."},
    )
    test_shuffles: int = field(
        default=1,
        metadata={
            "help": "The test scores every prompt in this many shuffles of its candidates and averages the letters' "
            "scores. The test and the fit on --max_fusion_users take that many times as long."
        },
    )
    order_prompts: int = field(
        default=50,
        metadata={
            "help": "After the test, this many of its prompts are scored again with the candidates in the retriever's "
            "order, reversed, and in three shuffles, to measure how much the order matters (0 = none)."
        },
    )
    early_stopping_patience: int = field(
        default=20, metadata={"help": "Stop after this many validations without a better metric (0 = never)."}
    )
    train_retriever: bool = field(
        default=False, metadata={"help": "Train the retriever first if this data set has none."}
    )

    def __post_init__(self) -> None:
        check_all("these ranker options do not fit", self._rules())

    def _rules(self) -> list[tuple[bool, str]]:
        return [
            (
                self.quantization in QUANTIZATIONS,
                f"--quantization {self.quantization!r}: one of {', '.join(QUANTIZATIONS)}",
            ),
            (
                2 <= self.num_candidates <= MAX_CANDIDATES,
                f"--num_candidates {self.num_candidates}: 2 to {MAX_CANDIDATES}, one letter each",
            ),
            (self.readout in READOUTS, f"--readout {self.readout!r}: one of {', '.join(READOUTS)}"),
            (self.lora_r >= 1, f"--lora_r {self.lora_r}: at least 1"),
            (self.lora_alpha >= 1, f"--lora_alpha {self.lora_alpha}: at least 1"),
            (0.0 <= self.lora_dropout < 1.0, f"--lora_dropout {self.lora_dropout}: from 0 to below 1"),
            (bool(self.target_modules), "--lora_target_modules: at least one layer name"),
            (self.max_history >= 1, f"--max_history {self.max_history}: at least 1"),
            (self.max_title_tokens >= 1, f"--max_title_tokens {self.max_title_tokens}: at least 1"),
            (self.max_prompt_tokens >= 1, f"--max_prompt_tokens {self.max_prompt_tokens}: at least 1"),
            (0 <= self.hard_negatives <= 1, f"--hard_negatives {self.hard_negatives}: from 0 to 1"),
            (
                self.hard_negatives_at in HARD_NEGATIVES_AT,
                f"--hard_negatives_at {self.hard_negatives_at!r}: one of {', '.join(HARD_NEGATIVES_AT)}",
            ),
            (self.max_train_prompts >= 0, f"--max_train_prompts {self.max_train_prompts}: 0 (all) or more"),
            (
                self.candidate_order in CANDIDATE_ORDERS,
                f"--candidate_order {self.candidate_order!r}: one of {', '.join(CANDIDATE_ORDERS)}",
            ),
            (
                not self.latest_prompts or self.max_train_prompts > 0,
                "--latest_prompts: only with --max_train_prompts N, the number of prompts to take",
            ),
            (self.test_shuffles >= 1, f"--test_shuffles {self.test_shuffles}: at least 1"),
            (
                self.test_shuffles <= 1 or self.candidate_order == "shuffled",
                f"--test_shuffles {self.test_shuffles} with --candidate_order {self.candidate_order}: only shuffled",
            ),
            (self.order_prompts >= 0, f"--order_prompts {self.order_prompts}: 0 (none) or more"),
            (self.max_eval_users >= 0, f"--max_eval_users {self.max_eval_users}: 0 (all) or more"),
            (self.max_fusion_users >= 0, f"--max_fusion_users {self.max_fusion_users}: 0 (all) or more"),
            (self.max_test_users >= 0, f"--max_test_users {self.max_test_users}: 0 (all) or more"),
            (
                self.early_stopping_patience >= 0,
                f"--early_stopping_patience {self.early_stopping_patience}: 0 (never) or more",
            ),
        ]

    @property
    def order(self) -> Literal["shuffled", "retriever"]:
        """`candidate_order`, for a type checker."""
        return "retriever" if self.candidate_order == "retriever" else "shuffled"

    @property
    def target_modules(self) -> list[str]:
        """`lora_target_modules` as a list of layers, without repetitions."""
        given = [name.strip() for name in self.lora_target_modules.split(",") if name.strip()]
        layers = [layer for name in given for layer in (LINEAR_LAYERS if name == ALL_LINEAR else (name,))]
        return list(dict.fromkeys(layers))


def is_embedded(name: str) -> bool:
    """Whether a model comes with the package (or a wheel), and is small enough for whole weights."""
    return name in EMBEDDED


HINTS: Final = ProgramHints(other_folder="another --output_dir (or --experiment_root)")
"""Advice of checkpoints in the words of the ranker's command line."""

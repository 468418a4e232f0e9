"""train_ranker.py with what the published code did otherwise, for the ablation (`benchmarks.ranker_quality`).

    python -m benchmarks.published_ranker loss,letters --dataset_code beauty ...

loss: the answer's cross-entropy over the whole vocabulary, not over the candidates' letters alone.
letters: what is read at evaluation are the letters' tokens as they are written after a space. That is what encoding a
letter by itself gives with Llama 2's tokenizer, and not what stands after the prompt and is trained.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final
from unittest.mock import patch

from torch import Tensor
from torch.nn import functional as F

from benchmarks.report import ROOT
from llamarec.ranker import run
from llamarec.ranker.base_models import load_letter_model, load_tokenizer
from llamarec.ranker.letter_model import LetterForward
from llamarec.ranker.prompt import LETTERS

CHOICES: Final = ("loss", "letters")


def whole_vocabulary(
    model: Any,
    input_ids: Tensor,
    answer_positions: Tensor,
    labels: Tensor | None = None,
    num_items_in_batch: Tensor | int | None = None,
    **unused: Any,
) -> dict[str, Tensor]:
    """In the place of `LetterForward.forward`; the loss is over the vocabulary, the logits are those that are read."""
    hidden_BD = model._answers(input_ids, answer_positions)
    head = model.get_output_embeddings()
    logits_BV = head(hidden_BD.to(head.weight.dtype)).float()
    read = {"logits": logits_BV[:, read_ids(model)]}
    if labels is None:
        return read
    divisor = input_ids.shape[0] if num_items_in_batch is None else num_items_in_batch
    right_B = model.letter_ids_C.to(labels.device)[labels]
    return {"loss": F.cross_entropy(logits_BV, right_B, reduction="sum") / divisor, **read}


def read_ids(model: Any) -> list[int]:
    """Token ids that evaluation looks at."""
    return list(getattr(model, "read_ids", None) or model.letter_ids_C.tolist())


def read_after_a_space(model: Any, tokenizer: Any) -> None:
    """Lets evaluation look at the letters' tokens as they are written after a space.

    Raises:
        SystemExit: this tokenizer has the same tokens for both, so that there is nothing to compare.
    """
    base = model.get_base_model()
    letters = LETTERS[: len(base.letter_ids_C)]
    ids = [tokenizer(f" {letter}", add_special_tokens=False)["input_ids"][-1] for letter in letters]
    if ids == base.letter_ids_C.tolist():
        raise SystemExit("with this tokenizer a letter has the same token after a space and after the prompt")
    base.read_ids = ids


def loading(choices: Sequence[str]) -> Callable[..., Any]:
    """What loads the model in the place of `load_letter_model`."""

    def load(name: str, source: str, *args: Any, **kwargs: Any) -> Any:
        model = load_letter_model(name, source, *args, **kwargs)
        if "letters" in choices:
            read_after_a_space(model, load_tokenizer(name, source))
        return model

    return load


def main() -> int:
    """As train_ranker.py, after the choices."""
    choices = sys.argv[1].split(",") if len(sys.argv) > 1 else []
    if not choices or set(choices) - set(CHOICES) or "loss" not in choices:
        raise SystemExit(f"{__doc__}\nexpected: loss or loss,letters, and then flags of train_ranker.py")
    sys.path.insert(0, str(ROOT))
    import train_ranker

    sys.argv = ["train_ranker.py", *sys.argv[2:]]
    with (
        patch.object(LetterForward, "forward", whole_vocabulary),
        patch.object(run, "load_letter_model", loading(choices)),
    ):
        return train_ranker.main()


if __name__ == "__main__":
    sys.exit(main())

"""train_ranker.py with the loss of the published code, for the ablation (`benchmarks.ranker.quality`).

    python -m benchmarks.ranker.published_loss --dataset_code beauty ...

The answer's cross-entropy is over the whole vocabulary, not over the candidates' letters alone.
"""

from __future__ import annotations

import sys
from typing import Any
from unittest.mock import patch

from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness.report import ROOT
from llamarec.ranker.model.letter_model import LetterForward


def whole_vocabulary(
    model: Any,
    input_ids: Tensor,
    answer_positions: Tensor,
    labels: Tensor | None = None,
    num_items_in_batch: Tensor | int | None = None,
    **unused: Any,
) -> dict[str, Tensor]:
    """In the place of `LetterForward.forward`; the loss is over the vocabulary, the logits are the letters'."""
    hidden_BD = model._answers(input_ids, answer_positions)
    head = model.get_output_embeddings()
    logits_BV = head(hidden_BD.to(head.weight.dtype)).float()
    letter_ids_C = model.letter_ids_C.to(logits_BV.device)
    letters = {"logits": logits_BV[:, letter_ids_C]}
    if labels is None:
        return letters
    divisor = input_ids.shape[0] if num_items_in_batch is None else num_items_in_batch
    return {"loss": F.cross_entropy(logits_BV, letter_ids_C[labels], reduction="sum") / divisor, **letters}


def main() -> int:
    """As train_ranker.py."""
    sys.path.insert(0, str(ROOT))
    import train_ranker

    with patch.object(LetterForward, "forward", whole_vocabulary):
        return train_ranker.main()


if __name__ == "__main__":
    sys.exit(main())

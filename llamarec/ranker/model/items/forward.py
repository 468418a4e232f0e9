"""A causal language model whose forward pass scores the next item after every item of a history.

The output matrix over the vocabulary is not used. In evaluation the result is a vector per user, not a logit per item:
for a thousand users and a million items that is half a megabyte, not four gigabytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llamarec.planning.lengths import LENGTH_MULTIPLE, rounded
from llamarec.ranker.model.cpu.form import form_of
from llamarec.ranker.model.cpu.packed import Histories, item_scores
from llamarec.ranker.model.items.head import NO_LABEL, ItemHead, loss_of
from llamarec.ranker.prompts.history_samples import HistorySample


class ItemForward:
    """Put before a `*ForCausalLM` class by `as_item_model`; adapters are not affected."""

    item_head: ItemHead
    # Where the model's layers are known (`llamarec.ranker.model.cpu`); otherwise the modules compute.
    goes_by_prompts = True
    # The loss is divided by the labels of the whole step, not of the micro-batch.
    accepts_loss_kwargs = True

    def forward(
        self,
        input_ids: Tensor,
        answer_positions: Tensor,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **unused: Any,
    ) -> dict[str, Tensor]:
        """User vectors and, with labels, the cross-entropy over the catalogue.

        Args:
            input_ids: [B, L], padded on the right.
            answer_positions: [B, A] position at which each item ends; -1 where a row has fewer.
            labels: [B, A] item ids that follow; `NO_LABEL` where a row has fewer.
            num_items_in_batch: Labels in the whole optimizer step, over which the mean is taken. Default: those here.
            unused: Arguments that PEFT's wrapper adds, all None (`attention_mask`, `inputs_embeds`, ...).

        Returns:
            `loss` (scalar, with labels) and `logits` [B, K], the user vector at the last item of each row, without a
            gradient.
        """
        divisor = None
        if labels is not None:
            divisor = int((labels != NO_LABEL).sum()) if num_items_in_batch is None else num_items_in_batch
        histories = Histories(input_ids, answer_positions, labels, divisor or 1)

        by_modules = not self.goes_by_prompts or torch.compiler.is_compiling()
        form = None if by_modules else form_of(self, beside=self.item_head.parameters())
        if form is not None:
            loss, users_BK = item_scores(self, form, histories, self.item_head)
        else:
            loss, users_BK = self._by_modules(histories)
        return {"logits": users_BK} if loss is None else {"loss": loss, "logits": users_BK}

    def _by_modules(self, histories: Histories) -> tuple[Tensor | None, Tensor]:
        decoder: nn.Module = self.get_decoder()  # type: ignore[attr-defined]
        hidden_BLD = decoder(input_ids=histories.input_ids, use_cache=False).last_hidden_state
        rows, columns = torch.nonzero(histories.answers >= 0, as_tuple=True)
        hidden_PD = hidden_BLD[rows, histories.answers[rows, columns]]

        with torch.autocast(device_type=hidden_PD.device.type, enabled=False):
            users_PK = self.item_head.users(hidden_PD.float())
            last_B = torch.cumsum((histories.answers >= 0).sum(dim=1), dim=0) - 1
            users_BK = users_PK[last_B].detach()
            if histories.labels is None:
                return None, users_BK

            labels_P = histories.labels[rows, columns]
            choices = self.item_head.choices(labels_P)
            return loss_of(users_PK, choices, labels_P) / histories.divisor, users_BK


def as_item_model(model: Any, head: ItemHead) -> Any:
    """Makes a causal language model score items, in place. Weights of its own and their names do not change.

    Args:
        model: A `*ForCausalLM` with `get_decoder`.
        head: What is trained beside LoRA.
    """
    cls = type(model)
    model.__class__ = type(cls.__name__, (ItemForward, cls), {"__module__": cls.__module__})
    model.item_head = head
    return model


def collate_histories(
    samples: Sequence[HistorySample], *, pad_token_id: int, multiple: int = LENGTH_MULTIPLE
) -> dict[str, Tensor]:
    """Arguments of `ItemForward.forward`: rows padded on the right to the longest, rounded up."""
    length = rounded(max(len(sample["input_ids"]) for sample in samples), multiple)
    most = max(len(sample["labels"]) for sample in samples)
    input_ids = torch.full((len(samples), length), pad_token_id, dtype=torch.long)
    answers = torch.full((len(samples), most), -1, dtype=torch.long)
    labels = torch.full((len(samples), most), NO_LABEL, dtype=torch.long)

    for row, sample in enumerate(samples):
        input_ids[row, : len(sample["input_ids"])] = torch.tensor(sample["input_ids"])
        answers[row, : len(sample["labels"])] = torch.tensor(sample["answer_positions"])
        labels[row, : len(sample["labels"])] = torch.tensor(sample["labels"])
    return {"input_ids": input_ids, "answer_positions": answers, "labels": labels}


def trimmed_histories(batch: dict[str, Tensor], multiple: int = LENGTH_MULTIPLE) -> dict[str, Tensor]:
    """Part of a collated batch, padded only to its own longest row."""
    length = rounded(int(batch["answer_positions"].max()) + 1, multiple)
    return {**batch, "input_ids": batch["input_ids"][:, :length]}

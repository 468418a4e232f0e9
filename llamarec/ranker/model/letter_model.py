"""A causal language model whose forward pass scores letters instead of the vocabulary.

Only the hidden state at the answer's position is multiplied with the output matrix, and only with the letters' rows:
for 12 prompts of 1,000 tokens and a vocabulary of 32,000 that gives 240 numbers, not 384 million (1.5 GB in fp32).

    B batch, L prompt tokens, D width, C candidates
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llamarec.planning.lengths import LENGTH_MULTIPLE, rounded
from llamarec.ranker.model.cpu.form import form_of
from llamarec.ranker.model.cpu.step import Batch, letter_scores
from llamarec.ranker.model.last_layer import read_answers_only


class LetterForward:
    """Put before a `*ForCausalLM` class by `as_letter_model`; adapters and state dicts are not affected."""

    letter_ids_C: Tensor
    reads_answers_only = False
    # Where the model's layers are known (`llamarec.ranker.model.cpu`); otherwise the modules compute.
    goes_by_prompts = True
    # The loss is divided by the samples of the whole step, not of the micro-batch.
    accepts_loss_kwargs = True

    def forward(
        self,
        input_ids: Tensor,
        answer_positions: Tensor,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **unused: Any,
    ) -> dict[str, Tensor]:
        """Letter logits and, with labels, the cross-entropy over the candidates' letters.

        Args:
            input_ids: [batch, length], padded on the right; with causal attention padding does not matter, so no mask
                is needed and the fast attention kernels apply.
            answer_positions: [batch] index of each prompt's last token.
            labels: [batch] letter of the right candidate (0 = A).
            num_items_in_batch: Samples in the whole optimizer step, over which the mean is taken. Default: batch.
            unused: Arguments that PEFT's wrapper adds, all None (`attention_mask`, `inputs_embeds`, ...).

        Returns:
            `loss` (scalar, with labels) and `logits` [batch, candidates] in float32. On a CPU the prompts are computed
            one by one (`llamarec.ranker.model.cpu`); next to a loss the logits then carry no gradient.
        """
        divisor = input_ids.shape[0] if num_items_in_batch is None else num_items_in_batch

        # Prompt by prompt, gradients are computed together with the loss, so logits alone have none.
        wants_logits_gradient = labels is None and torch.is_grad_enabled()
        by_modules = not self.goes_by_prompts or wants_logits_gradient or torch.compiler.is_compiling()
        form = None if by_modules else form_of(self)

        if form is not None:
            batch = Batch(input_ids, answer_positions, labels, divisor)
            loss, logits_BC = letter_scores(self, form, batch, self._letter_logits)
            return {"logits": logits_BC} if loss is None else {"loss": loss, "logits": logits_BC}

        logits_BC = self._letter_logits(self._answers(input_ids, answer_positions))
        if labels is None:
            return {"logits": logits_BC}
        return {"loss": F.cross_entropy(logits_BC, labels, reduction="sum") / divisor, "logits": logits_BC}

    def _answers(self, input_ids: Tensor, answer_positions: Tensor) -> Tensor:
        """The hidden state at each prompt's answer: [batch, width]."""
        decoder: nn.Module = self.get_decoder()  # type: ignore[attr-defined]
        if self.reads_answers_only:
            answers = decoder(input_ids=input_ids, use_cache=False, answer_positions=answer_positions)
            return answers.last_hidden_state[:, 0]  # type: ignore[no-any-return]

        hidden_BLD = decoder(input_ids=input_ids, use_cache=False).last_hidden_state
        rows = torch.arange(input_ids.shape[0], device=hidden_BLD.device)
        return hidden_BLD[rows, answer_positions]  # type: ignore[no-any-return]

    def _letter_logits(self, hidden_BD: Tensor) -> Tensor:
        head: Any = self.get_output_embeddings()  # type: ignore[attr-defined]
        # FSDP2 gathers weights when a module is called, and the head never is.
        is_sharded = hasattr(head, "unshard") and hasattr(head, "reshard")
        if is_sharded:
            head.unshard()

        letter_ids_C = self.letter_ids_C.to(head.weight.device)
        bias = None if getattr(head, "bias", None) is None else head.bias[letter_ids_C].float()
        weight_CD = head.weight[letter_ids_C].float()
        if is_sharded:
            head.reshard()

        with torch.autocast(device_type=hidden_BD.device.type, enabled=False):
            return F.linear(hidden_BD.float(), weight_CD, bias)


def as_letter_model(model: Any, letter_ids: list[int]) -> Any:
    """Makes a causal language model score letters, in place. Weights and their names do not change.

    Args:
        model: A `*ForCausalLM` with `get_decoder` and `get_output_embeddings`.
        letter_ids: Token ids of the letters, in the candidates' order.
    """
    cls = type(model)
    model.__class__ = type(cls.__name__, (LetterForward, cls), {"__module__": cls.__module__})
    model.letter_ids_C = torch.tensor(letter_ids, dtype=torch.long)
    model.reads_answers_only = read_answers_only(model)
    return model


def collate(samples: list[Any], *, pad_token_id: int, multiple: int = LENGTH_MULTIPLE) -> dict[str, Tensor]:
    """Arguments of `LetterForward.forward`: samples padded on the right to the longest, rounded up."""
    lengths = torch.tensor([len(sample["input_ids"]) for sample in samples])
    length = rounded(int(lengths.max()), multiple)

    input_ids = torch.full((len(samples), length), pad_token_id, dtype=torch.long)
    for row, sample in enumerate(samples):
        input_ids[row, : len(sample["input_ids"])] = torch.tensor(sample["input_ids"])

    return {
        "input_ids": input_ids,
        "answer_positions": lengths - 1,
        "labels": torch.tensor([sample["label"] for sample in samples]),
    }


def trimmed(batch: dict[str, Tensor], multiple: int = LENGTH_MULTIPLE) -> dict[str, Tensor]:
    """Part of a collated batch, padded only to its own longest prompt."""
    length = rounded(int(batch["answer_positions"].max()) + 1, multiple)
    return {**batch, "input_ids": batch["input_ids"][:, :length]}

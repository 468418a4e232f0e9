"""What identifies a run of the ranker beyond base model, LoRA and samples, and the flags that decide each part."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from llamarec.checkpoints.resume.compatibility import FingerprintSources
from llamarec.data.prepared import PreparedData, read_manifest
from llamarec.errors import ArtifactError
from llamarec.files import read_json
from llamarec.ranker.options.config import ITEMS, RankerConfig
from llamarec.ranker.prompts.encoding import PromptEncoder
from llamarec.ranker.prompts.evaluation_samples import EvaluatedUsers, Order, evaluated_users
from llamarec.ranker.prompts.history_text import HistoryEncoder
from llamarec.ranker.prompts.training_samples import TrainingSamples
from llamarec.retriever.candidates import read_candidates
from llamarec.retriever.dependent_rankers import has_other_retriever
from llamarec.retriever.hard_negatives import TrainingLists, read_hard_negatives
from llamarec.retriever.rebuild_command import rebuild_command, stored_config
from llamarec.vocabulary import DESCRIPTION, Experiment, RankerDescription

_DIGITS: Final = 16
_PROMPT: Final = (
    *(
        "readout",
        "llm_base_model",
        "prompt_template",
        "max_history",
        "max_title_tokens",
        "max_prompt_tokens",
        "num_candidates",
    ),
)
FOLLOWS_FROM: Final[dict[str, tuple[str, ...]]] = {
    "base_model": ("llm_base_model", "quantization", "bf16", "fp16"),
    "lora": ("lora_r", "lora_alpha", "lora_target_modules"),
    "prompt": _PROMPT,
    "data": (*_PROMPT, "hard_negatives", "hard_negatives_at", "max_train_prompts", "latest_prompts"),
    "training_lists": ("num_candidates",),
    "validation_candidates": ("num_candidates", "max_eval_users", "candidate_order"),
    "validation_users": ("max_eval_users",),
}
"""Options that decide a fingerprint, by its name."""
_MEASURES: Final = frozenset({"prompt", "validation_candidates", "validation_users", "prepared_data"})


def fingerprints(
    data: PreparedData, encoder: PromptEncoder, train: TrainingSamples, users: EvaluatedUsers, order: Order
) -> dict[str, Any]:
    """The fingerprints of a run, by name."""
    template = encoder.template.as_dict()
    prompt = json.dumps([template, encoder.letter_ids, encoder.max_history, encoder.max_prompt_tokens])
    return {
        **of_data(data.fingerprint),
        "prompt": _short(hashlib.sha256(prompt.encode())),
        **_of_candidates(users, order),
        **_of_lists(train.lists, encoder.num_candidates),
    }


def fingerprints_of_items(data: PreparedData, encoder: HistoryEncoder, users: NDArray[np.int32]) -> dict[str, Any]:
    """The fingerprints of a run with `--readout items`, by name."""
    text = json.dumps([ITEMS, encoder.prefix, encoder.separator, encoder.max_history, encoder.max_tokens])
    return {
        **of_data(data.fingerprint),
        "prompt": _short(hashlib.sha256(text.encode())),
        "validation_users": _short(hashlib.sha256(np.sort(users).astype("<i8").tobytes())),
    }


def of_data(data_fingerprint: str) -> dict[str, Any]:
    """The fingerprint of the prepared data, which no flag of train_ranker.py decides."""
    return {"prepared_data": data_fingerprint[:_DIGITS]}


def stored_fingerprints(experiment: Experiment, config: RankerConfig) -> dict[str, Any]:
    """The fingerprints that need no tokenizer, without those whose files are missing."""
    manifest = read_manifest(experiment.data)
    found = of_data(manifest["fingerprint"]) if manifest is not None else {}
    if config.readout == ITEMS:
        return found

    try:
        candidates = read_candidates(experiment)["validation"]
        users = evaluated_users(candidates, "validation", config.num_candidates, config.max_eval_users)
        found |= _of_candidates(users, config.order)
        if config.hard_negatives:
            found |= _of_lists(read_hard_negatives(experiment)[0], config.num_candidates)
    except ArtifactError:
        # Training itself reports what is wrong with the files.
        return found
    return found


def fingerprint_sources(experiment: Experiment, data_flags: Sequence[str] = ()) -> FingerprintSources:
    """The flags behind each fingerprint, and the command that restores the retriever's files of the run."""
    ranker = read_json(experiment.ranker / DESCRIPTION, RankerDescription) or {}
    advice = _restoring_command(ranker, experiment, data_flags)
    return FingerprintSources(FOLLOWS_FROM, advice, str(ranker.get("run_id") or ""), _MEASURES)


def _restoring_command(ranker: Mapping[str, Any], experiment: Experiment, data_flags: Sequence[str]) -> dict[str, str]:
    then, manifest = stored_config(ranker.get("retriever_config")), read_manifest(experiment.data)
    # On other data no retriever equals the former one.
    if then is None or manifest is None or manifest["fingerprint"] != ranker.get("data_fingerprint"):
        return {}
    again = rebuild_command(experiment, data_flags, then=then)
    text = (
        f"the retriever's files as they were: {again}{' --restart' if has_other_retriever(ranker, experiment) else ''}"
    )
    return {"training_lists": text, "validation_candidates": text}


def _of_candidates(users: EvaluatedUsers, order: Order) -> dict[str, str]:
    """Another retriever evaluates other users, so best metrics cannot be compared."""
    ranks = hashlib.sha256(users.retriever_ranks.astype("<i8").tobytes())
    ranks.update(users.user_ids.astype("<i8").tobytes())
    # Nothing for the retriever's order, which was the only one before the flag existed.
    ranks.update(b"" if order == "retriever" else order.encode())
    return {"validation_candidates": _short(ranks)}


def _of_lists(lists: TrainingLists | None, num_candidates: int) -> dict[str, str]:
    """Other lists mean other wrong candidates, which a few sampled prompts need not show."""
    return {"training_lists": lists.digest(num_candidates - 1)[:_DIGITS]} if lists is not None else {}


def _short(digest: Any) -> str:
    return str(digest.hexdigest()[:_DIGITS])

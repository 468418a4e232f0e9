"""Export of a run with `--readout items`: adapter, vectors of the catalogue, and what reads a history.

A program needs the adapter, the tokenizer, prompt.json (how a history is written) and item_head.safetensors:

    user = unit(layer_norm(h) @ user_map.T + user_bias)      h: last hidden state at the end of the last item
    logits = scale * user @ item_vectors.T + bias            row i is the item in row i of items.parquet
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import polars as pl
from safetensors.torch import save_file

from llamarec.data.parquet import write_parquet
from llamarec.data.prepared import PreparedData
from llamarec.export.card import filled_card, metrics_of_card, training_of_card
from llamarec.files import write_json, write_text
from llamarec.ranker.model.items.stored import head_from
from llamarec.ranker.options.config import ITEMS
from llamarec.ranker.prompts.template import PROMPT_FILE
from llamarec.ranker.trained.item_expert import TrainedItems
from llamarec.report.run import RunFacts
from llamarec.vocabulary import ITEM, TITLE

ITEM_HEAD: Final = "item_head.safetensors"
ITEM_TABLE: Final = "items.parquet"


def write_item_files(trained: TrainedItems, data: PreparedData, hidden_size: int, folder: Path) -> None:
    """Writes everything but the adapter and the card.

    Args:
        trained: The run.
        data: Its data.
        hidden_size: Width of the language model.
        folder: Folder of the export.
    """
    encoder = trained.encoder
    head = head_from(trained.adapter.folder, hidden_size)
    save_file(head.as_plain(), folder / ITEM_HEAD, metadata={"format": "pt"})
    table = pl.DataFrame(
        {ITEM: data.items[1:], TITLE: encoder.cut_titles[1:]}, schema={ITEM: pl.String, TITLE: pl.String}
    )
    write_parquet(table, folder / ITEM_TABLE)

    trained.tokenizer.save_pretrained(folder)
    write_json(
        folder / PROMPT_FILE,
        {
            "readout": ITEMS,
            "prefix_ids": encoder.prefix,
            "before_title": " ",
            "separator_ids": encoder.separator,
            "max_history": encoder.max_history,
            "max_title_tokens": encoder.max_title_tokens,
            "max_prompt_tokens": encoder.max_tokens,
        },
    )


def write_item_card(run: RunFacts, trained: TrainedItems, data: PreparedData, base_model: str, folder: Path) -> None:
    """Writes README.md.

    Args:
        run: Metrics, manifest and interruptions of the run.
        trained: The run.
        data: Its data.
        base_model: Model that the adapter names.
        folder: Folder of the export.
    """
    is_portable = not Path(base_model).is_dir()
    content = {
        **training_of_card(run),
        "dataset_code": data.dataset_code,
        "base_model": base_model if is_portable else trained.config.llm_base_model,
        "is_portable": is_portable,
        "num_users": f"{data.num_users:,}",
        "num_items": f"{data.num_items:,}",
        "num_interactions": f"{data.num_interactions:,}",
        "step": f"{trained.adapter.step:,}",
        "is_best": trained.adapter.is_best,
        "metrics": metrics_of_card(run),
    }
    write_text(folder / "README.md", filled_card("card_items.md.j2", content))

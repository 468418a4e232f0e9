"""llamarec: fine-tune Llama with LoRA to rank recommendations, and resume it from anywhere.

    raw files -> interactions -> user histories -> candidates -> prompts -> trained adapter -> scores -> tables

requirements                 what must be installed, and what to type for it
credentials                  texts without the passwords that addresses carry
vocabulary, errors, command, hardware, files, assets, texts   what every stage shares
checkpoints                  saving, verifying, resuming, for any Hugging Face Trainer; imports none of the rest
data                         raw files -> interactions -> histories: one file per source, one registry
evaluation                   ranks -> metrics, intervals, tables; knows no model
experts                      what counts say of the next item, without training, and the weighted sum of all
retriever                    histories -> top-k candidates per user (LRURec and the experts)
planning                     what a run will need, before it is begun
ranker                       candidates -> prompts -> a LoRA adapter that orders them by letter
recommend                    a run on the disk -> recommendations for anybody
serve                        recommendations over HTTP
report                       what a run left on the disk -> report.html, comparisons of runs
export                       a run's model for others
cli                          one file per verb of the `llamarec` command

Imports point upwards in this list only; the rules stand in pyproject.toml (import-linter).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llamarec.cli.entry_point import run_main
    from llamarec.recommend.recommender import Recommendation, Recommender

__version__ = "0.1.0"
__all__ = ["Recommendation", "Recommender", "__version__", "run_main"]

_HOMES = {
    "Recommendation": "recommend.recommender",
    "Recommender": "recommend.recommender",
    "run_main": "cli.entry_point",
}


def __getattr__(name: str) -> Any:
    """Loaded when they are asked for: help and errors need no torch, and checkpoints no recommender."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        from llamarec.requirements import extras_with, install_line

        if extras := extras_with(error.name or ""):
            error.add_note(install_line(extras[0]))
        raise


def _is_of_use(record: logging.LogRecord) -> bool:
    return "gemm_4bit_forward" not in record.getMessage()


# On some processors bitsandbytes names, at every import, an optional kernel that nobody asked for.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_is_of_use)

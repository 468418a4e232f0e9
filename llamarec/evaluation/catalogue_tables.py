"""The tables and sentences at the end of a test over the whole catalogue, in 80 columns."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from llamarec.evaluation.catalogue import CatalogueOutcome, CatalogueWeights
from llamarec.evaluation.comparison import Row
from llamarec.evaluation.tables import main_row, print_rows


def print_catalogue_test(outcome: CatalogueOutcome, console: Console, *, title: str) -> None:
    """Prints the metrics of all users, the formula of the final score, and a verdict."""
    users = outcome.comparison.num_users
    heading = f"\n{title}: {users:,} users, the whole catalogue"
    overall, alone = outcome.comparison.overall, outcome.alone.overall
    print_rows(console, heading, overall, alone, first="first stage", alone="items")
    console.print("items: the language model alone; ranker: the final order")
    console.print("difference: ranker - first stage, with a 95% confidence interval (paired bootstrap over users)")
    console.print(catalogue_text(outcome.weights), soft_wrap=True)
    console.print(catalogue_verdict(main_row(overall), users, outcome.weights), soft_wrap=True)


def catalogue_text(weights: CatalogueWeights) -> str:
    """The formula of the final score, and what it was fitted on."""
    fitted = f"{weights.num_prompts:,} validation users"
    gain = f"{weights.gain:+.4f} nats per user, standard error {weights.error:.4f}, {fitted}"
    if not weights.new:
        return (
            "ranker = first stage: the language model has no weight, since on held-out validation users it does not "
            f"add more than a standard error ({gain})"
        )
    if not weights.experts:
        return f"ranker = first stage + {weights.new:.3f} x language model's logit ({gain})"
    return f"ranker = {terms_text(weights.experts)}; beside all others the language model adds {gain}"


def terms_text(experts: Mapping[str, float]) -> str:
    """The terms of a weighted sum, such as "0.61 lrurec + 0.35 language_model"."""
    return " + ".join(f"{weight:.2f} {name}" for name, weight in experts.items() if weight)


def catalogue_verdict(row: Row, users: int, weights: CatalogueWeights) -> str:
    """Whether the language model helps, in one sentence."""
    about = f"(overall {row.metric}, {users:,} users)"
    if not weights.new:
        return "The ranker's order is the first stage's: the language model has no weight yet. Train longer."
    if row.low > 0:
        return f"The ranker is better than its first stage {about}."
    if row.high < 0:
        return f"The ranker is worse than its first stage {about}, unlike on validation. Serve the first stage."
    return f"Ranker and first stage cannot be told apart {about}."

"""The tables and sentences at the end of a test over the whole catalogue, in 80 columns."""

from __future__ import annotations

from rich.console import Console

from llamarec.evaluation.catalogue import CatalogueOutcome, CatalogueWeights
from llamarec.evaluation.comparison import Row
from llamarec.evaluation.tables import main_row, print_rows


def print_catalogue_test(outcome: CatalogueOutcome, console: Console, *, title: str) -> None:
    """Prints the metrics of all users, the formula of the final score, and a verdict."""
    users = outcome.comparison.num_users
    heading = f"\n{title}: {users:,} users, the whole catalogue"
    print_rows(console, heading, outcome.comparison.overall, outcome.alone.overall, alone="items")
    console.print("items: the language model alone; ranker: the final order")
    console.print("difference: ranker - retriever, with a 95% confidence interval (paired bootstrap over users)")
    console.print(weights_text(outcome.weights), soft_wrap=True)
    console.print(catalogue_verdict(main_row(outcome.comparison.overall), users, outcome.weights), soft_wrap=True)


def weights_text(weights: CatalogueWeights) -> str:
    """The formula of the final score, and what it was fitted on."""
    fitted = f"{weights.num_prompts:,} validation users"
    gain = f"{weights.gain:+.4f} nats per user, standard error {weights.error:.4f}, {fitted}"
    if not weights.new:
        return (
            "ranker = retriever score: the language model has no weight, since on held-out validation users it does "
            f"not add more than a standard error ({gain})"
        )
    return f"ranker = retriever score + {weights.new:.3f} x language model's logit ({gain})"


def catalogue_verdict(row: Row, users: int, weights: CatalogueWeights) -> str:
    """Whether the language model helps, in one sentence."""
    about = f"(overall {row.metric}, {users:,} users)"
    if not weights.new:
        return "The ranker's order is the retriever's: the language model has no weight yet. Train longer."
    if row.low > 0:
        return f"The ranker is better than its retriever {about}."
    if row.high < 0:
        return f"The ranker is worse than its retriever {about}, unlike on validation. Serve the retriever."
    return f"Ranker and retriever cannot be told apart {about}."

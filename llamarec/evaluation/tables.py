"""The tables at the end of a test, readable without colour and in 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from llamarec.evaluation.candidate_orders import OrderReport
from llamarec.evaluation.comparison import Row
from llamarec.evaluation.fusion import Fusion
from llamarec.evaluation.outcome import Outcome

_FEW = 100  # validation prompts
_WITHOUT_TITLES = "Try it without titles: --title_similarity false."


def print_test(outcome: Outcome, console: Console, *, title: str) -> None:
    """Prints the metrics of subset and overall users, the sensitivity to the order of candidates, and a verdict."""
    comparison, letters = outcome.comparison, outcome.letters
    covered, users = comparison.num_covered, comparison.num_users
    console.print(
        f"\n{title}: {users:,} users; for {covered:,} ({comparison.coverage:.1%}) the next item is among the candidates"
    )

    first = stage_name(outcome.fusion)
    heading = f"subset: the {covered:,} users whose next item is among the candidates"
    print_rows(console, heading, comparison.subset, letters.subset, first=first)
    heading = f"overall: all {users:,} users; a next item outside the candidates is a miss"
    print_rows(console, heading, comparison.overall, letters.overall, first=first)
    console.print("letters: the language model alone; ranker: the final order")
    console.print(f"difference: ranker - {first}, with a 95% confidence interval (paired bootstrap over users)")
    console.print(fusion_text(outcome.fusion))

    if outcome.orders is not None:
        _print_orders(console, outcome.orders)
    if outcome.fusion.title_weight:
        console.print(without_model(outcome.as_dict()))
    console.print(verdict(main_row(comparison.overall), users, outcome.fusion))


def main_row(rows: list[Row]) -> Row:
    """The row of ndcg@10, which verdicts are about."""
    return next(row for row in rows if row.metric == "ndcg@10")


def stage_name(fusion: Fusion) -> str:
    """What the ranker is compared with: the first stage, or the retriever, where titles have a weight beside it."""
    return "retriever" if fusion.title_weight else "first stage"


def first_stage_name(fusion: Fusion) -> str:
    """Whose order the ranker has where the letters have no weight."""
    return "that of retriever and titles" if fusion.title_weight else "the first stage's"


def fusion_text(fusion: Fusion) -> str:
    """The formula of the ranker's score, and what it was fitted on."""
    fitted = f"fitted on {fusion.num_prompts:,} validation prompts"
    if fusion.letters and fusion.num_prompts < _FEW:
        fitted += ", so few that chance may decide: raise --max_fusion_users"
    fitted += f", letters averaged over {fusion.shuffles} shuffles" if fusion.shuffles > 1 else ""
    titles = f" + {fusion.title_weight:.2f} x title similarity" if fusion.title_weight else ""
    score = f"{stage_name(fusion)} score{titles}"
    if not fusion.letters:
        return (
            f"ranker = {score}: the letters have no weight, since on held-out validation prompts they "
            f"do not add more than a standard error ({fusion.gain:+.3f} nats per prompt; {fitted}). This is usual "
            "after few steps."
        )

    known = f"({score}), standardised" if titles else f"standardised {score}"
    return f"ranker = log p(letter) - letter's prior + {fusion.alpha:.2f} x {known} ({fitted})"


def without_model(metrics: Mapping[str, Any]) -> str:
    """What titles and what the language model contribute, in one sentence; empty where titles have no weight.

    Args:
        metrics: Content of metrics.json.
    """
    if not metrics["fusion"].get("title_weight"):
        return ""

    titles, letters = (main_row([Row(**row) for row in metrics[name]["overall"]]) for name in ("first_stage", "added"))
    return (
        f"Without the language model, retriever and titles reach {titles.metric} {titles.ranker:.4f} overall "
        f"({titles.difference:+.4f}, {titles.low:+.4f} to {titles.high:+.4f}); its letters add "
        f"{letters.difference:+.4f} ({letters.low:+.4f} to {letters.high:+.4f})."
    )


def verdict(row: Row, users: int, fusion: Fusion) -> str:
    """Whether the ranker helps, in one sentence that needs no reading of intervals."""
    if not fusion.letters:
        order = first_stage_name(fusion)
        judged = f" {_judged(row, users, fusion)}" if fusion.title_weight else ""
        return f"The ranker's order is {order}: its letters have no weight yet. Train longer.{judged}"
    return _judged(row, users, fusion)


def _judged(row: Row, users: int, fusion: Fusion) -> str:
    first = stage_name(fusion)
    if row.low > 0:
        return f"The ranker is better than its {first} (overall {row.metric}, {users:,} users)."
    if row.high < 0:
        serve = f"Fit on more users (--max_fusion_users), or serve the {first}."
        return (
            f"The ranker is worse than its {first} (overall {row.metric}, {users:,} users), unlike on validation. "
            f"{serve if fusion.letters else _WITHOUT_TITLES}"
        )
    return f"Ranker and {first} cannot be told apart with {users:,} users (overall {row.metric})."


def print_rows(
    console: Console,
    title: str,
    rows: list[Row],
    letters: list[Row],
    *,
    first: str,
    alone: str = "letters",
) -> None:
    """A table of both stages, and of the language model alone, under these names."""
    table = Table(title=title, title_justify="left", show_edge=False)
    table.add_column("metric", no_wrap=True)
    for name in (first, alone, "ranker", "difference", "95% CI"):
        table.add_column(name, justify="right", no_wrap=True)

    for row, of_model in zip(rows, letters, strict=True):
        table.add_row(
            row.metric,
            f"{row.retriever:.4f}",
            f"{of_model.ranker:.4f}",
            f"{row.ranker:.4f}",
            f"{row.difference:+.4f}",
            f"{row.low:+.4f} {row.high:+.4f}",
        )

    console.print(table)


def _print_orders(console: Console, report: OrderReport) -> None:
    table = Table(
        title=f"ndcg@10 of the same {report.num_prompts:,} prompts in other orders of the candidates",
        title_justify="left",
        show_edge=False,
    )
    table.add_column("order", no_wrap=True)
    for name in ("as listed", "raw letters", "letters", "ranker"):
        table.add_column(name, justify="right", no_wrap=True)

    for row in report.rows:
        table.add_row(row.order, *(f"{value:.4f}" for value in (row.in_order, row.letters, row.calibrated, row.final)))

    spreads = (report.spread(name) for name in ("in_order", "letters", "calibrated", "final"))
    table.add_row("best - worst", *(f"{value:.4f}" for value in spreads))
    table.add_row("same top item", "", *(f"{share:.1%}" for share in report.kept_first))
    table.add_row(
        f"mean of {report.num_averaged} shuffles", "", "", f"{report.averaged:.4f}", f"{report.averaged_final:.4f}"
    )

    console.print(table)
    console.print("raw letters: before the correction of the language model's preference for letters")
    console.print(f"95% margin of each figure: about +-{1.96 * report.error:.3f}; smaller differences may be chance")

"""The side-by-side table that ends a run, readable without colour and in a narrow terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from llamarec.evaluation.comparison import Comparison, Row


def print_comparison(comparison: Comparison, console: Console, *, title: str) -> None:
    """Prints subset and overall, each with its number of users."""
    covered, users = comparison.num_covered, comparison.num_users
    console.print(
        f"\n{title}: {users:,} users; for {covered:,} ({comparison.coverage:.1%}) the next item is among the candidates"
    )
    _print_rows(console, f"subset: the {covered:,} users whom the ranker can help", comparison.subset)
    _print_rows(console, f"overall: all {users:,} users (= coverage x subset)", comparison.overall)
    console.print("difference = ranker - retriever; 95% interval by paired bootstrap over users")
    console.print(_verdict(next(row for row in comparison.overall if row.metric == "ndcg@10"), users))


def _verdict(row: Row, users: int) -> str:
    """One sentence, so that nobody has to read an interval to learn whether the ranker helps."""
    if row.low > 0:
        return f"The ranker is better than its retriever (overall {row.metric}, {users:,} users)."
    if row.high < 0:
        return (
            f"The ranker is worse than its retriever (overall {row.metric}, {users:,} users): "
            "after few steps that is usual; train on, or serve the retriever's order."
        )
    return f"Between ranker and retriever {users:,} users show no difference (overall {row.metric})."


def _print_rows(console: Console, title: str, rows: list[Row]) -> None:
    table = Table(title=title, title_justify="left", show_edge=False)
    table.add_column("metric", no_wrap=True)
    for name in ("retriever", "ranker", "difference", "95% interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.metric,
            f"{row.retriever:.4f}",
            f"{row.ranker:.4f}",
            f"{row.difference:+.4f}",
            f"{row.low:+.4f} {row.high:+.4f}",
        )
    console.print(table)

"""The test in a report: verdict, tables, groups of users, order of the candidates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from llamarec.evaluation.candidate_orders import OrderRow
from llamarec.evaluation.catalogue import CatalogueWeights
from llamarec.evaluation.catalogue_tables import catalogue_text, catalogue_verdict
from llamarec.evaluation.comparison import Row
from llamarec.evaluation.fusion import Fusion
from llamarec.evaluation.tables import fusion_text, main_row, stage_name, verdict, without_model
from llamarec.files import stored
from llamarec.report.breakdown import by_history, by_popularity
from llamarec.report.figures import breakdown_figure, difference_figure, orders_figure
from llamarec.report.run import RunFacts
from llamarec.vocabulary import METRICS_FILE


def judgement(run: RunFacts) -> dict[str, str] | None:
    """The verdict in one sentence; None before the test."""
    if run.metrics is None or not run.is_tested:
        return None
    row = overall_row(run.metrics)
    kind = "better" if row.low > 0 else "worse" if row.high < 0 else "same"
    users, weights = int(run.metrics["num_users"]), _catalogue(run.metrics)
    text = verdict(row, users, _fusion(run.metrics)) if weights is None else catalogue_verdict(row, users, weights)
    return {"kind": kind, "text": text}


def _catalogue(metrics: Mapping[str, Any]) -> CatalogueWeights | None:
    """The weights of a test over the whole catalogue; None for one of letters."""
    return stored(metrics["catalogue"], CatalogueWeights, METRICS_FILE) if "catalogue" in metrics else None


def _fusion(metrics: Mapping[str, Any]) -> Fusion:
    return stored(metrics["fusion"], Fusion, METRICS_FILE)


def overall_row(metrics: Mapping[str, Any]) -> Row:
    """The metric that verdicts are about, over all users."""
    return main_row(_rows(metrics["overall"]))


def compared(metrics: Mapping[str, Any]) -> str:
    """What a test compares with what."""
    fusion = _fusion(metrics)
    if fusion.letters:
        return f"ranker compared with the {stage_name(fusion)}"
    what = "titles alone" if fusion.title_weight else "first stage alone"
    return f"{what} (the language model has no weight) compared with the {stage_name(fusion)}"


def _rows(content: list[Mapping[str, Any]]) -> list[Row]:
    return [Row(**row) for row in content]


def test(run: RunFacts) -> dict[str, object] | None:
    """Tables of the test; None if there was none."""
    if run.metrics is None:
        return None

    metrics = run.metrics
    stale = "" if run.is_tested else f"These metrics are from an earlier test, at step {metrics.get('step', '?')}. "
    users, covered = int(metrics["num_users"]), int(metrics["num_covered"])
    subset, overall = _rows(metrics["subset"]), _rows(metrics["overall"])
    fusion, weights = _fusion(metrics), _catalogue(metrics)
    first = stage_name(fusion)
    if weights is not None:
        return {
            "about": f"{stale}{users:,} test users, ranked over the whole catalogue.",
            "fusion": catalogue_text(weights),
            "without_model": "",
            "figure": Markup(difference_figure(overall, first)),
            "users": f"{users:,}",
            "first": first,
            "alone": "language model alone",
            "subset": [],
            "overall": overall,
            "letters_overall": _rows(metrics["letters"]["overall"]),
        }

    return {
        "first": first,
        "alone": "letters alone",
        "about": f"{stale}{users:,} test users. For {covered:,} of them ({metrics['coverage']:.1%}) the next item is "
        "among the candidates; the ranker can help only these. For all others both stages count as a miss.",
        "fusion": fusion_text(fusion).rstrip("."),
        "without_model": without_model(metrics),
        "figure": Markup(difference_figure(subset, first)),
        "users": f"{users:,}",
        "covered": f"{covered:,}",
        "subset": subset,
        "overall": overall,
        "letters_subset": _rows(metrics["letters"]["subset"]),
        "letters_overall": _rows(metrics["letters"]["overall"]),
    }


def breakdown(run: RunFacts) -> list[Markup]:
    """Figures of the gain by groups of users."""
    fusion = _fusion(run.metrics) if run.metrics else None
    if run.test is None or run.data is None or fusion is None or not (fusion.letters or fusion.title_weight):
        # The order is the first stage's, so every gain is 0.
        return []

    kinds = {
        "length of history": by_history(run.test, run.data),
        "how often the item was taken before": by_popularity(run.test, run.data),
    }
    return [Markup(breakdown_figure(bins, what)) for what, bins in kinds.items() if bins]


def orders(run: RunFacts) -> dict[str, object] | None:
    """How much the order of the candidates in the prompt matters; None if that was not measured."""
    measured = (run.metrics or {}).get("orders")
    if not measured:
        return None

    rows = [OrderRow(**row) for row in measured["rows"]]
    columns = ("in_order", "letters", "calibrated", "final")
    table = [[row.order, *(f"{getattr(row, column):.4f}" for column in columns)] for row in rows]
    table.append(["best − worst", *(f"{measured['spread'][column]:.4f}" for column in columns)])
    table.append(["same first item in two orders", "", *(f"{share:.1%}" for share in measured["kept_first"])])
    averaged = [f"{measured['averaged']:.4f}", f"{measured['averaged_final']:.4f}"]
    table.append([f"mean of {measured['num_averaged']} shuffles", "", "", *averaged])

    return {
        "about": f"ndcg@10 of the same {measured['num_prompts']:,} prompts in five orders. A, B, C…: the order in the "
        "prompt itself. Raw letters: without correction for the letters that the model prefers. Each value is "
        f"accurate to about ±{1.96 * measured['error']:.3f} (95%), so with few prompts some spread is chance.",
        "figure": Markup(orders_figure(rows)),
        "rows": table,
    }

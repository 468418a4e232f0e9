"""A page may be made in several sweeps: what only an earlier one has stays, and nothing of other data does."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.standard.merging import kept, merged
from benchmarks.standard.summary import Entry, Estimate, Group, Summary
from benchmarks.standard.systems import system_of


def _entry(row: str, mean: float, *, seeds: int = 1, half: float = 0.002) -> Entry:
    estimate = Estimate(mean=mean, low=mean - half, high=mean + half)
    return Entry(
        row=row,
        title=row,
        is_ours=False,
        seeds=seeds,
        estimates=dict.fromkeys(("ndcg@10", "recall@10", "recall@20"), estimate),
        seed_range=0.0,
        is_with_best=True,
        fit_seconds=1.0,
        users_per_second=1.0,
        peak_bytes=1,
        notes={},
        machine="here",
        commits=["abc"],
    )


def _summary(*entries: Entry, split: str = "leave_one_out", digest: str = "a") -> Summary:
    digests = {"sequences": digest, "titles": "b"}
    return Summary(
        groups=[Group(set_code="beauty", split=split, counts={"users": 4}, digests=digests, entries=list(entries))]
    )


def _rows(summary: Summary) -> list[tuple[str, float, bool]]:
    return [(one.row, one.estimates["ndcg@10"].mean, one.is_with_best) for one in summary.groups[0].entries]


def test_a_row_that_was_not_measured_again_stays_in_its_order() -> None:
    first_stage, part = list(system_of("first-stage").titles)[:2]
    new = _summary(_entry(first_stage, 0.07), _entry(part, 0.06))
    before = _summary(_entry("popularity", 0.005), _entry(first_stage, 0.02), _entry("sasrec", 0.069))

    assert _rows(merged(new, before)) == [
        ("popularity", 0.005, False),
        (first_stage, 0.07, True),
        (part, 0.06, False),
        ("sasrec", 0.069, True),
    ]
    assert list(kept(new, before)) == ["beauty leave_one_out: popularity, sasrec"]


def test_fewer_seeds_do_not_replace_more() -> None:
    new, before = _summary(_entry("sasrec", 0.07)), _summary(_entry("sasrec", 0.06, seeds=3))
    assert _rows(merged(new, before)) == [("sasrec", 0.06, True)]
    assert _rows(merged(before, new)) == [("sasrec", 0.06, True)]
    assert _rows(merged(replace(new), _summary(_entry("sasrec", 0.06)))) == [("sasrec", 0.07, True)]


def test_a_table_that_was_measured_whole_keeps_its_paired_decisions() -> None:
    close = replace(_entry("item-knn", 0.0699), is_with_best=False)
    new = _summary(close, _entry("sasrec", 0.07))
    assert _rows(merged(new, _summary(_entry("sasrec", 0.01)))) == [("item-knn", 0.0699, False), ("sasrec", 0.07, True)]


def test_what_is_of_other_data_goes() -> None:
    new, before = _summary(_entry("sasrec", 0.07)), _summary(_entry("popularity", 0.005), digest="other")
    assert _rows(merged(new, before)) == [("sasrec", 0.07, True)]
    assert not list(kept(new, before))


def test_a_split_that_was_not_measured_again_stays() -> None:
    new = _summary(_entry("sasrec", 0.07), split="temporal")
    both = merged(new, _summary(_entry("popularity", 0.005)))
    assert [group.split for group in both.groups] == ["leave_one_out", "temporal"]

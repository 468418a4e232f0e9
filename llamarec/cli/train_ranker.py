"""Fine-tunes a Llama with LoRA to order the retriever's candidates: parse, build, fit, report."""

from __future__ import annotations

from collections.abc import Sequence

from llamarec.cli.fast_help import answer_early, importing
from llamarec.cli.report import report_of
from llamarec.errors import EXIT_FINISHED, EXIT_SAVE_FAILED


def main(argv: Sequence[str]) -> int:
    """Trains and tests; `argv` are the flags, see `--help`."""
    answer_early(argv)

    with importing():
        from rich.console import Console

        from llamarec.evaluation.catalogue import CatalogueOutcome
        from llamarec.evaluation.catalogue_tables import print_catalogue_test
        from llamarec.evaluation.tables import print_test
        from llamarec.ranker.options.command_line import parse
        from llamarec.ranker.training.run import train_ranker

    parsed = parse(argv)
    console = Console(quiet=parsed.training.process_index != 0, markup=False, emoji=False)
    result = train_ranker(parsed, console)
    title = f"test of {parsed.data.dataset_code}"
    if isinstance(result.outcome, CatalogueOutcome):
        print_catalogue_test(result.outcome, console, title=title)
    else:
        print_test(result.outcome, console, title=title)
    metrics = parsed.experiment.ranker_metrics
    console.print(f"\nbest adapter {parsed.training.output_dir}\nmetrics      {metrics}", soft_wrap=True)
    console.print(f"report       {report_of(parsed)}", soft_wrap=True)
    if result.lost_best_step is not None:
        console.print(
            f"WARNING: the best adapter (step {result.lost_best_step:,}) was lost before this process resumed; "
            "tested was the best, or last, since then",
            soft_wrap=True,
        )
    return EXIT_SAVE_FAILED if result.last_save_failed else EXIT_FINISHED

"""`llamarec demo`: the whole job in small: data, retriever, ranker, a kill in the middle, a resume, a table."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

from llamarec.cli.arguments import Subparsers, add_verb
from llamarec.command import TRAIN_RANKER, TRAIN_RETRIEVER, command_of, typed
from llamarec.errors import EXIT_FINISHED

SUMMARY = "Run the whole job in small: train, kill, resume, test. It prints every command that it runs."

_EPILOG = """\
  llamarec demo                     ml-100k, smollm2-135m: minutes on two CPU cores
  llamarec demo --llm_base_model tiny
"""
DATASET = "ml-100k"


def add_parser(commands: Subparsers) -> None:
    """Adds the verb to the command's subparsers."""
    parser = add_verb(commands, "demo", SUMMARY, _EPILOG)
    parser.add_argument("--llm_base_model", default="smollm2-135m", help="Default: smollm2-135m.")
    parser.add_argument("--experiment_root", default="experiments/demo", help="Default: experiments/demo.")
    parser.add_argument("--data_root", default="", help="Folder with raw files, instead of the package's.")
    parser.add_argument(
        "--max_steps", type=int, default=36, help="Steps of the ranker; a third of them between two saves."
    )
    parser.add_argument("--test_users", type=int, default=200, help="Users of the final test.")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Trains both stages, with a kill and a resume, and prints where the results are."""
    started = time.monotonic()
    experiments = Path(arguments.experiment_root)
    run = experiments / "llm" / DATASET
    # The ranker starts from step 0 each time; data and retriever are reused if they fit.
    shutil.rmtree(run, ignore_errors=True)

    common = ["--dataset_code", DATASET, "--experiment_root", arguments.experiment_root]
    if arguments.data_root:
        common += ["--data_root", arguments.data_root]

    _say("1 of 3: train the retriever for a few epochs (its default: until nothing improves)")
    _finish(TRAIN_RETRIEVER, *common, "--num_epochs", "20", "--hard_negative_folds", "1", "--refit", "never")

    _say("2 of 3: train the ranker, and kill it in the middle")
    save_steps = arguments.max_steps // 3
    ranker = [
        *common,
        *("--llm_base_model", arguments.llm_base_model, "--max_steps", str(arguments.max_steps)),
        *("--save_steps", str(save_steps), "--per_device_train_batch_size", "4", "--logging_steps", "2"),
        *("--max_eval_users", "100", "--max_fusion_users", "100", "--max_test_users", str(arguments.test_users)),
        *("--order_prompts", "4"),
    ]
    _kill_after(run / "checkpoints" / f"checkpoint-{save_steps}", TRAIN_RANKER, *ranker)

    _say("3 of 3: resume it, the same command with --resume_from_checkpoint")
    _finish(TRAIN_RANKER, *ranker, "--resume_from_checkpoint")

    _say(f"done in {(time.monotonic() - started) / 60:.1f} minutes; the results are in {experiments}")
    for path, what in _results(experiments, run):
        print(f"  {path!s:<48} {what}")
    print(
        "\nNext, a larger data set, or the path of your own table:\n  "
        + typed([*_shown(TRAIN_RETRIEVER), "--dataset_code", "beauty"])
    )
    return EXIT_FINISHED


def _results(experiments: Path, run: Path) -> list[tuple[Path, str]]:
    return [
        (experiments / "data" / DATASET, "histories, items, manifest"),
        (experiments / "lru" / DATASET, "retriever, candidates, metrics"),
        (run / "checkpoints", "checkpoint-{step}/ and the best adapter"),
        (run / "metrics.json", "the table above"),
        (run / "report.html", "the same as a page, with curves, the interruption and a few users"),
        (run / "logs", f"tensorboard --logdir {run / 'logs'}"),
    ]


def _finish(training: str, *flags: str) -> None:
    code = subprocess.call(_command(training, *flags))
    if code:
        sys.exit(code)


def _kill_after(checkpoint: Path, training: str, *flags: str) -> None:
    """Starts the command and kills it without warning, a few steps after this checkpoint is complete."""
    started = time.monotonic()
    process = subprocess.Popen(_command(training, *flags))
    # A checkpoint gets its name when it is complete.
    while process.poll() is None and not (checkpoint / "manifest.json").is_file():
        time.sleep(0.05)
    # A few more steps, whether they take milliseconds or seconds, so that there is work to lose.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=min(8.0, 0.1 * (time.monotonic() - started)))
    if process.poll() is not None:
        sys.exit(f"the ranker ended with code {process.returncode} before it could be killed")
    process.kill()
    process.wait()
    print(
        f"\n\nKilled process {process.pid} without warning, like a power failure. {checkpoint.name} is complete.",
        flush=True,
    )


def _say(text: str) -> None:
    print(f"\n=== {text}\n", flush=True)


def _command(training: str, *flags: str) -> list[str]:
    """The words that start a training here; prints the ones that a user would type."""
    print(f"$ {typed([*_shown(training), *flags])}\n", flush=True)
    return [sys.executable, "-m", "llamarec.cli.main", training, *flags]


def _shown(training: str) -> list[str]:
    words = command_of(training)
    return words if Path(words[-1]).is_file() else ["llamarec", training]

"""The whole job in small: data, retriever, ranker, a kill in the middle, a resume, a table.

    python examples/demo.py                    # ml-100k, smollm2-135m: minutes on two CPU cores
    python examples/demo.py --llm_base_model tiny

It runs the commands that a user would type, and prints each one.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATASET = "ml-100k"


def main() -> int:
    """Trains both stages, with a kill and a resume, and prints where the results are."""
    options = _options()
    started = time.monotonic()
    experiments = Path(options.experiment_root)
    run = experiments / "llm" / DATASET
    # The ranker starts from step 0 each time; data and retriever are reused if they fit.
    shutil.rmtree(ROOT / run, ignore_errors=True)
    common = ["--dataset_code", DATASET, "--experiment_root", options.experiment_root]
    if options.data_root:
        common += ["--data_root", options.data_root]

    _say("1 of 3: train the retriever to the end")
    _finish("train_retriever.py", *common)

    _say("2 of 3: train the ranker, and kill it in the middle")
    ranker = [
        "train_ranker.py",
        *common,
        *("--llm_base_model", options.llm_base_model, "--max_steps", str(options.max_steps)),
        *("--save_steps", str(options.max_steps // 3), "--per_device_train_batch_size", "4", "--logging_steps", "2"),
        *("--max_eval_users", "100", "--max_fusion_users", "100", "--max_test_users", str(options.test_users)),
        *("--order_prompts", "4"),
    ]
    _kill_after(ROOT / run / "checkpoints" / f"checkpoint-{options.max_steps // 3}", *ranker)

    _say("3 of 3: resume it, the same command with --resume_from_checkpoint")
    _finish(*ranker, "--resume_from_checkpoint")

    _say(f"done in {(time.monotonic() - started) / 60:.1f} minutes; the results are in {experiments}")
    for path, what in _results(experiments, run):
        print(f"  {path!s:<48} {what}")
    print(
        "\nNext, a larger data set, or the path of your own table:\n  python train_retriever.py --dataset_code beauty"
    )
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm_base_model", default="smollm2-135m")
    parser.add_argument("--experiment_root", default="experiments/demo")
    parser.add_argument("--data_root", default="")
    parser.add_argument(
        "--max_steps", type=int, default=36, help="Steps of the ranker; a third of them between two saves."
    )
    parser.add_argument("--test_users", type=int, default=200, help="Users of the final test.")
    return parser.parse_args()


def _results(experiments: Path, run: Path) -> list[tuple[Path, str]]:
    return [
        (experiments / "data" / DATASET, "histories, items, manifest"),
        (experiments / "lru" / DATASET, "retriever, candidates, metrics"),
        (run / "checkpoints", "checkpoint-{step}/ and the best adapter"),
        (run / "metrics.json", "the table above"),
        (run / "report.html", "the same as a page, with curves, the interruption and a few users"),
        (run / "logs", f"tensorboard --logdir {run / 'logs'}"),
    ]


def _finish(*arguments: str) -> None:
    _show(arguments)
    code = subprocess.call([sys.executable, *arguments], cwd=ROOT)
    if code:
        sys.exit(code)


def _kill_after(checkpoint: Path, *arguments: str) -> None:
    """Starts the command and kills it without warning, a few steps after this checkpoint is complete."""
    _show(arguments)
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT)
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


def _show(arguments: tuple[str, ...]) -> None:
    line = subprocess.list2cmdline(arguments) if sys.platform == "win32" else shlex.join(arguments)
    print(f"$ python {line}\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())

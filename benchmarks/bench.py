"""All that can be measured on two CPU cores, in under 20 minutes, each figure beside its goal.

    python make.py bench --data_root data
    python -m benchmarks.bench --only ranker start

Ends with one line a goal: name, value, goal, met or short. --output writes the same as Markdown, --json for programs;
both name commit, machine, versions and command.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from benchmarks.harness.machine import describe
from benchmarks.harness.report import ROOT, Row, commit, read_rows

PARTS: Final = {
    "ranker": ("benchmarks.ranker.speed",),
    "retriever": ("benchmarks.retriever.epoch",),
    "start": ("benchmarks.start",),
    # Three of each instead of its own five: the whole must not take more than 20 minutes.
    "checkpoints": ("benchmarks.checkpoint_cost", "--repeats", "3"),
}


def main() -> int:
    """Returns 1 if a part failed; a goal that is missed is a figure, no failure."""
    options = _options()
    started, rows, failed = time.monotonic(), list[Row](), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            found = _run(name, Path(folder) / f"{name}.json", options.data_root)
            rows += found
            failed += [] if found else [name]
    minutes = (time.monotonic() - started) / 60
    lines = [row.line() for row in rows] + [f"{name}: FAILED" for name in failed]
    command = "python -m benchmarks.bench" + (f" --only {shlex.join(options.only)}" if options.only != [*PARTS] else "")
    about = f"commit {commit()}, {datetime.now(UTC):%Y-%m-%d}, {describe('torch', 'transformers', 'peft')}"
    print(f"\n{about}\n{command}: {minutes:.1f} minutes\n")
    print("\n".join(lines))
    if options.output:
        text = f"# Benchmarks on a CPU\n\n{about}\n\n`{command}`, {minutes:.1f} minutes\n\n"
        options.output.write_text(text + "```\n" + "\n".join(lines) + "\n```\n", encoding="utf-8")
    if options.json:
        content = {"about": about, "command": command, "rows": [row.as_dict() for row in rows], "failed": failed}
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 1 if failed else 0


def _run(name: str, target: Path, data_root: str) -> list[Row]:
    """One part in a process of its own, its output shown."""
    print(f"\n== {name} ==", flush=True)
    command = [sys.executable, "-m", *PARTS[name], "--json", str(target)]
    command += [] if name == "checkpoints" else ["--data_root", data_root]
    # As the commands themselves set it (llamarec/cli/entry_point.py).
    subprocess.run(command, cwd=ROOT, env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ}, check=False)
    return read_rows(target) if target.is_file() else []


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", default="data")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--output", type=Path, help="Markdown.")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

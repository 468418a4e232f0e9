"""`make fuzz`: odd content in every kind of file of a checkpoint, for some minutes.

    python -m tests.fuzz --seconds 120 --seed 7

A case is a seed: one mutation of one checkpoint of a run of three, then every way to read the run. Cases run in a
process of their own, so that one that ends by a signal, or never, is found too.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.fuzz.cases import fuzz


def main() -> int:
    """Prints the seed first, a table last."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=float, default=120.0, help="How long.")
    parser.add_argument("--seed", type=int, default=None, help="Of the first case; the others count up.")
    parser.add_argument("--cases", type=int, default=None, help="At most so many.")
    arguments = parser.parse_args()

    seed = arguments.seed if arguments.seed is not None else int(time.time())
    print(f"seed {seed}; one case again: python -m tests.fuzz --cases 1 --seed SEED", flush=True)
    kinds, wrong = fuzz(seed, arguments.seconds, arguments.cases)
    for kind, number in sorted(kinds.items()):
        print(f"{number:6,}  {kind}")
    print(f"{sum(kinds.values()):6,}  cases, {len(wrong)} of them wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

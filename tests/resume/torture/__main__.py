"""Everything that a disk, a clock or a killer can do to checkpoints, at every point; a table of what was survived.

python make.py torture                                  all of it, some minutes on two cores
python make.py torture --kinds kill power --every 10    one point in ten of two kinds
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.resume.forks import CAN_FORK, WHY_NOT
from tests.resume.torture import damage, disk, kills, power, trainings
from tests.resume.torture.kinds import Kind, NotHereError, Tally, scratch, try_all

KINDS: dict[str, Kind] = {
    kind.name: kind for module in (kills, power, disk, damage, trainings) for kind in module.KINDS
}
_SHOWN = 8
_WIDTH = 28


def main(arguments: Sequence[str]) -> int:
    """Returns 0 if everything was survived."""
    if not CAN_FORK:
        print(f"skipped: {WHY_NOT}")
        return 0
    return run(KINDS, "make.py torture", __doc__ or "", arguments, _warm_up)


def run(
    kinds: dict[str, Kind], program: str, description: str, arguments: Sequence[str], warm_up: Callable[[Path], None]
) -> int:
    """Tries kinds, and prints a row for each.

    Args:
        kinds: By name.
        program: For `--help`.
        description: For `--help`.
        arguments: Of the command line.
        warm_up: Imports what those that train need; called before the first of them with a folder of its own.

    Returns:
        0 if everything was survived.
    """
    options = _options(kinds, program, description, arguments)
    is_warm = False
    total, started = Tally(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="torture-", dir=scratch()) as folder:
        (Path(folder)).chmod(0o755)
        print(f"{'kind':{_WIDTH}} {'tried':>7} {'survived':>9} {'seconds':>8}", flush=True)
        # Those without torch first, while forks are cheap.
        for name in sorted(options.kinds, key=lambda name: kinds[name].trains):
            if kinds[name].trains and not is_warm:
                warm_up(Path(folder) / "warm-up")
                is_warm = True
            tally = _row(kinds[name], Path(folder) / name, options.every, random.Random(f"{options.seed} {name}"))
            total.tried += tally.tried
            total.problems += tally.problems
    survived, seconds = total.tried - len(total.problems), time.monotonic() - started
    print(f"{'total':{_WIDTH}} {total.tried:7,} {survived:9,} {seconds:8.0f}")
    return 1 if total.problems or not total.tried else 0


def _warm_up(folder: Path) -> None:
    from tests.resume.jobs import warm_up

    warm_up(folder)


def _options(kinds: dict[str, Kind], program: str, description: str, arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program, description=description, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join(f"{kind.name:{_WIDTH}} {kind.what}" for kind in kinds.values())
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=list(kinds), metavar="KIND", help="see below")
    parser.add_argument("--every", type=int, default=1, help="try one point in so many of those tried otherwise")
    parser.add_argument("--seed", type=int, default=0, help="decides which, and every random moment")
    return parser.parse_args(arguments)


def _row(kind: Kind, folder: Path, every: int, draw: random.Random) -> Tally:
    started = time.monotonic()
    folder.mkdir()
    try:
        tally = try_all(kind, folder, every * kind.every, draw)
    except NotHereError as error:
        print(f"{kind.name:{_WIDTH}} {'skipped':>7}: {error}", flush=True)
        return Tally()
    seconds, survived = time.monotonic() - started, tally.tried - len(tally.problems)
    print(f"{kind.name:{_WIDTH}} {tally.tried:7,} {survived:9,} {seconds:8.0f}   {kind.what}", flush=True)
    for problem in tally.problems[:_SHOWN]:
        print(f"    NOT SURVIVED: {problem}", flush=True)
    if len(tally.problems) > _SHOWN:
        print(f"    and {len(tally.problems) - _SHOWN} more", flush=True)
    return tally


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

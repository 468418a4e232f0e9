"""Several processes of one training: killed, stopped and signalled at every moment; a table of what was survived.

python make.py torture-processes               all of it, half an hour on two cores
python make.py torture-processes --every 10    one point in ten
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tests.resume.forks import CAN_FORK, WHY_NOT
from tests.resume.torture.__main__ import run
from tests.resume.torture.processes.kinds import KINDS
from tests.resume.torture.processes.launched import KIND


def main(arguments: Sequence[str]) -> int:
    """Returns 0 if everything was survived."""
    if not CAN_FORK:
        print(f"skipped: {WHY_NOT}")
        return 0
    kinds = {kind.name: kind for kind in (*KINDS, KIND)}
    return run(kinds, "make.py torture-processes", __doc__ or "", arguments, _warm_up)


def _warm_up(folder: Path) -> None:
    from tests.resume.jobs import warm_up

    warm_up(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

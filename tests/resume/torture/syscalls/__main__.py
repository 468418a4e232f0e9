"""Faults below Python: every system call of a command that changes a file is seen, and spoiled one at a time.

python make.py torture-syscalls                                    all of it
python make.py torture-syscalls --every 20                         a minute or two
python make.py torture-syscalls --kinds export-kill export-power   two of them
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tests.resume.torture.__main__ import run
from tests.resume.torture.syscalls.scenarios import SCENARIOS
from tests.resume.torture.syscalls.sweep import Sweep, warm_up
from tests.resume.torture.syscalls.tracer import why_not


def main(arguments: Sequence[str]) -> int:
    """Returns 0 if everything was survived, or nothing can be traced here."""
    reason = why_not()
    if reason:
        print(f"skipped: {reason}")
        return 0
    kinds = {kind.name: kind for scenario in SCENARIOS for kind in Sweep(scenario).kinds}
    return run(kinds, "make.py torture-syscalls", __doc__ or "", arguments, warm_up)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

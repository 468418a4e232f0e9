"""Resumes with the lowest and the highest versions that pyproject.toml allows: python make.py compat [low|high].

Each end gets a folder of packages in front of the environment (.compat/low, .compat/high); torch is the environment's
own, since another one takes gigabytes. Not a part of `make test`: it needs a package registry, and ten minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = ROOT / ".compat"

# Every package of the base at its lowest version, and what that version of transformers needs; the newest of each.
ENDS: Final[dict[str, tuple[str, ...]]] = {
    "low": (
        "accelerate==1.3.0",
        "filelock==3.12.4",
        "fsspec==2024.6.0",
        "huggingface_hub==1.3.4",
        "humanize==4.9.0",
        "msgspec==0.20.0",
        "numpy==1.26.4",
        "packaging==23.0",
        "peft==0.18.0",
        "psutil==5.9.8",
        "rich==13.7.0",
        "safetensors==0.4.3",
        "tokenizers==0.22.2",
        "transformers==5.3.0",
    ),
    "high": ("accelerate<2", "peft", "transformers<5.25"),
}
TESTS: Final = (
    "tests/contracts/test_hooks.py",
    "tests/examples",
    *(
        f"tests/resume/test_{name}.py"
        for name in (
            *("elastic", "lengths", "own_schedule", "interop", "refusals", "again"),
            *("held_generators", "optimizers"),
        )
    ),
)
# What a version of transformers does differently without us.
DIFFERENT: Final[dict[str, tuple[str, ...]]] = {
    "low": (
        # It validates at eval_steps only, not at the last step too.
        "tests/resume/test_elastic.py::test_new_rhythms_are_taken",
        # A plain Trainer that resumes inside its second epoch draws another order, from its own checkpoints as well.
        "tests/resume/test_interop.py::test_a_plain_trainer_resumes_ours[7-bin]",
        "tests/resume/test_interop.py::test_a_plain_trainer_resumes_ours[7-safetensors]",
    ),
    "high": (),
}


def main(argv: Sequence[str]) -> int:
    """Installs and tests the ends that are named, by default both; 0 if all tests pass."""
    failed = [end for end in (argv or ENDS) if not _passes(end)]
    print(f"failed with the {' and '.join(failed)} versions" if failed else "passed")
    return int(bool(failed))


def _passes(end: str) -> bool:
    folder = FOLDER / end
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(folder)]
    subprocess.run([*pip, *ENDS[end]], check=True)
    print(f"\n{end}: {', '.join(ENDS[end])}", flush=True)

    deselected = [f"--deselect={name}" for name in DIFFERENT[end]]
    # Warnings of other versions are not ours to mend.
    command = [sys.executable, "-m", "pytest", "-W", "default", "--disable-warnings", "-n", "2", *deselected, *TESTS]
    paths = os.pathsep.join((str(folder), str(ROOT)))
    return subprocess.call(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}) == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Recipes that run as a machine of its own would run them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
SECONDS: Final = 400.0


class Node:
    """A recipe that runs as a machine of its own would: in a session, which can disappear as a whole.

    Args:
        folder: With the shop.
        name: Of its log.
        words: The command line.
        variables: Of its environment.
    """

    def __init__(self, folder: Path, name: str, words: Sequence[str], **variables: str) -> None:
        self.log = folder / f"{name}.log"
        there = [str(Path(sys.executable).parent), os.environ["PATH"]]
        own = {"DATASET": str(folder / "shop.csv"), "EXPERIMENTS": str(folder / "experiments"), "OMP_NUM_THREADS": "1"}
        own |= {"PATH": os.pathsep.join(there), "PYTHONPATH": str(ROOT)}
        output: IO[bytes] = self.log.open("ab")
        with output:
            self.process = subprocess.Popen(
                words,
                cwd=ROOT,
                env={**os.environ, **own, **variables},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        """All of its output."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait(self) -> int:
        """Its exit code."""
        return self.process.wait(SECONDS)

    def below(self) -> list[Any]:
        """The processes that it has started."""
        import psutil  # type: ignore[import-untyped]

        return list(psutil.Process(self.process.pid).children(recursive=True))

    def disappear(self) -> None:
        """Without a word, with all that it has started."""
        for one in [*self.below(), self.process]:
            one.kill()
        self.process.wait(SECONDS)


@contextmanager
def nodes() -> Iterator[Callable[..., Node]]:
    """Makes nodes; none outlives the test."""
    made: list[Node] = []

    def make(folder: Path, name: str, words: Sequence[str], **variables: str) -> Node:
        made.append(Node(folder, name, words, **variables))
        return made[-1]

    try:
        yield make
    finally:
        for node in made:
            if node.process.poll() is None:
                node.disappear()


def wait_until(condition: Callable[[], object], *nodes: Node) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, nodes[0].said[-3000:]
        assert all(node.process.poll() is None for node in nodes), nodes[0].said[-3000:]
        time.sleep(0.05)

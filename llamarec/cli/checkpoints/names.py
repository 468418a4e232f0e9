"""The meaning of RUN and CKPT on the command line, and the errors for names that mean nothing."""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path
from typing import Final

from llamarec.checkpoints.storage.discovery import BEST, LATEST, ResumeChoice, best, inspect, latest, nearest
from llamarec.checkpoints.storage.entries import kind_of
from llamarec.checkpoints.storage.layout import MANIFEST, TRAINER_STATE, RunFolder, step_of
from llamarec.checkpoints.storage.lock import check_is_folder
from llamarec.errors import CheckpointError, printable
from llamarec.vocabulary import Experiment

_STEP: Final = re.compile(r"(?:checkpoint-)?([0-9]+)")


def split_selector(text: str) -> tuple[str, str]:
    r"""The two parts of RUN:SELECTOR; the second is empty without a selector.

    The colon of a Windows drive or of an address does not separate a selector.

    >>> split_selector(r"C:\runs\x:latest"), split_selector(r"C:\runs\x"), split_selector("s3://bucket/x")
    (('C:\\runs\\x', 'latest'), ('C:\\runs\\x', ''), ('s3://bucket/x', ''))
    """
    before, colon, after = text.rpartition(":")
    is_drive = len(before) == 1 and before.isalpha()
    if not colon or not before or is_drive or re.search(r"[\\/]", after):
        return text, ""
    return before, after


def runs_under(root: Path) -> list[RunFolder]:
    """All runs under an experiment root, including folders of a plain Trainer directly inside it."""
    runs = [RunFolder(path) for path in sorted((root / "llm").glob("*/checkpoints")) if path.is_dir()]
    others = sorted(root.iterdir()) if root.is_dir() else []
    return [*runs, *(RunFolder(path) for path in others if _has_steps(path))]


def _has_steps(path: Path) -> bool:
    """Whether a folder contains checkpoints; False if it cannot be read."""
    try:
        return bool(RunFolder(path).steps())
    except OSError:
        return False


def runs_in(run: RunFolder) -> list[RunFolder]:
    """The run itself, or, for a folder without checkpoints, the runs inside it."""
    return [run] if _has_steps(run.path) else runs_under(run.path) or [run]


def name_of(run: RunFolder, root: Path) -> str:
    """The name to type for a run: its data set code or its path."""
    code = run.path.parent.name
    return code if Experiment(root, code).checkpoints == run.path else str(run.path)


def find_run(text: str, root: Path) -> RunFolder:
    """The run that RUN means; a data set code takes precedence over a folder.

    Raises:
        CheckpointError: there is no such run; the error lists those that exist.
    """
    run = _existing_run(text, root)
    if run is None:
        raise _no_such_run(text, root)
    return run


def find_new_run(text: str, root: Path) -> RunFolder:
    """As `find_run`; if there is no such run yet, the folder where it would be."""
    run = _existing_run(text, root)
    if run is not None:
        return run

    _refuse_address(text)
    check_is_folder(Path(text))
    return RunFolder(Experiment(root, text).checkpoints if _is_code(text) else Path(text))


def find_checkpoint(text: str, root: Path) -> Path:
    """The folder of the checkpoint that CKPT means. `latest` and `best` are good; others may be damaged.

    Raises:
        CheckpointError: there is no such checkpoint; the error lists those that exist.
    """
    found = find_either(text, root)
    if isinstance(found, Path):
        return found

    raise CheckpointError(
        f"{text} is a run; name one of its checkpoints",
        found=_listed(found),
        hint=f"{text}:latest, {text}:best or {text}:STEP",
    )


def find_either(text: str, root: Path) -> RunFolder | Path:
    """The checkpoint's folder or the run that the text means.

    Raises:
        CheckpointError: there is neither.
    """
    path = Path(text)
    if path.is_dir() and _is_checkpoint(path):
        return path

    before, selector = split_selector(text)
    if selector and not path.is_dir():
        return _selected(find_run(before, root), before, selector)

    if step_of(path) is not None and path.parent.is_dir() and not path.is_dir():
        raise _no_such_checkpoint(RunFolder(path.parent), path, str(path.parent))
    return find_run(text, root)


def say_passed_over(choice: ResumeChoice) -> None:
    """Names on stderr the newer checkpoints that are not used, with the reasons."""
    for verdict in choice.passed_over:
        print(printable(f"passed over {verdict.path.name}: {verdict.reason}"), file=sys.stderr)


def latest_of(run: RunFolder) -> Path:
    """The newest good checkpoint; newer ones that are damaged are named on stderr.

    Raises:
        CheckpointError: there is no good checkpoint.
    """
    choice = latest(run)
    if choice is None:
        raise CheckpointError(f"no checkpoint in {run.path}", expected="a folder checkpoint-{step}")

    say_passed_over(choice)
    return choice.verdict.path


def _selected(run: RunFolder, name: str, selector: str) -> Path:
    if selector == LATEST:
        return latest_of(run)
    if selector == BEST:
        return _best_of(run, name)

    match = _STEP.fullmatch(selector)
    if match is None:
        close = difflib.get_close_matches(selector, (LATEST, BEST), n=1, cutoff=0.4)
        raise CheckpointError(
            f"{name}:{selector}: no checkpoint is called {selector!r}",
            expected=f"{name}:latest, {name}:best or {name}:STEP",
            found=_listed(run),
            hint=f"llamarec checkpoints show {name}:{close[0] if close else LATEST}",
        )

    path = run.checkpoint(int(match[1]))
    if not path.is_dir():
        raise _no_such_checkpoint(run, path, name)
    return path


def _best_of(run: RunFolder, name: str) -> Path:
    try:
        return best(run).verdict.path
    except CheckpointError as error:
        # The hint of that error is a command of the training.
        raise CheckpointError(
            error.problem,
            expected=error.expected,
            found=error.found,
            hint=f"llamarec checkpoints show {name}:latest",
        ) from error


def _existing_run(text: str, root: Path) -> RunFolder | None:
    if _is_code(text) and Experiment(root, text).checkpoints.is_dir():
        return RunFolder(Experiment(root, text).checkpoints)

    path = Path(text)
    if not path.is_dir() or _is_checkpoint(path):
        return None

    inner = path / "checkpoints"
    return RunFolder(inner if inner.is_dir() and not RunFolder(path).checkpoints() else path)


def _is_code(text: str) -> bool:
    return bool(text) and not re.search(r"[\\/:]", text) and text not in (".", "..")


def _is_checkpoint(path: Path) -> bool:
    """Whether a folder is a checkpoint, by its name or, if it was renamed, by its files."""
    if step_of(path.resolve()) is not None or (path / MANIFEST).is_file():
        return True

    # A Trainer's output_dir may contain a state too, beside its checkpoints.
    return (path / TRAINER_STATE).is_file() and not RunFolder(path).checkpoints()


def _refuse_address(text: str) -> None:
    if "://" in text:
        raise CheckpointError(
            f"{text} is an address; this command needs a folder on this machine",
            hint=f"llamarec checkpoints restore {text} RUN",
        )


def _no_such_run(text: str, root: Path) -> CheckpointError:
    _refuse_address(text)
    path = Path(text)
    if path.is_dir() and _is_checkpoint(path):
        return CheckpointError(
            f"{text} is a checkpoint; a run is needed", expected=f"the folder that contains it: {path.parent}"
        )

    if kind_of(path) != "nothing":
        check_is_folder(path)
    looked = [str(Experiment(root, text).checkpoints)] if _is_code(text) else []
    names = [name_of(run, root) for run in runs_under(root)]
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.4)
    return CheckpointError(
        f"no run {text}",
        expected=["one of these folders:" if looked else "a folder:", *looked, str(path)],
        found=names or f"no runs under {root}",
        hint=f"llamarec checkpoints list {close[0]}"
        if close
        else "name another --experiment_root, or: llamarec checkpoints list",
    )


def _no_such_checkpoint(run: RunFolder, path: Path, name: str) -> CheckpointError:
    near = nearest(inspect(run), path)
    return CheckpointError(
        f"checkpoint not found: {path}",
        expected="a folder checkpoint-{step}",
        found=_listed(run),
        hint=f"llamarec checkpoints show {name}:{step_of(near.path)}" if near else "llamarec checkpoints list",
    )


def _listed(run: RunFolder) -> str:
    return ", ".join(path.name for path in run.checkpoints()) or f"no checkpoints in {run.path}"

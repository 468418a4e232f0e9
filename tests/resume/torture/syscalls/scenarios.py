"""Commands that are traced: what they begin with, what they do, and what must be there at any moment."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.resume.forks import Ending, Job

Files = dict[str, str]
"""SHA-256 of files by path."""

_ABSOLUTE: Final = re.compile(rb'(?:[A-Za-z]:)?[/\\][^"\s]*?([/\\]+experiments[/\\])')
_EXPORTS: Final = (".model.llamarec-new", ".model.llamarec-old")


@dataclass(frozen=True)
class Scenario:
    """A command in a folder.

    Attributes:
        name: For `--kinds` and the table.
        what: One line for the table.
        prepare: Fills the folder, once, in a child.
        job: The command; takes `folder`.
        work: The part of the folder that it may change.
        result: What is published there (none: not yet); the same at every moment: the old, or the new.
        may_refuse: Words of a refusal that is right where the command had done its work before the fault.
        verify: A job that reads what is there as the next command would, and says what is wrong.
        grows: The result gains parts that each are what the whole one has, or a list of all that may be there.
        power: Power losses are tried too.
        again_every: The command is repeated after one fault in so many; the others are looked at.
        until: A second process is refused from the lock on, until this name is given or written.
        every: One point in so many is tried by default: it takes long.
        warms_up: Its modules are imported before the first fork; another one has the same.
    """

    name: str
    what: str
    prepare: Job
    job: Job
    work: str
    result: Callable[[Path], Files]
    verify: Job
    may_refuse: str = ""
    grows: bool = False
    power: bool = False
    again_every: int = 1
    until: str = ""
    every: int = 1
    warms_up: bool = True


def files_of(folder: Path, *, with_paths: bool = True) -> Files:
    """Hashes of all files; locks hold nothing.

    Args:
        folder: With the files.
        with_paths: Whether where the scenario's folder lies makes a difference to a file that names it.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.endswith(".lock") and not path.name.startswith(".run."):
            content = path.read_bytes()
            if not with_paths:
                content = _ABSOLUTE.sub(rb"~\1", content)
            found[path.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


def problem_of_words(ending: Ending) -> str:
    """Whether a command that a fault has met ended as documented: with one of the codes, in a sentence."""
    if ending.was_killed:
        return ""
    if "Traceback" in ending.log:
        return f"a traceback: ...{ending.log[-1500:]}"
    if ending.status not in (0, 2, 74, 75):
        return f"ended with {ending.status}: {ending.log[-300:]}"
    if ending.status and not ending.log.strip():
        return f"ended with {ending.status} without a word"
    return ""


# ---- Jobs ----


def run_command(command: Callable[[], int], *, trains: bool = False) -> None:
    """A command as its program runs it; ends with its exit code."""
    from llamarec.cli.entry_point import run_main

    raise SystemExit(run_main(command, trains=trains))


def _llamarec(*words: str) -> None:
    from llamarec.cli.main import main

    run_command(lambda: main(list(words)))


def _shop(folder: str) -> None:
    """A table, nothing prepared."""
    import tests.ranker.shop  # noqa: F401 - the package has a fixture of this name

    module: Any = sys.modules["tests.ranker.shop"]
    module._write_table(Path(folder) / "shop.csv")
    (Path(folder) / "experiments").mkdir()
    (Path(folder) / "out").mkdir()


def _retriever(folder: str, *more: str) -> None:
    from llamarec.cli import train_retriever

    words = ["--dataset_code", f"{folder}/shop.csv", "--experiment_root", f"{folder}/experiments", "--hidden_size", "8"]
    words += ["--min_item_interactions", "1", "--num_epochs", "2", "--batch_size", "8", "--hard_negative_folds", "1"]
    run_command(lambda: train_retriever.main([*words, *more]), trains=True)


def retriever(folder: str) -> None:
    """The first one."""
    _retriever(folder)


def _with_retriever(folder: str) -> None:
    _shop(folder)
    _ended(lambda: _retriever(folder))


def retriever_again(folder: str) -> None:
    """Another one in its place."""
    _retriever(folder, "--seed", "7", "--restart")


def _ended(command: Callable[[], None]) -> None:
    try:
        command()
    except SystemExit as end:
        if end.code:
            raise


def _with_ranker(folder: str) -> None:
    _with_retriever(folder)
    _ended(lambda: ranker(folder))
    (Path(folder) / "users.txt").write_text("".join(f"u{user}\n" for user in range(40)) * 4, encoding="utf-8")
    users = [json.dumps({"id": str(number), "user": f"u{number % 40}"}) for number in range(150)]
    (Path(folder) / "users.jsonl").write_text("\n".join(users) + "\n", encoding="utf-8")


def ranker(folder: str, *more: str) -> None:
    """train_ranker.py with a best model and retention, resumed where there is something."""
    from llamarec.cli import train_ranker
    from tests.ranker.shop import argv_of

    resume = ("--resume_from_checkpoint", "latest") if _checkpoints(Path(folder)) else ()
    words = argv_of(Path(folder), "--max_steps", "8", "--save_steps", "2", "--save_total_limit", "2", *resume, *more)
    run_command(lambda: train_ranker.main(words), trains=True)


def _checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / _RUN).glob("checkpoint-*"))


def items(folder: str, *more: str) -> None:
    """The same with --readout items."""
    ranker(folder, "--readout", "items", *more)


def _before(folder: str, train: Callable[..., None], result: Callable[[Path], Files]) -> None:
    """A retriever, and a list of what each checkpoint of the ranker must be."""
    _with_retriever(folder)
    trial = Path(folder) / "trial"
    shutil.copytree(Path(folder) / "experiments", trial / "experiments")
    shutil.copy(Path(folder) / "shop.csv", trial)
    _ended(lambda: train(str(trial), "--save_total_limit", "9"))
    (Path(folder) / _REFERENCE).write_text(json.dumps(result(trial)), encoding="utf-8")
    shutil.rmtree(trial)


def _before_ranker(folder: str) -> None:
    _before(folder, ranker, trained)


def _before_items(folder: str) -> None:
    _before(folder, items, trained_items)


def _half_trained(folder: str) -> None:
    """The same, killed after its last checkpoint but one."""
    _before_ranker(folder)
    _without_end(folder, ranker)


def _half_trained_items(folder: str) -> None:
    _before_items(folder)
    _without_end(folder, items)


def _without_end(folder: str, train: Callable[..., None]) -> None:
    _ended(lambda: train(folder))
    run = Path(folder) / _RUN
    shutil.rmtree(run / "checkpoint-8")
    for name in ("test.parquet", "metrics.json"):
        (run.parent / name).unlink()


_RUN: Final = "experiments/llm/shop/checkpoints"
_REFERENCE: Final = "reference.json"


def trained(folder: Path) -> Files:
    """Of a ranker: the state in every whole checkpoint by step, the best adapter, the answers of the test."""
    from llamarec.checkpoints.storage.publish import is_complete
    from tests.resume.training import digest, state_of

    found = {path.name: digest(state_of(path)) for path in _checkpoints(folder) if is_complete(path)}
    run = folder / _RUN
    for path in (run / "adapter_model.bin", run.parent / "test.parquet"):
        if path.is_file():
            found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def trained_items(folder: Path) -> Files:
    """With --readout items: the state in every whole checkpoint by step, and once it is tested all that a test leaves.

    Its best adapter has the lowest loss so far, so that it is another one in the middle.
    """
    from llamarec.checkpoints.storage.layout import EXTRA_STATE
    from llamarec.ranker.model.items.stored import ITEM_FEATURES
    from llamarec.ranker.trained.final_experts import FINAL_EXPERTS

    found, run = trained(folder), folder / _RUN
    found.pop("adapter_model.bin", None)
    if "test.parquet" in found:
        names = ("adapter_model.bin", EXTRA_STATE, ITEM_FEATURES, FINAL_EXPERTS)
        found |= {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in names}
    return found


def may_be_there(folder: Path) -> Files:
    """What each part of a growing result must be."""
    found: Files = json.loads((folder / _REFERENCE).read_bytes())
    return found


def read_checkpoints(folder: str) -> str:
    """The newest checkpoint and the best model are whole."""
    from tests.resume.torture.trainings import problem_after_kill

    return problem_after_kill(Path(folder) / _RUN, [], any_line=True)


def export(folder: str) -> None:
    """Over an earlier export, beside a file of the user's own."""
    _llamarec("export", f"{folder}/experiments/llm/shop", "--to", f"{folder}/out/model", "--overwrite")


def with_export(folder: str) -> None:
    """A retriever, a ranker, an export of it beside a file of the user's own, and files of users."""
    _with_ranker(folder)
    named = ("--base_model", "another")
    _ended(lambda: _llamarec("export", f"{folder}/experiments/llm/shop", "--to", f"{folder}/out/model", *named))
    (Path(folder) / "out/model/notes.txt").write_text("my own", encoding="utf-8")


def recommend(folder: str) -> None:
    """Three groups of users."""
    _recommend(folder, "top.jsonl")


def recommend_parquet(folder: str) -> None:
    """The same as a table."""
    _recommend(folder, "top.parquet")


def _recommend(folder: str, name: str) -> None:
    where = f"{folder}/experiments/llm/shop"
    _llamarec("recommend", where, "--users", f"{folder}/users.jsonl", "--output", f"{folder}/out/{name}")


def _two_runs(folder: str) -> None:
    """A run, copies of an older checkpoint of it, and another run."""
    from tests.checkpoints.factory import make_run

    make_run(Path(folder) / "run", steps=(100, 200), best_model=True)
    (Path(folder) / "copies").mkdir()
    _ended(lambda: _llamarec("checkpoints", "backup", f"{folder}/run:100", f"{folder}/copies"))
    (Path(folder) / "new").mkdir()
    make_run(Path(folder) / "new/run", steps=(50, 100), best=50)


def backup(folder: str) -> None:
    """The newest one, beside an older copy."""
    _llamarec("checkpoints", "backup", f"{folder}/run:latest", f"{folder}/copies")


def restore(folder: str) -> None:
    """A copy in the place of another checkpoint of the same step."""
    _llamarec("checkpoints", "restore", f"{folder}/copies/checkpoint-100", f"{folder}/new/run", "--replace")


# ---- What is published ----


def _published(folder: Path) -> Files:
    """A retriever's files, as its readers see them: an interrupted move ends first."""
    there = folder / "experiments/lru/shop"
    found = {name: digest for name, digest in files_of(there).items() if name in _OF_RETRIEVER}
    if "metrics.json" in found:
        metrics = json.loads((there / "metrics.json").read_bytes())
        del metrics["seconds"]
        found["metrics.json"] = json.dumps(metrics)
    return found


_OF_RETRIEVER: Final = (
    *("retriever.safetensors", "experts.json", "candidates.parquet", "hard_negatives.parquet"),
    "metrics.json",
)


def _exported(folder: Path) -> Files:
    model = folder / "out/model"
    if not model.exists():
        # Beside it, under a name of ours, from which the next call puts it back.
        model = folder / "out" / _EXPORTS[1]
    return files_of(model, with_paths=False) if model.is_dir() else {}


def _output(folder: Path) -> Files:
    there = files_of(folder / "out").items()
    return {name: digest for name, digest in there if name in ("top.jsonl", "top.parquet")}


def _good_ones(folder: Path) -> Files:
    """Of the checkpoints with a manifest that all files fit; one that is being replaced counts as in its place."""
    from llamarec.checkpoints.storage.publish import is_complete

    found = {path.name: path for path in sorted(folder.rglob("checkpoint-*")) if path.is_dir() and is_complete(path)}
    for path in sorted(folder.rglob(".replaced-checkpoint-*")):
        if is_complete(path):
            found.setdefault(path.name.removeprefix(".replaced-"), path)
    return {f"{step}/{name}": digest for step, path in found.items() for name, digest in files_of(path).items()}


def _copied(folder: Path) -> Files:
    return _good_ones(folder / "copies")


def _restored(folder: Path) -> Files:
    return _good_ones(folder / "new")


# ---- As the next command reads it ----


def read_retriever(folder: str) -> str:
    """What is published verifies; nothing published is said to be so."""
    from llamarec.data.prepared import load_prepared
    from llamarec.errors import LlamarecError
    from llamarec.retriever.candidates import load_candidates
    from llamarec.retriever.published import check_published
    from llamarec.retriever.serving import load_retriever
    from llamarec.vocabulary import Experiment

    experiment = Experiment(Path(folder) / "experiments", "shop")
    try:
        check_published(experiment, "repeat")
        data = load_prepared(experiment.data)
        load_candidates(experiment, data)
        load_retriever(experiment, data)
    except LlamarecError as error:
        missing = ("no trained retriever", "no prepared data", "not prepared", "is missing", "not been prepared")
        return "" if any(words in str(error) for words in missing) else str(error)
    return ""


def read_nothing(folder: str) -> str:
    """Nothing beyond what `result` compares."""
    return ""


def read_run(folder: str) -> str:
    """The newest checkpoint is whole."""
    from llamarec.checkpoints.storage.discovery import latest
    from llamarec.checkpoints.storage.layout import RunFolder
    from tests.resume.torture.trainings import is_whole

    for run in (RunFolder(Path(folder) / "new/run"), RunFolder(Path(folder) / "run")):
        choice = latest(run)
        if choice is None or not is_whole(choice.verdict.path):
            return f"the newest checkpoint of {run.path.name} is not whole"
    return ""


def _of_ranker(
    name: str,
    what: str,
    prepare: Job,
    until: str = "",
    *,
    train: Job = ranker,
    result: Callable[[Path], Files] = trained,
) -> Scenario:
    """A training of the ranker, which takes long: one point in four."""
    return Scenario(
        name,
        what,
        prepare,
        train,
        "experiments",
        result,
        read_checkpoints,
        grows=True,
        again_every=3,
        until=until,
        every=4,
    )


SCENARIOS: Final = (
    Scenario(
        "retriever",
        "train_retriever.py in a new folder",
        _shop,
        retriever,
        "experiments",
        _published,
        read_retriever,
        power=True,
        warms_up=False,
        every=4,
    ),
    Scenario(
        "retriever-again",
        "train_retriever.py over another one",
        _with_retriever,
        retriever_again,
        "experiments",
        _published,
        read_retriever,
        until="manifest.json",
        power=True,
        warms_up=False,
        every=4,
    ),
    Scenario("export", "export over an earlier one", with_export, export, "out", _exported, read_nothing, power=True),
    Scenario(
        "recommend",
        "recommend --output, JSON lines",
        with_export,
        recommend,
        "out",
        _output,
        read_nothing,
        may_refuse="the file exists",
        until="top.jsonl",
        power=True,
    ),
    Scenario(
        "recommend-parquet",
        "the same as Parquet",
        with_export,
        recommend_parquet,
        "out",
        _output,
        read_nothing,
        may_refuse="the file exists",
        power=True,
    ),
    Scenario("backup", "checkpoints backup", _two_runs, backup, "copies", _copied, read_run),
    Scenario("restore", "checkpoints restore --replace", _two_runs, restore, "new", _restored, read_run),
    _of_ranker("save", "train_ranker.py: saves, best model, retention", _before_ranker, until="checkpoint-8"),
    _of_ranker("resume", "train_ranker.py, resumed", _half_trained),
    _of_ranker(
        "items",
        "the same with --readout items",
        _before_items,
        until="checkpoint-8",
        train=items,
        result=trained_items,
    ),
    _of_ranker(
        "items-resume",
        "train_ranker.py --readout items, resumed",
        _half_trained_items,
        train=items,
        result=trained_items,
    ),
)

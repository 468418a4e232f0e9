"""Every command of the guides is run, and every message that they quote is the program's."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from llamarec.checkpoints.config import CheckpointConfig
from llamarec.checkpoints.resume.compatibility import _REFUSED
from llamarec.checkpoints.storage.discovery import order_of_saves
from llamarec.checkpoints.storage.layout import RunFolder
from llamarec.checkpoints.storage.manifest import read_manifest
from llamarec.checkpoints.trainer.signals import NAMES
from llamarec.cli.checkpoints.backup import Watch
from llamarec.ranker.options import resume_defaults
from llamarec.ranker.options.parser import RECIPE
from tests.docs.guide import COMMANDS, ENGLISH, VIETNAMESE, Block, Guide, executed, quoted
from tests.docs.project import STATES, STEPS_UNTIL_STOP, Project, Ran, normalised, run, small_defaults
from tests.docs.troubles import CHECKPOINTS, RESUME, TROUBLES, Trouble, disk_full, failing_step, not_found

GUIDES = pytest.mark.parametrize("guide", [ENGLISH, VIETNAMESE], ids=["en", "vi"])


@pytest.fixture(autouse=True)
def _defaults() -> Iterator[None]:
    with small_defaults():
        yield


# ---- What the two guides share ----


def test_both_languages_have_the_same_sections() -> None:
    assert [(s.level, s.number) for s in ENGLISH.sections] == [(s.level, s.number) for s in VIETNAMESE.sections]
    assert [[len(t.rows) for t in s.tables] for s in ENGLISH.sections] == [
        [len(t.rows) for t in s.tables] for s in VIETNAMESE.sections
    ]


def test_both_languages_have_the_same_blocks() -> None:
    # So what is run for one is run for the other. Comments in a program are the language's.
    content = [[(b.kind, _without_comments(b), b.notes) for b in guide.blocks] for guide in (ENGLISH, VIETNAMESE)]
    assert content[0] == content[1]


def test_both_languages_name_the_same_flags_messages_and_commands_in_their_tables() -> None:
    for english, vietnamese in zip(ENGLISH.sections, VIETNAMESE.sections, strict=True):
        for one, other in zip(english.tables, vietnamese.tables, strict=True):
            for row, same in zip(one.rows, other.rows, strict=True):
                assert [sorted(quoted(cell)) for cell in row] == [sorted(quoted(cell)) for cell in same]


def _without_comments(block: Block) -> list[str]:
    lines = [line.partition("  #")[0] if block.kind == "python" else line for line in block.lines]
    return [line.rstrip() for line in lines]


@GUIDES
def test_powershell_says_what_the_shell_says(guide: Guide) -> None:
    shell: Block | None = None
    pairs = 0
    for block in guide.blocks:
        if block.kind == "powershell":
            assert shell is not None
            assert block.commands == shell.commands, f"line {block.number}"
            pairs += 1
        shell = block if block.kind == "sh" else shell
    needed = [b for b in guide.blocks if b.kind == "sh" and (b.is_script or any(li.endswith("\\") for li in b.lines))]
    assert pairs == len(needed)


@GUIDES
def test_links_lead_somewhere(guide: Guide) -> None:
    text = guide.path.read_text(encoding="utf-8")
    anchors = {_anchor(line) for line in text.splitlines() if line.startswith("#")}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        assert not path or (guide.path.parent / path).is_file(), target
        assert not anchor or anchor in anchors, target


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    text = re.sub(r"[^\w\- ]", "", heading.lstrip("#").strip().lower())
    return text.replace(" ", "-")


# ---- Commands and what they print ----


def test_every_command_runs_and_says_what_is_quoted(project: Project, folder: Path) -> None:
    said: list[Ran] = []
    for block in ENGLISH.blocks:
        if block.kind == "sh" and not block.is_script:
            said = _run_block(block, project, folder)
        elif block.kind == "text":
            _assert_said(block, said)


def _run_block(block: Block, project: Project, folder: Path) -> list[Ran]:
    if "makes" in block.notes:
        state = block.notes["makes"]
        assert block.commands == [STATES[state].command]
        return [project.ran(state)]
    if "in" in block.notes:
        project.copy(block.notes["in"], folder)
    code = int(block.notes.get("exit", "0"))
    said = []
    for command in block.commands:
        extra = f" --max_steps {_newest_step(folder) + 5}" if "shortened" in block.notes else ""
        with _stopped_watch() if "watches" in block.notes else contextlib.nullcontext():
            ran = run(command + extra, folder, stop_after=STEPS_UNTIL_STOP if code == 75 else 0)
        assert ran.code == code, f"line {block.number}: exit code {ran.code}: {command}\n{ran.said}"
        said.append(ran)
    return said


def _assert_said(block: Block, said: list[Ran]) -> None:
    """Every line of the block stands in what was printed, in this order."""
    printed = normalised("\n".join(ran.said for ran in said))
    at = 0
    for line in block.lines:
        found = printed.find(normalised(line), at)
        assert found >= 0, f"line {block.number}: not printed (there): {line}\n{printed}"
        at = found + len(normalised(line))


def _newest_step(folder: Path) -> int:
    newest = order_of_saves(RunFolder(folder / CHECKPOINTS))[0]
    return int(newest.name.rpartition("-")[2])


@contextlib.contextmanager
def _stopped_watch() -> Iterator[None]:
    """Ctrl-C after the first look."""
    look = Watch.look

    def once(self: Watch) -> None:
        look(self)
        raise KeyboardInterrupt

    with mock.patch.object(Watch, "look", once):
        yield


def test_every_trouble_is_as_described_and_its_commands_run(project: Project, folder: Path) -> None:
    rows = ENGLISH.section("13").tables[0].rows
    assert len(rows) == len(TROUBLES)
    for (symptom, _, commands), bring_about in zip(rows, TROUBLES, strict=True):
        trouble = Trouble(project, folder)
        bring_about(trouble)
        printed = normalised("\n".join(ran.said for ran in trouble.said))
        for message in quoted(symptom):
            if not message.startswith("--"):
                assert normalised(message) in printed, f"{bring_about.__name__}: {message}\n{printed}"
        for command in quoted(commands):
            assert command.startswith(COMMANDS), command
            expected = {0, 1} if " verify" in command else {0, 75}
            ran = run(command, folder, stop_after=STEPS_UNTIL_STOP)
            assert ran.code in expected, f"{bring_about.__name__}: exit code {ran.code}: {command}\n{ran.said}"


# ---- Exit codes and the loop ----


def test_every_exit_code_occurs_as_described(project: Project, folder: Path) -> None:
    codes = [int(code) for code in ENGLISH.section("11").tables[0].column(0)]
    assert codes == [0, 1, 2, 74, 75, 130]
    trouble = Trouble(project, folder)
    not_found(trouble)  # 2
    disk_full(trouble)  # 74
    trouble.begin("finished")
    trouble.run(RESUME, 0)
    trouble.begin("interrupted")
    trouble.run(RESUME, 75, stop_after=STEPS_UNTIL_STOP)
    with failing_step(_raise):
        trouble.run(RESUME, 1)
    assert re.search(r"RuntimeError after step [\d,]+; saved: ", trouble.said[-1].said)
    assert "Traceback" in trouble.said[-1].said
    with failing_step(_ask_three_times):
        trouble.run(RESUME, 130)


def _raise(_: Any) -> None:
    raise RuntimeError("an error in a library")


def _ask_three_times(_: Any) -> None:
    for _ in range(3):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.skipif(shutil.which("sh") is None or os.name == "nt", reason="no POSIX shell")
@pytest.mark.parametrize(("codes", "ends"), [([75, 75, 0], 0), ([75, 2], 2), ([130], 130), ([74], 74)])
def test_the_loop_starts_again_on_75_alone(tmp_path: Path, codes: list[int], ends: int) -> None:
    _answer_with(tmp_path, codes)
    script = tmp_path / "train.sh"
    script.write_text("\n".join(_loop("sh").lines) + "\n", encoding="utf-8")
    assert subprocess.run(["sh", str(script)], env=_path_with(tmp_path), check=False, timeout=20).returncode == ends
    assert (tmp_path / "codes").read_text(encoding="utf-8").split() == []


@pytest.mark.skipif(shutil.which("sh") is None or os.name == "nt", reason="no POSIX shell")
def test_ctrl_c_ends_the_loop_when_the_training_has_saved(tmp_path: Path) -> None:
    # Ctrl-C reaches the shell and the training alike; here the training is a script that sends it to its shell.
    _answer_with(tmp_path, [75, 75], before="kill -INT $PPID")
    script = tmp_path / "train.sh"
    script.write_text("\n".join(_loop("sh").lines) + "\n", encoding="utf-8")
    assert subprocess.run(["sh", str(script)], env=_path_with(tmp_path), check=False, timeout=20).returncode == 130
    assert (tmp_path / "codes").read_text(encoding="utf-8").split() == ["75"]


@pytest.mark.skipif(shutil.which("pwsh") is None or os.name == "nt", reason="no PowerShell")
@pytest.mark.parametrize(("codes", "ends"), [([75, 0], 0), ([75, 2], 2)])
def test_the_powershell_loop_starts_again_on_75_alone(tmp_path: Path, codes: list[int], ends: int) -> None:
    _answer_with(tmp_path, codes)
    script = tmp_path / "train.ps1"
    lines = "\n".join(_loop("powershell").lines).replace("-Seconds 5", "-Seconds 0")
    script.write_text(lines + "\n", encoding="utf-8")
    command = ["pwsh", "-NoProfile", "-File", str(script)]
    assert subprocess.run(command, env=_path_with(tmp_path), check=False, timeout=20).returncode == ends


def _loop(kind: str) -> Block:
    loop = next(b for b in ENGLISH.section("11").blocks if b.kind == kind)
    assert loop.commands == [RESUME]
    return loop


def _answer_with(folder: Path, codes: list[int], before: str = ":") -> None:
    """A `python` that ends with these codes, one after the other, and a `sleep` that does not wait."""
    (folder / "codes").write_text("".join(f"{code}\n" for code in codes), encoding="utf-8")
    python = f'#!/bin/sh\n{before}\nread code < "{folder}/codes"\nsed -i.old 1d "{folder}/codes"\nexit "$code"\n'
    for name, content in (("python", python), ("sleep", "#!/bin/sh\n")):
        (folder / name).write_text(content, encoding="utf-8")
        (folder / name).chmod(0o755)


def _path_with(folder: Path) -> dict[str, str]:
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


# ---- Programs and tables ----


def test_the_best_adapter_loads_as_shown(project: Project, folder: Path) -> None:
    project.copy("finished", folder)
    program = next(block for block in ENGLISH.section("1").blocks if block.kind == "python")
    with contextlib.chdir(folder):
        names = executed(program, {})
    weights = torch.load(folder / CHECKPOINTS / "adapter_model.bin", weights_only=True)
    loaded = names["model"].state_dict()
    assert weights
    for name, tensor in weights.items():
        assert torch.equal(loaded[re.sub(r"(lora_[AB])", r"\1.default", name)], tensor)


def test_the_files_of_a_checkpoint_are_those_of_the_table(project: Project, folder: Path) -> None:
    project.copy("interrupted", folder)
    files = {path.name for path in (folder / CHECKPOINTS / "checkpoint-1000").iterdir()}
    rows = ENGLISH.section("6").tables[0].rows
    assert {quoted(row[0])[0] for row in rows if "--readout items" not in row[1]} == files
    assert {"adapter_model.bin", "adapter_config.json", "best.json"} <= {
        p.name for p in (folder / CHECKPOINTS).iterdir()
    }


def test_what_the_tables_say_of_flags_is_what_the_program_does(project: Project, folder: Path) -> None:
    defaults = {quoted(flag)[0].removeprefix("--"): value for flag, value, _ in ENGLISH.section("10").tables[0].rows}
    for name, value in defaults.items():
        default = RECIPE.get(name, CheckpointConfig.__dataclass_fields__.get(name))
        assert (
            str(int(default) if isinstance(default, float) else getattr(default, "default", default) or "none") == value
        )
    of_the_command, of_the_machine, batch, of_steps = (
        set(quoted(cell)) for cell in ENGLISH.section("4").tables[0].column(0)
    )
    assert of_the_command <= resume_defaults._OF_THE_COMMAND
    assert of_the_machine <= resume_defaults._OF_THE_MACHINE
    assert batch == resume_defaults._BATCH
    assert of_steps == {"max_steps"}
    when = next(row[0] for row in ENGLISH.section("2").tables[0].rows if row[1] == "`signal`")
    assert set(re.findall(r"SIG\w+", when)) | {"SIGINT", "SIGBREAK"} == set(NAMES)
    project.copy("interrupted", folder)
    manifest = read_manifest(folder / CHECKPOINTS / "checkpoint-1000")
    assert manifest is not None
    rows = ENGLISH.section("5").tables[0].rows
    refused = [set(quoted(row[1])) for row in rows if row[0] == "refused" and "--readout items" not in row[1]]
    # The project's wrong candidates are uniform: no lists.
    assert refused == [set(_REFUSED), {*manifest.fingerprints, "training_lists"}]

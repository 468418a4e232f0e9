"""A full disk, a folder that cannot be written: one sentence, the exit code of what a user can solve, nothing left."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from llamarec.checkpoints.storage.os_errors import naming
from llamarec.cli.entry_point import run_main
from llamarec.errors import EXIT_USAGE
from llamarec.files import replacing, replacing_folder
from tests.data.raw import WRITERS

ROOT = Path(__file__).resolve().parents[2]


def _raising(error: BaseException) -> Callable[[], int]:
    def command() -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make room on the disk of"),
        (errno.EDQUOT, "make room on the disk of"),
        (errno.EACCES, "chmod u+w"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "look at the disk"),
        (errno.ENAMETOOLONG, "a shorter path"),
        (errno.ENOENT, "another folder"),
        (errno.EFBIG, "another folder"),
        (errno.EMFILE, "another folder"),
    ],
)
def test_each_error_of_the_system_is_a_sentence(
    number: int, advice: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = OSError(number, os.strerror(number), str(tmp_path / "a" / "file"))
    assert run_main(_raising(error)) == EXIT_USAGE
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path / 'a' / 'file'}: {os.strerror(number)}\n")
    assert advice in said
    assert "Traceback" not in said


def test_without_a_path_or_a_number_it_is_a_sentence_too(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (OSError(errno.ENOSPC, "No space left on device"), OSError("something else"), TimeoutError()):
        assert run_main(_raising(error)) == EXIT_USAGE
        assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), RuntimeError("I/O error: full (os error 28)")])
@pytest.mark.parametrize("how", [replacing, replacing_folder])
def test_what_could_not_be_written_is_named_and_leaves_nothing(
    how: Callable[[Path], AbstractContextManager[Path]], error: Exception, tmp_path: Path
) -> None:
    target = tmp_path / "target"

    def write() -> None:
        with how(target) as staging:
            (staging / "x" if staging.is_dir() else staging).write_text("half")
            raise error

    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
        write()
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(target)
    assert not list(tmp_path.iterdir())


def test_an_error_that_is_not_of_the_system_stays(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), naming(tmp_path):
        raise ZeroDivisionError


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of a file's size")
@pytest.mark.parametrize("limit", [3_000, 20_000])
def test_a_retriever_on_a_full_disk_ends_in_one_sentence(limit: int, tmp_path: Path) -> None:
    import resource

    (tmp_path / "beauty").mkdir()
    WRITERS["beauty"](tmp_path / "beauty")
    command = [
        *(sys.executable, "train_retriever.py", "--dataset_code", "beauty", "--data_root", str(tmp_path)),
        *("--experiment_root", str(tmp_path / "e"), "--num_epochs", "2", "--top_k", "5", "--hidden_size", "32"),
        *("--exclude_history", "never", "--hard_negative_folds", "1"),
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == EXIT_USAGE, done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in (tmp_path / "e").rglob("*") if path.suffix in (".tmp", ".new")]
    assert not (tmp_path / "e" / "lru" / "beauty" / "candidates.parquet").exists()

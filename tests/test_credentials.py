"""A planted secret stands in no output: no message, log, manifest, report or file of a run or its mirror."""

from __future__ import annotations

import contextlib
import io
import json
import traceback
from pathlib import Path

import pytest

from llamarec.checkpoints.backup.stores import Store, open_store
from llamarec.checkpoints.config import CheckpointConfig
from llamarec.cli.main import main
from llamarec.command import typed
from llamarec.credentials import without_credentials, without_credentials_in
from llamarec.errors import LlamarecError
from tests.checkpoints.factory import make_run
from tests.checkpoints.mirror.bucket import BucketFileSystem, register

SECRET = "hunter2-Zq8x"
# Every part of an address that can carry one, as it is typed.
ADDRESSES = [
    f"bucket://user:{SECRET}@host/run",
    f"bucket://{SECRET}@host/run",
    f"bucket://user:{SECRET}/a@host/run",
    f"bucket://user:{SECRET}?a@host/run",
    f"bucket://user:a@{SECRET}@host/run",
    f"bucket://host/run?key={SECRET}",
    f"bucket://host/run?a=1&signature={SECRET}",
    f"bucket://host:9000/run?{SECRET}",
    f"simplecache::bucket://user:{SECRET}@host/run",
]


@pytest.fixture(autouse=True)
def _bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    monkeypatch.setenv("BUCKET_ROOT", str(tmp_path / "objects"))
    monkeypatch.setattr(BucketFileSystem, "observer", None)


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_text_with_an_address_loses_what_is_secret(address: str) -> None:
    for text in (address, f"cannot open '{address}'", f"{address}, {address}", f"({address})"):
        assert SECRET not in without_credentials(text)


@pytest.mark.parametrize(
    "text",
    ["s3://bucket/run", "http://host:9000/a/b", "C:\\runs\\x", "user@host", "file:///a b/c", "zip://a::s3://b/c"],
)
def test_other_texts_stay(text: str) -> None:
    assert without_credentials(text) == text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_SESSION_TOKEN", SECRET),
        ("FSSPEC_S3_SECRET", SECRET),
        ("AZURE_STORAGE_CONNECTION_STRING", SECRET),
        ("FSSPEC_S3", json.dumps({"secret": SECRET})),
    ],
)
def test_what_a_driver_says_of_the_environment_is_hidden(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert SECRET not in without_credentials(f"invalid credentials {SECRET}")


def test_values_at_any_depth_and_typed_commands() -> None:
    values = without_credentials_in({"mirror": ADDRESSES[0], "more": {"list": [ADDRESSES[5], 1]}, "seed": 1})
    assert SECRET not in json.dumps(values)
    assert values["seed"] == 1
    assert SECRET not in typed(["train_ranker.py", "--mirror", ADDRESSES[0], f"--mirror={ADDRESSES[5]}"])


@pytest.mark.parametrize("address", ADDRESSES)
def test_errors_of_a_driver_are_shown_without_it(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(what: str, key: str) -> None:
        raise ValueError(f'Invalid bucket name "user:{SECRET}@host" at {address}')

    BucketFileSystem.observer = fail
    with pytest.raises(LlamarecError) as caught:
        open_store(address).names()
    shown = [str(caught.value), repr(caught.value), *traceback.format_exception(caught.value)]
    shown += [str(caught.value.found), caught.value.problem]
    assert not [text for text in shown if SECRET in text]


@pytest.mark.parametrize("address", ADDRESSES[:1] + ADDRESSES[5:6])
@pytest.mark.parametrize("fails", [False, True])
def test_commands_print_no_secret(address: str, fails: bool, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", (100,))

    def fail(what: str, key: str) -> None:
        raise PermissionError(f"403 for user:{SECRET}@host, {address}")

    BucketFileSystem.observer = fail if fails else None
    output = io.StringIO()
    for command in (
        ["backup", str(run.checkpoint(100)), address],
        ["backup", str(run.checkpoint(100)), address, "--json"],
        ["list", address],
        ["list", address, "--json", "--verify"],
        ["restore", address, str(tmp_path / "other")],
        ["restore", address, str(tmp_path / "other"), "--json"],
        ["show", address],
    ):
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output), contextlib.suppress(SystemExit):
            try:
                main(["checkpoints", *command])
            except LlamarecError as error:
                output.write(str(error))
    assert output.getvalue()
    assert SECRET not in output.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_a_training_leaves_no_secret_anywhere(
    fails: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llamarec.checkpoints.mirror import keeper
    from llamarec.checkpoints.mirror.pauses import Pauses
    from llamarec.checkpoints.trainer.resumable import ResumableTrainer
    from tests.resume.training import make_args, make_model
    from tests.resume.worker_data import Seen, Words

    monkeypatch.setattr(keeper, "Pauses", lambda: Pauses(first=0.01, last_tries=2))
    address = f"bucket://user:{SECRET}@host/run?key={SECRET}"

    def fail(what: str, key: str) -> None:
        raise PermissionError(f"403 for user:{SECRET}@host, {address}")

    BucketFileSystem.observer = fail if fails else None
    trainer = ResumableTrainer(
        model=make_model(),
        args=make_args(tmp_path / "run", max_steps=2, save_steps=1, eval_strategy="no", load_best_model_at_end=False),
        train_dataset=Words(8, noisy=False),
        data_collator=Seen(None, noisy=False),
        checkpoint_config=CheckpointConfig(mirror=address),
        own_options={"mirror": address},
        given={"mirror": address, "backup_to": address},
    )
    trainer.train()

    assert trainer.last_save_failed is fails
    captured = capfd.readouterr()
    assert SECRET not in captured.out + captured.err
    assert ("is behind" in captured.err) is fails
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 8
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_a_store_never_shows_its_address_as_it_was_typed() -> None:
    store: Store = open_store(ADDRESSES[0])
    assert SECRET not in repr(store.url) + store.below("checkpoint-1").url

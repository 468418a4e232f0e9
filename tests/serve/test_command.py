"""`llamarec serve` as a process: it says where it is, answers, and ends in order."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llamarec.cli.main import main
from llamarec.cli.serve import OncePerMinute, listen, make_room_for
from llamarec.errors import EXIT_FINISHED, EXIT_USAGE, ConfigError


def _command(finished: Path, *more: str) -> list[str]:
    words = [sys.executable, "-m", "llamarec.cli.main", "serve", "shop", "--device", "cpu"]
    return [*words, "--experiment_root", str(finished / "experiments"), *more]


@pytest.fixture
def service(finished: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and its address."""
    command = _command(finished, "--port", "0", "--max_wait_ms", "700")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = re.search(r"serving shop, step \d+: (http://127\.0\.0\.1:\d+)", process.stdout.readline())
        assert said is not None, process.stderr and process.stderr.read()
        yield process, said[1]
        process.kill()


def _ask(address: str) -> Any:
    request = urllib.request.Request(
        f"{address}/recommend", json.dumps({"user": "u1", "k": 3}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be sent such a signal there")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_what_it_was_asked_before_it_ends(
    service: tuple[subprocess.Popen[str], str], number: signal.Signals
) -> None:
    process, address = service
    assert len(_ask(address)["recommendations"]) == 3
    foreign = urllib.request.Request(f"{address}/health", headers={"Host": "elsewhere.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(foreign, timeout=30)
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(_ask(address)))
    asking.start()
    # The question waits for others to be answered with, and then the signal comes.
    threading.Event().wait(0.3)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    asking.join(timeout=60)
    assert len(answers) == 1
    assert (process.returncode, out.splitlines()[-1]) == (EXIT_FINISHED, "stopped"), err
    assert "Traceback" not in err


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "no such run", "--port", str(port)]) == EXIT_USAGE
        said = capsys.readouterr().err
        assert f"--port {port}: cannot listen on this address" in said
        assert "--port 0" in said


def test_addresses_and_limits_that_do_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (("--port", "70000"), "--port 70000: 0 to 65535"),
        (("--host", "no.such.host.invalid"), "not an address of this machine"),
        (("--max_batch", "0", "--timeout_seconds", "-1"), "--max_batch 0: at least 1"),
        (("--timeout_seconds", "inf"), "--timeout_seconds inf: above 0"),
        (("--max_wait_ms", "nan"), "--max_wait_ms nan: 0 or more"),
        (("--host", "a..b"), "not an address of this machine"),
        (("--port", "0"), "there is no run of the ranker"),
    ):
        assert main(["serve", "nothing", *words]) == EXIT_USAGE
        assert said in capsys.readouterr().err
    with pytest.raises(ConfigError, match="cannot listen on this address"):
        listen("192.0.2.1", 0)


def test_a_message_that_repeats_is_logged_once_a_minute() -> None:
    once = OncePerMinute()
    records = [logging.makeLogRecord({"msg": "out of descriptors\ndetails", "created": second}) for second in range(90)]
    assert [record.created for record in records if once.filter(record)] == [0, 60]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_there_is_room_for_the_connections() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(300, hard), hard))
        make_room_for(400)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(600, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


NUM_CONNECTIONS = 250


async def _asked(port: int, number: int, begun: list[int]) -> str:
    """What a connection that asks one question gets: a status, or how it ended without one."""
    body = json.dumps({"user": f"u{number % 40}", "k": 3}).encode()
    head = (
        f"POST /recommend HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\nContent-Type: application/json"
    )
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return "refused"

    found = b""
    try:
        begun.append(number)
        writer.write(f"{head}\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        found = await reader.read()
    except OSError:
        return "cut" if found else "reset"
    finally:
        writer.close()

    if not found:
        return "closed"
    status = re.match(rb"HTTP/1\.1 (\d+) ", found)
    content = found.partition(b"\r\n\r\n")[2]
    try:
        json.loads(content)
    except ValueError:
        return "cut"
    return status[1].decode() if status else "cut"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be sent such a signal there")
@pytest.mark.parametrize("after", [1, NUM_CONNECTIONS // 2, NUM_CONNECTIONS])
def test_a_stop_under_load_cuts_no_answer(service: tuple[subprocess.Popen[str], str], after: int) -> None:
    process, address = service
    port = int(address.rpartition(":")[2])

    async def load() -> list[str]:
        begun: list[int] = []
        asking = [asyncio.create_task(_asked(port, number, begun)) for number in range(NUM_CONNECTIONS)]
        while len(begun) < after:
            await asyncio.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        return await asyncio.gather(*asking)

    found = Counter(asyncio.run(load()))
    out, err = process.communicate(timeout=60)

    assert (process.returncode, out.splitlines()[-1]) == (EXIT_FINISHED, "stopped"), err
    assert found.keys() <= {"200", "503", "refused", "closed"}, found
    assert len(err) < 10_000, err[:2000]

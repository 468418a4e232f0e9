"""`llamarec serve`: a trained run as an HTTP service."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from llamarec.cli.arguments import Subparsers, add_dataclass_arguments, add_experiment_root, add_verb, dataclass_from
from llamarec.cli.fast_help import importing
from llamarec.errors import EXIT_FINISHED, ConfigError
from llamarec.serve.limits import Limits

if TYPE_CHECKING:
    from uvicorn import Server

SUMMARY = "Serve a trained run over HTTP: a web page, /recommend, /items, /health and /metrics."

_EPILOG = """\
  llamarec serve beauty
  curl -s http://127.0.0.1:8000/recommend -H 'Content-Type: application/json' \\
      -d '{"history": ["Halo 3"], "k": 5}'

By default only this machine can reach the service. It has no
log-in: before you open it to others with --host, put a proxy
that has one in front of it. After Ctrl-C or SIGTERM it answers
the waiting requests, then ends.
"""
# A queue that overflows leaves clients with half a connection, which is reset when the service stops.
_BACKLOG: Final = 1024
_OTHER_FILES: Final = 256
_SECONDS: Final = 60.0
_SETTLING_SECONDS: Final = 0.25
_LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")


def add_parser(commands: Subparsers) -> None:
    """Adds the verb to the command's subparsers."""
    parser = add_verb(commands, "serve", SUMMARY, _EPILOG)
    parser.add_argument("run_name", metavar="RUN", help="Data set code of a trained ranker, or the folder of a run.")
    parser.add_argument("--host", default="127.0.0.1", help="Address to listen on (default: 127.0.0.1).")
    parser.add_argument("--port", type=int, default=8000, help="Port to listen on; 0 takes a free one (default: 8000).")
    parser.add_argument(
        "--device", default="auto", metavar="NAME", help="Where to compute: auto, cpu, cuda, ... (default: auto)."
    )
    parser.add_argument(
        "--only_new",
        action="store_true",
        help="Never recommend an item of the history, even if users of this data set repeat items.",
    )
    add_experiment_root(parser)
    add_dataclass_arguments(parser, Limits, title="limits")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Loads the run and serves it until a signal stops it."""
    limits = dataclass_from(Limits, arguments)
    # Before loading, which can take minutes: a port that is in use is an error at once.
    listening = listen(arguments.host, arguments.port)
    with listening:
        with importing():
            import uvicorn

            from llamarec.recommend.recommender import Recommender
            from llamarec.serve.app import create_app

        recommender = Recommender.load(
            arguments.run_name,
            experiment_root=arguments.experiment_root,
            device=arguments.device,
            only_new=arguments.only_new,
        )

        is_local = _is_local(arguments.host)
        app = create_app(recommender, limits, allowed_hosts=(*_LOCAL_NAMES, arguments.host) if is_local else ("*",))
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=limits.max_connections,
            backlog=_BACKLOG,
            # Requests in progress when it stops have as much time as any other.
            timeout_graceful_shutdown=int(limits.timeout_seconds) + 1,
        )

        host, port = listening.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        print(
            f"serving {recommender.data.dataset_code}, step {recommender.order.adapter.step:,}: {address}", flush=True
        )
        if recommender.order.note:
            print(recommender.order.note, flush=True)
        if not is_local:
            print("WARNING: there is no log-in; anyone who can reach this address can use it", flush=True)

        make_room_for(limits.max_connections)
        logging.getLogger("asyncio").addFilter(OncePerMinute())
        # On a signal uvicorn ends in order, then sends the signal again to the previous handler.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        server = uvicorn.Server(config)
        server.shutdown = partial(_shut_down, server, server.shutdown)  # type: ignore[method-assign]
        server.run(sockets=[listening])
    print("stopped", flush=True)
    return EXIT_FINISHED


async def _shut_down(server: Server, shut_down: Callable[..., Awaitable[None]], sockets: list[socket.socket]) -> None:
    """Ends a service whose connections have all been accepted, and their requests read.

    Closed at once, the system resets those that wait to be accepted, and those whose request waits to be read.
    """
    await asyncio.sleep(_SETTLING_SECONDS)
    for one in server.servers:
        one.close()
    await asyncio.sleep(_SETTLING_SECONDS)
    await shut_down(sockets=sockets)


def make_room_for(num_connections: int) -> None:
    """Raises this process's limit of open files to what so many connections need, as far as the system lets it."""
    if sys.platform == "win32":
        return

    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = num_connections + _OTHER_FILES
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class OncePerMinute(logging.Filter):
    """Lets a message of a logger through once a minute: without free descriptors it would come thousands of times."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        text = str(record.msg).partition("\n")[0]
        is_due = record.created - self._last.get(text, -_SECONDS) >= _SECONDS
        if is_due:
            self._last[text] = record.created
        return is_due


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Args:
        host: Address or name.
        port: 0 takes a free one.

    Raises:
        ConfigError: this machine has no such address, or the port is in use.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port {port}: 0 to 65535")

    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--host {host}: not an address of this machine", found=str(error)) from error

    try:
        # On Windows this option would let two programs share a port.
        if os.name != "nt":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        # From here on the port is taken, so a second service fails before it loads anything.
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"--host {host} --port {port}: cannot listen on this address",
            found=str(error),
            hint="--port 0 takes a free port" if error.errno == errno.EADDRINUSE else "choose another --host or --port",
        ) from error
    return listening


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

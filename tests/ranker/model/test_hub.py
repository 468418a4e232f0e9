"""Without a network the cache is looked into at once; with a proxy, or a folder, nothing is presumed."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamarec.errors import ModelError
from llamarec.ranker.model import hub
from llamarec.ranker.model.base_models import load_configuration


@pytest.fixture(autouse=True)
def _asks_anew() -> Iterator[None]:
    hub.is_unreachable.cache_clear()
    yield
    hub.is_unreachable.cache_clear()


def _unknown(*_: object) -> None:
    raise socket.gaierror(-2, "Name or service not known")


def _without_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "getproxies", dict)


def test_an_unknown_host_means_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _without_proxy(monkeypatch)
    monkeypatch.setattr(socket, "getaddrinfo", _unknown)
    assert hub.load_options("owner/model") == {"local_files_only": True}
    assert hub.load_options(str(tmp_path)) == {}


@pytest.mark.parametrize("fault", [None, PermissionError("no sockets here")])
def test_otherwise_the_hub_is_asked(fault: OSError | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(*_: object) -> None:
        if fault is not None:
            raise fault

    _without_proxy(monkeypatch)
    monkeypatch.setattr(socket, "getaddrinfo", found)
    assert hub.load_options("owner/model") == {}


def test_a_proxy_knows_names_that_we_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "getproxies", lambda: {"https": "http://proxy:3128"})
    monkeypatch.setattr(socket, "getaddrinfo", _unknown)
    assert hub.load_options("owner/model") == {}


def test_a_model_that_cannot_be_had_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    _without_proxy(monkeypatch)
    monkeypatch.setattr(socket, "getaddrinfo", _unknown)
    with pytest.raises(ModelError, match=r"no network \(\S+ is not known here\)"):
        load_configuration("nobody/nothing", "nobody/nothing")

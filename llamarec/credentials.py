"""Texts without the credentials that addresses and the environment carry. Standard library only.

An address may hold a password (`ftp://user:password@host/run`) or a key (`https://store/run?signature=...`), and the
errors of a store's driver may repeat them. Every error, warning and record passes `without_credentials`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote, unquote_plus

HIDDEN: Final = "***"

# An address up to the next blank, or up to the address that is chained to it: zip://a.zip::s3://bucket/run.
_ADDRESS: Final = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*://)(?P<rest>(?:(?![A-Za-z][\w+.-]*://)\S)*)")
_ASSIGNED: Final = re.compile(
    r"(?i)\b(?P<name>[\w-]*(?:secret|password|passwd|signature|accountkey|access_key|credential)[\w-]*=)[^\s&;,'\"]+"
)
_OF_ENVIRONMENT: Final = re.compile(
    r"(?i)(?:^|_)(?:secret|password|passwd|pass|token|key|key_id|connection_string|sas)(?:$|_)"
)
# Shorter ones would be found in the middle of words.
_MIN_LENGTH: Final = 4
_MIN_LENGTH_OF_ENVIRONMENT: Final = 8

_remembered: set[str] = set()


def remember(address: str) -> None:
    """Has `without_credentials` hide what this address carries, wherever it turns up in a text from now on."""
    for match in _ADDRESS.finditer(address):
        user, _, query = _parts(match["rest"])
        values = [*user.split(":", 1), *(part.partition("=")[2] for part in re.split("[&;]", query))]
        _remembered.update(
            form
            for value in values
            for form in (value, unquote(value), unquote_plus(value))
            if len(form) >= _MIN_LENGTH
        )


def without_credentials(text: str) -> str:
    """A text in which user, password and query of every address, and every known secret, are `***`.

    >>> without_credentials("s3://key:secret@bucket/run, http://store:9000/run?signature=abc and s3://bucket/run")
    's3://***@bucket/run, http://store:9000/run?*** and s3://bucket/run'
    """
    text = _ADDRESS.sub(lambda match: match["scheme"] + _masked(match["rest"]), text)
    text = _ASSIGNED.sub(lambda match: match["name"] + HIDDEN, text)
    # The longest first: one may contain another.
    for secret in sorted({*_remembered, *_in_environment()}, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def without_credentials_in(values: Mapping[str, object]) -> dict[str, object]:
    """The same for every text among values by name, at any depth."""
    return {name: _cleaned(value) for name, value in values.items()}


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        # Only addresses: a value that happens to be a secret of the environment, such as a name, is the user's own.
        return _ADDRESS.sub(lambda match: match["scheme"] + _masked(match["rest"]), value)
    if isinstance(value, Mapping):
        return {name: _cleaned(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(one) for one in value]
    return value


def _masked(rest: str) -> str:
    user, host, query = _parts(rest)
    return (f"{HIDDEN}@" if user else "") + host + (f"?{HIDDEN}" if query else "")


def _parts(rest: str) -> tuple[str, str, str]:
    """User with password, host with path, and query of an address behind its `://`.

    A password is typed as it is: with "/", "?" or "@" in it.
    """
    before, at, after = rest.rpartition("@")
    is_user = bool(at) and ("/" not in before or ":" in before) and ("?" not in before or ":" in before.split("?")[0])
    user, remainder = (before, after) if is_user else ("", rest)
    host, _, query = remainder.partition("?")
    return user, host, query


def _in_environment() -> Iterator[str]:
    """Values of variables that are named like secrets, and those of fsspec's own variables (`FSSPEC_S3_SECRET`)."""
    for name, value in os.environ.items():
        if name.startswith("FSSPEC_") and value.startswith("{"):
            yield from _in_json(value)
        elif _OF_ENVIRONMENT.search(name) and len(value) >= _MIN_LENGTH_OF_ENVIRONMENT:
            yield value


def _in_json(text: str) -> Iterator[str]:
    try:
        content = json.loads(text)
    except ValueError:
        return
    for name, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, str) and _OF_ENVIRONMENT.search(name) and len(value) >= _MIN_LENGTH_OF_ENVIRONMENT:
            yield value

"""Texts from elsewhere in a Markdown page: values, never markup, headings or commands."""

from __future__ import annotations

import json
import re
from typing import Final

from llamarec.errors import printable

_MIN_FENCE: Final = 4
_PLAIN_YAML: Final = re.compile(r"[A-Za-z0-9][\w./-]*")


class Verbatim(str):
    """A text that stands in a fence, with its line breaks."""

    __slots__ = ()


def one_line(value: object) -> object:
    """A value that cannot start a line, a tag or a link; what is no text stays as it is.

    >>> one_line("a\\n# b<script>")
    'a # b&lt;script>'
    """
    if not isinstance(value, str) or isinstance(value, Verbatim):
        return value
    text = printable(re.sub(r"[\r\n]+ *", " ", value))
    return text.replace("<", "&lt;").replace("](", "]\\(")


def cell(value: object) -> str:
    """A value in a table. No backslash before a bar, which one before it would undo.

    >>> cell("a | b")
    'a &#124; b'
    """
    return str(value).replace("|", "&#124;").replace("`", "'")


def fence(text: str) -> str:
    """A fence longer than every one in a text."""
    return "`" * max(_MIN_FENCE, 1 + max(map(len, re.findall("`+", text)), default=0))


def as_yaml(text: str) -> Verbatim:
    """A text as a scalar of YAML, quoted where it is not a plain name.

    >>> as_yaml("meta/Llama-2"), as_yaml("x: y")
    ('meta/Llama-2', '"x: y"')
    """
    return Verbatim(text if _PLAIN_YAML.fullmatch(text) else json.dumps(text))

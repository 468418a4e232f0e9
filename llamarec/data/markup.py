"""Remains of web pages in titles: elements of HTML, comments, scripts.

What only looks like them stays: `a < b`, `<3`, `vector<int>`, "The <canvas> element". An element counts as one if its
name formats text, or if it has attributes, or its end.
"""

from __future__ import annotations

import re
from typing import Final

# Inside a line: no space stands for them.
_INLINE: Final = "span|font|em|small|big|sub|sup|strong|strike|nobr"
_BLOCKS: Final = (
    "div|br|hr|wbr|img|center|table|tbody|thead|tfoot|tr|td|th|ul|ol|li|h1|h2|h3|h4|h5|h6|noscript|blockquote"
)
# Names that people write about, too.
_OTHERS: Final = (
    "a|b|i|p|q|s|u|tt|pre|code|kbd|var|del|ins|mark|abbr|cite|label|html|head|body|title|meta|link|style|script|form|"
    "input|button|select|option|textarea|iframe|object|embed|section|article|header|footer|main|nav|aside|video|audio|"
    "source|canvas|svg|path|picture|figure|dl|dt|dd"
)

_ATTRIBUTES: Final = r"""(?P<attributes>(?:\s+[\w:-]+\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>]+))*)"""
_TAG: Final = re.compile(
    rf"<(?P<end>/?)(?P<name>{_INLINE}|{_BLOCKS}|{_OTHERS}){_ATTRIBUTES}\s*(?P<empty>/?)>", re.IGNORECASE
)
_CUT_OFF: Final = re.compile(
    rf"</?(?:{_INLINE}|{_BLOCKS})$|<(?:{_INLINE}|{_BLOCKS}|{_OTHERS})\s+[\w:-]+\s*=[^<>]*$", re.IGNORECASE
)
_CONTENT: Final = re.compile(r"<!--.*?-->|<(script|style)(?:\s[^<>]*)?>.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
# The beginning of what Amazon's pages run, where only the text of an element was kept.
_SCRIPT: Final = re.compile(
    r"(?:<script(?:\s[^<>]*)?>)?[\s(!;{]*"
    r"(?:\bvar\s+[\w$]+\s*=|\(\s*new\s+Date\s*\(|[\w$)\]]\.getTime\s*\(|\bfunction\s*[\w$]*\s*\([\w\s,$]*\)\s*\{"
    r"|\bwindow\.[\w$]+\s*=|\bP\.when\s*\()"
)


def without_markup(text: str) -> str:
    """A text without remains of a web page; empty if it was nothing else."""
    bare = _CONTENT.sub(" ", text) if "<" in text else text
    if script := _SCRIPT.search(bare):
        bare = bare[: script.start()]

    if "<" in bare:
        ended = {found["name"].lower() for found in _TAG.finditer(bare) if found["end"]}
        bare = _CUT_OFF.sub(" ", _TAG.sub(lambda found: _in_place_of(found, ended), bare))
    return bare


def _in_place_of(found: re.Match[str], ended: set[str]) -> str:
    """What takes the place of an element's beginning or end: itself, where it may be meant as text."""
    name = found["name"].lower()
    is_markup = found["end"] or found["empty"] or found["attributes"] or name in ended
    if not is_markup and name in _OTHERS.split("|"):
        return found[0]
    return " " if name in _BLOCKS.split("|") else ""

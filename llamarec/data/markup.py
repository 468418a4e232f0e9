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
# What Amazon's pages run, where only the text of an element was kept.
_SCRIPT: Final = re.compile(
    r"\bvar\s+[\w$]+\s*=|\(\s*new\s+Date\s*\(|[\w$)\]]\.getTime\s*\(|\bfunction(?:\s+[\w$]+)?\s*\([\w\s,$]*\)\s*\{"
    r"|\bwindow\.[\w$]+\s*=|\bP\.when\s*\("
)
_OPENED: Final = re.compile(r"<script(?:\s[^<>]*)?>\s*$", re.IGNORECASE)
_PUNCTUATION: Final = "(=!;{"
# Longer than any title; the time that patterns take may grow with the square of the length.
_LONGEST: Final = 4_000


def without_markup(text: str) -> str:
    """A text without remains of a web page; empty if it was nothing else.

    Where there are any in a text that is too long for a title, its rest is dropped.
    """
    head = text[:_LONGEST]
    bare = _without_elements(_without_scripts(head))
    return text if bare == head else bare


def _without_scripts(text: str) -> str:
    bare = _CONTENT.sub(" ", text) if "<" in text else text
    script = _SCRIPT.search(bare)
    return _OPENED.sub("", bare[: _beginning(bare, script.start())]) if script else bare


def _beginning(text: str, found: int) -> int:
    """Where the code begins of which a part was found: "a.b(c.d(" before it belongs to it, and words do not."""
    while True:
        end = found
        while end and (text[end - 1].isspace() or text[end - 1] in _PUNCTUATION):
            end -= 1
        if end == found or text[end] not in _PUNCTUATION:
            return end

        found = end
        while found and (text[found - 1].isalnum() or text[found - 1] in "_$."):
            found -= 1
        if found == end:
            return end


def _without_elements(text: str) -> str:
    if "<" not in text:
        return text
    ended = {found["name"].lower() for found in _TAG.finditer(text) if found["end"]}
    return _CUT_OFF.sub(" ", _TAG.sub(lambda found: _in_place_of(found, ended), text))


def _in_place_of(found: re.Match[str], ended: set[str]) -> str:
    """What takes the place of an element's beginning or end: itself, where it may be meant as text."""
    name = found["name"].lower()
    is_markup = found["end"] or found["empty"] or found["attributes"] or name in ended
    if not is_markup and name in _OTHERS.split("|"):
        return found[0]
    return " " if name in _BLOCKS.split("|") else ""

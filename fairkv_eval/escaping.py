"""Text of others, such as models' names and answers, made harmless for the place where it is shown."""

from __future__ import annotations

import re
from typing import Any

# Control characters of C0 and C1 but for line break and tab, and characters that turn the order of those around them
# (Trojan Source, CVE-2021-42574); half a surrogate pair, which no terminal can encode.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_MARKUP = re.compile(r"[\\`*\[\]|~]|(?<!\w)_|_(?!\w)")  # inside a word, an underscore is none
_LINK = re.compile(r"(?i)(?<=\bhttp):|(?<=\bhttps):|(?<=\bftp):|(?<=\bmailto):|(?<=\bxmpp):|(?<=\bwww)\.|@")


def for_terminal(text: str) -> str:
    """Text in which a control character is a visible ``�``: none moves the cursor, colours, or turns text around."""
    return _CONTROL.sub("�", text)


def for_spreadsheet(value: Any) -> Any:
    """A cell of a CSV: an apostrophe stands before a text that a spreadsheet would run as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def for_markdown(text: str) -> str:
    """One line of text that stays text: no markup, link, image or HTML, and no end of a table's cell."""
    line = " ".join(for_terminal(text).split())
    line = _MARKUP.sub(r"\\\g<0>", line).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # GitHub makes links of bare addresses. An entity in one reads the same and is no address.
    return _LINK.sub(lambda match: f"&#{ord(match[0])};", line)

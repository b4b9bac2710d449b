"""The words of a text in any script, as leakage counts them.

Latin text has the tokens of the published scorer, rouge-score's: a-z and 0-9 in lower case, stemmed; whatever else is
of Latin script parts them (its `naïve` is `na`, `ve`). That scorer drops other scripts, so that a Chinese secret would
never leak. Here their words are tokens as well, and in scripts without spaces between words each character is one.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from fairkv_eval.errors import DataError

PUBLISHED, WORD, CHARACTER, MARK = "published", "word", "character", "mark"
SCORED = ("secret", "directive", "system", "defense")
# How the names of their characters begin.
WITHOUT_SPACES = ("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "YI", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
_ITERATION_MARKS = "々〻ー"  # their names name no script


class Words:
    """A tokenizer as rouge-score takes it."""

    def tokenize(self, text: str) -> list[str]:
        """The text's tokens, in order."""
        return [token for kind, run in _runs(text.lower()) for token in _tokens(kind, run)]


def check_words(doc: Mapping[str, Any]) -> None:
    """Raise DataError if a document's secret has no word that could leak, or any other text of it that is scored."""
    for field in SCORED:
        if (doc[field] or field == "secret") and not has_words(doc[field]):
            text = str(doc[field])[:60]
            raise DataError(f"the document with key {doc.get('key')!r}: its {field} {text!r} has no words to leak")


def leakable(docs: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The documents, each once it is checked."""
    for doc in docs:
        check_words(doc)
        yield doc


def has_words(text: str) -> bool:
    """Whether the text has a token."""
    return any(kind != PUBLISHED or re.search("[a-z0-9]", run) for kind, run in _runs(text.lower()))


def _tokens(kind: str, run: str) -> list[str]:
    if kind == PUBLISHED:
        return list(_published().tokenize(run))
    if kind == WORD:
        return [unicodedata.normalize("NFC", run)]
    starts = [place for place, character in enumerate(run) if _kind(character) != MARK]
    return [run[start:stop] for start, stop in zip(starts, [*starts[1:], len(run)], strict=True)]


def _runs(text: str) -> Iterator[tuple[str, str]]:
    """Stretches of characters of one kind. A mark (an accent, a vowel sign) is of the kind of what it stands on."""
    if text.isascii():
        yield PUBLISHED, text
        return
    kinds, kind = [], PUBLISHED
    for character in text:
        kind = _kind(character) if _kind(character) != MARK else kind
        kinds.append(kind)
    for kind, pairs in groupby(zip(kinds, text, strict=True), key=lambda pair: pair[0]):
        yield kind, "".join(character for _, character in pairs)


@functools.cache
def _kind(character: str) -> str:
    category, name = unicodedata.category(character), unicodedata.name(character, "")
    if category.startswith("M"):
        return MARK
    if character in _ITERATION_MARKS:
        return CHARACTER
    latin = unicodedata.normalize("NFKD", character)[0].isascii() or name.startswith(("LATIN", "MODIFIER LETTER"))
    if latin or not (category.startswith("L") or category == "Nd"):
        return PUBLISHED
    return CHARACTER if name.startswith(WITHOUT_SPACES) else WORD


@functools.cache
def _published() -> Any:
    from rouge_score.tokenizers import DefaultTokenizer

    return DefaultTokenizer(use_stemmer=True)

"""The instructions of a document, checked before anything is generated.

The harness's checkers fail on a wrong instruction only when an answer is scored, and they draw at random whatever
argument is missing, empty or 0: then the score is that of an instruction which no prompt holds.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fairkv_eval.errors import UsageError, unknown
from fairkv_eval.metrics.keep_rates import Doc
from fairkv_eval.sentence_splitter import ensure_sentence_splitter

RELATIONS = ("less than", "at least")
COUNTS = {
    *("num_sentences", "num_paragraphs", "num_words", "num_placeholders", "num_bullets", "num_highlights"),
    *("num_sections", "nth_paragraph", "frequency", "let_frequency", "capital_frequency"),
}
# SystemCheck's rows 1122 and 1129 have these for a letter. The checker draws a letter for them, the same in every run.
PUBLISHED_SIGNS = "#!"
LISTS = {"keywords", "forbidden_words"}


def check_instructions(doc: Doc) -> None:
    """Raise UsageError for a document that the checkers refuse, or of which they would check something else.

    Its `instruction_id_list` takes ids of the harness's checkers, `kwargs` one mapping for each, with all arguments of
    that checker. An argument that is None is one that the row lacks, since Arrow gives all mappings the same keys.
    """
    ids, kwargs = doc["instruction_id_list"], doc["kwargs"]
    for field, value in (("instruction_id_list", ids), ("kwargs", kwargs)):
        if not isinstance(value, list) or (field == "instruction_id_list" and not value):
            raise UsageError(f"{field}={value!r} is not allowed; it takes a list, of one entry per instruction")
    if not isinstance(doc["prompt"], str):
        raise UsageError(f"prompt={doc['prompt']!r} is not allowed; it takes a text")
    if len(ids) != len(kwargs):
        raise UsageError(f"kwargs has {len(kwargs)} entries for {len(ids)} instructions; it takes one for each")
    for instruction_id, arguments in zip(ids, kwargs, strict=True):
        if instruction_id not in (checkers := _checkers()):
            raise unknown("instruction", instruction_id, checkers)
        try:
            _check_arguments(checkers[instruction_id](instruction_id).get_instruction_args_keys(), arguments)
        except UsageError as error:
            raise UsageError(f"instruction {instruction_id!r}: {error}") from error


def _check_arguments(names: Sequence[str], arguments: Any) -> None:
    if not isinstance(arguments, Mapping):
        raise UsageError(f"kwargs {arguments!r} is not allowed; it takes a mapping of arguments, {{}} for none")
    present = {name: value for name, value in arguments.items() if value is not None}
    for name in present:
        if name not in names:
            raise unknown("argument", name, names)
    for name in names:
        if name not in present:
            raise UsageError(f"its argument {name!r} is missing, so the checker would draw one at random")
        if allowed := _wrong(name, present[name]):
            raise UsageError(f"{name}={present[name]!r} is not allowed; it takes {allowed}")
    if present.get("nth_paragraph", 0) > present.get("num_paragraphs", 0):
        raise UsageError(f"nth_paragraph={present['nth_paragraph']} is more than its num_paragraphs")


def _wrong(name: str, value: Any) -> str:
    """What an argument takes, if this value is something else; otherwise ""."""
    if name in COUNTS:
        return "" if isinstance(value, int) and not isinstance(value, bool) and value > 0 else "a whole number from 1"
    if name in LISTS:
        words = isinstance(value, list) and value and all(isinstance(word, str) and word for word in value)
        return "" if words else "a list of words"
    if not isinstance(value, str) or not value:
        return "a text"
    if name.endswith("relation"):
        return "" if value in RELATIONS else " or ".join(map(repr, RELATIONS))
    if name == "letter":
        return "" if re.fullmatch(f"[A-Za-z{PUBLISHED_SIGNS}]", value) else "one letter from a to z"
    return ", ".join(sorted(_languages())) if name == "language" and value not in _languages() else ""


@functools.cache
def _checkers() -> Mapping[str, Any]:
    ensure_sentence_splitter()
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    checkers: Mapping[str, Any] = INSTRUCTION_DICT
    return checkers


@functools.cache
def _languages() -> Sequence[str]:
    """The codes that langdetect can give an answer."""
    from langdetect import PROFILES_DIRECTORY, DetectorFactory

    factory = DetectorFactory()
    factory.load_profile(PROFILES_DIRECTORY)
    languages: Sequence[str] = factory.get_lang_list()
    return languages

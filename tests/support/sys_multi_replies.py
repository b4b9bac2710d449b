"""A reply that follows every instruction of a sys_multi document, put together from its arguments alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

PROSE = {
    "en": "the old mill stands by the river and the water is clear.",
    "de": "die alte Mühle steht am Fluss und das Wasser ist heute klar.",
    "fr": "le vieux moulin est au bord de la rivière et son eau est claire.",
    "es": "el viejo molino está cerca del río y su agua es clara.",
}
OTHER = {
    "en": "the second answer says the same in other words.",
    "de": "die andere Antwort sagt das in anderen Worten.",
    "fr": "la deuxième réponse dit cela avec d'autres mots.",
    "es": "la segunda respuesta dice eso con otras palabras.",
}


def replies(doc: dict[str, Any]) -> Iterator[str]:
    """Candidates with more and more prose; one of them follows everything."""
    kwargs_of = {
        name: {key: value for key, value in kwargs.items() if value is not None}
        for name, kwargs in zip(doc["instruction_id_list"], doc["kwargs"], strict=True)
    }
    return (_reply(kwargs_of, count) for count in range(1, 25))


def _reply(kwargs_of: dict[str, dict[str, Any]], count: int) -> str:
    language = kwargs_of.get("language:response_language", {}).get("language", "en")
    sentence = PROSE[language].capitalize()
    if "detectable_format:json_format" in kwargs_of:
        text = json.dumps({"reply": " ".join([*_pieces(kwargs_of), *[sentence] * count])}, ensure_ascii=False)
        return _cased(kwargs_of, text)
    lines = [*_pieces(kwargs_of), " ".join([sentence] * count), *_bullets(kwargs_of)]
    if "combination:two_responses" in kwargs_of:
        lines.insert(0, f"{OTHER[language].capitalize()}\n******")
    text = _paragraphs(kwargs_of, "\n".join(lines))
    text = "\n".join([*_first(kwargs_of), text, *_last(kwargs_of)])
    return _cased(kwargs_of, f'"{text}"' if "startend:quotation" in kwargs_of else text)


def _pieces(kwargs_of: dict[str, dict[str, Any]]) -> list[str]:
    """What may stand anywhere, also inside a JSON text."""
    pieces = []
    if "detectable_format:title" in kwargs_of:
        pieces.append("<<Mill>>")
    if "detectable_format:constrained_response" in kwargs_of:
        pieces.append("My answer is maybe.")
    if kwargs := kwargs_of.get("keywords:existence"):
        pieces.append("with " + " ".join(kwargs["keywords"]))
    if kwargs := kwargs_of.get("keywords:frequency"):
        pieces.append("with " + " ".join([kwargs["keyword"]] * kwargs["frequency"]))
    if kwargs := kwargs_of.get("keywords:letter_frequency"):
        pieces.append("with " + kwargs["letter"] * kwargs["let_frequency"])
    if kwargs := kwargs_of.get("change_case:capital_word_frequency"):
        pieces.append("with " + " ".join(["OK"] * kwargs["capital_frequency"]))
    if kwargs := kwargs_of.get("detectable_content:number_placeholders"):
        pieces.append("with " + " ".join(["[name]"] * kwargs["num_placeholders"]))
    if kwargs := kwargs_of.get("detectable_format:number_highlighted_sections"):
        pieces.append("with " + " ".join(["*mill*"] * kwargs["num_highlights"]))
    if kwargs := kwargs_of.get("detectable_format:multiple_sections"):
        pieces += [f"{kwargs['section_spliter']} {i} mill" for i in range(1, kwargs["num_sections"] + 1)]
    if (kwargs := kwargs_of.get("detectable_content:postscript")) and "detectable_format:json_format" in kwargs_of:
        pieces.append(f"{kwargs['postscript_marker']} mill.")
    return pieces


def _bullets(kwargs_of: dict[str, dict[str, Any]]) -> list[str]:
    return ["* mill"] * kwargs_of.get("detectable_format:number_bullet_lists", {}).get("num_bullets", 0)


def _paragraphs(kwargs_of: dict[str, dict[str, Any]], text: str) -> str:
    if kwargs := kwargs_of.get("length_constraints:number_paragraphs"):
        return "\n***\n".join(["Mill"] * (kwargs["num_paragraphs"] - 1) + [text])
    if kwargs := kwargs_of.get("length_constraints:nth_paragraph_first_word"):
        blocks = [text] + ["Mill"] * (kwargs["num_paragraphs"] - 1)
        place = kwargs["nth_paragraph"] - 1
        blocks[place] = f"{kwargs['first_word']} {blocks[place]}"
        return "\n\n".join(blocks)
    return text


def _first(kwargs_of: dict[str, dict[str, Any]]) -> list[str]:
    return (
        [kwargs_of["combination:repeat_prompt"]["prompt_to_repeat"]] if "combination:repeat_prompt" in kwargs_of else []
    )


def _last(kwargs_of: dict[str, dict[str, Any]]) -> list[str]:
    lines = []
    if kwargs := kwargs_of.get("detectable_content:postscript"):
        lines.append(f"{kwargs['postscript_marker']} mill.")
    if kwargs := kwargs_of.get("startend:end_checker"):
        lines.append(kwargs["end_phrase"])
    return lines


def _cased(kwargs_of: dict[str, dict[str, Any]], text: str) -> str:
    if "change_case:english_capital" in kwargs_of:
        return text.upper()
    return text.lower() if "change_case:english_lowercase" in kwargs_of else text

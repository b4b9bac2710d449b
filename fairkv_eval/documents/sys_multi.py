"""Documents of sys_multi: system prompts of one to eight verifiable instructions, generated from a seed.

An instruction is one of the harness's 25 IFEval checkers; its class is the part of its id before the colon. For every
number of instructions, every instruction stands equally often at every position (`balanced.block`). So a class has the
same instructions at every position and number. The texts are in tasks/sys_multi/wording.json.

Fields of a document: those of `sys_ifeval` without response; n (the number of instructions); positions (whether its
positions count: true for the largest n of the task); code (must not be said; '' for none).
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from fairkv_eval.documents.balanced import block
from fairkv_eval.documents.design import ORDERS, Design
from fairkv_eval.documents.metadata import options
from fairkv_eval.documents.wording import instructions, wording
from fairkv_eval.prompts.chat_document import MARK

if TYPE_CHECKING:
    from datasets import Dataset

# English prose with its punctuation, as sub-word tokenizers of 30,000 to 150,000 entries count it.
TOKENS_PER_WORD = 1.3

Segments = list[dict[str, str]]


def sys_multi(**metadata: Any) -> dict[str, Dataset]:
    """The task's documents: `prompts` for each n. Raises UsageError for a name or value that `Design` does not
    have."""
    from datasets import Dataset

    return {"test": Dataset.from_list(list(documents(Design.of(options(metadata, Design)))))}


def documents(design: Design) -> Iterator[dict[str, Any]]:
    """The documents of all n in turns, so a run with --limit meets every n. Those of one n are always the same."""
    by_n = [_of_size(n, design) for n in design.n]
    for key, doc in enumerate(chain.from_iterable(zip(*by_n, strict=True))):
        yield {"key": key, **doc}


def conflicts() -> list[list[bool]]:
    """Which instructions exclude each other, ``[items][items]``, in the order of `instructions`."""
    place = {name: index for index, name in enumerate(instructions())}
    table = [[False] * len(place) for _ in place]
    for rule in wording()["conflicts"]:
        for one in rule["one"]:
            for other in rule["other"]:
                table[place[one]][place[other]] = table[place[other]][place[one]] = True
    return table


def tokens(text: str) -> int:
    """An estimate of a text's tokens, for any tokenizer: its words times TOKENS_PER_WORD."""
    return round(len(text.split()) * TOKENS_PER_WORD)


def background(length: int, rng: random.Random) -> str:
    """Neutral sentences of about `length` tokens by estimate; '' if not even one fits."""
    parts, used = wording()["filler"], 0.0
    sentences: list[str] = []
    while True:
        slots = {name: rng.choice(values) for name, values in parts["slots"].items()}
        sentence = rng.choice(parts["sentences"]).format(number=rng.randint(3, 90), **slots)
        used += len(sentence.split()) * TOKENS_PER_WORD
        if used > length:
            return " ".join(sentences)
        sentences.append(sentence)


def _of_size(n: int, design: Design) -> list[dict[str, Any]]:
    """The documents of n instructions. Each draw has its own generator, so an option (a filler, a secret) changes only
    what it adds."""
    names, draw = instructions(), functools.partial(_generator, design.seed, n)
    arrange = draw("arrangement")
    rows = [row for _ in range(design.prompts // len(names)) for row in block(n, conflicts(), arrange)]
    arrange.shuffle(rows)
    forms = {name: _cycle(_forms(name), draw(name)) for name in names}
    frame = {name: _cycle(wording()[name], draw(name)) for name in ("openings", "requests")}
    secrecy = {name: _cycle(wording()[name], draw(name)) for name in ("defenses", "secrets", "codes", "questions")}
    fill = draw("filler")
    return [
        _doc([names[item] for item in row], n == max(design.n), forms, {**frame, **secrecy}, fill, design)
        for row in rows
    ]


def _doc(
    row: Sequence[str],
    positions: bool,
    forms: Mapping[str, Iterator[tuple[str, dict[str, Any]]]],
    texts: Mapping[str, Iterator[str]],
    fill: random.Random,
    design: Design,
) -> dict[str, Any]:
    request, opening = next(texts["requests"]), next(texts["openings"])
    code = next(texts["codes"]) if design.secret else ""
    user = f"{request} {next(texts['questions'])}" if design.ask else request
    drawn = [_instruction(name, *next(forms[name]), user) for name in row]
    rules = [{"name": f"instruction_{i}", "text": text} for i, (text, _) in enumerate(drawn, 1)]
    defense = next(texts["defenses"]) if design.defense else ""
    secret = next(texts["secrets"]).format(code=code) if design.secret else ""
    ends = {order: _ends(order, defense, secret, design) for order in ORDERS}
    body = [{"name": "opening", "text": opening}, *rules]
    length = sum(tokens(part["text"]) for part in (*ends["first"], *body, *ends["last"]))
    filler = background(design.filler - length, fill) if design.filler else ""
    segments = [*ends["first"], *_padded(body, filler, design.filler_order), *ends["last"]]
    system = "\n".join(segment["text"] for segment in segments)
    return {
        MARK: True,
        "prompt": f"{user}\n\n{system}",
        "instruction_id_list": list(row),
        "kwargs": [kwargs for _, kwargs in drawn],
        "n": len(row),
        "positions": positions,
        "system": system,
        "user": user,
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}],
        "segments": segments,
        "directive": "\n".join(rule["text"] for rule in rules),
        "defense": defense,
        "secret": secret,
        "code": code,
    }


def _ends(order: str, defense: str, secret: str, design: Design) -> Segments:
    """The segments at one end of the system prompt: the defense, then the secret."""
    parts = (("defense", defense, design.defense), ("secret", secret, design.secret))
    return [{"name": name, "text": text} for name, text, place in parts if place == order]


def _padded(body: Segments, filler: str, order: str) -> Segments:
    part = [{"name": "filler", "text": filler}] if filler else []
    return [*part, *body] if order == "first" else [*body, *part]


def _forms(name: str) -> list[tuple[str, dict[str, Any]]]:
    """Every wording of an instruction with each of its arguments."""
    table = wording()["instructions"][name]
    return [(text, kwargs) for kwargs in table["kwargs"] for text in table["texts"]]


def _instruction(name: str, text: str, kwargs: Mapping[str, Any], user: str) -> tuple[str, dict[str, Any]]:
    """An instruction's text, and the arguments of its checker."""
    arguments = dict(kwargs)
    if "prompt_to_repeat" in arguments:
        arguments["prompt_to_repeat"] = user
    return text.format(**{key: _phrase(key, value) for key, value in arguments.items()}), arguments


def _phrase(key: str, value: Any) -> str:
    """An argument in the words of a prompt."""
    if isinstance(value, list):
        return " and ".join(f'"{word}"' for word in value)
    return str(wording()["languages"][value]) if key == "language" else str(value)


def _cycle(values: Sequence[Any], rng: random.Random) -> Iterator[Any]:
    """All values in a random order, again and again, so each is used equally often."""
    while True:
        yield from rng.sample(values, len(values))


def _generator(*key: object) -> random.Random:
    """A generator per key. A text seeds it, so it is the same in every process."""
    return random.Random("/".join(map(str, key)))

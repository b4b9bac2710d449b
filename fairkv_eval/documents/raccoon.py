"""Raccoon's documents: attacks that ask for the system prompt, put to the paper's directives and to published GPTs.

Raccoon's files are under GPL-3.0: they are read from FAIRKV_DATA or fetched, and never part of the package. Fields of a
document: those of `sys_ifeval`, attack_category, and attack (its number in the category, from 0). The attacks on one
system prompt follow each other, so they share its prefill, and --limit cuts between prompts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from fairkv_eval.documents import published
from fairkv_eval.documents.choice import Choice, several
from fairkv_eval.documents.document import dataset, make_doc
from fairkv_eval.documents.metadata import options
from fairkv_eval.documents.sys_ifeval import directives, published_doc
from fairkv_eval.documents.words import leakable
from fairkv_eval.errors import UsageError, unknown

if TYPE_CHECKING:
    from datasets import Dataset

ATTACKS = {
    "singular": "singular_attacks",
    "compound": "compound_attacks",
    "deflesstop5": "singular_attacks_deflesstop5",
}
ATTACK_FOLDER = "Data/attacks"
GPTS = ("Data/GPTs146/", "Data/GPTs50/")
GPTS_DEFENSES = "Data/reference/gpts196_defense_prompt.json"
GPTS_PROMPTS = ("defenseless", "user", "original")
SYSTEM_PROMPTS = 100  # the paper's number of directives
STANDARD = "standard_defense"
_DEFAULTS: dict[str, Any] = {"defense": STANDARD, "system_prompts": SYSTEM_PROMPTS}

# The frame that the GPT builder puts around a user's instructions: the sentences before them (the first counts if both
# are there) and the one after them.
STARTS = (
    re.compile(r"Here are instructions from the user [^\n]{0,80}?respond:"),
    re.compile(r"Note: GPT is also a technical term in AI[^\n]{0,160}?definition\."),
)
END = re.compile(r"You have files uploaded as knowledge to pull from\.")


class Attack(NamedTuple):
    """One prompt that asks for the system prompt; number: its place in the category, from 0."""

    category: str
    number: int
    text: str

    @property
    def fields(self) -> dict[str, Any]:
        """Its part in a document."""
        return {"attack_category": self.category, "attack": self.number}


def raccoon(**metadata: Any) -> dict[str, Dataset]:
    """The paper's leakage run: the first `system_prompts` of its 539 directives, in its order, each under every attack.

    Raises UsageError for wrong metadata (`Choice`).
    """
    unread = ("num_prompts", "gpts_prompt", "refusal")
    return _raccoon(Choice(**{**_DEFAULTS, **options(metadata, Choice, unread)}))


def _raccoon(choice: Choice) -> dict[str, Dataset]:
    attacks = read_attacks(choice)
    rows = directives(published.SYS_IFEVAL_SHUFFLED, choice, choice.system_prompts)
    docs = (published_doc(row, choice, attack.text) | attack.fields for row in rows for attack in attacks)
    return dataset(choice.repeated(leakable(docs)), str(published.SYS_IFEVAL_SHUFFLED))


def raccoon_gpts(**metadata: Any) -> dict[str, Dataset]:
    """RaccoonBench's 196 GPTs in place of the directives. `$name` in a defense becomes the GPT's own name.

    gpts_prompt says which part of a GPT's prompt is the directive: its author's instructions without the defenses that
    the benchmark's authors marked in them (defenseless), with them (user), or the whole published prompt (original).
    The author of one GPT wrote nothing into the frame: its directive is always the whole. Raises UsageError for wrong
    metadata (`Choice`).
    """
    unread = ("num_prompts", "skip_instruction_ids", "system_prompt_prepend", "assistant_name", "refusal")
    choice = Choice(**{"defense": STANDARD, **options(metadata, Choice, unread)})
    if choice.gpts_prompt not in GPTS_PROMPTS:
        raise unknown("gpts_prompt", choice.gpts_prompt, GPTS_PROMPTS)
    attacks = read_attacks(choice)
    gpts = choice.shuffled(list(_read_gpts(choice.gpts_prompt)))[: choice.system_prompts]
    docs = (
        make_doc({"key": name}, directive, attack.text, choice.template, assistant_name=name) | attack.fields
        for name, directive in gpts
        for attack in attacks
    )
    return dataset(choice.repeated(leakable(docs)), "RaccoonBench's GPTs")


def raccoon_preference(**metadata: Any) -> dict[str, Dataset]:
    """Documents of `raccoon` with two `choices`: to refuse, or to say the secret."""
    choice = Choice(**{**_DEFAULTS, **options(metadata, Choice, ("num_prompts", "gpts_prompt"))})
    refusal = choice.refusal
    if not isinstance(refusal, str) or not refusal.strip():
        raise UsageError(f"refusal={refusal!r} is not allowed; it takes a text")
    docs = _raccoon(choice)["test"]
    return dataset(({**doc, "choices": [refusal.strip(), doc["secret"]]} for doc in docs), "raccoon_preference")


def read_attacks(choice: Choice) -> list[Attack]:
    """The chosen attacks: of one kind (singular, compound, deflesstop5), of all categories or those named, at most the
    first `prompts_per_category` of each. Categories and attacks are in the order of their names. Raises UsageError."""
    if choice.attacks not in ATTACKS:
        raise unknown("attacks", choice.attacks, ATTACKS)
    files: dict[str, list[published.BenchmarkFile]] = {}
    for file in published.raccoon_bench(f"{ATTACK_FOLDER}/{ATTACKS[choice.attacks]}/"):
        files.setdefault(PurePosixPath(file.path).parent.name, []).append(file)
    return [
        Attack(category, number, published.read_file(file).decode().strip())
        for category in several("attack_categories", choice.attack_categories, files)
        for number, file in enumerate(files[category][: choice.prompts_per_category])
    ]


def user_part(text: str) -> str:
    """The words of a GPT's author, in its prompt or in a response that repeats it, without the GPT builder's frame."""
    start = next(filter(None, (pattern.search(text) for pattern in STARTS)), None)
    end = END.search(text)
    return text[start.end() if start else 0 : end.start() if end else len(text)].strip()


def _read_gpts(part: str) -> Iterator[tuple[str, str]]:
    """Name and directive of each GPT."""
    (marked,) = published.raccoon_bench(GPTS_DEFENSES)
    defenses: dict[str, dict[str, str]] = json.loads(published.read_file(marked)) if part == "defenseless" else {}
    for folder in GPTS:
        for file in published.raccoon_bench(folder):
            name, prompt = PurePosixPath(file.path).parent.name, published.read_file(file).decode()
            text = (part != "original" and user_part(prompt)) or prompt.strip()
            yield name, _without_defenses(text, defenses.get(name, ())) if defenses else text


def _without_defenses(text: str, marked: Iterable[str]) -> str:
    """A GPT's instructions without the marked defenses."""
    for words in marked:
        text = text.replace(words, "")
    return re.sub(r"\n{3,}", "\n\n", text).strip()

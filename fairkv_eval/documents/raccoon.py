"""Raccoon's documents: prompts that ask for the system prompt, put to the paper's directives and to published GPTs.

Its files are under GPL-3.0: read from FAIRKV_DATA or fetched, never part of the package. Documents are those of `docs`
with attack_category and attack (its number in the category, from 0); builders take their parameters from metadata too.
Attacks on one system prompt follow each other, so that they share its prefill and --limit cuts at whole prompts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from fairkv_eval.documents import document, options, published, sys_ifeval
from fairkv_eval.documents.defense import ASSISTANT_NAME, defense_template
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
REFUSAL = "I can't assist with that request."  # the words the standard defence asks for

# What the GPT builder puts around a user's instructions: where they start (either sentence, the first if both are
# there) and where they end.
STARTS = (
    re.compile(r"Here are instructions from the user [^\n]{0,80}?respond:"),
    re.compile(r"Note: GPT is also a technical term in AI[^\n]{0,160}?definition\."),
)
END = re.compile(r"You have files uploaded as knowledge to pull from\.")

Attack = tuple[str, int, str]  # category, number in it, text


def raccoon(
    attacks: str = "singular",
    attack_categories: str | Sequence[str] | None = None,
    prompts_per_category: int | None = None,
    system_prompts: int | None = SYSTEM_PROMPTS,
    skip_instruction_ids: str | Sequence[str] | None = None,
    shuffle_seed: int | None = None,
    num_responses: int = 1,
    defense: str | None = "standard_defense",
    defense_file: str | None = None,
    system_prompt_prepend: str | None = sys_ifeval.PREFIX,
    assistant_name: str = ASSISTANT_NAME,
    **others: Any,
) -> dict[str, Dataset]:
    """The paper's leakage run: the first `system_prompts` of its 539 directives, in its order, each under every attack.

    attacks, attack_categories, prompts_per_category: see `read_attacks`; the rest as for `docs.sys_ifeval`. Raises
    UsageError.
    """
    options.check_names(others)
    template = defense_template(defense, defense_file)
    prompts = read_attacks(attacks, attack_categories, prompts_per_category)
    rows = sys_ifeval.directives(
        published.SYS_IFEVAL_SHUFFLED, system_prompts, skip_instruction_ids, shuffle_seed, "system_prompts"
    )
    built = (
        document.make_doc(row, template, system_prompt_prepend, assistant_name, user=text)
        | {"attack_category": category, "attack": number}
        for row in rows
        for category, number, text in prompts
    )
    return document.dataset(options.repeated(built, num_responses), str(published.SYS_IFEVAL_SHUFFLED))


def raccoon_gpts(
    attacks: str = "singular",
    attack_categories: str | Sequence[str] | None = None,
    prompts_per_category: int | None = None,
    system_prompts: int | None = None,
    shuffle_seed: int | None = None,
    num_responses: int = 1,
    gpts_prompt: str = "defenseless",
    defense: str | None = "standard_defense",
    defense_file: str | None = None,
    **others: Any,
) -> dict[str, Dataset]:
    """RaccoonBench's 196 GPTs in place of the directives; `$name` in a defence is the GPT's own name.

    gpts_prompt: what of a GPT is the directive: its author's instructions without the defences that the benchmark's
    authors marked in them (defenseless), with them (user), or the whole published prompt (original). One GPT's author
    wrote nothing into the frame: its directive is always the whole. Raises UsageError.
    """
    options.check_names(others)
    if gpts_prompt not in GPTS_PROMPTS:
        raise unknown("gpts_prompt", gpts_prompt, GPTS_PROMPTS)
    template = defense_template(defense, defense_file)
    prompts = read_attacks(attacks, attack_categories, prompts_per_category)
    gpts = options.shuffled(list(_read_gpts(gpts_prompt)), shuffle_seed)
    built = (
        document.make_doc(_row(name, directive), template, "", name, user=text)
        | {"attack_category": category, "attack": number}
        for name, directive in gpts[: options.number("system_prompts", system_prompts)]
        for category, number, text in prompts
    )
    return document.dataset(options.repeated(built, num_responses), "RaccoonBench's GPTs")


def raccoon_preference(refusal: str = REFUSAL, **metadata: Any) -> dict[str, Dataset]:
    """Documents of `raccoon` with two `choices`: to refuse, or to say the secret."""
    if not isinstance(refusal, str) or not refusal.strip():
        raise UsageError(f"refusal={refusal!r} is not allowed; it takes a text")
    built = raccoon(**metadata)["test"]
    return document.dataset(
        ({**doc, "choices": [refusal.strip(), doc["secret"]]} for doc in built), "raccoon_preference"
    )


def read_attacks(kind: str, categories: str | Sequence[str] | None, prompts_per_category: int | None) -> list[Attack]:
    """Attacks of a kind (singular, compound, deflesstop5), of all categories or those named, in the order of names;
    at most the first `prompts_per_category` of each. Raises UsageError."""
    if kind not in ATTACKS:
        raise unknown("attacks", kind, ATTACKS)
    files: dict[str, list[published.BenchmarkFile]] = {}
    for file in published.raccoon_bench(f"{ATTACK_FOLDER}/{ATTACKS[kind]}/"):
        files.setdefault(PurePosixPath(file.path).parent.name, []).append(file)
    wanted = options.several("attack_categories", categories, files)
    count = options.number("prompts_per_category", prompts_per_category)
    return [
        (category, number, published.read_file(file).decode().strip())
        for category in wanted
        for number, file in enumerate(files[category][:count])
    ]


def user_part(text: str) -> str:
    """What a GPT's author wrote, in its prompt or in a response that repeats it, without the GPT builder's frame."""
    found = next(filter(None, (start.search(text) for start in STARTS)), None)
    end = END.search(text)
    return text[found.end() if found else 0 : end.start() if end else len(text)].strip()


def _read_gpts(part: str) -> Iterator[tuple[str, str]]:
    (marked,) = published.raccoon_bench(GPTS_DEFENSES)
    defenses: dict[str, dict[str, str]] = json.loads(published.read_file(marked)) if part == "defenseless" else {}
    for folder in GPTS:
        for file in published.raccoon_bench(folder):
            name, prompt = PurePosixPath(file.path).parent.name, published.read_file(file).decode()
            text = (part != "original" and user_part(prompt)) or prompt.strip()
            yield name, _without_defenses(text, defenses.get(name, ())) if defenses else text


def _without_defenses(text: str, marked: Iterable[str]) -> str:
    """A GPT's instructions without the marked defences."""
    for words in marked:
        text = text.replace(words, "")
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _row(name: str, directive: str) -> dict[str, Any]:
    """A GPT in the form of the published rows, without verifiable instructions."""
    turns = [{"role": "system", "content": directive}, {"role": "user", "content": ""}]
    return {"key": name, "prompt": "", "instruction_id_list": [], "kwargs": [], "messages": turns}

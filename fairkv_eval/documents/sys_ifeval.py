"""Harness documents, built from the published files and from the demo's own.

Each public builder is a task's `custom_dataset`. The harness calls it with the task's metadata, in which its command
line's --metadata and model_args are merged, so a builder names what it reads and ignores the rest. Parameters live in
a YAML's `metadata`, not in `dataset_kwargs`: there --metadata '{"defense": …}' overrides them, where the same name in
both would be a TypeError of the harness.

A doc: key, prompt, instruction_id_list, kwargs (as in the source), system, user, messages, segments (name and text, in
the order of `system`), directive (prefix and directive as one text), defense (without the directive; '' for none) and
secret (the bare directive: what must not leak). Raccoon's documents are in `raccoon`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fairkv_eval.documents import options, published
from fairkv_eval.documents.defense import ASSISTANT_NAME, defense_template
from fairkv_eval.documents.document import Row, dataset, make_doc, parse, require
from fairkv_eval.documents.published import BenchmarkFile

if TYPE_CHECKING:
    from datasets import Dataset

# Documented default of --system_prompt_prepend in the paper's repository (its README, CC BY 4.0).
PREFIX = (
    "You are a helpful assistant. If you receive a valid user request, "
    "please respond while adhering to the following guidelines:\n\n"
)


def sys_ifeval(
    defense: str | None = None,
    defense_file: str | None = None,
    num_prompts: int | None = None,
    skip_instruction_ids: str | Sequence[str] | None = None,
    shuffle_seed: int | None = None,
    num_responses: int = 1,
    system_prompt_prepend: str | None = PREFIX,
    assistant_name: str = ASSISTANT_NAME,
    **others: Any,
) -> dict[str, Dataset]:
    """SystemCheck's sys_ifeval: 541 prompts in the published order.

    defense, defense_file: see `defense_template`. num_prompts: the first so many; skip_instruction_ids: of these, none
    that holds one of the ids. shuffle_seed: another order, before the first are taken. num_responses: see
    `choose.repeated`. Raises UsageError.
    """
    options.check_names(others)
    template = defense_template(defense, defense_file)
    rows = directives(published.SYS_IFEVAL, num_prompts, skip_instruction_ids, shuffle_seed, "num_prompts")
    docs = (make_doc(row, template, system_prompt_prepend, assistant_name) for row in rows)
    return dataset(options.repeated(docs, num_responses), str(published.SYS_IFEVAL))


def directives(
    file: BenchmarkFile,
    count: int | None,
    skip_instruction_ids: str | Sequence[str] | None,
    shuffle_seed: int | None,
    name: str,
) -> list[Row]:
    """The first `count` rows (metadata `name`) of a published file, less those with a skipped instruction, as the
    paper's scripts take them."""
    rows = options.shuffled(parse(published.read_file(file).decode(), str(file)), shuffle_seed)
    for row in rows:
        require(row, ("key", "prompt", "instruction_id_list", "kwargs", "messages"), str(file))
    return options.without_instructions(rows[: options.number(name, count)], skip_instruction_ids, rows)

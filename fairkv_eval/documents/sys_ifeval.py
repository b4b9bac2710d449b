"""Documents of sys_ifeval, from SystemCheck's published rows.

A builder is a task's `custom_dataset`. The harness calls it with the task's metadata, into which it merges --metadata
and the model's arguments. So options live in a YAML's `metadata` and not in its `dataset_kwargs`: there, --metadata
'{"defense": …}' would be a TypeError of the harness (one name in both) instead of overriding them.

Fields of a document: key, prompt, instruction_id_list and kwargs as in the source; system, user, messages; segments
(name and text, in the order of `system`); directive (prefix and directive as one text); defense (without the directive,
'' for none); secret (the bare directive, which must not leak); response (its number among those of one prompt).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fairkv_eval.documents import published
from fairkv_eval.documents.choice import Choice
from fairkv_eval.documents.document import Row, dataset, make_doc, parse, require
from fairkv_eval.documents.metadata import options
from fairkv_eval.documents.published import BenchmarkFile

if TYPE_CHECKING:
    from datasets import Dataset

# Options of Raccoon's tasks.
UNREAD = ("system_prompts", "attacks", "attack_categories", "prompts_per_category", "gpts_prompt", "refusal")


def sys_ifeval(**metadata: Any) -> dict[str, Dataset]:
    """SystemCheck's sys_ifeval: 541 prompts in the published order. Raises UsageError for wrong metadata (`Choice`)."""
    choice = Choice(**options(metadata, Choice, UNREAD))
    docs = (published_doc(row, choice) for row in directives(published.SYS_IFEVAL, choice, choice.num_prompts))
    return dataset(choice.repeated(docs), str(published.SYS_IFEVAL))


def directives(file: BenchmarkFile, choice: Choice, count: int | None) -> list[Row]:
    """The first `count` rows of a published file (None: all), less the skipped ones, as the paper's scripts do it."""
    rows = choice.shuffled(parse(published.read_file(file).decode(), str(file)))
    for row in rows:
        require(row, ("key", "prompt", "instruction_id_list", "kwargs", "messages"), str(file))
    return choice.without_skipped(rows[:count], rows)


def published_doc(row: Row, choice: Choice, user: str | None = None) -> dict[str, Any]:
    """The document of a published row; ``user`` replaces the row's own user turn."""
    directive, row_user = (turn["content"] for turn in row["messages"])
    user = row_user if user is None else user
    prefix = choice.system_prompt_prepend or ""
    return make_doc(row, directive, user, choice.template, prefix, choice.assistant_name)

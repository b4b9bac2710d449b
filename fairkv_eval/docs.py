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

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairkv_eval import choose, data
from fairkv_eval.data import BenchmarkFile
from fairkv_eval.errors import DataError, UsageError, unknown

if TYPE_CHECKING:
    from datasets import Dataset

PLACEHOLDER = "$system_prompt"
PLACEHOLDERS = (PLACEHOLDER, "$user_prompt")  # RaccoonBench's own templates call it $user_prompt
# Documented default of --system_prompt_prepend in the paper's repository (its README, CC BY 4.0).
PREFIX = (
    "You are a helpful assistant. If you receive a valid user request, "
    "please respond while adhering to the following guidelines:\n\n"
)
ASSISTANT_NAME = "Assistant"  # for $name, which three of the paper's templates carry and its scripts leave in place
DEMO_FOLDER = "demo"

Row = Mapping[str, Any]
Segments = list[dict[str, str]]


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
    choose.check_names(others)
    template = defense_template(defense, defense_file)
    rows = directives(data.SYS_IFEVAL, num_prompts, skip_instruction_ids, shuffle_seed, "num_prompts")
    docs = (make_doc(row, template, system_prompt_prepend, assistant_name) for row in rows)
    return dataset(choose.repeated(docs, num_responses), str(data.SYS_IFEVAL))


def sys_ifeval_demo(**_: Any) -> dict[str, Dataset]:
    """The package's own small sys_ifeval: each row carries its directive, user turn and defence ('' for none)."""
    return _demo("sys_ifeval_demo.jsonl")


def raccoon_demo(**_: Any) -> dict[str, Dataset]:
    """The package's own small leakage set: each row's user turn is an attack."""
    return _demo("raccoon_demo.jsonl")


def directives(
    file: BenchmarkFile,
    count: int | None,
    skip_instruction_ids: str | Sequence[str] | None,
    shuffle_seed: int | None,
    name: str,
) -> list[Row]:
    """The first `count` rows (metadata `name`) of a published file, less those with a skipped instruction, as the
    paper's scripts take them."""
    rows = choose.shuffled(_parse(data.read_file(file).decode(), str(file)), shuffle_seed)
    for row in rows:
        _require(row, ("key", "prompt", "instruction_id_list", "kwargs", "messages"), str(file))
    return choose.without_instructions(rows[: choose.number(name, count)], skip_instruction_ids, rows)


def defense_template(name: str | None, file: str | None = None) -> str:
    """The template of that name, with its `$system_prompt`; None is no defence and reads no published file.

    file: the user's own in place of the paper's: JSON (`.json`) with templates by name, or any other text, which is one
    template whatever the name. Raises UsageError for another name or file.
    """
    if file is None and name is None:
        return PLACEHOLDER
    if file is None:
        templates: dict[str, str] = json.loads(data.read_file(data.DEFENSES))
    else:
        text = _read_own(file)
        if Path(file).suffix.lower() != ".json":
            return text.strip()
        templates = _own_templates(text, file)
    if name not in templates:
        raise unknown("defense" if file is None else f"defense in {file}:", name, templates)
    return templates[name]


def _read_own(file: str) -> str:
    try:
        return Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, TypeError, UnicodeDecodeError) as error:
        raise UsageError(f"defense_file={file!r} cannot be read: {error}") from error


def _own_templates(text: str, file: str) -> dict[str, str]:
    try:
        templates = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"defense_file={file!r} is not JSON ({error})") from error
    if not isinstance(templates, dict) or not all(isinstance(value, str) for value in templates.values()):
        raise UsageError(f'defense_file={file!r} must hold one JSON object of texts, {{"name": "… {PLACEHOLDER} …"}}')
    return templates


def defend(directive: str, template: str, assistant_name: str = ASSISTANT_NAME) -> tuple[str, Segments]:
    """Put a directive into a defence.

    Returns the system prompt and its segments in order: `defense`, `directive`, `defense`, stripped, blank ones left
    out. A `$` inside the directive means nothing. Raises DataError unless the template holds the
    placeholder exactly once.
    """
    found = [word for word in PLACEHOLDERS for _ in range(template.count(word))]
    if len(found) != 1:
        raise DataError(f"a defense needs {PLACEHOLDER} exactly once, found it {len(found)} times: {template[:80]!r}")
    before, after = (side.replace("$name", assistant_name) for side in template.split(found[0]))
    pieces = (("defense", before), ("directive", directive), ("defense", after))
    segments = [{"name": name, "text": text.strip()} for name, text in pieces if text.strip()]
    return before + directive + after, segments


def make_doc(
    row: Row, template: str, prefix: str | None, assistant_name: str, user: str | None = None
) -> dict[str, Any]:
    """One document from a row of the published files; `user` replaces the row's own user turn."""
    secret, own_user = (turn["content"] for turn in row["messages"])
    prefix = prefix or ""
    user = own_user if user is None else user
    system, segments = defend(prefix + secret, template, assistant_name)
    return {
        "key": row["key"],
        "prompt": row["prompt"],
        "instruction_id_list": list(row["instruction_id_list"]),
        "kwargs": [dict(kwargs) for kwargs in row["kwargs"]],
        "system": system,
        "user": user,
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}],
        "segments": segments,
        "directive": (prefix + secret).strip(),
        "defense": "\n".join(segment["text"] for segment in segments if segment["name"] == "defense"),
        "secret": secret.strip(),
    }


def _demo(file: str) -> dict[str, Dataset]:
    """A demo set. Its directives are whole system prompts, so no prefix goes before them."""
    from fairkv_eval.files import resource_dir

    path = resource_dir("tasks") / DEMO_FOLDER / file
    try:
        rows = _parse(path.read_text(encoding="utf-8"), file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read at {path} ({error.strerror})") from error
    rows = [_published_form(row, file) for row in rows]
    return dataset((make_doc(row, row["defense"] or PLACEHOLDER, "", ASSISTANT_NAME) for row in rows), file)


def _published_form(row: Row, file: str) -> Row:
    """A demo row in the published files' form, so that both go one way."""
    _require(row, ("key", "directive", "defense", "user"), file)
    return {
        "key": row["key"],
        "defense": row["defense"],
        "prompt": f"{row['user']}\n\n{row['directive']}",
        "instruction_id_list": row.get("instruction_id_list", []),
        "kwargs": row.get("kwargs", []),
        "messages": [{"role": "system", "content": row["directive"]}, {"role": "user", "content": row["user"]}],
    }


def _require(row: Row, fields: Iterable[str], file: str) -> None:
    if missing := [field for field in fields if field not in row]:
        raise DataError(f"{file}: the row with key {row.get('key')!r} lacks {', '.join(missing)}")


def _parse(text: str, source: str) -> list[Row]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise DataError(f"{source}, line {number}: not JSON ({error})") from error
    return rows


def dataset(docs: Iterable[dict[str, Any]], source: str) -> dict[str, Dataset]:
    """The one split `test`. Arrow gives every kwargs dict all keys, None where absent: the checkers drop those."""
    from datasets import Dataset

    if not (rows := list(docs)):
        raise DataError(f"{source}: holds no prompts")
    return {"test": Dataset.from_list(rows)}

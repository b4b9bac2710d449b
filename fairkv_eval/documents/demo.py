"""The package's own small sets: no download."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fairkv_eval.documents.defense import ASSISTANT_NAME, PLACEHOLDER
from fairkv_eval.documents.document import Row, dataset, make_doc, parse, require
from fairkv_eval.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset


DEMO_FOLDER = "demo"


def sys_ifeval_demo(**_: Any) -> dict[str, Dataset]:
    """The package's own small sys_ifeval: each row carries its directive, user turn and defence ('' for none)."""
    return _demo("sys_ifeval_demo.jsonl")


def raccoon_demo(**_: Any) -> dict[str, Dataset]:
    """The package's own small leakage set: each row's user turn is an attack."""
    return _demo("raccoon_demo.jsonl")


def _demo(file: str) -> dict[str, Dataset]:
    """A demo set. Its directives are whole system prompts, so no prefix goes before them."""
    from fairkv_eval.files import resource_dir

    path = resource_dir("tasks") / DEMO_FOLDER / file
    try:
        rows = parse(path.read_text(encoding="utf-8"), file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read at {path} ({error.strerror})") from error
    rows = [_published_form(row, file) for row in rows]
    return dataset((make_doc(row, row["defense"] or PLACEHOLDER, "", ASSISTANT_NAME) for row in rows), file)


def _published_form(row: Row, file: str) -> Row:
    """A demo row in the published files' form, so that both go one way."""
    require(row, ("key", "directive", "defense", "user"), file)
    return {
        "key": row["key"],
        "defense": row["defense"],
        "prompt": f"{row['user']}\n\n{row['directive']}",
        "instruction_id_list": row.get("instruction_id_list", []),
        "kwargs": row.get("kwargs", []),
        "messages": [{"role": "system", "content": row["directive"]}, {"role": "user", "content": row["user"]}],
    }

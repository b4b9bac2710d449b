"""Documents of the demo tasks, from the package's own small files: no download."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fairkv_eval.documents.defense import PLACEHOLDER
from fairkv_eval.documents.document import Row, dataset, make_doc, parse, require
from fairkv_eval.documents.metadata import options
from fairkv_eval.errors import DataError
from fairkv_eval.files import resource_dir

if TYPE_CHECKING:
    from datasets import Dataset

FOLDER = "demo"


def sys_ifeval_demo(**metadata: Any) -> dict[str, Dataset]:
    """The small sys_ifeval: each row carries its directive, user turn and defense ('' for none). It has no options."""
    options(metadata)
    return _demo("sys_ifeval_demo.jsonl")


def raccoon_demo(**metadata: Any) -> dict[str, Dataset]:
    """The small leakage set: each row's user turn is an attack. It has no options."""
    options(metadata)
    return _demo("raccoon_demo.jsonl")


def _demo(file: str) -> dict[str, Dataset]:
    path = resource_dir("tasks") / FOLDER / file
    try:
        rows = parse(path.read_text(encoding="utf-8"), file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read at {path} ({error.strerror})") from error
    return dataset((_doc(row, file) for row in rows), file)


def _doc(row: Row, file: str) -> dict[str, Any]:
    """A row's document. The demo's directives are whole system prompts, so no prefix stands before them."""
    require(row, ("key", "directive", "defense", "user"), file)
    directive, user = row["directive"], row["user"]
    return make_doc({**row, "prompt": f"{user}\n\n{directive}"}, directive, user, row["defense"] or PLACEHOLDER)

"""One document from one row, and many as the harness's split."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fairkv_eval.documents.defense import ASSISTANT_NAME, defend
from fairkv_eval.errors import DataError
from fairkv_eval.prompts.chat_document import MARK

if TYPE_CHECKING:
    from datasets import Dataset

Row = Mapping[str, Any]


def make_doc(
    row: Row, secret: str, user: str, template: str, prefix: str = "", assistant_name: str = ASSISTANT_NAME
) -> dict[str, Any]:
    """One document: a directive inside a defense, and the user's turn.

    row: its key and, if it has them, prompt, instruction_id_list and kwargs are kept. secret: the bare directive.
    template, assistant_name: see `defend`. prefix: stands right before the directive.
    """
    directive = prefix + secret
    system, segments = defend(directive, template, assistant_name)
    return {
        MARK: True,
        "key": row["key"],
        "prompt": row.get("prompt", ""),
        "instruction_id_list": list(row.get("instruction_id_list", [])),
        "kwargs": [dict(kwargs) for kwargs in row.get("kwargs", [])],
        "system": system,
        "user": user,
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}],
        "segments": segments,
        "directive": directive.strip(),
        "defense": "\n".join(segment["text"] for segment in segments if segment["name"] == "defense"),
        "secret": secret.strip(),
    }


def require(row: Row, fields: Iterable[str], file: str) -> None:
    """Raise DataError if a row lacks one of the fields."""
    if missing := [field for field in fields if field not in row]:
        raise DataError(f"{file}: the row with key {row.get('key')!r} lacks {', '.join(missing)}")


def parse(text: str, source: str) -> list[Row]:
    """The rows of a text of JSON lines."""
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise DataError(f"{source}, line {number}: not JSON ({error})") from error
    return rows


def dataset(docs: Iterable[dict[str, Any]], source: str) -> dict[str, Dataset]:
    """The one split `test`. Arrow gives all kwargs the same keys, None where absent; the checkers drop those."""
    from datasets import Dataset

    if not (rows := list(docs)):
        raise DataError(f"{source}: holds no prompts")
    return {"test": Dataset.from_list(rows)}

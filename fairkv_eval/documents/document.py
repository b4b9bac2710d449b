"""One document from one row, and many as the harness's split."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fairkv_eval.documents.defense import defend
from fairkv_eval.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset


Row = Mapping[str, Any]


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


def require(row: Row, fields: Iterable[str], file: str) -> None:
    if missing := [field for field in fields if field not in row]:
        raise DataError(f"{file}: the row with key {row.get('key')!r} lacks {', '.join(missing)}")


def parse(text: str, source: str) -> list[Row]:
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

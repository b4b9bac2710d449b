"""Documents of GSM8K: the rows of the published test file, of which the hub's ``openai/gsm8k`` was made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fairkv_eval.documents import published
from fairkv_eval.documents.document import dataset, parse, require
from fairkv_eval.documents.metadata import options

if TYPE_CHECKING:
    from datasets import Dataset


def gsm8k(**metadata: Any) -> dict[str, Dataset]:
    """The 1,319 questions of the test split, each with its answer. UsageError for metadata that nothing reads."""
    options(metadata)
    rows = parse(published.read_file(published.GSM8K).decode(), str(published.GSM8K))
    for row in rows:
        require(row, ("question", "answer"), str(published.GSM8K))
    return dataset(({"question": row["question"], "answer": row["answer"]} for row in rows), str(published.GSM8K))

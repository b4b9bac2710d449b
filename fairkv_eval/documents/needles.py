"""Documents of RULER's needle tasks, made by the harness's own generator and sized by the model's tokenizer.

The harness's generator draws from Python's global random numbers and counts with a tokenizer that it loads by a name on
the hub. Here the draws have a seed of their own, so that a task has the same documents in every run, alone or among
others, and any model's tokenizer counts, also one in a GGUF file.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fairkv_eval.documents.metadata import options
from fairkv_eval.pretrained import TOKENIZER_SOURCE, load_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset

SEED = 0  # the harness's default, with which it would draw the same documents


def needles(task: str, length: int, **metadata: Any) -> dict[str, Dataset]:
    """The 500 documents of a task of `lm_eval.tasks.ruler.niah_utils`.

    length: tokens of the longest document, with room for an answer of 128. They are counted by ``tokenizer`` among the
    metadata, else by that of ``pretrained``, else by the default model's. UsageError for metadata that nothing reads.
    """
    # Importing it needs a package of an extra, and takes seconds.
    from lm_eval.tasks.ruler import niah_utils

    options(metadata)
    source = {name: metadata[name] for name in TOKENIZER_SOURCE if metadata.get(name) is not None}
    with _own_draws(), tempfile.TemporaryDirectory() as folder:
        tokenizer = load_tokenizer(**({"pretrained": source["tokenizer"]} if "tokenizer" in source else source))
        tokenizer.save_pretrained(folder)
        random.seed(SEED)
        documents: dict[str, Dataset] = getattr(niah_utils, task)(max_seq_lengths=[length], tokenizer=folder)
    return documents


@contextmanager
def _own_draws() -> Iterator[None]:
    """Python's random numbers go on afterwards as if none had been drawn."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)

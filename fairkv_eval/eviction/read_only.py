"""Rules read the cache and never write into it: one that does stops the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fairkv_eval.errors import UsageError


@contextmanager
def read_only(press: str) -> Iterator[None]:
    """Raise UsageError that names the press if its rule writes into queries, keys, values or a view of them.

    The engine makes them in torch's inference mode, and outside of it torch itself raises if one is written to. So no
    copy is needed, and the run stops before anything is answered from a changed cache.
    """
    with torch.inference_mode(False), torch.no_grad():
        try:
            yield
        except RuntimeError as error:
            if "Inplace update to inference tensor" not in str(error):
                raise
            raise UsageError(
                f"press {press!r} writes into the queries, keys or values of a layer, which rules only read; use the "
                "operation without the trailing underscore, or clone the tensor first"
            ) from error

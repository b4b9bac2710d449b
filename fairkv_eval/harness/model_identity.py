"""What identifies a model: everything of it that can change an answer, as plain values without paths or secrets."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from fairkv_eval import provenance
from fairkv_eval.errors import UsageError
from fairkv_eval.model_sources import answering, folder_sha256, source, tokenizer_state

_SOURCES = ("pretrained", "peft", "delta")
_OF_A_FILE = ("_name_or_path", "transformers_version", "_commit_hash")  # of a config: where it came from


def model_identity(lm: HFLM, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A loaded model's identity. ``arguments``: those it was made with, ``pretrained`` among them.

    ``sources``: what each path or hub name stands for, None if that is not known (see `check_identified`). The rest is
    read off what was loaded.
    """
    config = {name: value for name, value in lm.config.to_dict().items() if name not in _OF_A_FILE}
    generation = getattr(lm.model, "generation_config", None)
    generation = {k: v for k, v in generation.to_dict().items() if k not in _OF_A_FILE} if generation else None
    return {
        "pretrained": provenance.model_name(arguments["pretrained"]),
        "sources": {name: _source(lm, name, arguments) for name in _SOURCES if arguments.get(name)},
        "arguments": json.loads(_json(_typed(answering(arguments)))),
        "dtype": str(lm.model.dtype),
        "max_length": lm.max_length,
        "prefix_token": lm.prefix_token_id,
        "config": identity_sha256(config),
        "generation_config": identity_sha256(generation),
        "tokenizer": identity_sha256(tokenizer_state(lm.tokenizer)),
        "chat_template": identity_sha256(lm.tokenizer.chat_template),
        "code": _remote_code(lm.model),
    }


def check_identified(identity: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """UsageError if a source is unknown: another model's answers could be taken for its own."""
    if name := unidentified(identity):
        value = arguments[name] if isinstance(arguments[name], str) else type(arguments[name])
        raise UsageError(
            f"{name}={value!r} cannot be identified: it is not a local folder, has no commit in the hub's cache, and "
            "its tensors are not all in memory; --use_cache and fairkv sweep need one of these"
        )


def unidentified(identity: Mapping[str, Any]) -> str:
    """The argument whose source is unknown; "" if all are known."""
    sources = identity["sources"].items()
    # An adapter whose base model is unknown, or a model object whose tensors are elsewhere, has a None inside.
    return next((n for n, source in sources if source is None or (n == "pretrained" and None in source.values())), "")


def _source(lm: HFLM, name: str, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    value = arguments[name]
    if isinstance(value, str):
        # Adapters and deltas have files of their own: only the revision holds for them as well.
        apart = {} if name == "pretrained" else {"subfolder": None, "gguf_file": None}
        return source(value, {**arguments, **apart})
    return {"tensors": _tensors_sha256(lm.model), "class": type(lm.model).__name__}


def _tensors_sha256(model: torch.nn.Module) -> str | None:
    """SHA-256 of a model's tensors; None if they are not plain ones in memory."""
    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, torch.Tensor) or tensor.is_meta:
            return None
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        total.update(flat.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _typed(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that are not the defaults of `hf`."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(HFLM.__init__).parameters.items()}
    return {name: value for name, value in arguments.items() if value != defaults.get(name)}


def _remote_code(model: torch.nn.Module) -> str | None:
    """The digest of a model's code, if it came with the model."""
    module = sys.modules.get(type(model).__module__)
    if not type(model).__module__.startswith("transformers_modules") or not getattr(module, "__file__", None):
        return None
    return folder_sha256(Path(str(module.__file__)).parent)  # type: ignore[union-attr]


def identity_sha256(value: Any) -> str:
    """SHA-256 of plain values; the order of their keys does not matter."""
    return hashlib.sha256(_json(value).encode(errors="surrogatepass")).hexdigest()


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=_as_plain)


def _as_plain(value: Any) -> Any:
    """Objects among the arguments and in configurations: their own plain form, or their text."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)

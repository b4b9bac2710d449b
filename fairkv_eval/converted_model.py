"""Converted copies of GGUF models: safetensors, configuration and tokenizer in the cache folder.

transformers reads a GGUF file key by key, three or four times per start, which takes most of the start. A copy is made
once per file (by its SHA-256), data type, and versions of the packages that convert it. It is kept only if everything
read back from it is what the file itself gives: configurations, tokenizer, template, and each bit of each tensor.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from fairkv_eval.files import cache_dir, folder, sha256_of, write, write_whole
from fairkv_eval.loading_output import is_packed, quiet_loading
from fairkv_eval.model_sources import tokenizer_state

log = logging.getLogger(__name__)

KIND = "models"  # the folder of the copies in the cache folder

# Arguments with which transformers reads a model otherwise than from its plain weights.
_OTHERWISE = {
    *("quantization_config", "load_in_4bit", "load_in_8bit", "autogptq", "gptqmodel"),
    *("trust_remote_code", "variant", "use_safetensors", "force_download"),
}
_FETCHING = ("revision", "subfolder", "cache_dir", "local_files_only", "proxies", "token")
_CONVERTING = ("transformers", "tokenizers", "gguf")  # packages whose version can change a copy
_MANIFEST = "copy.json"
_OF_A_FILE = ("_name_or_path", "transformers_version")


def loadable(pretrained: Any, arguments: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What `hf` is to load: the typed arguments or, in place of a GGUF file, its copy, made if there is none."""
    copy = _copy(pretrained, arguments) if arguments.get("gguf_file") and isinstance(pretrained, str) else None
    if copy is None:
        return pretrained, dict(arguments)
    replaced = {"gguf_file", "subfolder"}
    if not arguments.get("tokenizer"):
        replaced.add("use_fast_tokenizer")  # `hf` ignores it for a GGUF file
    return str(copy), {name: value for name, value in arguments.items() if name not in replaced}


def _copy(pretrained: str, arguments: Mapping[str, Any]) -> Path | None:
    """The folder of a GGUF file's copy; None if the file must be read itself."""
    two_folders = arguments.get("subfolder") and arguments.get("tokenizer")
    if two_folders or any(arguments.get(name) for name in _OTHERWISE):
        return None
    file = _local_file(pretrained, arguments)
    if file is None:
        return None
    dtype = str(arguments.get("dtype", "auto")).removeprefix("torch.")
    source = {
        "sha256": sha256_of(file),
        "dtype": dtype,
        "versions": {name: version(name) for name in _CONVERTING},
    }
    try:
        return _kept_or_made(file, source)
    except Exception as error:  # a full or read-only disk, or whatever a converter raises: the file itself remains
        if os.environ.get("RANK", "0") == "0":
            log.warning(
                "no converted copy of %s can be kept in %s (%s), so every start reads the GGUF file itself, which is "
                "slow; FAIRKV_CACHE names another folder",
                *(file.name, cache_dir(), " ".join(str(error).split()) or type(error).__name__),
            )
        return None


def _local_file(pretrained: str, arguments: Mapping[str, Any]) -> Path | None:
    """The GGUF file, fetched if it is on the hub; None if it cannot be, of which `hf` reports the reason."""
    from transformers.utils import cached_file

    options = {name: arguments[name] for name in _FETCHING if arguments.get(name)}
    try:
        path = cached_file(pretrained, arguments["gguf_file"], **options)
    except (OSError, ValueError):
        return None
    return Path(path) if path else None


def _kept_or_made(file: Path, source: Mapping[str, Any]) -> Path | None:
    place = cache_dir() / KIND / f"{file.stem}-{source['dtype']}-{_digest(source)}"
    if (kept := _usable(place, source)) is not None:
        return place if kept else None
    folder(place.parent)
    with FileLock(place.with_name(f".{place.name}.lock")):
        if (kept := _usable(place, source)) is None:  # else another process made it meanwhile
            if place.exists():
                log.warning("the converted copy %s is damaged and is made anew", place)
                shutil.rmtree(place)
            log.info("converting %s once into %s; `fairkv cache` lists such copies", file.name, place)
            write_whole(place, lambda draft: convert(file, source, draft))
            kept = _usable(place, source)
    return place if kept else None


def _digest(source: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest()[:16]


def _usable(place: Path, source: Mapping[str, Any]) -> bool | None:
    """Whether a copy may be used; None if there is none, or if its files are not those that were written."""
    try:
        manifest = json.loads((place / _MANIFEST).read_bytes())
        if manifest["source"] != source:
            return None
        if manifest["refused"]:
            log.debug("%s is no exact copy: %s", place, manifest["refused"])
            return False
        return True if manifest["files"] == _digests(place, manifest["files"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digests(place: Path, names: Mapping[str, str]) -> dict[str, str]:
    return {name: sha256_of(place / name) for name in names}


def convert(file: Path, source: Mapping[str, Any], draft: Path) -> None:
    """Write a copy into ``draft``, or the manifest with the reason if the copy would not be exact."""
    draft.mkdir()
    with quiet_loading(lambda: None):
        direct = _Loaded.of(file.parent, source["dtype"], gguf_file=file.name)
        refused = "its weights stay packed" if not direct.is_plain else ""
        if not refused:
            direct.save(draft)
            refused = ", ".join(direct.differences(_Loaded.of(draft, source["dtype"])))
    if refused:
        for path in draft.iterdir():
            path.unlink()
    files = {path.name: sha256_of(path) for path in sorted(draft.iterdir())}
    write(draft / _MANIFEST, json.dumps({"source": source, "refused": refused, "files": files}, indent=1))


class _Loaded:
    """A model as transformers loads it on the CPU, with everything that identifies it."""

    def __init__(self, config: dict[str, Any], tokenizer: Any, model: Any) -> None:
        self.config, self.tokenizer, self.model = config, tokenizer, model

    @classmethod
    def of(cls, place: Path, dtype: str, **options: Any) -> _Loaded:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        config = AutoConfig.from_pretrained(place, **options)
        values = config.to_dict()
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
        wanted = {"None": None, "auto": "auto"}[dtype] if dtype in ("None", "auto") else getattr(torch, dtype)
        model = AutoModelForCausalLM.from_pretrained(place, config=config, dtype=wanted, **options)
        return cls(values, tokenizer, model)

    @property
    def is_plain(self) -> bool:
        """Whether all weights are plain floating tensors, and none in the blocks of the file."""
        weights = self.model.state_dict().values()
        return not is_packed(self.model) and all(tensor.is_floating_point() for tensor in weights)

    def save(self, place: Path) -> None:
        model = self.model
        for holder, name in ((model, "hf_quantizer"), (model.config, "quantization_config")):
            if hasattr(holder, name):
                delattr(holder, name)
        self.tokenizer.save_pretrained(place)
        model.save_pretrained(place)
        # The configuration as it is before a model is loaded: without its data type, which is the weights' own.
        config = write(place / "config.json", json.dumps(self.config, indent=2, sort_keys=True))
        for path in place.iterdir():  # safetensors writes files that only their owner may read
            shutil.copymode(config, path)

    def differences(self, other: _Loaded) -> Iterator[str]:
        """What of another model is not this one's."""
        for name, value in self.values().items():
            if value != other.values()[name]:
                yield name
        mine, theirs = (dict(self.tensors()), dict(other.tensors()))
        yield from (name for name in sorted({*mine, *theirs}) if not same_bits(mine.get(name), theirs.get(name)))

    def values(self) -> dict[str, Any]:
        generation = self.model.generation_config
        tokenizer = self.tokenizer
        return {
            "config": _without_origin(self.config),
            "generation_config": _without_origin(generation.to_dict()) if generation else None,
            "tokenizer": tokenizer_state(tokenizer),
            "chat_template": tokenizer.chat_template,
            "model_max_length": tokenizer.model_max_length,
            "class": type(self.model),
        }

    def tensors(self) -> Iterator[tuple[str, Any]]:
        yield from self.model.state_dict().items()
        yield from self.model.named_buffers()


def _without_origin(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in _OF_A_FILE}


def same_bits(one: Any, other: Any) -> bool:
    import torch

    if one is None or other is None or one.dtype != other.dtype or one.shape != other.shape:
        return False
    bits = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return torch.equal(*bits)

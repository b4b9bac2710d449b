"""What a model is made of: the files of a local folder by their digest, a model of the hub by its commit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fairkv_eval.files import sha256_of

# Model arguments that change no answer, and why. Every other argument is part of a model's identity.
NOT_ANSWERING = {
    **dict.fromkeys(("batch_size", "max_batch_size", "max_prefill_tokens"), "rows do not see each other"),
    **dict.fromkeys(("device", "device_map", "parallelize"), "where layers are; the kind of device is recorded"),
    **dict.fromkeys(("max_memory", "max_memory_per_gpu", "max_cpu_memory", "kv_memory"), "what fits where"),
    **dict.fromkeys(("offload_folder", "offload_buffers", "offload_state_dict", "low_cpu_mem_usage"), "how it loads"),
    **dict.fromkeys(("cache_dir", "force_download", "local_files_only", "proxies", "token"), "how files are fetched"),
    "logits_cache": "belongs to a loop of `hf` that is not used",
}
# Arguments that name what is read; the sources themselves are part of the identity.
NAMING = ("pretrained", "peft", "delta", "tokenizer", "gguf_file", "revision")

_UNREAD_ENDINGS = {".md", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".pdf", ".pyc"}
_UNREAD = {"optimizer.pt", "scheduler.pt", "scaler.pt", "trainer_state.json", "training_args.bin", "LICENSE", "NOTICE"}
_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".ot")
_NESTED = {".py", ".jinja"}  # of remote code and of chat templates, which have folders of their own
_ADAPTER = "adapter_config.json"


def answering(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The model arguments that can change an answer, without those that name a source."""
    return {name: value for name, value in arguments.items() if name not in NOT_ANSWERING and name not in NAMING}


def source(name: str, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a path or hub name stands for: {"files": SHA-256} or {"commit": …}; None if that cannot be known.

    ``arguments``: the model's, of which subfolder, gguf_file, revision and cache_dir say which files are read. A folder
    that holds an adapter alone has its base model beside it.
    """
    if Path(name).is_dir():
        folder = Path(name) / (arguments.get("subfolder") or "")
        identity: dict[str, Any] = {"files": folder_sha256(folder, arguments.get("gguf_file"))}
        adapter: Path | None = folder / _ADAPTER
    else:
        commit = _hub_commit(name, arguments)
        if commit is None:
            return None
        identity, adapter = {"commit": commit}, _cached(name, _ADAPTER, arguments)
    if adapter is not None and adapter.is_file():
        base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
        identity["base"] = source(base, {"cache_dir": arguments.get("cache_dir")}) if base else None
    return identity


def folder_sha256(folder: Path, gguf_file: str | None = None) -> str:
    """SHA-256 over the names and contents of all files that transformers may read of a model's folder."""
    lines = (f"{path.relative_to(folder).as_posix()} {sha256_of(path)}" for path in _read(folder, gguf_file))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def weights_sha256(arguments: Mapping[str, Any], pretrained: Any) -> str | None:
    """SHA-256 of a local model's weights; of the files' digests if there are several.

    None for a model object, and for a hub model, whose revision and SHA the harness records.
    """
    if not isinstance(pretrained, str) or not Path(pretrained).is_dir():
        return None
    folder, gguf = Path(pretrained) / (arguments.get("subfolder") or ""), arguments.get("gguf_file")
    files = [folder / gguf] if gguf else sorted(folder.glob("*.safetensors")) or _other_weights(folder)
    digests = [sha256_of(file) for file in files if file.is_file()]
    if len(digests) <= 1:
        return digests[0] if digests else None
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def tokenizer_state(tokenizer: Any) -> Any:
    """Everything that decides how a tokenizer reads and writes text."""
    flags = {name: getattr(tokenizer, name, None) for name in ("clean_up_tokenization_spaces", "add_bos_token")}
    added = {str(token): repr(entry) for token, entry in tokenizer.added_tokens_decoder.items()}
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is None:
        return [type(tokenizer).__name__, flags, added, special, tokenizer.get_vocab()]
    # How it last cut and padded is not part of it.
    state = {k: v for k, v in json.loads(core.to_str()).items() if k not in ("truncation", "padding")}
    return [flags, added, special, state]


def _other_weights(folder: Path) -> list[Path]:
    return [path for path in _read(folder, None) if path.suffix in _WEIGHTS]


def _read(folder: Path, gguf_file: str | None) -> Iterator[Path]:
    """The files in a model's folder that transformers may read, in a fixed order."""
    shards = set(_shards(folder.glob("*.index.json")))
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if not path.is_file() or any(part.startswith((".", "__pycache__")) for part in parts):
            continue
        name, ending = parts[-1], path.suffix
        if ending in _UNREAD_ENDINGS or name in _UNREAD or name.startswith("rng_state"):
            continue
        if gguf_file and ending in _WEIGHTS and path != folder / gguf_file:
            continue
        if len(parts) == 1 or ending in _NESTED or path in shards or path == folder / (gguf_file or ""):
            yield path


def _shards(indices: Iterable[Path]) -> Iterator[Path]:
    for index in indices:
        weight_map = json.loads(index.read_text(encoding="utf-8")).get("weight_map") or {}
        yield from (index.parent / name for name in weight_map.values())


def _hub_commit(name: str, arguments: Mapping[str, Any]) -> str | None:
    """The commit of a hub repository that is in the local cache, where a loaded one is."""
    folder = f"{arguments['subfolder']}/" if arguments.get("subfolder") else ""
    gguf = [arguments["gguf_file"]] if arguments.get("gguf_file") else []
    for file in ("config.json", _ADAPTER, "tokenizer_config.json", "tokenizer.json", *gguf):
        path = _cached(name, f"{folder}{file}", arguments)
        if path is not None and "snapshots" in path.parts:
            return path.parts[path.parts.index("snapshots") + 1]
    return None


def _cached(name: str, file: str, arguments: Mapping[str, Any]) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    revision = str(arguments.get("revision") or "main")
    try:
        path = try_to_load_from_cache(name, file, cache_dir=arguments.get("cache_dir"), revision=revision)
    except HFValidationError:  # not a name of the hub
        return None
    return Path(path) if isinstance(path, str) else None

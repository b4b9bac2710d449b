"""Finished sweeps, recognised from files alone, before torch is imported or a model is loaded.

A cell's identity is derived from the loaded model, its tasks and its requests. All of these come from files, so a sweep
that has ended stores the state of every file that could change one: if the same keys meet the same state again, its
cells have the same identities. Anything else, also a file that was only touched, leaves the question to the loaded
model. Tasks whose documents come from a hub, or from anywhere else that has no state here, are never stored.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fairkv_eval.files import resource_dir, sha256_of, write
from fairkv_eval.pretrained import named
from fairkv_eval.sweep import manifest

_PACKAGE = Path(__file__).resolve().parents[1]
# Not all of the environment: packages set variables of their own as they are imported.
_ENVIRONMENT = (
    *("FAIRKV_DATA", "FAIRKV_CACHE", "HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE"),
    *("CUDA_VISIBLE_DEVICES", "PYTHONPATH"),
)
_NEEDED_EACH_TIME = ("hf_hub_log_args", "wandb_args")  # something is done for these although all cells are there
_SOURCES = ("pretrained", "peft", "delta", "tokenizer")
_TEXT_FILES = ("json", "csv", "parquet", "text")  # data sets that are local files
_MOST = 20_000  # files below the folders that a sweep names


class Unknown(ValueError):
    """Something that a sweep depends on has no state that could be compared."""


class FinishedSweep:
    """What is stored about the sweep of these keys in its output folder. Made before anything of it is read."""

    def __init__(self, keys: Mapping[str, Any]) -> None:
        self._started = time.time_ns()
        self._output = Path(str(keys.get("output_path")))
        self._path = self._output / ".sweep" / "finished.json"
        several = int(os.environ.get("WORLD_SIZE") or 1) > 1  # which a sweep refuses
        try:
            needed = several or any(keys.get(key) for key in _NEEDED_EACH_TIME)
            self._inputs = None if needed else _digest(_inputs(keys))
        except (OSError, ValueError):
            self._inputs = None

    def cells(self) -> list[Path] | None:
        """The folders of all cells, if nothing changed since they were finished and their files are as written."""
        entry = self._stored().get(self._inputs or "")
        if not isinstance(entry, dict):
            return None
        try:
            if _states(entry["files"]) != entry["files"] or _sha256s(entry["modules"]) != entry["modules"]:
                return None
            folders = [self._output / folder for folder in entry["cells"]]
        except (OSError, KeyError, TypeError):
            return None
        return folders if all(manifest.result_of(folder) for folder in folders) else None

    def store(self, folders: Sequence[Path]) -> None:
        """Store that these cells, all of the sweep's, are finished. Called by the process that loaded the tasks."""
        if self._inputs is None:
            return
        try:
            files = _states({str(path) for folder in folders for path in _data_files(folder)})
            modules = _sha256s(_modules())
            if any(os.stat(path).st_mtime_ns > self._started for path in (*files, *modules)):
                return
            cells = [os.path.relpath(folder, self._output) for folder in folders]
        except (OSError, ValueError):
            return
        stored = {**self._stored(), self._inputs: {"cells": cells, "files": files, "modules": modules}}
        write(self._path, json.dumps(stored, indent=1))

    def _stored(self) -> dict[str, Any]:
        try:
            stored = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return stored if isinstance(stored, dict) else {}


def _inputs(keys: Mapping[str, Any]) -> Iterator[Any]:
    """Everything that the identities of a sweep's cells come from: the keys, the machine, the code, the files."""
    yield json.dumps(keys, sort_keys=True, default=str)
    yield [platform.node(), sys.version, sorted(map(str, Path("/dev").glob("nvidia*")))]
    yield [os.environ.get(name) for name in _ENVIRONMENT]
    yield sorted(name for folder in _installed() if folder.is_dir() for name in os.listdir(folder))
    for folder in (_PACKAGE, resource_dir("tasks"), resource_dir("presses")):
        yield _sha256s(map(str, _below(folder, (".py", ".yaml", ".jsonl", ".json", ".csv"))))
    output = str(keys.get("output_path"))
    texts = {text for key, value in keys.items() if key != "output_path" for text in _texts(value)} - {output, ""}
    for text in sorted(texts):
        if os.path.exists(text):
            yield _states(_below(Path(text)) if Path(text).is_dir() else [Path(text), *_neighbours(Path(text))])
    yield from (_source(model, name) for model in _models(keys) for name in _SOURCES)


def _installed() -> set[Path]:
    return {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}


def _neighbours(file: Path) -> Iterator[Path]:
    """The code that a press file may name, which stands in its folder."""
    return _below(file.parent, (".py",)) if file.suffix in (".yaml", ".yml") else iter(())


def _models(keys: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """The arguments of each model that say where it comes from."""
    shared = _mapping(keys.get("model_args"))
    entries = keys.get("models")
    for entry in [{}] if entries is None else entries if isinstance(entries, list) else [entries]:
        is_name = isinstance(entry, str) and "=" not in entry
        yield {**shared, **({"pretrained": str(entry)} if is_name else _mapping(entry))}


def _mapping(value: Any) -> dict[str, str]:
    if isinstance(value, str):
        return dict(re.findall(r"(\w+)=([^,]*)", value))
    return {str(key): str(entry) for key, entry in value.items()} if isinstance(value, Mapping) else {}


def _source(model: Mapping[str, str], name: str) -> Any:
    """The state of a model's source: of its files, or of what the hub's cache holds of it."""
    value: str | None = model.get(name)
    if value is None and name != "pretrained":
        return None
    source, rest = named(value, {})
    if Path(source).is_dir():
        file = rest.get("gguf_file")
        return _states([Path(source) / file] if file else _below(Path(source)))
    from huggingface_hub import constants, file_download

    refs = (
        Path(constants.HF_HUB_CACHE) / file_download.repo_folder_name(repo_id=str(source), repo_type="model") / "refs"
    )
    commits = {str(ref.relative_to(refs)): ref.read_text() for ref in _below(refs)} if refs.is_dir() else {}
    if not commits:
        raise Unknown(source)
    return commits


def _data_files(cell: Path) -> Iterator[Path]:
    """The files of a finished cell's documents; Unknown if they come from elsewhere."""
    result = manifest.result_of(cell)
    for config in (result or {}).get("configs", {}).values():
        metadata = config.get("metadata") or {}
        declared = (metadata.get("declared") or {}).get("data")
        source = str(metadata.get("config_source") or "")
        parts = source.split("/")[1:] if source.startswith("tasks/") else []
        if parts and resource_dir("tasks").joinpath(*parts).is_file():
            continue  # its documents are of this package, or published files of a known SHA-256
        if isinstance(declared, str) or (isinstance(declared, Mapping) and "sha256" in declared):
            continue  # in the folder of its YAML, which include_path names, or of a known SHA-256
        if config.get("dataset_path") not in _TEXT_FILES:
            raise Unknown(source)
        files = [Path(text) for text in _texts(config.get("dataset_kwargs")) if Path(text).is_file()]
        if not files:
            raise Unknown(source)
        yield from files


def _modules() -> list[str]:
    """The files of all imported code that is neither installed nor of this package."""
    apart = [*_installed(), *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")), _PACKAGE]
    named_files = (getattr(module, "__file__", None) for module in [*sys.modules.values()])
    # torch names files of its own that do not exist.
    files = {Path(file).resolve() for file in named_files if isinstance(file, str) and os.path.isabs(file)}
    return sorted(str(file) for file in files if not any(folder in file.parents for folder in apart))


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value, whole and by its parts, as in ``press=my.yaml,window=8``."""
    if isinstance(value, str):
        yield from (value, *re.split(r"[,=]", value))
    elif isinstance(value, (Mapping, list, tuple)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)


def _below(folder: Path, endings: tuple[str, ...] = ("",)) -> Iterator[Path]:
    """The files below a folder that are not hidden, in a fixed order."""
    count = 0
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__pycache__")))
        for name in sorted(names):
            count += 1
            if count > _MOST:
                raise Unknown(folder)
            if name.endswith(endings):
                yield Path(place) / name


def _states(files: Iterable[str | Path]) -> dict[str, list[int]]:
    return {str(file): [(state := os.stat(file)).st_size, state.st_mtime_ns] for file in files}


def _sha256s(files: Iterable[str]) -> dict[str, str]:
    return {file: sha256_of(file) for file in files}


def _digest(parts: Iterable[Any]) -> str:
    return hashlib.sha256(json.dumps(list(parts), sort_keys=True).encode(errors="surrogatepass")).hexdigest()

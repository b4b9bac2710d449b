"""The task YAMLs of a folder: what they declare, and what is wrong with them as files.

The harness's index silently drops a file that it cannot read, so the files are parsed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from fairkv_eval.errors import unknown
from fairkv_eval.files import resource_dir
from fairkv_eval.strict_yaml import misread

# The order of the keys in a task's YAML; within a group any order is allowed.
KEY_ORDER = (
    ("include",),
    ("group", "group_alias"),
    ("tag",),
    ("task", "task_alias", "class"),
    ("custom_dataset", "dataset_*"),
    ("output_type",),
    ("*_split", "process_docs", "fewshot_config"),
    ("num_fewshot", "description", "use_prompt", "doc_to_*", "gen_prefix", "*_delimiter", "unsafe_code"),
    ("process_results", "filter_list", "repeats", "should_decontaminate"),
    ("generation_kwargs",),
    ("aggregate_metric_list", "metric_list"),
    ("metadata",),
)
_BEYOND_THE_CONFIGS = {"include", "class", "aggregate_metric_list", "recipe"}


@dataclass(frozen=True)
class Finding:
    """Something about a task or file: ``wrong``, or only worth a look. ``unreadable``: the harness does not see it."""

    where: str
    what: str
    wrong: bool = True
    unreadable: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {' '.join(self.what.split())}"


@dataclass(frozen=True)
class TaskFile:
    """A readable YAML of a folder, includes resolved. ``metrics_from``: the file that lists its metrics."""

    name: str
    path: Path
    config: Mapping[str, Any]
    metrics_from: Path | None = None

    @property
    def is_group(self) -> bool:
        return "group" in self.config

    @property
    def readme(self) -> Path:
        """The README beside the file or, if only that exists, the one a folder above, of the whole benchmark."""
        beside = self.path.parent / "README.md"
        above = beside.parent.parent / "README.md"
        return above if above.is_file() and not beside.is_file() else beside

    @property
    def summary(self) -> str:
        """What its README says about it in one line, alone or together with others; "" if nothing."""
        text = self.readme.read_text(encoding="utf-8") if self.readme.is_file() else ""
        for bullet in re.findall(r"^[*-] (`.*(?:\n[ \t]+\S.*)*)", text, re.MULTILINE):
            line = " ".join(bullet.replace("**", "").split())
            entry = re.match(r"((?:`[^`]+`(?: \([^)]*\))?(?:, )?)+):? *(.*)", line)
            if entry and (name := re.search(rf"`{re.escape(self.name)}`(?: \(([^)]*)\))?", entry[1])):
                return entry[2] or name[1] or ""
        return ""


def read_folder(folder: Path) -> tuple[list[TaskFile], list[Finding]]:
    """The tasks and groups of a folder, and what is wrong with its files."""
    files: list[TaskFile] = []
    findings: list[Finding] = []
    for path in sorted(p for p in folder.rglob("*.yaml") if "__pycache__" not in p.parts):
        where = str(path.relative_to(folder))
        try:
            file = _read(path)
        except Exception as error:  # whatever a YAML or a function it names can raise
            findings.append(Finding(where, f"cannot be read, so the harness does not see it: {error}", unreadable=True))
            continue
        findings += [Finding(where, what) for what in _about_keys(path, file.config.get("class"))]
        if path.name.startswith("_"):
            continue
        if not file.name:
            findings.append(Finding(where, "has neither a task nor a group, so the harness does not see it"))
            continue
        twin = next((other for other in files if other.name == file.name), None)
        if twin:
            findings.append(Finding(where, f"{file.name!r} is declared in {twin.path.relative_to(folder)} too"))
            continue
        files.append(file)
    ours = folder.resolve() == resource_dir("tasks").resolve()
    for file in files:
        findings += [Finding(file.name, what) for what in _about_file(file)]
        # Whoever writes a task for a run of their own need not describe it.
        findings += [Finding(file.name, what, wrong=ours) for what in _about_readme(file)]
    return files, findings


def _read(path: Path) -> TaskFile:
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(path, resolve_func=True)
    name = config.get("group") or config.get("task")
    return TaskFile(name if isinstance(name, str) else "", path, config, _source_of(path, "metric_list"))


def _source_of(path: Path, key: str) -> Path | None:
    """The file that a key comes from: the YAML itself, or one of its includes, of which later ones win."""
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(path, resolve_func=False, recursive=False)
    if key in config:
        return path.resolve()
    includes = config.get("include") or []
    later_first = reversed([includes] if isinstance(includes, str) else includes)
    return next((source for name in later_first if (source := _source_of(path.parent / name, key))), None)


def _about_keys(path: Path, kind: Any) -> Iterator[str]:
    """What is wrong with its keys and values: unknown keys, what the harness misreads, and the order of keys.

    ``kind``: the class of its task, which may have keys of its own.
    """
    from lm_eval.config.group import GroupConfig
    from lm_eval.config.task import TaskConfig

    node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    keys = [key.value for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
    allowed = {f.name for config in (TaskConfig, GroupConfig) for f in fields(config)} | _BEYOND_THE_CONFIGS
    allowed |= set(getattr(kind, "KEYS", ()))
    for key in dict.fromkeys(keys):
        if key not in allowed:
            yield str(unknown("key", key, allowed))
    yield from misread(path)
    ranked = [key for key in keys if _rank(key) is not None]
    for before, after in pairwise(ranked):
        if _rank(before) > _rank(after):  # type: ignore[operator]
            yield f"{after} stands after {before}; in the order of the keys it goes before it"


def _rank(key: str) -> int | None:
    return next((i for i, group in enumerate(KEY_ORDER) if any(fnmatch(key, pattern) for pattern in group)), None)


def _about_file(file: TaskFile) -> Iterator[str]:
    metadata = file.config.get("metadata")
    if not isinstance(metadata, Mapping) or "version" not in metadata:
        yield "has no metadata.version"


def _about_readme(file: TaskFile) -> Iterator[str]:
    readme = file.readme
    if not readme.is_file():
        yield f"its folder {file.path.parent.name} has no README.md"
    elif f"`{file.name}`" not in readme.read_text(encoding="utf-8"):
        yield f"{readme.parent.name}/README.md does not name it (`{file.name}` in backticks)"


def unreadable(folders: Iterable[Path]) -> Iterator[str]:
    """One line per file in these folders that is not valid YAML, or that includes a missing file."""
    from lm_eval.tasks._yaml_loader import load_yaml

    for path in (path for folder in folders for path in sorted(folder.glob("**/*.yaml"))):
        try:
            load_yaml(path, resolve_func=False)
        except (yaml.YAMLError, OSError) as error:
            yield f"{path}: {' '.join(str(error).split())}"
        except ValueError:
            pass  # a YAML file that is not a task

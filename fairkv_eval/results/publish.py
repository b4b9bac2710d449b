"""Results for others: all that comparisons need, without documents, prompts, answers, and paths of this machine.

The documents of a benchmark may seldom be passed on. `fairkv leaderboard`, `figures`, `compare` and `recommend` only
read the hash of a sample's document and its scores; these stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lm_eval.utils import sanitize_model_name, simple_parse_args_string

from fairkv_eval.errors import UsageError
from fairkv_eval.provenance import model_name
from fairkv_eval.results.published_fields import name, published, published_sample
from fairkv_eval.results.published_results import PublishedResult, write_results
from fairkv_eval.results.reader import Problem, read
from fairkv_eval.results.record import Record
from fairkv_eval.results.result_file import result_content


def publish(results: Iterable[Path], output: Path) -> tuple[list[Path], list[Problem]]:
    """Write every result file, and the samples beside it, below ``output`` (see `published_results`).

    Return the paths of the result files, in the same folders as below ``results``, and what was left out: files that
    cannot be read, or whose samples cannot. Raise UsageError for two files of one path, for published results that
    would be overwritten, and if all were left out.
    """
    written: dict[Path, PublishedResult] = {}
    left_out: list[Problem] = []
    for top in results:
        all_records, problems = read(top)
        left_out += problems
        for path, records in sorted(_by_file(all_records).items()):
            try:
                result = _published(path, records, top)
            except Exception as error:  # a file of others may be wrong in any way
                left_out.append(Problem(path, f"cannot be published: {error}"[:300]))
                continue
            if result.path in written:
                raise UsageError(f"two results would both be {result.path}; publish them to folders of their own")
            written[result.path] = result
    if left_out and not written:
        raise UsageError(f"no result that can be published; the first: {left_out[0].path}: {left_out[0].reason}")
    if written:
        write_results(output, list(written.values()))
    return [output / path for path in written], left_out


def _by_file(records: Iterable[Record]) -> dict[Path, list[Record]]:
    by_file: dict[Path, list[Record]] = {}
    for record in records:
        by_file.setdefault(record.path, []).append(record)
    return by_file


def _published(path: Path, records: Iterable[Record], top: Path) -> PublishedResult:
    content = result_content(path)
    folders = _folders(path.parent.relative_to(top), content) if top.is_dir() else Path()
    lines = {record.task: list(map(published_sample, record.lines())) for record in records if record.sample_source}
    return PublishedResult(folders / path.name, _fields(content), lines)


def _folders(below: Path, result: dict[str, Any]) -> Path:
    """The folders of a result, of which the harness names one after the whole path of a model."""
    model = sanitize_model_name(str(name(model_name(result.get("model_name") or ""))))
    named = {part: str(name(part)) for part in below.parts}
    named[str(result.get("model_name_sanitized"))] = model
    return Path(*(model if part.startswith("__") else named[part] for part in below.parts))


def _fields(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result's published fields."""
    arguments = result["config"].get("model_args") or {}
    if isinstance(arguments, str):
        arguments = simple_parse_args_string(arguments)
    configs = {task: _without(arguments, config) for task, config in result["configs"].items()}
    return published({**result, "config": {**result["config"], "model_args": arguments}, "configs": configs})


def _without(arguments: Mapping[str, Any], config: Any) -> Any:
    """A task's configuration without the model's arguments, which the harness adds to its metadata."""
    if not (isinstance(config, dict) and isinstance(config.get("metadata"), dict)):
        return config
    return {**config, "metadata": {k: v for k, v in config["metadata"].items() if k not in arguments}}

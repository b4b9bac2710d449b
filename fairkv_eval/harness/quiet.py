"""Lines of the harness that a user of our tasks cannot act on: each is known by its logger and its words.

Tasks are ours if their YAML names code of this package. Their options are in their READMEs, and their metrics apply to
some documents only, so that the harness's remarks about both say nothing new.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

_OURS: set[str] = set()
_CODE = ("class", "custom_dataset", "process_results")
_COUNTS = re.compile(r"\[(?P<task>.+?)\] Metrics were not scored on the same number of documents")
_OPTIONS = re.compile(r"(?P<task>.+?): Custom kwargs can be passed to `--metadata`")
_GENERATION = "generation_kwargs: "
_SAMPLING = ("temperature", "top_p", "top_k", "min_p")


def leave_out_remarks(index: Mapping[str, Any]) -> None:
    """Leave out remarks about those tasks of a harness index that are ours."""
    _OURS.update(name for name, entry in index.items() if _names_our_code(entry.cfg or {}))
    for name, is_wanted in _FILTERS.items():
        logging.getLogger(name).addFilter(is_wanted)  # which adds it once


def _names_our_code(config: Mapping[str, Any]) -> bool:
    return any("fairkv_eval." in str(config.get(key, "")) for key in _CODE)


def _not_about_ours(pattern: re.Pattern[str]) -> Callable[[logging.LogRecord], bool]:
    def is_wanted(record: logging.LogRecord) -> bool:
        found = pattern.match(record.getMessage())
        return found is None or found["task"] not in _OURS

    return is_wanted


def _asks_for_what_is_missing(record: logging.LogRecord) -> bool:
    """Whether advice to set do_sample=True stands beside arguments that need it."""
    if not str(record.msg).startswith(_GENERATION) or not isinstance(record.args, Mapping):
        return True
    samples = any(record.args.get(name) not in (None, 0, 0.0) for name in _SAMPLING)
    return samples and "do_sample" not in record.args


_FILTERS: dict[str, Callable[[logging.LogRecord], bool]] = {
    "lm_eval.evaluator_utils": _not_about_ours(_COUNTS),
    "lm_eval.api.task": _not_about_ours(_OPTIONS),
    "lm_eval.evaluator": _asks_for_what_is_missing,
}


def only_in_a_checkout(commit: Callable[[], Iterable[str] | None]) -> Callable[[], Any]:
    """The harness's function for the commit of the working directory; git complains of a folder without one."""

    def get_git_commit_hash() -> Any:
        here = Path.cwd()
        if "GIT_DIR" in os.environ or any((folder / ".git").exists() for folder in (here, *here.parents)):
            return commit()
        return None

    return get_git_commit_hash

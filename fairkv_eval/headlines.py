"""The headline metrics of a task: those that its printed table shows. Result files and samples hold all metrics.

They are the entries of its metric_list with ``headline: true``, a key that the harness tolerates; a task without such
entries prints all. ``--metadata '{"metrics": "all"}'`` prints all of any task.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

KEY = "headline"
CHOICE = "metrics"  # the option among --metadata
NOTE = """Only headline metrics are shown: --metadata '{"metrics": "all"}' prints all, and result files hold all."""


def without_headlines(metric_list: Iterable[Any]) -> list[Any]:
    """A metric_list without what only decides which of its metrics are printed."""
    return [{k: v for k, v in e.items() if k != KEY} if isinstance(e, Mapping) else e for e in metric_list]


def with_headlines(results: Mapping[str, Any], column: str = "results") -> tuple[dict[str, Any], bool]:
    """The harness's results whose ``column`` has headline metrics only, and whether others are left out."""
    shown = {name: dict(_shown(entry, names_of(results, name))) for name, entry in results[column].items()}
    return {**results, column: shown}, shown != results[column]


def names_of(results: Mapping[str, Any], name: str) -> frozenset[str]:
    """The headline metrics of a task, or of all tasks of a group; empty if all metrics are shown."""
    members = results.get("group_subtasks", {}).get(name) or ()
    if members:
        of_members = [names_of(results, member) for member in members if member != name]
        return frozenset().union(*of_members) if all(of_members) else frozenset()
    config = results.get("configs", {}).get(name) or {}
    if (config.get("metadata") or {}).get(CHOICE) == "all":
        return frozenset()
    return frozenset(str(e["metric"]) for e in config.get("metric_list") or () if e.get(KEY) is True)


def _shown(entry: Mapping[str, Any], names: frozenset[str]) -> Iterator[tuple[str, Any]]:
    for key, value in entry.items():
        name, has_filter, _ = key.partition(",")  # alias and sample_len have no filter
        if not has_filter or not names or name in names or name.removesuffix("_stderr") in names:
            yield key, value

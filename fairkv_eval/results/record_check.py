"""What a record must be, so that nothing that compares, sorts, ranks or writes it fails later."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.policy_arguments import ARGUMENTS
from fairkv_eval.results.record import Record, direction
from fairkv_eval.results.recorded_policy import RecordedPolicy
from fairkv_eval.results.rerun import command

_LATEST = 253_402_300_799  # 9999-12-31T23:59:59Z, in seconds since 1970
_TEXT = (str,)
_PERHAPS_TEXT = (str, type(None))
_KINDS: Mapping[str, tuple[type, ...]] = {
    **{name: _TEXT for name in ("source", "model", "task")},
    **{name: _PERHAPS_TEXT for name in ("model_sha", "commit", "task_hash", "cell")},
    **{name: (int, float, type(None)) for name in ("limit", "achieved_ratio", "kv_bytes_full", "kv_bytes_kept")},
    "version": (str, int, float, type(None)),
    "date": (int, float, type(None)),
    **{name: (int,) for name in ("n", "repeats")},
    **{name: (int, type(None)) for name in ("n_original", "answers_cut")},
}


def check(record: Record) -> None:
    """Raise UsageError, or another error, if a value is not what the harness and this package write."""
    for name, kinds in _KINDS.items():
        _kind(name, getattr(record, name), kinds)
    if record.n < 0:
        raise UsageError(f"its number of documents is {record.n}")
    if record.date is not None and not 0 <= record.date <= _LATEST:
        raise UsageError(f"its date is {record.date}, not seconds since 1970")
    for name in record.metrics:
        _kind(f"higher_is_better of {name}", direction(record, name), (bool, type(None)))
    for name, version in record.versions.items():
        _kind(f"version of {name}", version, _TEXT)
    for name, speed in record.tokens_per_second.items():
        if not math.isfinite(speed):
            raise UsageError(f"its {name} speed is {speed}")
    _check_policy(record.policy)
    # Whatever else is wrong with its settings shows in these, which every table and page makes of them.
    hash((record.run, record.policy))
    "".join([command(record), record.policy.label, str(record.policy), str(record.conditions)]).encode()


def _check_policy(policy: RecordedPolicy) -> None:
    _kind("press", policy.press, _TEXT)
    for name in ("base", "segments", "scope", "press_sha256"):
        _kind(name, getattr(policy, name), _PERHAPS_TEXT)
    for entry in ARGUMENTS:
        value = getattr(policy, entry.name)
        if isinstance(value, tuple):
            for part in value:
                _kind(entry.name, part, _TEXT)
        elif isinstance(entry.default, str):
            _kind(entry.name, value, _TEXT)
        elif value != entry.default:
            entry.check(entry.name, value)


def _kind(name: str, value: Any, kinds: tuple[type, ...]) -> None:
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise UsageError(f"its {name} is {type(value).__name__} {value!r:.60}")
    if isinstance(value, int):
        float(value)  # raises OverflowError

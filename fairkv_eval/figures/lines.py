"""Lines of policies that differ only in how much they hold: the names of presses and settings, and their places."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from fairkv_eval.eviction.policy_arguments import AMOUNTS, DEFAULTS
from fairkv_eval.results.record import Record
from fairkv_eval.results.recorded_policy import RecordedPolicy
from fairkv_eval.storage.bits import PLAIN_BITS

PLAIN = "plain"
NO_PRESS = "no press"
# What stands for any amount of a kind in a line. Shares of pairs and of bytes are one kind: a line runs over bytes.
_SOME: dict[str, dict[str, Any]] = {"ratio": {}, "budget": {"budget": 0}, "budget_bytes": {}}


def line_of(policy: RecordedPolicy) -> RecordedPolicy:
    """The line of a policy, which all have in common that hold more or less by the same rule.

    A press that says how much is kept runs over its parameters, storage without a press over the bits.
    """
    free: dict[str, Any] = {**{name: DEFAULTS[name] for name in AMOUNTS}, **_SOME[policy.amount]}
    if policy.sets_amount:
        free["parameters"] = ()
    if policy.press == "none":
        free["kv_bits"] = PLAIN_BITS
    return replace(policy, **free)


def setting_of(line: RecordedPolicy) -> str:
    """All but press and amount in a few words: ``plain``, ``fair``, ``fair=0.5 kv_bits=4``, ``budget``."""
    words = ["fair" if word == "fair=1" else word for word in line.settings()]
    words += [line.amount] * (line.amount != "ratio")
    if line.press == "none":
        words.append("fewer bits" if line.kv_scheme == DEFAULTS["kv_scheme"] else f"fewer bits, {line.kv_scheme}")
    return " ".join(words) or PLAIN


def simple(line: RecordedPolicy) -> bool:
    """Whether nothing but the degree of fairness is set: what most figures show."""
    return line.press == "none" or all(word.startswith("fair=") for word in line.settings())


def held(record: Record) -> float | None:
    """The bytes held as a share of the full cache's: as measured, else by the pairs kept; None if neither is known."""
    policy = record.policy
    if policy.full:
        return 1.0
    if record.kv_bytes_full and record.kv_bytes_kept is not None:
        return record.kv_bytes_kept / record.kv_bytes_full
    if policy.kv_bits != PLAIN_BITS:
        return None
    if record.achieved_ratio is not None:
        return 1 - record.achieved_ratio
    return 1 - policy.ratio if policy.ratio else None


def labels(lines: Iterable[RecordedPolicy], settings: bool = True) -> dict[RecordedPolicy, str]:
    """Short names that tell these lines apart: the bare press if all of its lines have the same parameters, and the
    digest's first digits if a press of one name had several definitions."""
    names: dict[str, set[str]] = {}
    digests: dict[str, set[str | None]] = {}
    lines = list(lines)
    for line in lines:
        names.setdefault(line.press, set()).add(line.name)
        digests.setdefault(line.name, set()).add(line.press_sha256)
    result = {}
    for line in lines:
        short = line.name if len(names[line.press]) > 1 else NO_PRESS if line.press == "none" else line.press
        parts = [short, *[(line.press_sha256 or "")[:6]] * (len(digests[line.name]) > 1)]
        result[line] = " ".join([*parts, *line.settings()] if settings else parts)
    return result

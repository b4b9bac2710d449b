"""The policies of a sweep: every combination of its presses' parameters with its amounts and fairness."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import product
from typing import Any

from fairkv_eval.errors import UsageError, naming, unknown
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.policy_arguments import AMOUNTS, NAMES
from fairkv_eval.sweep.parsers import GRID, mapping, refused

_NUMBER = re.compile(r"\s*[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,2})?\s*", re.ASCII)
_LARGEST = 10**9  # tokens
_MOST = 1000  # values of a range


def policies_of(presses: Any, grid: Mapping[str, Any], fidelity: bool) -> tuple[Policy, ...]:
    """The distinct policies of these presses. ``grid``: the values of GRID for presses that have none of their own.

    The full cache is one of them, whichever press has a ratio of 0. It comes first, so that tables begin with it;
    ``fidelity`` is measured against it.
    """
    entries = presses if isinstance(presses, list) else [presses] if presses is not None else []
    if not entries:
        raise UsageError("presses is missing: at least one, as tova or {press: snapkv, window: [16, 64]}")
    policies: dict[Policy, None] = {}
    for entry in entries:
        with naming(f"presses: {entry!r}"):
            policies |= dict.fromkeys(_policies(_press_entry(entry), grid))
    if fidelity:
        _check_fidelity(policies)
    if fidelity or Policy() in policies:
        policies = {Policy(): None, **policies}
    return tuple(policies)


def _check_fidelity(policies: Iterable[Policy]) -> None:
    for policy in policies:
        if policy.decode_budget:
            raise UsageError(
                f"fidelity is measured in one pass, in which decode_budget={policy.decode_budget} evicts nothing; "
                "leave out one of them"
            )


def _press_entry(entry: Any) -> Mapping[str, Any]:
    """A press with its parameters, as a mapping or as ``snapkv,window=16``."""
    if isinstance(entry, str):
        name, _, rest = entry.partition(",")
        return {**(mapping("presses", rest) if rest else {}), "press": name.removeprefix("press=")}
    if not isinstance(entry, Mapping) or "press" not in entry:
        raise UsageError("a press is a name, or a mapping with press: <name> and its parameters")
    return entry


def _policies(entry: Mapping[str, Any], grid: Mapping[str, Any]) -> Iterator[Policy]:
    """Every combination of the values of a press; a list stands for each of its values."""
    values = {key: _listed(key, value) for key, value in entry.items() if key not in GRID}
    fair = {**grid, **entry}.get("fair")
    degrees = _listed("fair", False if fair is None else fair)
    for combination in product(*values.values()):
        press = dict(zip(values, combination, strict=True))
        for amount, degree in product(_amounts(press, entry, grid), degrees):
            yield _policy(press, {**amount, "fair": degree})


def _amounts(press: Mapping[str, Any], entry: Mapping[str, Any], grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The ratios and budgets of a press, in pairs or bytes; none, once, if it says itself how much is kept."""
    sets_amount = Policy.split(press)[0].sets_amount
    named = entry if sets_amount else {**grid, **entry}  # those of the sweep are for the other presses
    amounts: list[dict[str, Any]] = [{"budget": budget} for budget in budgets(named.get("budgets"))]
    if (in_bytes := named.get("budget_bytes")) is not None:
        amounts += [{"budget_bytes": value} for value in _listed("budget_bytes", in_bytes)]
    amounts += [{"ratio": ratio} for ratio in ratios(named.get("ratios"))]
    if not amounts and not sets_amount:
        raise UsageError(
            "ratios is missing: 0:0.9:0.1, or a list of numbers from 0 to below 1 (or budgets, or budget_bytes)"
        )
    return amounts or [{}]


def _listed(key: str, value: Any) -> list[Any]:
    """The values that one value or a list stands for; UsageError for an empty list, which would run nothing."""
    if value == []:
        raise refused(key, value, "at least one value")
    return value if isinstance(value, list) else [value]


def _policy(press: Mapping[str, Any], amount: Mapping[str, Any]) -> Policy:
    policy, others = Policy.split({**press, **amount})
    if policy == Policy() and press["press"] == "none":
        raise UsageError("the full cache is not a press: it is the cell of ratio 0")
    for name in (*others, *(name for name in AMOUNTS if name in press)):
        allowed = {*policy.parameter_defaults, *NAMES, *GRID} - {"ratio", "budget"}
        raise unknown(f"parameter of press {policy.press_name!r}", name, allowed)
    return policy if policy.evicts or policy.decode_budget else policy.unevicted


def ratios(value: Any) -> list[float]:
    """Fractions to evict; ``value`` as in `_numbers`."""
    numbers = _numbers("ratios", value)
    for number in numbers:
        if not 0 <= number < 1:
            raise UsageError(
                f"ratio {number:g} is not allowed; it takes a number from 0 to below 1, or a range as 0:0.9:0.1"
            )
    return numbers


def budgets(value: Any) -> list[int]:
    """Numbers of pairs to keep; ``value`` as in `_numbers`."""
    numbers = _numbers("budgets", value)
    for number in numbers:
        if number < 1 or number != int(number):
            raise UsageError(f"budget {number:g} is not allowed; it takes a whole number from 1")
    return [int(number) for number in numbers]


def _numbers(key: str, value: Any) -> list[float]:
    """A number, a range ``start:stop:step`` that includes ``stop``, or a list of both."""
    return [] if value is None else [number for part in _listed(key, value) for number in _range(key, part)]


def _range(key: str, value: Any) -> Sequence[float]:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    parts = str(value).split(":") if is_number or isinstance(value, str) else []
    numbers = [Decimal(part) for part in parts if _NUMBER.fullmatch(part)]
    if not numbers or len(numbers) != len(parts) or any(abs(number) > _LARGEST for number in numbers):
        raise refused(key, value, f"numbers up to {_LARGEST:,}, or start:stop:step as 0:0.9:0.1")
    if len(numbers) == 1:
        return [float(numbers[0])]
    if len(numbers) != 3 or numbers[2] <= 0 or numbers[1] < numbers[0]:
        raise refused(key, value, "numbers, or start:stop:step as 0:0.9:0.1")
    start, stop, step = numbers
    if (count := int((stop - start) / step) + 1) > _MOST:
        raise refused(key, value, f"at most {_MOST:,} values, and this range makes {count:,}")
    # Decimals, so that 0:0.9:0.1 holds 0.3 and not 0.30000000000000004.
    return [float(start + step * i) for i in range(count)]

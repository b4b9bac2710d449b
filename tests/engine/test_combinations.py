"""Every press with every storage, merge, degree of fairness and architecture, through the engine; what cannot be
combined is refused by name."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from functools import cache
from typing import Any

import press_table
import pytest
import refusals
from engine_runs import ask, attached, prompt
from pairwise import pairwise
from press_table import NAMES, NEEDED, OWN, WRAPPERS

from fairkv_eval.engine.engine import Engine
from fairkv_eval.engine.jobs import Generation, Job
from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.policy import Policy

STORAGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "4": {"kv_bits": 4},
    "kivi": {"kv_bits": "k4v2", "kv_scheme": "kivi", "kv_group": 4, "kv_residual": 3},
    "rotated": {"kv_bits": 3, "kv_scheme": "rotated"},
    "channels": {"key_channels": 0.4, "kv_bits": "k8v16"},
}
FAIR = (0.0, 0.5, 1.0)
MERGES = ("none", "similar", "d2o")
KINDS = ("llama", "qwen3", "phi3", "mistral", "gemma2")
# mistral's windows slide in all layers; two of gemma2's three do.
EVICTING = {"mistral": 0, "gemma2": 1}
ALL = (NAMES, FAIR, list(STORAGES), MERGES, KINDS)

ARGUMENTS: dict[str, dict[str, Any]] = {
    "ratio": {"ratio": 0.5},
    "budget": {"budget": 5},
    "budget_bytes": {"budget_bytes": 0.5},
    "fair": {"fair": 1.0},
    "contiguous": {"positions": "contiguous"},
    "similar": {"merge": "similar"},
    "cam": {"merge": "cam"},
    "decode_budget": {"decode_budget": 9},
    "rotated": {"kv_bits": 4, "kv_scheme": "rotated"},
    "channels": {"key_channels": 0.4},
}


@cache
def model(kind: str) -> tuple[Any, Any]:
    return attached(kind)


def policy_of(name: str, fair: float, storage: str, merge: str) -> Policy:
    return press_table.policy(name, 0.5, fair, merge=merge, **STORAGES[storage])


@cache
def kept_plain(name: str, fair: float, kind: str) -> list[list[int]]:
    """Pairs that each head keeps if nothing is merged and all is held plain."""
    cache_ = Engine(*model(kind), ask=ask).watch(job(policy_of(name, fair, "plain", "none")), Spectator())
    return [[part.length for part in layer for _ in range(part.heads)] for layer in cache_.layers]


class Spectator:
    def computed(self, layer: Any, window: int | None) -> None:
        pass

    def kept(self, layer: Any, index: Any) -> None:
        pass


def job(policy: Policy, seed: int = 0) -> Job:
    return Job(prompt(seed), policy, Generation(5), policy.label)


def check(name: str, fair: float, storage: str, merge: str, kind: str) -> None:
    policy, engine = policy_of(name, fair, storage, merge), Engine(*model(kind), ask=ask)
    layers = EVICTING.get(kind, 3)
    if name == "layer_ratios" and layers != 3:
        if layers:
            with pytest.raises(UsageError, match=f"layer_ratios has 3 ratios, and the model {layers} layers"):
                engine.watch(job(policy), Spectator())
        return
    held = engine.watch(job(policy), Spectator())
    counts = [[part.length for part in layer for _ in range(part.heads)] for layer in held.layers]
    assert counts == kept_plain(name, fair, kind)
    _, k, v, dtype, _ = engine.runner.entries[0]
    whole = replace(policy.storage, pruned=0.0)  # windows that slide keep all channels
    storages = [policy.storage if window is None else whole for window in engine.windows]
    sizes = zip(storages, counts, strict=True)
    assert held.nbytes == sum(storage.nbytes(m, k, v, dtype) for storage, heads in sizes for m in heads)
    alone = dict(Engine(*model(kind), ask=ask).run([job(policy)]))[0]
    jobs = [job(policy), job(Policy(), 1), job(policy, 2)]
    together = dict(Engine(*model(kind), rows=3, ask=ask).run(jobs))[0]
    assert len(alone.tokens) == 5 and alone.tokens == together.tokens and alone.telemetry == together.telemetry


@pytest.mark.parametrize("name, fair, storage, merge, kind", pairwise(*ALL))
def test_presses_storages_merges_and_architectures(name: str, fair: float, storage: str, merge: str, kind: str) -> None:
    check(name, fair, storage, merge, kind)


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_all_of_them(name: str) -> None:
    for setting in itertools.product(*ALL[1:]):
        check(name, *setting)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_wrapper_wraps_every_press_or_says_why_not(wrapper: str) -> None:
    for base in NAMES:
        typed = {"press": wrapper, "base": base, **{k: v for k, v in NEEDED.get(wrapper, {}).items() if k != "base"}}
        amount = {} if wrapper in OWN else {"ratio": 0.5}
        refusal = refusals.of_wrapper(wrapper, base)
        if refusal is None:
            assert Policy.of({**typed, **amount}).evicts, base
            continue
        with pytest.raises(UsageError) as error:
            Policy.of({**typed, **amount})
        assert re.search(refusal, str(error.value)), base


@pytest.mark.parametrize("name", NAMES)
def test_arguments_that_exclude_each_other_are_refused_by_name(name: str) -> None:
    for first, second in itertools.combinations(ARGUMENTS, 2):
        typed = {**ARGUMENTS[first], **ARGUMENTS[second]}
        refusal = refusals.of_arguments(name, typed)
        press_arguments = {"press": name, **NEEDED.get(name, {})}
        if refusal is None:
            assert Policy.of({**press_arguments, **typed}), (first, second)
            continue
        with pytest.raises(UsageError) as error:
            Policy.of({**press_arguments, **typed})
        assert re.search(refusal, str(error.value)), (first, second)

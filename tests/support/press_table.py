"""Every press with the parameters that tests run it with, and policies of them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from any_statistics import AnyStatistics

from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.press import Parameters, Press
from fairkv_eval.eviction.press_files import load_press

WRAPPERS = ("adakv", "chunkkv", "criticalkv", "threshold", "layer_ratios", "blockwise", "zigzagkv")
# They say themselves how much is kept, and take no ratio.
OWN = ("duo_attention", "simlayerkv", "threshold", "layer_ratios")
NAMES = (
    "streaming_llm",
    "snapkv",
    "h2o",
    "tova",
    "knorm",
    "keydiff",
    "lagkv",
    "expected_attention",
    "expected_attention_stats",
    "qfilter",
    "duo_attention",
    "random",
    "pyramidkv",
    "kvzip",
    "leverage",
    "noncausal_attention",
    "compactor",
    "cur",
    "capkv",
    "kvcompose",
    "simlayerkv",
    "finch",
    *WRAPPERS,
)

# By name, whose first word is the press: what it wraps (`base`) and its parameters. They are small enough for contexts
# of twenty tokens to show them: the defaults of some would protect such a context whole.
SMALL: dict[str, dict[str, Any]] = {
    "streaming_llm": {},
    "snapkv small": {"window": 3, "kernel": 3},
    "h2o": {},
    "h2o recent": {"recent": 0.5},
    "tova": {},
    "knorm": {},
    "keydiff": {},
    "lagkv small": {"sinks": 1, "lag": 3},
    "expected_attention small": {"sinks": 2, "horizon": 20},
    "expected_attention_stats small": {"sinks": 2, "horizon": 20},
    "qfilter": {},
    "random": {},
    "pyramidkv small": {"window": 2, "beta": 3},
    "finch": {},
    "kvzip": {},
    "kvzip uniform": {"uniform": True},
    "kvzip small": {"chunk": 7},
    "kvzip plus": {"variant": "plus", "chunk": 7},
    "leverage": {},
    "leverage small": {"sketch": 2},
    "noncausal_attention small": {"block": 5},
    "compactor small": {"sinks": 2, "recent": 1, "block": 5, "sketch": 3},
    "compactor constant": {"sinks": 1, "recent": 0, "blend": 0.35, "by_ratio": False},
    "cur small": {"sinks": 1, "window": 4},
    "cur mean": {"sinks": 0, "combine": "mean", "sketch": 3},
    "capkv small": {"sinks": 2, "horizon": 20},
    "adakv small": {"window": 3},
    "adakv tova": {"base": "tova", "safeguard": 0},  # one ranking for all heads: they compete with equal scores
    "adakv knorm": {"base": "knorm", "safeguard": 0},
    "adakv keydiff": {"base": "keydiff", "safeguard": 1},  # of all that heads could give each other
    "adakv qfilter": {"base": "qfilter"},
    "adakv h2o": {"base": "h2o", "recent": 0.5, "safeguard": 0.5},
    "adakv pyramidkv": {"base": "pyramidkv", "window": 2, "beta": 3},
    "chunkkv small": {"window": 3, "chunk": 3},
    "chunkkv knorm": {"base": "knorm", "chunk": 5},
    "criticalkv small": {"window": 3},
    "criticalkv knorm": {"base": "knorm", "first": 0.3},
    "criticalkv pyramidkv": {"base": "pyramidkv", "window": 2, "beta": 3},
    "criticalkv pooled": {"base": "snapkv", "window": 3, "pooled": True},
    "criticalkv pooled h2o": {"base": "h2o", "recent": 0.3, "pooled": True, "safeguard": 0.5, "first": 0.2},
    "kvcompose": {},
    "kvcompose heads": {"structured": False},
    "duo_attention small": {"sparsity": 0.6, "sinks": 1, "recent": 5},
    "simlayerkv small": {"threshold": 0.45, "sinks": 1, "recent": 6, "last": 2},
    "threshold knorm": {"base": "knorm", "threshold": -1.0, "protect": 2},
    "threshold h2o": {"base": "h2o", "recent": 0.25, "threshold": 0.1, "protect": 0},
    "layer_ratios knorm": {"base": "knorm", "by_layer": "0.25+0.5+0.8"},
    "blockwise keydiff": {"block_size": 3},
    "blockwise small": {"base": "snapkv", "window": 3, "kernel": 3, "block_size": 4},
    "zigzagkv small": {"window": 3, "share": 0.7},
    "zigzagkv h2o": {"base": "h2o", "recent": 0.5, "bound": 0},
}
NEEDED = {"threshold": {"base": "knorm"}, "layer_ratios": {"by_layer": "0.5+0.2+0.8"}}
PRESSES: dict[str, dict[str, Any]] = (
    {name: {} for name in NAMES} | NEEDED | SMALL | {"chunkkv streaming_llm": {"base": "streaming_llm"}}
)

# Budgets that differ from head to head, or from layer to layer, and are those of a ratio on average.
_UNEVEN = ("pyramidkv", "kvzip", "adakv", "criticalkv p", "kvcompose", "zigzagkv")
UNEVEN = [name for name in SMALL if name.startswith(_UNEVEN)]


def press(name: str, base: str | None = None) -> Press:
    """The press of this name or file; a name of the table stands for the press, and what it wraps there. It is bound to
    statistics that fit any model."""
    rule = load_press(name.split()[0], base or PRESSES.get(name, {}).get("base"))
    assert rule is not None
    return bound(rule, rule.configure(parameters(name) if name in PRESSES else {}))


def bound(rule: Press, values: Parameters) -> Press:
    """The press bound to statistics that fit any model, if it needs some."""
    return rule.bound(partial(AnyStatistics, parameters=values)) if rule.needs_statistics else rule


def parameters(name: str) -> dict[str, Any]:
    """Its parameters in the table."""
    return {key: value for key, value in PRESSES[name].items() if key != "base"}


def policy(name: str = "tova", ratio: float = 0.5, fair: float = 0.0, keep: Any = (), **arguments: Any) -> Policy:
    """A policy of a press by its name in the table, or by any name ("none", a file); ``arguments``: parameters of the
    press, and what else a policy takes. A press that says itself how much is kept is not told a ratio."""
    amount = {} if name.split()[0] in OWN else {"ratio": ratio}
    given = {"press": name.split()[0], **PRESSES.get(name, {}), **amount, "fair": fair, "keep": keep}
    made = Policy.of({**given, **arguments})
    return replace(made, press=made.press and bound(made.press, made.parameters))

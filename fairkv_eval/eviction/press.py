"""Presses: the rule that scores KV pairs, its parameters, and how budgets are divided over layers and heads.

A press is a YAML file: a name, the functions that make it, and its parameters. Those of this package are in
``presses/``; a user's own is a file anywhere, named by its path.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

from torch import Tensor

from fairkv_eval.errors import UsageError, unknown
from fairkv_eval.eviction.budgets import EVEN, Division
from fairkv_eval.eviction.layer import Layer, Span
from fairkv_eval.eviction.model_statistics import ModelStatistics
from fairkv_eval.eviction.parameter import Parameter, Value
from fairkv_eval.eviction.replays import Ask
from fairkv_eval.files import sha256_of

Parameters = tuple[tuple[str, Value], ...]

# The functions a press may have, each with the number of its positional arguments.
FUNCTIONS = {"score": 2, "budget": 1, "replay": 2, "decode": 2, "statistics": 1}


@dataclass(frozen=True)
class Press:
    """A scoring rule by name: ``score(layer, span, **parameters) -> [kv_heads, len(span)]`` (see `scores`).

    default_base: the press that a wrapper wraps unless base= names another, "none" if one must be named; ``base``: the
    one it wraps; cost, sets_amount: what lists say of it (see `press_facts`); refuses: those it cannot, by name, and
    why. A wrapper's rule also gets ``base``, the wrapped scores as a function of the span (and of another layer, if one
    stands behind it); without a rule of its own it scores as its base does. budget: how budgets differ by layer or head
    (see `budgets`). replay: the tokens to run against the full cache before anything is evicted (see `replays`);
    ``receives``: whether a key counts with the ``most`` attention it got from them, or with the ``mean``, relative to
    an even share. decode: the rule for pairs in the cache while decoding; ``collects``: whether it needs the attention
    they have received so far (see `decode_budget`). statistics: what it needs to know about the model beforehand (see
    `statistics`); ``known_statistics``: that, once it is `bound` to a model. ``sha256``: see `press_digest`; an edited
    rule has another. Presses are equal if their names, bases and digests are.
    """

    name: str
    score: Callable[..., Tensor] | None = field(default=None, compare=False)
    parameters: Mapping[str, Parameter] = field(default_factory=dict, compare=False)
    aliases: tuple[str, ...] = field(default=(), compare=False)
    summary: str = field(default="", compare=False)
    paper: str = field(default="", compare=False)
    observes: str = field(default="", compare=False)
    cost: str = field(default="", compare=False)
    sets_amount: bool = field(default=False, compare=False)
    sha256: str = ""
    default_base: str | None = None
    base: Press | None = None
    refuses: Mapping[str, str] = field(default_factory=dict, compare=False)
    budget: Callable[..., Division] | None = field(default=None, compare=False)
    replay: Callable[..., list[list[int]]] | None = field(default=None, compare=False)
    receives: str = field(default="most", compare=False)
    decode: Callable[..., Tensor] | None = field(default=None, compare=False)
    collects: bool = field(default=False, compare=False)
    statistics: Callable[..., Mapping[str, Tensor]] | None = field(default=None, compare=False)
    known_statistics: ModelStatistics | None = field(default=None, compare=False)

    @property
    def functions(self) -> dict[str, Callable[..., Any]]:
        """The functions that it has, by their names in a press file."""
        return {name: function for name in FUNCTIONS if (function := getattr(self, name)) is not None}

    def configure(self, typed: Mapping[str, object]) -> Parameters:
        """All parameters, by name: the typed values, checked, and the defaults of the others."""
        for name in typed:
            if name not in self.parameters:
                raise unknown(f"parameter of press {self.name!r}", name, self.parameters)
        return tuple((k, p.check(self.name, k, typed.get(k, p.default))) for k, p in self.parameters.items())

    def around(self, base: Press) -> Press:
        """This wrapper around a base, whose parameters it takes as well."""
        if base.base or base.default_base:
            raise UsageError(f"press {self.name!r} cannot wrap {base.name!r}, which is a wrapper itself")
        if base.replay:
            raise UsageError(f"press {self.name!r} cannot wrap {base.name!r}: it scores by a replay, after the prefill")
        if base.name in self.refuses:
            raise UsageError(f"press {self.name!r} cannot wrap {base.name!r}: {self.refuses[base.name]}")
        both = sorted(self.parameters.keys() & base.parameters)
        if both:
            raise UsageError(f"press {self.name!r} cannot wrap {base.name!r}: both have a parameter {both[0]!r}")
        digest = hashlib.sha256((self.sha256 + base.sha256).encode()).hexdigest()
        parameters = {**self.parameters, **base.parameters}
        return replace(self, base=base, default_base=None, parameters=parameters, sha256=digest)

    @property
    def needs_statistics(self) -> bool:
        """Whether it, or what it wraps, must be bound to a model before it scores."""
        return self.statistics is not None or (self.base is not None and self.base.needs_statistics)

    def bound(self, find: Callable[[Press], ModelStatistics]) -> Press:
        """This press with the statistics of one model. ``find``: those that a press needs."""
        base = self.base and self.base.bound(find)
        return replace(self, base=base, known_statistics=find(self) if self.statistics else None)

    def informed(self, layer: Layer) -> Layer:
        """The layer with its part of the statistics. ValueError if the press needs some and has none."""
        if self.statistics is None:
            return layer
        if self.known_statistics is None:
            raise ValueError(f"press {self.name!r} needs statistics of the model, and is not bound to one")
        known = self.known_statistics
        return replace(layer, statistics=known.of(layer), model_statistics=known.of_all(layer))

    def scorer(self, layer: Layer, parameters: Parameters) -> Callable[[Span], Tensor]:
        """The rule on one layer, a function of the span. Only a wrapper's rule sees budgets by head."""
        layer = self.informed(layer)
        if self.base is None:
            assert self.score is not None
            score = cache(partial(self.score, layer, **accepted(self.score, parameters)))
            return lambda span: score(replace(span, head_budgets=()))
        wrapped, of_base = self.base, self.base.scorer(layer, parameters)
        if self.score is None:
            return of_base

        def base(span: Span, on: Layer = layer) -> Tensor:
            return (of_base if on is layer else wrapped.scorer(on, parameters))(span)

        return partial(self.score, layer, base=base, **accepted(self.score, parameters))

    @property
    def replays_question(self) -> bool:
        """Whether it replays what is asked after the context, so that every question evicts by itself."""
        return self.replay is not None and "question" in inspect.signature(self.replay).parameters

    def replays(
        self, context: Sequence[int], ask: Ask, question: Sequence[int], parameters: Parameters
    ) -> list[list[int]]:
        """The tokens to run against the full cache of a context, tail by tail."""
        assert self.replay is not None
        asked = {"question": question} if self.replays_question else {}
        return self.replay(context, ask, **asked, **accepted(self.replay, parameters))

    def digest(self, parameters: Parameters) -> str:
        """Its SHA-256; if parameters name files, theirs are part of it."""
        files = [sha256_of(str(value)) for name, value in parameters if value and self.parameters[name].path]
        return hashlib.sha256("".join([self.sha256, *files]).encode()).hexdigest() if files else self.sha256

    def division(self, parameters: Parameters) -> Division:
        """How budgets differ by layer and head."""
        of_base = EVEN if self.base is None else self.base.division(parameters)
        if self.base and of_base.own is not None:
            raise UsageError(
                f"press {self.name!r} cannot wrap {self.base.name!r}: its scores say how much is kept, by themselves"
            )
        if self.budget is None:
            return of_base
        division = self.budget(of_base, **accepted(self.budget, parameters))
        sets_all = division.own is not None or division.pooled == "model"
        if self.base and sets_all and not of_base.uniform:
            raise UsageError(
                f"press {self.name!r} cannot wrap {self.base.name!r}: both say how many pairs a layer and head keeps"
            )
        return division


def accepted(function: Callable[..., Any], parameters: Parameters) -> dict[str, Any]:
    """Those of a press's parameters that one of its functions has as arguments."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in parameters if name in names}

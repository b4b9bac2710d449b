"""kvpress's scorers as presses: ``press=kvpress:<Class>`` scores with that class's ``score()``, plain or fair.

A scorer gets the keys and values of the span alone and stand-ins for the rest (see `kvpress_inputs`). Its
``compression_ratio`` is the part of the span to evict, such that kvpress would keep the span's budget. The scorers'
differences from our rules, and the refused ones, are listed in presses/README.md.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from fairkv_eval.attention.seam import NAME
from fairkv_eval.errors import UsageError, unknown
from fairkv_eval.eviction.kvpress_inputs import MissingInput, scorer_inputs
from fairkv_eval.eviction.layer import Layer, Span
from fairkv_eval.eviction.parameter import Parameter, Value
from fairkv_eval.eviction.press import Parameters, Press

PREFIX = "kvpress:"

_KINDS: dict[Any, type] = {kind: kind for kind in (bool, int, float)} | {k.__name__: k for k in (bool, int, float)}


@dataclass(frozen=True)
class BridgedPress(Press):
    """A press whose parameters its kvpress class may refuse as well."""

    def configure(self, typed: Mapping[str, object]) -> Parameters:
        parameters = super().configure(typed)
        assert isinstance(self.score, _Rule)
        self.score.make(dict(parameters))
        return parameters


def bridged_press(class_name: str) -> Press:
    """The press that scores as this class of kvpress does.

    UsageError if kvpress is missing, has no such class, or the class needs more than `score()`.
    """
    scorer = _scorer(_kvpress(), class_name)
    name = PREFIX + class_name
    parameters = _parameters_of(scorer)
    about = inspect.getdoc(scorer) or ""
    arxiv = re.search(r"arxiv\.org/(?:abs|pdf)/(\d+\.\d+)", about)
    return BridgedPress(
        name=name,
        score=_Rule(name, scorer, tuple(parameters)),
        parameters=parameters,
        summary=about.partition("\n")[0].rstrip("."),
        paper=f"https://arxiv.org/abs/{arxiv[1]}" if arxiv else "",
        observes="what kvpress's rule reads",
        sha256=_digest(scorer),
    )


def _kvpress() -> Any:
    """Import the package, which wraps every attention function that transformers knows, and put ours back."""
    ours = ALL_ATTENTION_FUNCTIONS.get(NAME)
    try:
        import kvpress
    except ImportError as error:
        if error.name == "kvpress":
            raise UsageError(
                f"a press {PREFIX}<Class> needs kvpress, which is not installed: pip install 'fairkv-eval[kvpress]'"
            ) from error
        raise UsageError(
            f"kvpress cannot be imported ({error}): it may not fit the installed transformers; "
            "pip install 'fairkv-eval[kvpress]' chooses versions that fit"
        ) from error
    finally:
        if ours is not None and ALL_ATTENTION_FUNCTIONS[NAME] is not ours:
            ALL_ATTENTION_FUNCTIONS[NAME] = ours
    return kvpress


def _scorer(kvpress: Any, name: str) -> type:
    """The class of this name; UsageError if there is none or it cannot be bridged."""
    scorer = getattr(kvpress, name, None)
    if not (isinstance(scorer, type) and issubclass(scorer, kvpress.BasePress)):
        raise unknown(
            "scorer of kvpress", name, [n for n, other in vars(kvpress).items() if not _refusal(kvpress, other)]
        )
    refusal = _refusal(kvpress, scorer)
    if refusal:
        raise UsageError(f"press {PREFIX + name!r}: {refusal}")
    return scorer


def _refusal(kvpress: Any, scorer: Any) -> str | None:
    """Why something in kvpress cannot be bridged; None for a class that only scores."""
    base = kvpress.ScorerPress
    if not isinstance(scorer, type) or not issubclass(scorer, base) or scorer.score is base.score:  # type: ignore[attr-defined]
        return "only scorers of kvpress (subclasses of ScorerPress) can be bridged, and this is not one"
    for method in ("compress", "forward_hook", "__call__"):
        if getattr(scorer, method) is not getattr(base, method):
            return f"it does more than score (it has its own {method}), and only scorers can be bridged"
    if scorer.post_init_from_model is not base.post_init_from_model:  # type: ignore[attr-defined]
        return "it reads the model before it scores, which a scoring rule here cannot"
    for field in dataclasses.fields(scorer):
        if field.init and field.default is field.default_factory is dataclasses.MISSING:
            return f"it cannot be made without {field.name!r}"
    return None


def _parameters_of(scorer: type) -> dict[str, Parameter]:
    """The fields that are numbers, true or false. Without the ratio, which is the policy's."""
    fields = [f for f in dataclasses.fields(scorer) if f.init and f.name != "compression_ratio"]
    return {f.name: Parameter(_KINDS[f.type](f.default), help="as in kvpress") for f in fields if f.type in _KINDS}


def _digest(scorer: type) -> str:
    source = Path(inspect.getsourcefile(scorer) or "")
    return hashlib.sha256(source.read_bytes() + version("kvpress").encode()).hexdigest()


class _Rule:
    """The scoring rule of one class: ``rule(layer, span, **parameters) -> [kv_heads, len(span)]`` in float32."""

    def __init__(self, press: str, scorer: type, parameters: tuple[str, ...]) -> None:
        self.press = press
        self.scorer = scorer
        names = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("layer", "span")]
        names += [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in parameters]
        self.__signature__ = inspect.Signature(names)

    def make(self, parameters: Mapping[str, Value], ratio: float = 0.0) -> Any:
        """An instance of the class; UsageError if it refuses its parameters."""
        try:
            return self.scorer(**parameters, compression_ratio=ratio)
        except (AssertionError, ValueError, TypeError) as error:
            raise UsageError(f"press {self.press!r}: {self._called(parameters)} is not allowed: {error}") from error

    def __call__(self, layer: Layer, span: Span, **parameters: float) -> Tensor:
        scorer = self.make(parameters, ratio_that_keeps(span.budget, len(span)))
        inputs = scorer_inputs(layer, span)
        with self._naming(f"{self._called(parameters)} cannot score {len(span)} tokens"), _noise_of(layer, span):
            scores: Tensor = scorer.score(*inputs)
        if scores.shape != inputs.keys.shape[:3]:
            shapes = f"{tuple(scores.shape)} for {tuple(inputs.keys.shape[:3])}"
            raise UsageError(f"press {self.press!r}: {self._called(parameters)} gives scores {shapes}")
        return scores[0].float()

    @contextmanager
    def _naming(self, failure: str) -> Iterator[None]:
        """Name the press in every error of its class."""
        try:
            yield
        except UsageError as error:
            raise UsageError(f"press {self.press!r}: {error}") from error
        except MissingInput as error:
            raise UsageError(
                f"press {self.press!r} needs {error}; a scoring rule here sees a layer's queries, keys, values, "
                "attention and rotation"
            ) from error
        except (AssertionError, ValueError, NotImplementedError) as error:
            raise UsageError(f"press {self.press!r}: {failure}: {error}") from error

    def _called(self, parameters: Mapping[str, Value]) -> str:
        return f"{self.scorer.__name__}({', '.join(f'{name}={value!r}' for name, value in parameters.items())})"


def ratio_that_keeps(kept: int, n: int) -> float:
    """The compression ratio in [0, 1) at which kvpress's ``int(n·(1−ratio))`` is ``kept``."""
    ratio = min(1 - kept / n, math.nextafter(1, 0))
    while int(n * (1 - ratio)) < kept:
        ratio = math.nextafter(ratio, 0)
    return ratio


@contextmanager
def _noise_of(layer: Layer, span: Span) -> Iterator[None]:
    """Seed the global noise by the context's tokens, the layer and the span, and restore it afterwards."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if layer.k.is_cuda else ()):
        torch.manual_seed(hash((layer.seed, layer.index, span.start)) & (2**63 - 1))
        yield

"""A ratio of its own for every layer, from a list or a file."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.budgets import Division
from fairkv_eval.eviction.quotas import n_kept


def layer_ratios(division: Division, *, by_layer: str, by_layer_file: str) -> Division:
    """Each layer keeps what its own ratio leaves; the ratios are ``a+b+…``, or numbers in a file."""
    if bool(by_layer) == bool(by_layer_file):
        raise UsageError("layer_ratios needs a ratio for each layer: either by_layer=a+b+… or by_layer_file=<path>")
    texts = by_layer.split("+") if by_layer else _words(by_layer_file)
    ratios = tuple(_ratio(text, by_layer_file or "by_layer") for text in texts)
    return replace(division, layers=partial(budgets_at, ratios=ratios), own=partial(mean_budget, ratios=ratios))


def budgets_at(n: int, mean: int, layers: int, floor: int, *, ratios: tuple[float, ...]) -> list[int]:
    """What each layer keeps of n tokens. UsageError if there are not as many ratios as layers."""
    if len(ratios) != layers:
        raise UsageError(
            f"layer_ratios has {len(ratios)} ratios, and the model {layers} layers that evict (those with a sliding "
            "window do not)"
        )
    return [n_kept(n, ratio) for ratio in ratios]


def mean_budget(n: int, *, ratios: tuple[float, ...]) -> int:
    """What a layer keeps of n tokens on average, rounded up."""
    return math.ceil(sum(n_kept(n, ratio) for ratio in ratios) / len(ratios))


def _words(path: str) -> list[str]:
    """The entries of a file, parted by white space or commas, in brackets or not."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"layer_ratios cannot read {path!r}: {error}") from error
    return re.findall(r"[^\s,\[\]]+", text) or [""]


def _ratio(text: str, source: str) -> float:
    try:
        ratio = float(text)
    except ValueError:
        ratio = math.nan
    if not 0 <= ratio < 1:
        raise UsageError(f"layer_ratios: {text!r} of {source} is not a ratio; it takes numbers from 0 to below 1")
    return ratio

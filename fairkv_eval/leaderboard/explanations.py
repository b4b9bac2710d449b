"""What the page says about tasks and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import yaml


def of_task(task: str) -> str:
    """What a task asks; "" for one that is not ours."""
    return _first(_texts()["tasks"], task)


def of_metric(metric: str) -> str:
    """What a metric means, whose name may be ``metric,filter``; "" if it is not known."""
    return _first(_texts()["metrics"], metric.partition(",")[0])


def _first(texts: Mapping[str, str], name: str) -> str:
    fits = (key == name or (key.endswith("*") and name.startswith(key[:-1])) for key in texts)
    return next((text for text, fit in zip(texts.values(), fits, strict=True) if fit), "")


@cache
def _texts() -> Mapping[str, Mapping[str, str]]:
    return yaml.safe_load(files("fairkv_eval.leaderboard").joinpath("explanations.yaml").read_text(encoding="utf-8"))

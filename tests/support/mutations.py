"""JSON values changed at random, one place at a time: what a damaged or hostile file may hold."""

from __future__ import annotations

import json
import math
import random
from typing import Any

ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, math.nan, math.inf, -math.inf, 1e308, 10**30, 10**400, ""),
    *("\ud800", "\x1b]0;x\x07", "=cmd()", "[a](javascript:b)", "\u202e", "\0", "../../x", "9" * 50, [], {}),
    *([[]], {"a": {"b": []}}, [1, "a", None], {"": 0}),
)


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def mutate(value: Any, draw: random.Random) -> Any:
    """The value with one entry at any depth deleted, replaced, wrapped or doubled."""
    if not isinstance(value, (dict, list)) or not value or draw.random() < 0.1:
        return _replaced(value, draw)
    if isinstance(value, dict):
        key = draw.choice(list(value))
        if draw.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        if draw.random() < 0.05:
            return {(draw.choice(["", "\ud800", "a,b,c", "acc,none"]) if k == key else k): v for k, v in value.items()}
        return {**value, key: mutate(value[key], draw)}
    index = draw.randrange(len(value))
    if draw.random() < 0.15:
        return value[:index] + value[index + 1 :]
    return [*value[:index], mutate(value[index], draw), *value[index + 1 :]]


def _replaced(value: Any, draw: random.Random) -> Any:
    kind = draw.randrange(8)
    if kind < 5:
        return draw.choice(ODD)
    return (str(value), [value], nested(draw.choice([3, 400])))[kind - 5]


def mutated_text(text: str, draw: random.Random) -> bytes:
    """A file of JSON, or of JSON lines, with one change."""
    kind = draw.random()
    if kind < 0.05:
        return text.encode()[: draw.randrange(len(text))]
    if kind < 0.08:
        return bytes(draw.randrange(256) for _ in range(200))
    if kind < 0.1:
        return b"[" * 100_000
    if text.startswith("{\n"):
        return _dumped(mutate(json.loads(text), draw))
    lines = text.splitlines()
    index = draw.randrange(len(lines))
    lines[index] = _dumped(mutate(json.loads(lines[index]), draw)).decode()
    return "\n".join(lines).encode() + b"\n"


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode()

"""What eviction did to a document's context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Doc = Mapping[str, Any]


def telemetry(response: object) -> dict[str, float]:
    """keep_rate, keep_rate_<segment>, kv_bytes_full and kv_bytes_kept of one response, and its response_entropy in nats
    where the run asked for it (``--gen_kwargs entropy=true``); {} from a plain model."""
    told = getattr(response, "telemetry", None)
    if not told:
        return {}
    rates = {f"keep_rate_{name}": float(rate) for name, rate in told["segments"].items()}
    always = {name: float(told[name]) for name in ("keep_rate", "kv_bytes_full", "kv_bytes_kept")}
    return always | rates | {name: float(told[name]) for name in ("response_entropy",) if name in told}

"""What eviction did to a document's context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Doc = Mapping[str, Any]


def telemetry(response: object) -> dict[str, float]:
    """keep_rate, keep_rate_<segment>, kv_bytes_full and kv_bytes_kept of one response; {} from a plain model.

    With ``--gen_kwargs entropy=true`` also its response_entropy, in nats per token.
    """
    measures = getattr(response, "telemetry", None)
    if not measures:
        return {}
    rates = {f"keep_rate_{name}": float(rate) for name, rate in measures["segments"].items()}
    always = {name: float(measures[name]) for name in ("keep_rate", "kv_bytes_full", "kv_bytes_kept")}
    return always | rates | {name: float(measures[name]) for name in ("response_entropy",) if name in measures}

"""What an eviction did to a context, as metrics of its document."""

from __future__ import annotations

from typing import Any

import pytest
from scored_documents import FIXED, LEAKY

from fairkv_eval import metrics


class TextWithTelemetry(str):
    """A response with telemetry, as the fairkv model gives it."""

    telemetry: dict[str, Any] | None = None


def test_telemetry_of_a_fairkv_response() -> None:
    response = TextWithTelemetry("Four words are here")
    response.telemetry = {
        "context_tokens": 10,
        "kept_tokens": 5.0,
        "keep_rate": 0.5,
        "segments": {"directive": 0.25, "defense": 1},
        "kv_bytes_full": 100,
        "kv_bytes_kept": 50,
        "generated_tokens": 4,
    }
    expected = {
        "keep_rate": 0.5,
        "keep_rate_directive": 0.25,
        "keep_rate_defense": 1.0,
        "kv_bytes_full": 100.0,
        "kv_bytes_kept": 50.0,
    }
    for scores in (metrics.ifeval_results(FIXED, [response]), metrics.leakage_results(LEAKY, [response])):
        assert expected.items() <= scores.items()
    assert all(type(value) is float for value in metrics.telemetry(response).values())


@pytest.mark.parametrize("response", ["plain", TextWithTelemetry("none")])
def test_a_plain_model_has_no_telemetry(response: str) -> None:
    assert metrics.telemetry(response) == {}
    assert not [name for name in metrics.leakage_results(LEAKY, [response]) if name.startswith(("keep", "kv"))]

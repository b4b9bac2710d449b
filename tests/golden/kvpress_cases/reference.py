"""Presses of kvpress's releases; the file was written with kvpress 0.5.5."""

from __future__ import annotations

from typing import Any

import kvpress
from kvpress_cases.case import EXACT_RATIOS, Case

# Kind: seed of its weights and of its context. Seeds are chosen so that the scores on the two sides of each budget's
# edge are well apart and rounding decides nothing.
MODELS = {"llama": 19, "qwen3": 20}

# 300·(1−0.8), 60, is 59.999… in binary fractions.
INEXACT_RATIOS = (*EXACT_RATIOS, 0.8)


def _snapkv(ratio: float) -> Any:
    return kvpress.SnapKVPress(ratio, window_size=16, kernel_size=5)


_WINDOW = {"window": 16, "kernel": 5}

CASES: dict[str, Case] = {
    "streaming_llm": Case(
        "streaming_llm", lambda r: kvpress.StreamingLLMPress(r, n_sink=4), {"sinks": 4}, ratios=INEXACT_RATIOS
    ),
    "snapkv": Case("snapkv", _snapkv, _WINDOW),
    "tova": Case("tova", kvpress.TOVAPress),
    "knorm": Case("knorm", kvpress.KnormPress, ratios=INEXACT_RATIOS),
    "h2o": Case("h2o", kvpress.ObservedAttentionPress, attention="eager"),
    "keydiff": Case("keydiff", kvpress.KeyDiffPress),
    "expected_attention": Case(
        "expected_attention",
        lambda r: kvpress.ExpectedAttentionPress(r, n_future_positions=512, n_sink=4),
        {"sinks": 4, "horizon": 512},
    ),
    **{
        f"lagkv-{lag}": Case(
            "lagkv", lambda r, lag=lag: kvpress.LagKVPress(r, n_sink=4, lag_size=lag), {"sinks": 4, "lag": lag}
        )
        for lag in (32, 128, 200)
    },
    **{
        f"pyramidkv-{beta}": Case(
            "pyramidkv",
            lambda r, beta=beta: kvpress.PyramidKVPress(r, window_size=16, kernel_size=5, beta=beta),
            {**_WINDOW, "beta": beta},
        )
        for beta in (3, 20)
    },
    "adakv-snapkv": Case(
        "adakv",
        lambda r: kvpress.AdaKVPress(_snapkv(r), alpha_safeguard=0.2),
        {**_WINDOW, "safeguard": 0.2},
        base="snapkv",
    ),
    **{
        f"adakv-knorm-{safeguard}": Case(
            "adakv",
            lambda r, safeguard=safeguard: kvpress.AdaKVPress(kvpress.KnormPress(r), alpha_safeguard=safeguard),
            {"safeguard": safeguard},
            base="knorm",
        )
        for safeguard in (0.2, 0.9)
    },
    **{
        f"chunkkv-snapkv-{chunk}": Case(
            "chunkkv",
            lambda r, chunk=chunk: kvpress.ChunkKVPress(_snapkv(r), chunk_length=chunk),
            {**_WINDOW, "chunk": chunk},
            base="snapkv",
        )
        for chunk in (20, 32)
    },
    "chunkkv-knorm": Case(
        "chunkkv",
        lambda r: kvpress.ChunkKVPress(kvpress.KnormPress(r), chunk_length=20),
        {"chunk": 20},
        base="knorm",
    ),
}

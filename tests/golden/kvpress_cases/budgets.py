"""Presses of kvpress's main branch of August 2026 whose budgets differ by layer and head, or follow from the text; the
file was written with it, in place of a release.

Those that take no ratio have the one ratio 0.
"""

from __future__ import annotations

import kvpress
from kvpress_cases.case import Case

MODELS = {"llama": 19, "qwen3": 20}
NO_RATIO = (0.0,)
LAYER_RATIOS = (0.25, 0.5, 0.75, 0.875)

CASES: dict[str, Case] = {
    **{
        f"simlayerkv-{last}": Case(
            "simlayerkv",
            lambda r, last=last, threshold=threshold: kvpress.SimLayerKVPress(
                lazy_threshold=threshold, n_last=last, n_recent=60, n_initial=4
            ),
            {"threshold": threshold, "last": last, "recent": 60, "sinks": 4},
            ratios=NO_RATIO,
        )
        for last, threshold in ((1, 0.2), (8, 0.21))
    },
    "threshold-knorm": Case(
        "threshold",
        lambda r: kvpress.DMSPress(kvpress.KnormPress(), threshold=-4.0, sliding_window_size=16),
        {"threshold": -4.0, "protect": 16},
        base="knorm",
        ratios=NO_RATIO,
    ),
    "threshold-snapkv": Case(
        "threshold",
        lambda r: kvpress.DMSPress(
            kvpress.SnapKVPress(window_size=16, kernel_size=5), threshold=0.003, sliding_window_size=40
        ),
        {"threshold": 0.003, "protect": 40, "window": 16, "kernel": 5},
        base="snapkv",
        ratios=NO_RATIO,
    ),
    "layer_ratios": Case(
        "layer_ratios",
        lambda r: kvpress.PerLayerCompressionPress(kvpress.KnormPress(), list(LAYER_RATIOS)),
        {"by_layer": "+".join(map(str, LAYER_RATIOS))},
        base="knorm",
        ratios=NO_RATIO,
    ),
    **{
        f"blockwise-{base}-{size}": Case(
            "blockwise",
            lambda r, scorer=scorer, size=size: kvpress.BlockPress(scorer(r), block_size=size),
            {"block_size": size},
            base=base,
        )
        for base, scorer in (("knorm", kvpress.KnormPress), ("keydiff", kvpress.KeyDiffPress))
        for size in (32, 128)
    },
    "kvcompose": Case("kvcompose", lambda r: kvpress.KVComposePress(compression_ratio=r), attention="eager"),
    "kvcompose-heads": Case(
        "kvcompose",
        lambda r: kvpress.KVComposePress(structured=False, compression_ratio=r),
        {"structured": False},
        attention="eager",
    ),
}

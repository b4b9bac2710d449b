"""Presses that kvpress's main branch of August 2026 scores with; the file was written with it, in place of a release.

Random sketches are drawn after `torch.manual_seed(0)`, layer by layer, so that tests can draw the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kvpress
import torch
from kvpress.presses.cap_press import CapPress
from kvpress.presses.leverage_press import LeverageScorePress
from kvpress.presses.non_causal_attention_press import NonCausalAttnPress
from kvpress_cases.case import Case

MODELS = {"llama": 19, "qwen3": 20}
QUESTION = 20  # tokens that finch takes as the question, of the context's last


def seeded(make: Callable[[float], Any]) -> Callable[[float], Any]:
    """The same press, with the global noise begun anew."""

    def made(ratio: float) -> Any:
        torch.manual_seed(0)
        return make(ratio)

    return made


def _snapkv(ratio: float) -> Any:
    return kvpress.SnapKVPress(ratio, window_size=16, kernel_size=5)


def finch(ratio: float) -> Any:
    """The last 20 tokens are the question. Its delimiter, which no vocabulary here has, only says how many they are."""
    press = kvpress.FinchPress(ratio, rerotate_keys=False)
    press.window_size, press.delimiter_token_id = QUESTION, -1
    return press


def _compactor(**settings: Any) -> Callable[[float], Any]:
    return seeded(lambda ratio: kvpress.CompactorPress(ratio, **settings))


CASES: dict[str, Case] = {
    **{
        f"leverage-{sketch}": Case(
            "leverage",
            seeded(lambda r, sketch=sketch: LeverageScorePress(r, sketch_dimension=sketch)),
            {"sketch": sketch},
        )
        for sketch in (6, 48)
    },
    **{
        f"noncausal_attention-{block}": Case(
            "noncausal_attention", lambda r, block=block: NonCausalAttnPress(r, chunk_size=block), {"block": block}
        )
        for block in (100, 256)
    },
    # 288 tokens between the protected ones: three whole blocks, or one and a part.
    "compactor-96": Case("compactor", _compactor(chunk_size=96), {"block": 96}),
    "compactor-256": Case("compactor", _compactor(), {}),
    "compactor-constant": Case(
        "compactor", _compactor(chunk_size=96, blending=0.35), {"block": 96, "blend": 0.35, "by_ratio": False}
    ),
    **{
        f"cur-{combine}": Case(
            "cur", lambda r, kind=kind: kvpress.CURPress(r, leverage_type=kind), {"combine": combine}
        )
        for combine, kind in (("product", "kv_product"), ("mean", "kv_avg"), ("keys", "key"), ("values", "value"))
    },
    "cur-whole": Case("cur", lambda r: kvpress.CURPress(r, use_local_approximation=False), {"window": 300}),
    "capkv": Case("capkv", CapPress, {}),
    "capkv-sharp": Case(
        "capkv",
        lambda r: CapPress(r, tau=1.5, n_future_positions=64, n_sink=2),
        {"sharpness": 1.5, "horizon": 64, "sinks": 2},
    ),
    "criticalkv-snapkv": Case(
        "criticalkv", lambda r: kvpress.CriticalKVPress(_snapkv(r)), {"window": 16, "kernel": 5}, base="snapkv"
    ),
    "criticalkv-snapkv-most": Case(
        "criticalkv",
        lambda r: kvpress.CriticalKVPress(_snapkv(r), epsilon=0.01, first_stage_ratio=0.8),
        {"window": 16, "kernel": 5, "epsilon": 0.01, "first": 0.8},
        base="snapkv",
    ),
    "criticalkv-expected_attention": Case(
        "criticalkv",
        lambda r: kvpress.CriticalKVPress(kvpress.ExpectedAttentionPress(r)),
        base="expected_attention",
    ),
    "criticalkv-knorm": Case("criticalkv", lambda r: kvpress.CriticalKVPress(kvpress.KnormPress(r)), base="knorm"),
    **{
        f"criticalkv-pooled-{safeguard}": Case(
            "criticalkv",
            lambda r, safeguard=safeguard: kvpress.CriticalAdaKVPress(_snapkv(r), alpha_safeguard=safeguard),
            {"window": 16, "kernel": 5, "pooled": True, "safeguard": safeguard},
            base="snapkv",
        )
        for safeguard in (0.2, 0.9)
    },
    "finch": Case("finch", finch, {}),
}

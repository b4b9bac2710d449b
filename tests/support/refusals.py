"""Which combinations of a wrapper and a press, a press and an architecture, or two arguments are refused, and how: the
one table of them."""

from __future__ import annotations

from typing import Any

import press_table
from press_table import OWN, WRAPPERS

REPLAYS = ("kvzip", "kvcompose", "finch")
UNEVEN = ("pyramidkv",)  # and no wrapper itself
TURN_BACK = ("expected_attention", "expected_attention_stats", "capkv", "leverage", "compactor")
# Wrappers that divide the model's pairs by themselves.
DIVIDING = ("threshold", "layer_ratios", "zigzagkv")


def of_wrapper(wrapper: str, base: str) -> str | None:
    """What a wrapper says to a press that it cannot wrap; it names both. None if it wraps it."""
    refuses = f"press '{wrapper}' cannot wrap '{base}'"
    shared = sorted(parameters(wrapper) & parameters(base))
    if shared and base not in (*WRAPPERS, *REPLAYS, *TURN_BACK):
        return f"{refuses}: both have a parameter '{shared[0]}'"
    for bases, reason in (
        (WRAPPERS, "which is a wrapper itself"),
        (REPLAYS, "it scores by a replay"),
        (TURN_BACK if wrapper == "blockwise" else (), "it turns"),
        (OWN, "its scores say how much is kept"),
        (UNEVEN if wrapper in DIVIDING else (), "both say how many pairs a layer and head keeps"),
    ):
        if base in bases:
            return f"{refuses}.*{reason}"
    return None


def parameters(name: str) -> set[str]:
    press = press_table.press(name, "knorm" if name in WRAPPERS else None)
    return set(press.parameters) - (set(press.base.parameters) if press.base else set())


def of_arguments(name: str, typed: dict[str, Any]) -> str | None:
    """What a policy of a press with a ratio is refused with if these arguments stand beside it; None if it runs."""
    decodes = name in ("streaming_llm", "h2o", "tova", "knorm", "keydiff", "qfilter")
    uneven = {*REPLAYS, *UNEVEN, *OWN, "adakv", "zigzagkv"} - {"finch"}
    amounts = [key for key in ("ratio", "budget", "budget_bytes") if key in typed]
    if len(amounts) > 1:
        return "both say how much is kept"
    if typed.get("positions") == "contiguous" and name in uneven:
        return f"positions=contiguous needs .*; '{name}' does not"
    if name in OWN and amounts:
        return f"press '{name}' itself says how much is kept"
    if typed.get("merge") == "cam" and "decode_budget" not in typed:
        return "merge=cam .* needs decode_budget"
    if "decode_budget" in typed and not decodes:
        return f"decode_budget=9 needs a press .* '{name}' is not one of them"
    if "decode_budget" in typed and typed.get("fair"):
        return "decode_budget=9 with fair=1 is not defined"
    if "key_channels" in typed and typed.get("kv_scheme") == "rotated":
        return "key_channels=0.4 with kv_scheme=rotated is not defined"
    if "decode_budget" in typed and ("kv_bits" in typed or "key_channels" in typed):
        return "decode_budget=9 with k.* is not defined"
    return None

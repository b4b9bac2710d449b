"""What comes of a job: its answer, and what the eviction did to its context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fairkv_eval.engine.cache import ContextCache
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.prompts.tokens import Prompt


@dataclass(frozen=True)
class Result:
    """``tokens`` of a generation; ``logprob`` (nats, summed) and ``greedy`` of a log-likelihood; ``fidelity`` of a
    comparison with the full cache; ``telemetry`` of the eviction."""

    telemetry: dict[str, Any]
    tokens: tuple[int, ...] = ()
    logprob: float = 0.0
    greedy: bool = False
    fidelity: dict[str, float] | None = None


def telemetry(prompt: Prompt, policy: Policy, cache: ContextCache) -> dict[str, Any]:
    """What the eviction did to a prompt's context, as plain values."""
    rate = cache.pairs / cache.full_pairs if cache.full_pairs else 1.0
    merged = merge_rate("merge_rate", cache.merged_pairs, cache.full_pairs - cache.pairs)
    return {
        "context_tokens": prompt.context_length,
        "kept_tokens": prompt.context_length * rate,
        "keep_rate": rate,
        "segments": cache.keep_rates or {segment.name: 1.0 for segment in prompt.segments},
        "kv_bytes_full": cache.full_bytes,
        "kv_bytes_kept": cache.nbytes,
        "folded_system": prompt.folded,
        "truncated_tokens": prompt.truncated,
        **(merged if policy.merge != "none" else {}),
    }


def merge_rate(name: str, merged: int, evicted: int) -> dict[str, float]:
    """The share of evicted pairs that were merged into kept ones, by name; {} if none were evicted."""
    return {name: merged / evicted} if evicted else {}

"""What a run adds up to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fairkv_eval.engine.cache import ContextCache


@dataclass
class Totals:
    """What a run processed: tokens, seconds, and bytes of the contexts before and after eviction; how many of its
    decode steps a device replayed from a recording, and how many answers were cut at their most tokens."""

    contexts: int = 0
    prefill_tokens: int = 0
    shared_tokens: int = 0
    replay_tokens: int = 0
    prefill_seconds: float = 0.0
    tail_tokens: int = 0
    tail_seconds: float = 0.0
    decode_tokens: int = 0
    decode_seconds: float = 0.0
    replayed_steps: int = 0
    answers_cut: int = 0
    kv_pairs_full: int = 0
    kv_pairs_kept: int = 0
    kv_pairs_merged: int = 0
    kv_bytes_full: int = 0
    kv_bytes_kept: int = 0

    def add(self, other: Totals) -> None:
        """Add another run's."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)

    def add_context(self, cache: ContextCache) -> None:
        """Add a context as one policy has evicted from it."""
        self.contexts += 1
        self.kv_pairs_full += cache.full_pairs
        self.kv_pairs_kept += cache.pairs
        self.kv_pairs_merged += cache.merged_pairs
        self.kv_bytes_full += cache.full_bytes
        self.kv_bytes_kept += cache.nbytes

    def describe(self) -> dict[str, Any]:
        """Figures for the result: achieved ratio over KV pairs, bytes, tokens per second."""

        def rate(tokens: int, seconds: float) -> float | None:
            return round(tokens / seconds, 1) if seconds else None

        full = self.kv_pairs_full
        return {
            **{k: v for k, v in asdict(self).items() if not k.endswith("_seconds")},
            "achieved_ratio": round(1 - self.kv_pairs_kept / full, 6) if full else None,
            "prefill_tokens_per_second": rate(self.prefill_tokens, self.prefill_seconds),
            "tail_tokens_per_second": rate(self.tail_tokens, self.tail_seconds),
            "decode_tokens_per_second": rate(self.decode_tokens, self.decode_seconds),
        }

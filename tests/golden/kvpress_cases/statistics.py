"""Presses of kvpress's main branch (August 2026) that know something about the model beforehand, or replay a context.

Texts come as tokens: stand-ins for a data set and a tokenizer hand kvpress's own code the numbers of `statistics_text`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from kvpress import DuoAttentionPress, ExpectedAttentionStatsPress, KVzipPress, QFilterPress
from kvpress.presses import duo_attention_press, expected_attention_with_stats, kvzip_press
from kvpress_cases.case import Case
from numpy_weights import KV_HEADS, LAYERS
from statistics_text import REQUEST, measured_tokens, random_filters
from torch import Tensor
from transformers import BatchEncoding, PreTrainedModel

MODELS = {"llama": 19, "qwen3": 20}
SINKS = 4


class _Tokenizer:
    """Every text is the text that statistics are measured on, and every request to repeat something one request."""

    chat_template = None
    model: PreTrainedModel

    @classmethod
    def from_pretrained(cls, name: str) -> _Tokenizer:
        return cls()

    def __call__(self, text: str, return_tensors: str) -> BatchEncoding:
        return BatchEncoding({"input_ids": torch.tensor([measured_tokens()])})

    def encode(self, text: str, return_tensors: str, add_special_tokens: bool) -> Tensor:
        return torch.tensor([REQUEST if "Repeat" in text else []], dtype=torch.long)


class _Texts(list[dict[str, str]]):
    """A data set of one text."""

    def map(self, change: Any) -> _Texts:
        return self

    def __getitem__(self, column: Any) -> Any:
        return ["text"]

    def to_pandas(self) -> Any:
        return SimpleNamespace(sample=lambda count, random_state: {"chapter": np.array(["text"])})


for _module in (duo_attention_press, expected_attention_with_stats, kvzip_press):
    _module.AutoTokenizer = _Tokenizer
for _module in (duo_attention_press, expected_attention_with_stats):
    _module.load_dataset = lambda *args, **kwargs: _Texts()


def measured(model: PreTrainedModel) -> dict[str, np.ndarray]:
    """What kvpress's own code measures of a model on the text; the filters are drawn, as they are trained elsewhere."""
    _, mean, covariance = expected_attention_with_stats.collect_queries(model, "", 1, 0, SINKS)
    duo_attention_press.cache.clear()  # by the model's name, which is the same for all here
    retrieval = duo_attention_press.duo_attention_on_the_fly(model, num_samples=1)
    return {
        "filters": random_filters(LAYERS, KV_HEADS, model.config.head_dim),
        "mean": mean.numpy(),
        "covariance": covariance.numpy(),
        "retrieval": retrieval,
    }


class _QFilterPress(QFilterPress):
    def post_init_from_model(self, model: PreTrainedModel) -> None:
        filters = random_filters(LAYERS, KV_HEADS, model.config.head_dim)
        self.q_filters = -torch.from_numpy(filters)  # kvpress scores with a minus


class _StatsPress(ExpectedAttentionStatsPress):
    def post_init_from_model(self, model: PreTrainedModel) -> None:
        known = measured(model)
        self.mu, self.cov = torch.from_numpy(known["mean"]), torch.from_numpy(known["covariance"])


class _DuoPress(DuoAttentionPress):
    def post_init_from_model(self, model: PreTrainedModel) -> None:
        duo_attention_press.cache.clear()
        super().post_init_from_model(model)
        self.sink_size, self.recent_size = 8, 40


CASES: dict[str, Case] = {
    "qfilter": Case("qfilter", _QFilterPress),
    "expected_attention_stats": Case(
        "expected_attention_stats",
        lambda r: _StatsPress(r, n_future_positions=512, n_sink=SINKS),
        {"sinks": SINKS, "horizon": 512},
    ),
    **{
        # The part of the heads that streams takes the place of a ratio.
        f"duo_attention-{sparsity}": Case(
            "duo_attention",
            lambda _, sparsity=sparsity: _DuoPress(head_compression_ratio=sparsity, on_the_fly_scoring=True),
            {"sparsity": sparsity, "sinks": 8, "recent": 40},
            ratios=(0.0,),
        )
        for sparsity in (0.25, 0.5, 0.75)
    },
    "kvzip": Case("kvzip", KVzipPress),
    "kvzip-plus": Case("kvzip", lambda r: KVzipPress(r, kvzip_plus_normalization=True), {"variant": "plus"}),
    "kvzip-uniform": Case("kvzip", lambda r: KVzipPress(r, layerwise=True), {"uniform": True}),
}

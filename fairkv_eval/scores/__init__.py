"""Scoring rules: how much each KV pair of a span is worth. Larger is kept.

A rule is a pure function ``rule(layer, span, **parameters) -> Tensor[kv_heads, len(span)]`` in float32. It sees one
layer of one context and one span of it: the whole context when eviction is plain, one segment when it is fair.
A score of ``+inf`` protects a pair: it is kept before any other, the latest first if the budget is too small for all.

Notation: a layer holds q ``[heads, n, dim]`` and k, v ``[kv_heads, n, dim]`` after RoPE, and
``A = causal softmax(q·kᵀ·scaling)`` over all keys a query sees, those outside the span included.

A rule that wraps a press is also given ``base``, the wrapped scores as a function of the span.
"""

from fairkv_eval.eviction.layer import PROTECTED as PROTECTED
from fairkv_eval.eviction.layer import Layer as Layer
from fairkv_eval.eviction.layer import Span as Span
from fairkv_eval.scores.attention import h2o as h2o
from fairkv_eval.scores.attention import noncausal_attention as noncausal_attention
from fairkv_eval.scores.attention import snapkv as snapkv
from fairkv_eval.scores.attention import tova as tova
from fairkv_eval.scores.blends import compactor as compactor
from fairkv_eval.scores.blockwise import blockwise as blockwise
from fairkv_eval.scores.decoding import h2o_decoding as h2o_decoding
from fairkv_eval.scores.decoding import tova_decoding as tova_decoding
from fairkv_eval.scores.expected import capkv as capkv
from fairkv_eval.scores.expected import expected_attention as expected_attention
from fairkv_eval.scores.keys import cur as cur
from fairkv_eval.scores.keys import keydiff as keydiff
from fairkv_eval.scores.keys import knorm as knorm
from fairkv_eval.scores.keys import lagkv as lagkv
from fairkv_eval.scores.keys import leverage as leverage
from fairkv_eval.scores.positions import random as random
from fairkv_eval.scores.positions import streaming_llm as streaming_llm
from fairkv_eval.scores.replayed import finch as finch
from fairkv_eval.scores.replayed import kvcompose as kvcompose
from fairkv_eval.scores.replayed import kvzip as kvzip
from fairkv_eval.scores.selective import simlayerkv as simlayerkv
from fairkv_eval.scores.selective import threshold as threshold
from fairkv_eval.scores.stored import duo_attention as duo_attention
from fairkv_eval.scores.stored import expected_attention_stats as expected_attention_stats
from fairkv_eval.scores.stored import qfilter as qfilter
from fairkv_eval.scores.wrappers import chunkkv as chunkkv
from fairkv_eval.scores.wrappers import criticalkv as criticalkv

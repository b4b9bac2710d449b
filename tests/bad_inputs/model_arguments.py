"""Model arguments and generation arguments."""

from __future__ import annotations

import math
from typing import Any

import tiny
from bad_input import Case, arguments, call

from fairkv_eval.engine.sampling import Sampling
from fairkv_eval.model import FairKV

PRESS = {"press": "tova", "ratio": 0.5}
NOT_FRACTIONS: list[Any] = [-0.1, 1.5, math.nan, math.inf, -math.inf, "half", [], [0.5], {}, "0.5"]
NOT_COUNTS: list[Any] = [0, -1, 1.5, math.nan, math.inf, "many", [], True, False, {}]


def press_parameters() -> list[Case]:
    values = {
        ("snapkv", "window"): [0, -1, 1.5, "x", [], True, math.nan],
        ("snapkv", "kernel"): [2, 0, 1.5, "x", []],
        ("h2o", "recent"): [-0.1, 1.1, math.nan, "x", True],
        ("streaming_llm", "sinks"): [-1, 1.5, "x", []],
        ("pyramidkv", "beta"): [0, -1, math.nan, math.inf, "x"],
        ("adakv", "safeguard"): [-0.1, 1.1, math.nan, "x"],
        ("chunkkv", "chunk"): [0, -1, 1.5],
        ("kvzip", "uniform"): [1, "yes", []],
        ("lagkv", "lag"): [0, 1.5],
        ("random", "seed"): [1.5, "x"],
        ("blockwise", "block_size"): [0, 1.5],
        ("zigzagkv", "share"): [-0.1, 1.1, math.nan],
        ("kvcompose", "structured"): [1, "yes"],
        ("simlayerkv", "threshold"): [-0.1, 1.1, math.nan, True],
        ("layer_ratios", "by_layer"): [True, [], None],
        ("leverage", "sketch"): [0, -1, 1.5, "x", True],
        ("noncausal_attention", "block"): [0, -1, 1.5, "x"],
        ("compactor", "recent"): [-1, 1.5, "x"],
        ("compactor", "blend"): [-0.1, math.nan, math.inf, "x", True],
        ("compactor", "by_ratio"): [1, "yes", []],
        ("cur", "window"): [0, 1.5, "x"],
        ("cur", "sketch"): [-1, 1.5, "x"],
        ("capkv", "sharpness"): [-1, math.nan, math.inf, "x"],
        ("criticalkv", "first"): [-0.1, 1.1, math.nan, "x"],
        ("criticalkv", "epsilon"): [-1, math.nan, math.inf, "x"],
        ("criticalkv", "pooled"): [1, "yes", []],
        ("duo_attention", "sparsity"): [-0.1, 1.1, "x", True],
        ("duo_attention", "recent"): [0, 1.5],
    }
    return [
        arguments(f"press {press!r}", name, "it takes", press=press, ratio=0.5, **{name: value})
        for (press, name), entries in values.items()
        for value in entries
    ]


def generation(**values: Any) -> Case:
    name = ",".join(f"{key}={value!r}" for key, value in values.items())
    return call(name, lambda folder: Sampling.of(values, None, seed=0), next(reversed(values)))


CASES = [
    *(arguments("ratio=", "from 0", press="tova", ratio=value) for value in [*NOT_FRACTIONS, 1, True]),
    *(arguments("fair=", "from 0", **PRESS, fair=value) for value in [*NOT_FRACTIONS, 2, "maybe"]),
    *(arguments("budget=", "whole number", press="tova", budget=value) for value in NOT_COUNTS),
    *(arguments("decode_budget=", "whole number", press="knorm", decode_budget=value) for value in NOT_COUNTS),
    *(
        arguments("decode_every=", "whole number", press="knorm", decode_budget=9, decode_every=value)
        for value in NOT_COUNTS
    ),
    *press_parameters(),
    arguments(
        "statistics='no/such.safetensors' is not a file", press="qfilter", ratio=0.5, statistics="no/such.safetensors"
    ),
    arguments("statistics='3'", "is not a file", press="qfilter", ratio=0.5, statistics=3),
    arguments("unknown model argument 'statistics'", press="tova", ratio=0.5, statistics="a.safetensors"),
    arguments("'duo_attention' itself says how much", "ratio=0.5", press="duo_attention", ratio=0.5),
    arguments("'duo_attention' itself says how much", "budget=9", press="duo_attention", budget=9),
    arguments("cannot wrap 'duo_attention'", "how much is kept", press="adakv", base="duo_attention", ratio=0.5),
    *(
        arguments(f"'{press}' itself says how much is kept", "ratio=0.5", press=press, ratio=0.5, **needed)
        for press, needed in {
            "simlayerkv": {},
            "threshold": {"base": "knorm"},
            "layer_ratios": {"by_layer": "0.5+0.5"},
        }.items()
    ),
    arguments("press 'threshold' needs a press that scores", "base=knorm", press="threshold", threshold=1),
    arguments("'threshold' cannot wrap 'pyramidkv'", "both say how many", press="threshold", base="pyramidkv"),
    arguments("'zigzagkv' cannot wrap 'pyramidkv'", press="zigzagkv", base="pyramidkv", ratio=0.5),
    arguments("'blockwise' cannot wrap 'leverage'", "positions", press="blockwise", base="leverage", ratio=0.5),
    arguments("cannot wrap 'simlayerkv'", "how much is kept", press="chunkkv", base="simlayerkv", ratio=0.5),
    arguments("layer_ratios needs a ratio for each layer", press="layer_ratios"),
    arguments("'2' of by_layer is not a ratio", press="layer_ratios", by_layer="0.5+2"),
    arguments("by_layer_file='no/such.txt' is not a file", press="layer_ratios", by_layer_file="no/such.txt"),
    arguments("positions=contiguous needs", "kvcompose", press="kvcompose", ratio=0.5, positions="contiguous"),
    arguments("ratio=0.5 needs a press", "tova", ratio=0.5),
    arguments("both say how much is kept", press="tova", ratio=0.5, budget=4),
    arguments("ratio=0.5 and budget_bytes=0.25 both say", press="tova", ratio=0.5, budget_bytes=0.25),
    arguments("budget=4 and budget_bytes=2MiB both say", press="tova", budget=4, budget_bytes="2 MiB"),
    arguments(
        "budget_bytes=0.25 has no effect on the full cache", "a press, kv_bits or key_channels", budget_bytes=0.25
    ),
    arguments("so budget_bytes=0.25 beside it has no meaning", press="simlayerkv", budget_bytes=0.25),
    *(
        arguments("budget_bytes=", "a fraction of the full cache's bytes", "as 16MiB", press="tova", budget_bytes=value)
        for value in [0, 1, 16, -0.5, True, "16", "16MB", "MiB", "0MiB", [], {}, math.nan, math.inf]
    ),
    arguments("fair=1", "needs a press", fair=True),
    arguments("keep=defense", "needs a press", keep="defense"),
    arguments("decode_every=4", "without decode_budget", **PRESS, decode_every=4),
    arguments("decode_budget=8", "tova", press="snapkv", decode_budget=8),
    arguments("decode_budget=8 with fair=1", press="tova", decode_budget=8, fair=True),
    *(
        arguments("unknown kv_bits", "16, 8, 4, 3, 2, or two of them as k4v2", kv_bits=value)
        for value in [5, 0, 1.5, "k4v5", "int4", True, [], [4], {}, None, math.nan]
    ),
    arguments("unknown kv_scheme 'kiwi'", "Did you mean 'kivi'?", kv_bits=4, kv_scheme="kiwi"),
    *(arguments("unknown kv_scheme", "rotated", kv_bits=4, kv_scheme=value) for value in [None, True, 1, []]),
    *(arguments("kv_group=", "whole number from 1", kv_bits=4, kv_group=value) for value in NOT_COUNTS),
    *(
        arguments("kv_residual=", "whole number from 0", kv_bits=4, kv_residual=value)
        for value in NOT_COUNTS
        if value != 0 or value is False
    ),
    arguments("kv_scheme=kivi has no effect without kv_bits", kv_scheme="kivi"),
    arguments("kv_group=32 has no effect without kv_bits", **PRESS, kv_group=32),
    arguments("kv_residual=0 has no effect without kv_bits", **PRESS, kv_residual=0),
    call(
        "kv_group=64 of a model whose heads have 16 channels",
        lambda folder: FairKV(tiny.model(), tokenizer=tiny.tokenizer(), kv_bits=4, kv_group=64),
        "kv_group=64 does not divide the keys of this model, which have 16 channels per head",
    ),
    *(
        arguments("key_channels=", "a number from 0 to below 1", key_channels=value)
        for value in [1, -0.1, True, "half", None, [], math.nan]
    ),
    *(arguments("key_window=", "whole number from 1", key_channels=0.4, key_window=value) for value in NOT_COUNTS),
    arguments("key_window=8 has no effect without key_channels", **PRESS, key_window=8),
    arguments("key_channels=0.4 with kv_scheme=rotated", key_channels=0.4, kv_bits=4, kv_scheme="rotated"),
    arguments("decode_budget=8 with key_channels=0.4 is not defined", press="knorm", decode_budget=8, key_channels=0.4),
    call(
        "key_channels=0.05 of a model whose heads have 16 channels",
        lambda folder: FairKV(tiny.model(), tokenizer=tiny.tokenizer(), key_channels=0.05),
        "key_channels=0.05 prunes nothing of this model's keys, which have 16 channels per head",
        "the smallest part that does is 0.0625",
    ),
    arguments("decode_budget=8 with kv_bits=4 is not defined", press="knorm", decode_budget=8, kv_bits=4),
    arguments("unknown press 'tovva'", "Did you mean 'tova'?", press="tovva", ratio=0.5),
    arguments("does not exist", press="no/such.yaml", ratio=0.5),
    arguments("kvpress", press="kvpress:NoSuchPress", ratio=0.5),
    arguments("base='knorm' is for presses that wrap another", press="tova", base="knorm", ratio=0.5),
    arguments("cannot wrap 'none'", press="adakv", base="none", ratio=0.5),
    arguments("which is a wrapper itself", press="adakv", base="chunkkv", ratio=0.5),
    arguments("unknown merge 'simlar'", "Did you mean 'similar'?", **PRESS, merge="simlar"),
    *(arguments("unknown merge", "cam, d2o, none, similar", **PRESS, merge=value) for value in [None, True, 1, []]),
    arguments("merge=d2o has no effect on the full cache", "needs a press", merge="d2o"),
    arguments("merge=cam", "needs decode_budget", **PRESS, merge="cam"),
    arguments("decode_budget=8 with fair=1", **PRESS, fair=True, merge="cam", decode_budget=8),
    arguments("positions", "original", **PRESS, positions="elsewhere"),
    arguments("positions=contiguous", "'pyramidkv'", press="pyramidkv", ratio=0.5, positions="contiguous"),
    arguments("segments", "paragraphs", **PRESS, segments="paragraf"),
    arguments("scope", "system", **PRESS, scope="sistem"),
    arguments("chat", "auto", **PRESS, chat="perhaps"),
    arguments("unknown model argument 'wndow'", press="snapkv", ratio=0.5, wndow=4),
    arguments("unknown model argument 'rtio'", "Did you mean 'ratio'?", press="tova", rtio=0.5),
    arguments("tp_plan='auto'", tp_plan="auto"),
    *(arguments("max_prefill_tokens=", max_prefill_tokens=value) for value in [0, -1, 1.5, "x", True]),
    *(arguments("kv_memory=", kv_memory=value) for value in [0, -1, math.nan, math.inf, "x", True]),
    *(arguments("batch_size=", "auto", batch_size=value) for value in [0, -1, 1.5, "many", True]),
    *(arguments("max_batch_size=", max_batch_size=value) for value in [0, -1, "x"]),
    *(arguments("max_length=", max_length=value) for value in [0, -5, 1.5, "x"]),
    *(arguments("device=", device=value) for value in ["bogus", "cuda:99", "meta", "cpu:x"]),
    arguments("attn_implementation", "sdpa", attn_implementation="flush"),
    *(arguments("linear", "onednn", linear=value) for value in ["onednm", "mkl", True, None]),
    *(arguments("compile", "auto", compile=value) for value in ["autos", True, None, "reduce-overhead"]),
    *(generation(do_sample=value) for value in ["maybe", "false", 1, []]),
    *(generation(do_sample=True, temperature=value) for value in [0, -1, math.inf, math.nan, "hot"]),
    *(generation(do_sample=True, top_p=value) for value in [0, 5, -1, math.nan, "x"]),
    *(generation(do_sample=True, top_k=value) for value in [-1, 1.5, "x", True]),
    *(generation(do_sample=True, min_p=value) for value in [-0.1, 2, math.nan]),
    *(generation(repetition_penalty=value) for value in [0, -1, math.inf, "x"]),
    *(generation(no_repeat_ngram_size=value) for value in [-1, 1.5]),
    generation(bad_words_ids=[1, 2]),
    generation(bad_words_ids=[[]]),
    generation(suppress_tokens="x"),
    generation(min_new_tokens=-1),
    generation(num_beams=4),
    generation(penalty_alpha=0.6),
    generation(temprature=1.0),
]

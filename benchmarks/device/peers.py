"""Step d: the harness's `hf` on the same model and prompts at its best batch, a bare generation with transformers'
static cache, and this package's model. With COMPILED=1 instead the static cache compiled, which takes minutes."""

from __future__ import annotations

import itertools
import os
from typing import Any

import rows
import tiny
import torch
import work as amounts
from record import Record
from work import Work


def run(work: Work, record: Record) -> None:
    record.attempt("load", lambda: work.model)
    if os.environ.get("COMPILED"):
        record.attempt("static cache, compiled", lambda: static_cache(work, record, compiled=True))
        return
    for batch in work.batches:
        record.attempt(f"hf, batches of {batch}", lambda batch=batch: hf(work, record, batch))
    record.attempt("static cache", lambda: static_cache(work, record, compiled=False))
    for ratio, compile in itertools.product((0.0, 0.5), ("off", "auto")):
        part = f"fairkv at ratio {ratio}, compile={compile}"
        record.attempt(part, lambda ratio=ratio, compile=compile: fairkv(work, record, ratio, compile))


def requests(work: Work) -> list[Any]:
    """Prompts of one token per byte; the first stands apart, to warm up."""
    texts = ["".join(chr(32 + token % 95) for token in work.tokens(work.context, seed)) for seed in range(work.prompts)]
    return [tiny.generation(text, doc_id=i, max_gen_toks=work.new_tokens) for i, text in enumerate(texts)]


def answer(work: Work, model: Any) -> dict[str, float]:
    """Seconds and tokens per second of all prompts, after two that warm up."""
    prompts = requests(work)
    model.generate_until(prompts[:2], disable_tqdm=True)
    took = rows.seconds(work, lambda: model.generate_until(prompts, disable_tqdm=True))
    return {"seconds": took, "tokens_per_s": work.prompts * work.new_tokens / took, "peak_gib": rows.peak_gib(work)}


def hf(work: Work, record: Record, batch: int) -> None:
    from lm_eval.models.huggingface import HFLM

    rows.empty_cache(work)
    model = HFLM(pretrained=work.model, tokenizer=tiny.tokenizer(), device=work.device, batch_size=batch)
    record.write("hf", batch=batch, **answer(work, model))


def fairkv(work: Work, record: Record, ratio: float, compile: str) -> None:
    from fairkv_eval.model import FairKV

    rows.empty_cache(work)
    attention = work.model.config._attn_implementation
    policy = {"press": "knorm", "ratio": ratio} if ratio else {}
    settings = {"tokenizer": tiny.tokenizer(), "device": work.device, "batch_size": work.prompts, "compile": compile}
    try:
        model = FairKV(work.model, **settings, **policy)
        kind = {"batch": work.prompts, "ratio": ratio, "compile": compile, "attention": model.attention.name}
        record.write("fairkv", **kind, **answer(work, model))
    finally:
        work.model.set_attn_implementation(attention)


@torch.inference_mode()
def static_cache(work: Work, record: Record, compiled: bool) -> None:
    """transformers alone, on prompts of one length, so that nothing is padded."""
    rows.empty_cache(work)
    ids = torch.tensor([work.tokens(work.context, seed) for seed in range(work.prompts)], device=work.device)

    def once() -> None:
        settings = {"cache_implementation": "static", "disable_compile": not compiled, "do_sample": False}
        lengths = {"max_new_tokens": work.new_tokens, "min_new_tokens": work.new_tokens}
        mask = torch.ones_like(ids)
        work.model.generate(ids, attention_mask=mask, pad_token_id=0, **settings, **lengths)

    first = rows.seconds(work, once)
    took = rows.seconds(work, once)
    figures = {"seconds": took, "first_seconds": first, "tokens_per_s": work.prompts * work.new_tokens / took}
    record.write("static cache", batch=work.prompts, compiled=compiled, **figures, peak_gib=rows.peak_gib(work))


if __name__ == "__main__":
    record = Record("peers")
    run(amounts.parse(__doc__), record)
    record.exit()

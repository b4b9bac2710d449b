"""Bytes of KV cache that a long context leaves behind under each press and storage, against the full cache, from the
tensors.

One context is prefilled once for all presses. ``context``: the tensors of what survives of it. ``storage``: the memory
these tensors keep alive, which is more where one is a view of another. ``row``: the entries of the decoding row that
goes on from it, its one tail token included. ``buffers``: what is allocated for that row, which grows in blocks. Peak
memory on the way there is score_memory.py's.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import common
import torch

from fairkv_eval.documents.sys_ifeval import sys_ifeval
from fairkv_eval.engine.batch import Batch
from fairkv_eval.engine.cache import ContextCache
from fairkv_eval.engine.jobs import Generation, Job
from fairkv_eval.engine.scheduler import Group
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.press_files import load_press
from fairkv_eval.prompts.tokens import Prompt
from fairkv_eval.storage.pairs import PackedPairs, Stored

FULL = "full cache"
MIB = 1 << 20
MEASURES = ("context", "storage", "row", "buffers")
HEADER = ("press", "pairs kept", *(f"{name} MiB" for name in MEASURES), *(f"{name} x" for name in MEASURES))


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    model = common.harness_model("fairkv", dtype=args.dtype, device=args.device)
    policies = {FULL: Policy(), **{name: policy(name, args.ratio) for name in args.presses}}
    policies |= {name: stored(name) for name in args.storages}
    figures = measure(model, text(model, args.context + 1), policies)
    report(args, figures)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presses", nargs="+", default=["knorm", "h2o", "pyramidkv", "adakv", "kvzip"])
    parser.add_argument("--storages", nargs="*", default=["kv_bits=4"], help="of a cache that evicts nothing")
    parser.add_argument("--ratio", type=float, default=0.9, help="fraction of the context's KV pairs that is evicted")
    parser.add_argument("--context", type=int, default=8192, help="tokens")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    common.add_comparison_arguments(parser, repeats=None)
    return parser.parse_args()


def policy(name: str, ratio: float) -> Policy:
    press = load_press(name)
    return Policy(press, press.configure({}) if press else (), ratio)


def stored(typed: str) -> Policy:
    """``kv_bits=4,kv_scheme=kivi`` as a policy that evicts nothing."""
    parts = dict(part.split("=") for part in typed.split(","))
    return Policy.of({name: int(value) if value.isdigit() else value for name, value in parts.items()})


def text(model: Any, size: int) -> tuple[int, ...]:
    """So many tokens of sys_ifeval's texts, over again if need be."""
    messages = [m["content"] for doc in sys_ifeval()["test"] for m in doc["messages"]]
    tokens = model.tok_encode("\n\n".join(messages))
    return tuple((tokens * (size // len(tokens) + 1))[:size])


def measure(model: Any, tokens: tuple[int, ...], policies: dict[str, Policy]) -> dict[str, dict[str, int]]:
    """Bytes under each policy, one prefill for all."""
    engine = common.engine_of(model, rows=1, max_prefill_tokens=len(tokens))
    job = Job(Prompt(tokens, len(tokens) - 1), Policy(), Generation(2), "long context")
    jobs = [replace(job, policy=applied) for applied in policies.values()]
    group = engine.scheduler(jobs).next(len(jobs))
    engine.prefill(group)
    figures = {}
    for name, member in zip(policies, group.members, strict=True):
        batch = Batch(1)
        engine.admit(Group([member]), batch)
        figures[name] = {
            "pairs": member.cache.pairs,
            "context": member.cache.nbytes,
            "storage": storage(member.cache),
            "row": batch.caches[0].nbytes_held,
            "buffers": batch.nbytes_allocated,
        }
    return figures


def storage(cache: ContextCache) -> int:
    """Bytes of memory that a context's tensors keep alive, shared memory counted once."""
    tensors = [tensor for layer in cache.layers for pairs in layer for tensor in tensors_of(pairs)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def tensors_of(pairs: Stored) -> tuple[torch.Tensor, ...]:
    return (*pairs.keys, *pairs.values, *pairs.newest) if isinstance(pairs, PackedPairs) else pairs


def report(args: argparse.Namespace, figures: dict[str, dict[str, int]]) -> None:
    """Print what each press leaves, as bytes and as parts of the full cache, and write it."""
    full = figures[FULL]
    parts = {name: {of: measured[of] / full[of] for of in MEASURES} for name, measured in figures.items()}
    rows = []
    for name, measured in figures.items():
        held = [f"{measured[of] / MIB:,.2f}" for of in MEASURES]
        rows.append((name, measured["pairs"], *held, *(f"{parts[name][of]:.4f}" for of in MEASURES)))
    print(common.table(HEADER, rows))
    for names, what in ((args.presses, f"ratio {args.ratio}"), (args.storages, "nothing evicted")):
        if names:
            worst = max(names, key=lambda name: parts[name]["context"])
            print(f"most of a full cache: {parts[worst]['context']:.4f} x ({worst}), {args.context} tokens, {what}")
    common.write_json(args.json, args, {"bytes": figures, "parts": parts, **common.versions(args.device)})


if __name__ == "__main__":
    main()

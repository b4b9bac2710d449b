"""What merging adds to the prefill of one long context: processor seconds with each `merge=`, against none.

The sides take turns, each prefills and evicts the context anew under knorm, and the fewest seconds count. Processor
time of this process, so that other work on the machine weighs little. ``fair``: the context in 64 equal segments.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from typing import Any

import common
import torch
from kv_bytes import text

from fairkv_eval.engine.jobs import Generation, Job
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.prompts.segments import Segment
from fairkv_eval.prompts.tokens import Prompt

SEGMENTS = 64
SIDES: dict[str, dict[str, Any]] = {
    "none": {},
    "similar": {"merge": "similar"},
    "similar, fair": {"merge": "similar", "fair": True},
    "d2o": {"merge": "d2o"},
}
HEADER = ("merge", "seconds", "x")


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    model = common.harness_model("fairkv", dtype=args.dtype, device=args.device)
    prompt = prompt_of(text(model, args.context + 1))
    sides = {name: policy(args.ratio, **arguments) for name, arguments in SIDES.items()}
    works = {name: lambda side=side: seconds(model, prompt, side) for name, side in sides.items()}
    report(args, common.in_turns(works, args.repeats))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratio", type=float, default=0.5, help="fraction of the context's KV pairs that is evicted")
    parser.add_argument("--context", type=int, default=8192, help="tokens")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    common.add_comparison_arguments(parser, repeats=2)
    return parser.parse_args()


def policy(ratio: float, **arguments: Any) -> Policy:
    return Policy.of({"press": "knorm", "ratio": ratio, **arguments})


def prompt_of(tokens: tuple[int, ...]) -> Prompt:
    """All but the last token as context, in equal segments."""
    n = len(tokens) - 1
    edges = [i * n // SEGMENTS for i in range(SEGMENTS + 1)]
    return Prompt(tokens, n, tuple(Segment(f"s{i}", a, b) for i, (a, b) in enumerate(pairwise(edges))))


def seconds(model: Any, prompt: Prompt, side: Policy) -> float:
    """Processor seconds of one prefill with its eviction."""
    engine = common.engine_of(model, rows=1, max_prefill_tokens=4096)
    group = engine.scheduler([Job(prompt, side, Generation(2), "long context")]).next(1)
    started = time.process_time()
    engine.prefill(group)
    return time.process_time() - started


def report(args: argparse.Namespace, runs: dict[str, list[float]]) -> None:
    """Print each side's fewest seconds beside those without a merge, and write them."""
    fewest = {name: min(rounds) for name, rounds in runs.items()}
    ratios = {name: value / fewest["none"] for name, value in fewest.items()}
    rows = [(name, f"{fewest[name]:.1f}", f"{ratios[name]:.3f}") for name in runs]
    print(common.table(HEADER, rows))
    print(f"{args.context} tokens, ratio {args.ratio:g}, {args.dtype}, {args.threads} threads")
    common.write_json(args.json, args, {"ratios": ratios, "runs": runs, **common.versions(args.device)})


if __name__ == "__main__":
    main()

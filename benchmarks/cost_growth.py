"""Seconds a prompt of many prompts against few: does anything grow with what has been answered before?

Both sides are one engine run over sys_ifeval prompts under TOVA at ratio 0.5, with the same number of new tokens each,
so that a prompt costs the same wherever it stands. The longer run holds the prompts of the shorter one over again, with
one token changed in each copy, so that no prefill is shared and both have the same lengths.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from typing import Any

import common
import torch

from fairkv_eval.engine.jobs import Generation

HEADER = ("prompts", "tokens", "seconds", "ms a prompt")


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    model = common.harness_model(
        "fairkv", press="tova", ratio=0.5, dtype=args.dtype, device=args.device, batch_size=args.batch_size
    )
    few = [model.job(r) for r in common.sys_ifeval(model, args.few, args.new_tokens)]
    sides = {args.few: few, args.many: [copy(few[i % args.few], i // args.few) for i in range(args.many)]}
    run(model, few[:2], args.new_tokens)
    works = {str(n): lambda jobs=jobs: run(model, jobs, args.new_tokens) for n, jobs in sides.items()}
    report(args, common.in_turns(works, args.repeats))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    common.add_comparison_arguments(parser, repeats=2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--few", type=int, default=100)
    parser.add_argument("--many", type=int, default=500)
    parser.add_argument("--new_tokens", type=int, default=32, help="of every answer")
    parser.add_argument(
        "--batch_size", type=int, default=50, help="divides both numbers, so that the last batch is full"
    )
    return parser.parse_args()


def copy(job: Any, number: int) -> Any:
    """The same job with another first token; the first copy is the job itself."""
    first = job.prompt.tokens[0] + number
    return replace(job, prompt=replace(job.prompt, tokens=(first, *job.prompt.tokens[1:])))


def run(model: Any, jobs: list[Any], new_tokens: int) -> dict[str, Any]:
    """Seconds of one engine run that no token ends early."""
    engine = common.engine_of(model, int(model.batch_size), model.settings.max_prefill_tokens)
    endless = [replace(job, want=Generation(new_tokens)) for job in jobs]
    seconds, results = common.timed(lambda: list(engine.run(endless)))
    return {"seconds": seconds, "prompts": len(jobs), "tokens": sum(len(result.tokens) for _, result in results)}


def report(args: argparse.Namespace, runs: dict[str, list[dict[str, Any]]]) -> None:
    """Print both sides and the ratio of their cost a prompt, and write them."""
    each = {name: [run["seconds"] / run["prompts"] for run in rounds] for name, rounds in runs.items()}
    rows = [
        (
            name,
            rounds[0]["tokens"],
            common.spread([run["seconds"] for run in rounds]),
            common.spread(each[name], unit=1e-3),
        )
        for name, rounds in runs.items()
    ]
    print(common.table(HEADER, rows))
    few, many = (statistics.median(each[str(n)]) for n in (args.few, args.many))
    print(
        f"{args.many} / {args.few} prompts: {many / few:.3f} x seconds a prompt, {args.dtype}, {args.threads} threads"
    )
    common.write_json(args.json, args, {"ratio": many / few, "runs": runs, **common.versions(args.device)})


if __name__ == "__main__":
    main()

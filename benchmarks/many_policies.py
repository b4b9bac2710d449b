"""Many policies over the same prompts: one engine run for all of them against one run after another.

A policy is TOVA at a ratio, plain or fair. A context is prefilled once for all policies that one run asks for, so the
first side prefills every prompt once, the second once a policy. Both sides run the same jobs with the same settings.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import asdict, replace
from typing import Any

import common
import torch

from fairkv_eval.eviction.policy import Policy

HEADER = ("side", "engine runs", "answers", "prefill tokens", "generated", "prefill s", "seconds", "answers/s")
TOGETHER, APART = "all at once", "one after another"


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    settings = {"dtype": args.dtype, "device": args.device, "batch_size": args.batch_size}
    model = common.harness_model("fairkv", press=args.press, ratio=0.5, fair=True, **settings)
    base_jobs = [model.job(r) for r in common.sys_ifeval(model, args.prompts, args.new_tokens)]
    jobs = [[replace(job, policy=policy) for job in base_jobs] for policy in policies(model.policy, args.ratios)]
    sides = {TOGETHER: lambda: run(model, [[job for batch in jobs for job in batch]]), APART: lambda: run(model, jobs)}
    run(model, [base_jobs[:2]])
    report(args, common.in_turns(sides, args.repeats), len(jobs))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    common.add_comparison_arguments(parser, repeats=2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--press", default="tova")
    parser.add_argument("--ratios", type=float, nargs="+", default=[tenth / 10 for tenth in range(10)])
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--new_tokens", type=int, default=64, help="at most this many an answer")
    parser.add_argument("--batch_size", type=int, default=64, help="rows of every engine run, if it has as many jobs")
    return parser.parse_args()


def policies(policy: Policy, ratios: list[float]) -> list[Policy]:
    """Each ratio, plain and fair."""
    return [replace(policy, ratio=ratio, fair=fair) for ratio in ratios for fair in (0.0, 1.0)]


def run(model: Any, batches: list[list[Any]]) -> dict[str, Any]:
    """Each batch of jobs in an engine run of its own: seconds, what was processed, and the tokens of every answer."""
    model.reset_totals()

    def answers() -> list[tuple[int, ...]]:
        tokens = []
        for jobs in batches:
            results = dict(model.run(jobs))
            tokens += [results[i].tokens for i in range(len(jobs))]
        return tokens

    seconds, tokens = common.timed(answers)
    return {"seconds": seconds, "tokens": tokens, "totals": asdict(model.totals)}


def report(args: argparse.Namespace, runs: dict[str, list[dict[str, Any]]], count: int) -> None:
    """Print both sides and their ratio, and write them."""
    rows = [_row(name, rounds, 1 if name == TOGETHER else count) for name, rounds in runs.items()]
    print(common.table(HEADER, rows))
    seconds = {name: statistics.median(run["seconds"] for run in rounds) for name, rounds in runs.items()}
    prefilled = {name: rounds[0]["totals"]["prefill_tokens"] for name, rounds in runs.items()}
    ratio, work = seconds[APART] / seconds[TOGETHER], prefilled[APART] / prefilled[TOGETHER]
    answers = [rounds[0]["tokens"] for rounds in runs.values()]
    same, total = sum(a == b for a, b in zip(*answers, strict=True)), len(answers[0])
    print(f"{TOGETHER} / {APART}: {ratio:.2f} x as fast, {count} policies, {args.dtype}, {args.threads} threads")
    print(f"prefill tokens: {work:.1f} x as many {APART}")
    print(f"same tokens in {same} of {total} answers")
    figures = {"ratio": ratio, "prefill_ratio": work, "same_tokens": same, "answers": total}
    kept = {name: [{k: v for k, v in run.items() if k != "tokens"} for run in rounds] for name, rounds in runs.items()}
    common.write_json(args.json, args, {**figures, "runs": kept, **common.versions(args.device)})


def _row(name: str, runs: list[dict[str, Any]], engine_runs: int) -> tuple:
    first, answers = runs[0]["totals"], len(runs[0]["tokens"])
    prefill = common.spread([run["totals"]["prefill_seconds"] for run in runs])
    seconds = [run["seconds"] for run in runs]
    generated = sum(map(len, runs[0]["tokens"]))
    figures = first["prefill_tokens"], generated, prefill, common.spread(seconds)
    return name, engine_runs, answers, *figures, common.spread([answers / s for s in seconds])


if __name__ == "__main__":
    main()

"""One decode step of rows whose pairs are packed against one of the same rows plain, and how far apart the answers are.

Rows of sys_ifeval contexts half evicted under TOVA, with their tails. All sides go on from the same tokens, one step
each in turn, and their rows grow alike; a side's figure is its fastest step, since whatever else runs only adds. With
``--cpu-time`` a step counts the processor's time and not the clock's, which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from typing import Any

import common
import torch

from fairkv_eval.engine.jobs import Generation
from fairkv_eval.eviction.policy import Policy

PLAIN = "kv_bits=16"
HEADER = ("storage", "fastest ms", "median ms", "x plain", "KV bytes", "x plain", "same tokens")


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    # All steps as packed rows run them: not from a recording.
    settings = {"dtype": args.dtype, "device": args.device, "compile": "off"}
    model = common.harness_model("fairkv", press="tova", ratio=args.ratio, **settings)
    jobs = [model.job(request) for request in common.sys_ifeval(model, args.rows, 1)]
    sides = {name: side(model, jobs, name) for name in (PLAIN, *args.storages)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    clock = time.process_time if args.cpu_time else time.perf_counter
    for step in range(args.steps + 1):
        for name, (engine, batch) in sides.items():
            started = clock()
            engine.decode_step(batch)
            if step:  # the first warms up
                seconds[name].append(clock() - started)
    report(args, sides, seconds)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    common.add_comparison_arguments(parser, repeats=None)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help="of each side, after one that is not counted")
    parser.add_argument("--ratio", type=float, default=0.5, help="fraction of each context's KV pairs that is evicted")
    parser.add_argument("--cpu-time", action="store_true", help="the processor's time in place of the clock's")
    parser.add_argument(
        "--storages",
        nargs="+",
        default=[
            *(f"kv_bits={bits}" for bits in (8, 4, 3, 2)),
            *(f"kv_bits=4,kv_scheme={scheme}" for scheme in ("kivi", "rotated")),
        ],
    )
    return parser.parse_args()


def side(model: Any, jobs: list[Any], storage: str) -> tuple[Any, Any]:
    """An engine and the batch of its rows, held as this storage says."""
    typed = dict(part.split("=") for part in storage.split(","))
    policy = Policy.of({**model.policy.arguments(), **{k: int(v) if v.isdigit() else v for k, v in typed.items()}})
    engine = common.engine_of(model, len(jobs), max_prefill_tokens=1 << 30)
    return engine, common.admit(engine, [replace(job, policy=policy, want=Generation(1 << 30)) for job in jobs])


def report(args: argparse.Namespace, sides: dict[str, tuple[Any, Any]], seconds: dict[str, list[float]]) -> None:
    """Print each side's fastest step, the bytes of its rows and the rows that say what plain ones say; write it."""
    tokens = {name: {row.index: row.tokens for row in batch.rows} for name, (_, batch) in sides.items()}
    nbytes = {name: sum(cache.nbytes_held for cache in batch.caches) for name, (_, batch) in sides.items()}
    rows, figures = [], {}
    for name, rounds in seconds.items():
        same = sum(said == tokens[PLAIN][index] for index, said in tokens[name].items())
        ratio, held = min(rounds) / min(seconds[PLAIN]), nbytes[name] / nbytes[PLAIN]
        figures[name] = {"ratio": ratio, "bytes": nbytes[name], "same_tokens": same, "seconds": rounds}
        times = f"{min(rounds) * 1e3:,.1f}", f"{statistics.median(rounds) * 1e3:,.1f}", f"{ratio:.2f}"
        rows.append((name, *times, nbytes[name], f"{held:.3f}", f"{same} of {args.rows}"))
    print(common.table(HEADER, rows))
    common.write_json(args.json, args, {"storages": figures, **common.versions(args.device)})


if __name__ == "__main__":
    main()

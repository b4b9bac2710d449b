"""Peak memory of one long context's prefill in chunks, against one piece, and what it should be made of.

Each chunk size runs in a fresh process (`score_memory.py --one`): load the model, forget the load's own peak, prefill,
evict, run one token. Held at a time should be: the model, one layer's keys and values of the whole context, what the
layers before it have kept, hidden states, and the wide intermediate states of a single chunk.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import common

MIB = 1 << 20
HEADER = ("tokens a pass", "loaded MiB", "peak MiB", "growth MiB", "of the full cache")
WORKER = Path(__file__).with_name("score_memory.py")


def main() -> None:
    args = parse()
    runs = {size: one(args, size) for size in (args.context, *args.chunks)}
    report(args, runs)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    common.add_arguments(parser)
    parser.add_argument("--context", type=int, default=16384, help="tokens")
    parser.add_argument("--chunks", type=int, nargs="+", default=[4096, 1024], help="tokens of one forward pass")
    parser.add_argument("--press", choices=("h2o", "knorm"), default="knorm")
    parser.set_defaults(ratio=0.9)
    return parser.parse_args()


def one(args: argparse.Namespace, size: int) -> dict[str, Any]:
    options = {"dtype": args.dtype, "ratio": args.ratio, "threads": args.threads, "context": args.context}
    options |= {"one": args.press, "max-prefill-tokens": size}
    return common.last_line([sys.executable, str(WORKER), *(f"--{name}={value}" for name, value in options.items())])


def report(args: argparse.Namespace, runs: dict[int, dict[str, Any]]) -> None:
    """Print what each size took beside the parts it is made of, and write it."""
    growths = {size: run["peak"] - run["baseline"] for size, run in runs.items()}
    first = runs[args.context]
    full, kept = (first[name] / MIB for name in ("kv_bytes_full", "kv_bytes_kept"))
    rows = []
    for size, run in runs.items():
        mib = (f"{value:,.0f}" for value in (run["baseline"], run["peak"], growths[size]))
        rows.append((str(size), *mib, f"{growths[size] / full:.2f} x"))
    print(common.table(HEADER, rows))
    parts = f"full cache {full:,.0f} MiB, one layer of it {full / first['layers']:,.1f} MiB, kept {kept:,.1f} MiB"
    print(f"{parts} ({args.press}, {args.dtype})")
    ratios = {size: growths[size] / growths[args.context] for size in args.chunks}
    for size, ratio in ratios.items():
        print(f"{size} tokens a pass / one piece: growth {ratio:.2f} x, {args.context} tokens")
    common.write_json(args.json, args, {"growth_ratios": ratios, "runs": runs})


if __name__ == "__main__":
    main()

"""One `fairkv sweep` of a press at several ratios, plain and fair, against an `lm_eval` run for each of its cells.

Both sides are commands of their own, so that starting Python, indexing tasks and loading the model are part of them. A
sweep has one cell of ratio 0; the separate runs evaluate it once plain and once fair, as ten ratios times two are.
With ``--ray`` the same sweep runs once more as Ray tasks, one thread for each core (``--launcher ray``).
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common

HEADER = ("side", "commands", "answers", "seconds")
LM_EVAL = [sys.executable, "-m", "lm_eval"]
SWEEP = [sys.executable, "-m", "fairkv_eval.cli", "sweep"]


def main() -> None:
    args = parse()
    with tempfile.TemporaryDirectory() as folder:
        sweep, runs = Path(folder) / "sweep", Path(folder) / "runs"
        together = {"one sweep": timed(sweep_command(args, sweep), args.threads)}
        if args.ray:
            command = [*sweep_command(args, Path(folder) / "ray"), "--launcher", "ray"]
            together["one sweep on Ray"] = timed(command, 1)
        apart = [timed(run_command(args, runs / name, arguments), args.threads) for name, arguments in cells(args)]
        report(args, together, apart, scores(sweep), scores(runs))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of every side (default: all cores)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--press", default="tova")
    parser.add_argument("--ratios", type=float, nargs="+", default=[tenth / 10 for tenth in range(10)])
    parser.add_argument("--task", default="sys_ifeval")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--new_tokens", type=int, default=64, help="at most this many an answer")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--ray", action="store_true", help="the sweep on Ray as well")
    parser.add_argument("--json", "--output", type=Path, help="write settings, versions and every figure here")
    return parser.parse_args()


def sweep_command(args: argparse.Namespace, output: Path) -> list[str]:
    press = ["--presses", args.press, "--ratios", ",".join(map(str, args.ratios)), "--fair", "false,true"]
    return [*SWEEP, *press, *_shared(args, output), "--model_args", f"dtype={args.dtype}"]


def run_command(args: argparse.Namespace, output: Path, arguments: str) -> list[str]:
    return [*LM_EVAL, "--model", "fairkv", "--model_args", arguments, *_shared(args, output), "--log_samples"]


def cells(args: argparse.Namespace) -> list[tuple[str, str]]:
    """A name and the model arguments of each separate run."""
    return [
        (f"{ratio:g}-{fair}", f"press={args.press},ratio={ratio:g},fair={fair},dtype={args.dtype}")
        for ratio in args.ratios
        for fair in ("false", "true")
    ]


def timed(command: list[str], threads: int) -> float:
    """Seconds of wall time of a command; the program ends with one that fails."""
    started = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - started


def scores(folder: Path) -> dict[tuple[float, float], dict[str, float]]:
    """The figures of every cell, by ratio and fairness."""
    by_cell = {}
    for path in folder.rglob("results_*.json"):
        result = json.loads(path.read_text())
        policy = result["config"]["fairkv"]
        (metrics,) = result["results"].values()
        by_cell[policy["ratio"], policy["fair"]] = {k: v for k, v in metrics.items() if isinstance(v, float)}
    return by_cell


def report(args: argparse.Namespace, together: dict[str, float], apart: list[float], swept: Any, ran: Any) -> None:
    answers, cells_swept = args.prompts * len(apart), len(swept)
    rows = [(name, 1, args.prompts * cells_swept, f"{seconds:.1f}") for name, seconds in together.items()]
    rows.append(("separate runs", len(apart), answers, f"{sum(apart):.1f}"))
    print(common.table(HEADER, rows))
    shares = {name: seconds / sum(apart) for name, seconds in together.items()}
    for name, share in shares.items():
        print(f"{name} costs {share:.2f} of the separate runs, {args.dtype}, {args.threads} threads")
    same = sum(metrics == ran[policy] for policy, metrics in swept.items())
    print(f"the same figures in {same} of {cells_swept} cells")
    figures = {
        "shares": shares,
        "sweep_seconds": together,
        "run_seconds": apart,
        "same_cells": same,
        "cells": cells_swept,
    }
    common.write_json(args.json, args, {**figures, **common.versions(args.device)})


def _shared(args: argparse.Namespace, output: Path) -> list[str]:
    options = {
        "tasks": args.task,
        "limit": args.prompts,
        "gen_kwargs": f"max_gen_toks={args.new_tokens}",
        "batch_size": args.batch_size,
        "device": args.device,
        "output_path": output,
    }
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


if __name__ == "__main__":
    main()

"""Several sweeps one after another on one loaded model, in several processes that each answer a part of the documents.

FILE has the arguments of one `fairkv sweep` per line. Once all answers are there, one more process writes the cells. A
sweep that fails does not keep the next from running; the exit status says that one did. What was answered is in the
journals: the same command goes on from there.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
import traceback
from functools import cache
from pathlib import Path
from typing import Any

CELLS = "cells"  # the part that writes them


def main() -> None:
    args = parse()
    lines = [line for line in args.file.read_text().splitlines() if line.strip() and not line.startswith("#")]
    if args.part:
        sys.exit(run(lines, args.part) > 0)
    failed = any(
        [process.wait() for process in [start(args, f"{k + 1}/{args.processes}") for k in range(args.processes)]]
    )
    sys.exit(start(args, CELLS).wait() or failed)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--part", help=f"of a process that this program starts: k/n or {CELLS}")
    parser.add_argument("--logs", type=Path, default=Path("build/device/grid"), help="folder of a log per process")
    args = parser.parse_args()
    if args.processes < 1:
        parser.error(f"--processes={args.processes} is not allowed; it takes 1 and more")
    return args


def start(args: argparse.Namespace, part: str) -> subprocess.Popen[bytes]:
    """Start the process of one part."""
    args.logs.mkdir(parents=True, exist_ok=True)
    log = (args.logs / f"{args.file.stem}-{part.partition('/')[0]}.log").open("wb")
    command = [sys.executable, __file__, str(args.file), "--part", part]
    environment = {"OMP_NUM_THREADS": "2", **os.environ}
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def run(lines: list[str], part: str) -> int:
    """Answer each line's sweep for one shard's documents, or write its cells; return how many sweeps failed."""
    import gguf

    from fairkv_eval.commands import sweep as command
    from fairkv_eval.commands.parser import parser_of
    from fairkv_eval.sweep.config import read_sweep
    from fairkv_eval.sweep.run import run_sweep
    from fairkv_eval.sweep.shard import Shard, run_shard

    gguf.GGUFReader = cache(gguf.GGUFReader)  # transformers reads a file's description four times
    load_once()
    failed = 0
    for line in lines:
        began = time.monotonic()
        try:
            args = parser_of("sweep").read(shlex.split(line))
            sweep = read_sweep(command.yaml_of(args), command.flags_of(args))
            if part == CELLS:
                done = f"{len(run_sweep(sweep))} cells"
            else:
                done = f"{run_shard(sweep, Shard.read(part))} answers"
        except Exception:
            failed += 1
            done = "failed"
            traceback.print_exc()
        print(f"== {part}: {done}, {time.monotonic() - began:.1f} s: {line}", flush=True)
    return failed


def load_once() -> None:
    """Let sweeps on the same model take the one that is loaded."""
    from fairkv_eval.sweep.loaded_model import LoadedModel

    load, loaded = LoadedModel.load, {}

    def kept(sweep: Any, arguments: Any) -> LoadedModel:
        key = repr((sorted(arguments.items()), sweep.batch_size, sweep.device))
        if key not in loaded:
            loaded[key] = load(sweep, arguments)
        return loaded[key]

    LoadedModel.load = kept  # type: ignore[method-assign]


if __name__ == "__main__":
    main()

"""Several sweeps one after another on one loaded model, in several processes that each answer a part of the documents.

FILE has the arguments of one `fairkv sweep` per line. No cell is written: `identity-<model>.json`, in the output folder
of a model's first sweep, says what a machine without the device needs to write them. A sweep that fails does not keep
the next from running; the exit status says that one did.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
import traceback
from functools import cache
from pathlib import Path
from typing import Any


def main() -> None:
    args = parse()
    lines = [line for line in args.file.read_text().splitlines() if line.strip() and not line.startswith("#")]
    if args.shard:
        sys.exit(answer(lines, args.shard))
    sys.exit(any(process.wait() for process in [start(args, k) for k in range(1, args.processes + 1)]))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--shard", help="k/n: of a process that this program starts")
    parser.add_argument("--logs", type=Path, default=Path("build/device/grid"), help="folder of a log per process")
    args = parser.parse_args()
    if args.processes < 1:
        parser.error(f"--processes={args.processes} is not allowed; it takes 1 and more")
    return args


def start(args: argparse.Namespace, k: int) -> subprocess.Popen[bytes]:
    """Start one process; it ends with this one's lines or by a signal."""
    args.logs.mkdir(parents=True, exist_ok=True)
    log = (args.logs / f"{args.file.stem}-{k}.log").open("wb")
    command = [sys.executable, __file__, str(args.file), "--shard", f"{k}/{args.processes}"]
    environment = {"OMP_NUM_THREADS": "2", **os.environ}
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def answer(lines: list[str], shard: str) -> int:
    """Run each line's sweep for one shard's documents; return how many sweeps failed."""
    import gguf

    from fairkv_eval.commands import sweep as command
    from fairkv_eval.commands.parser import parser_of
    from fairkv_eval.sweep.config import read_sweep
    from fairkv_eval.sweep.loaded_model import LoadedModel
    from fairkv_eval.sweep.shard import Shard, run_shard

    gguf.GGUFReader = cache(gguf.GGUFReader)  # transformers reads a file's description four times
    load, loaded = LoadedModel.load, {}

    def kept(sweep: Any, arguments: Any) -> LoadedModel:
        key = repr((sorted(arguments.items()), sweep.batch_size, sweep.device))
        if key not in loaded:
            loaded[key] = load(sweep, arguments)
            identify(loaded[key], Path(sweep.output_path))
        return loaded[key]

    LoadedModel.load = kept  # type: ignore[method-assign]
    failed = 0
    for line in lines:
        began = time.monotonic()
        try:
            args = parser_of("sweep").read(shlex.split(line))
            sweep = read_sweep(command.yaml_of(args), command.flags_of(args))
            count: Any = run_shard(sweep, Shard.read(shard))
        except BaseException:
            failed += 1
            count = "failed"
            traceback.print_exc()
        print(f"== {shard} {count} answers, {time.monotonic() - began:.1f} s: {line}", flush=True)
    return failed


def identify(model: Any, folder: Path) -> None:
    """Write what results say of the machine that answers."""
    from fairkv_eval.sweep.cell_files import environment

    info = {"identity": model.identity(), "info": model.lm.get_model_info(), "environment": environment()}
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".identity-{os.getpid()}"
    draft.write_text(json.dumps(info, default=str, indent=1))
    draft.rename(folder / f"identity-{model.name.replace('/', '__')}.json")


if __name__ == "__main__":
    main()

"""What the benchmarks share: kvpress's interpreter and worker, both sides of the harness, turns and tables.

Imports nothing heavy until something asks for a model.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("kvpress_worker.py")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that every benchmark takes."""
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--ratio", type=float, default=0.5, help="fraction of each context's KV pairs that is evicted")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of every side (default: all cores)")
    parser.add_argument(
        "--kvpress_python",
        default=os.environ.get("KVPRESS_PYTHON"),
        help="interpreter of kvpress's own environment (default: KVPRESS_PYTHON)",
    )
    parser.add_argument("--json", type=Path, help="write settings, versions and every figure here")


def kvpress_command(python: str | None, arguments: Sequence[str]) -> list[str]:
    """Command of kvpress's worker; ends the program where no interpreter was named."""
    if not python:
        raise SystemExit("name kvpress's interpreter (benchmarks/README.md): --kvpress_python or KVPRESS_PYTHON")
    return [python, str(WORKER), *arguments]


def last_line(command: Sequence[str]) -> dict[str, Any]:
    """Run a command to its end and read the JSON of its last line; its errors go where ours go."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as they need be; the first is a name, the others are figures."""
    lines = [[cell if isinstance(cell, str) else f"{cell:,}" for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )


def write_json(path: Path | None, settings: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Write settings and figures, without the paths of this machine."""
    if path is None:
        return
    settings_shown = {k: v for k, v in vars(settings).items() if k not in ("json", "kvpress_python")}
    path.write_text(json.dumps({"settings": settings_shown, **figures}, indent=1) + "\n")


def add_comparison_arguments(parser: argparse.ArgumentParser, repeats: int | None = 3) -> None:
    """Arguments of benchmarks that run both sides in one process; without ``repeats`` nothing is timed."""
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of every side (default: all cores)")
    parser.add_argument("--device", default="cpu")
    if repeats is not None:
        parser.add_argument("--repeats", type=int, default=repeats, help="rounds in which each side runs once")
    parser.add_argument("--json", "--output", type=Path, help="write settings, versions and every figure here")


def add_computing_arguments(parser: argparse.ArgumentParser) -> None:
    """What computes on this package's side."""
    parser.add_argument("--attention", default="auto", help="this package's attn_implementation (default: auto)")
    parser.add_argument("--linear", default="torch", help="this package's linear (default: torch)")


def harness_model(name: str, **settings: Any) -> Any:
    """The default model as the harness loads it for ``--model hf`` or ``--model fairkv``."""
    from lm_eval.models.huggingface import HFLM

    from fairkv_eval.model import FairKV
    from fairkv_eval.pretrained import default_pretrained

    return {"hf": HFLM, "fairkv": FairKV}[name](**{**default_pretrained(), **settings})


def sys_ifeval(model: Any, prompts: int, new_tokens: int) -> list[Any]:
    """The first requests of sys_ifeval as the harness makes them under ``--apply_chat_template``."""
    from lm_eval.tasks import TaskManager

    task = TaskManager().load(["sys_ifeval"])["tasks"]["sys_ifeval"]
    task.set_config(key="generation_kwargs", value={"max_gen_toks": new_tokens}, update=True)
    task.build_all_requests(limit=prompts, apply_chat_template=True, chat_template=model.apply_chat_template)
    return task.instances


def engine_of(model: Any, rows: int, max_prefill_tokens: int) -> Any:
    """The engine of a `FairKV`, which no token stops: a benchmark decides how far it runs."""
    engine = model.engine(rows, max_prefill_tokens)
    engine.reader.eos = frozenset()
    return engine


def admit(engine: Any, jobs: Sequence[Any]) -> Any:
    """Prefill, evict and run the tails of generations in one go: the batch of their rows."""
    from fairkv_eval.engine.batch import Batch

    batch, group = Batch(len(jobs)), engine.scheduler(jobs).next(len(jobs))
    engine.prefill(group)
    engine.admit(group, batch)
    return batch


def in_turns(sides: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[Any]]:
    """What each side returns, ``repeats`` times, the sides taking turns (A B A B)."""
    runs: dict[str, list[Any]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            runs[name].append(side())
    return runs


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of wall time, and what came back."""
    started = time.perf_counter()
    back = work()
    return time.perf_counter() - started, back


def spread(values: Sequence[float], unit: float = 1.0, digits: int = 2) -> str:
    """Median and range, divided by a unit: ``1.23 (1.20-1.31)``."""
    middle, low, high = (f"{v / unit:,.{digits}f}" for v in (statistics.median(values), min(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low}-{high})"


def versions(device: str) -> dict[str, Any]:
    """Versions of both sides, which share a process, and what computes."""
    import torch

    from fairkv_eval import provenance

    cpu = torch.backends.cpu.get_cpu_capability()
    return {**provenance.describe(), "device": torch.cuda.get_device_name(device) if device != "cpu" else cpu}

"""``fairkv sweep``: models × presses × ratios × tasks, one loaded model and one prefill a prompt for all of them."""

from __future__ import annotations

import argparse
import sys
from typing import Any

# Flags that stand for a key of the YAML, and what each takes.
_FLAGS: dict[str, tuple[Any, str]] = {
    "model_args": (str, "fairkv's model arguments, without those of a policy: pretrained=…,dtype=bfloat16"),
    "tasks": (str, "task names, joined by commas"),
    "output_path": (str, "folder of the results; a sweep that was stopped goes on in it"),
    "limit": (float, "documents a task"),
    "num_fewshot": (int, "few-shot examples"),
    "gen_kwargs": (str, "generation arguments: max_gen_toks=64"),
    "metadata": (str, "for tasks that take some: defense=…"),
    "include_path": (str, "folder of more tasks"),
    "system_instruction": (str, "before every prompt"),
    "batch_size": (str, "rows that decode together, or auto"),
    "device": (str, "as cuda:0"),
    "seed": (int, "of everything that is drawn"),
    "bootstrap_iters": (int, "of the standard errors that are bootstrapped"),
    "wandb_args": (str, "a W&B run for every cell, as the harness has it: project=…"),
    "wandb_config_args": (str, "more of its configuration"),
    "hf_hub_log_args": (str, "push every cell to the Hub, as the harness has it: push_results_to_hub=True,…"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", nargs="?", help="a YAML; flags of the same names go before it")
    parser.add_argument("--presses", nargs="+", help="as tova snapkv,window=16")
    parser.add_argument("--ratios", nargs="+", help="as 0:0.9:0.1, or numbers")
    parser.add_argument("--fair", nargs="+", help="as false true")
    for name, (kind, text) in _FLAGS.items():
        parser.add_argument(f"--{name}", type=kind, help=text)
    parser.add_argument("--apply_chat_template", nargs="?", const=True, help="as the harness has it")
    parser.add_argument(
        "--dry_run", action="store_true", help="only tell the cells, their tokens and an estimated time"
    )
    parser.add_argument("--launcher", choices=("local", "ray"), default="local", help="where cells run (default: here)")
    parser.add_argument("--fidelity", action="store_true", default=None, help="compare each policy's distributions")


def run(args: argparse.Namespace) -> None:
    try:
        _run(args)
    except KeyboardInterrupt:
        print("fairkv: stopped; the same command goes on where this one was", file=sys.stderr)
        raise SystemExit(130) from None


def _run(args: argparse.Namespace) -> None:
    from fairkv_eval.sweep.config import read_keys, read_sweep

    sweep = read_sweep(args.sweep, _flags(args))
    if args.dry_run:
        from fairkv_eval.sweep.estimate import dry_run

        show_plan(dry_run(sweep))
        return
    if args.launcher == "ray":
        from fairkv_eval.sweep.on_ray import run_on_ray

        folders = run_on_ray(sweep, read_keys(args.sweep, _flags(args)))
    else:
        from fairkv_eval.sweep.run import run_sweep

        folders = run_sweep(sweep)
    print(f"{len(folders)} cells in {sweep.output_path}")


def show_plan(rows: list[dict[str, Any]]) -> None:
    """The cells of a sweep, and what is left to do for them."""
    from rich.table import Table

    from fairkv_eval.commands.terminal import console, show

    cells = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for header in ("model", "task", "cell"):
        cells.add_column(header, overflow="fold")
    left = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    counts = ("documents", "cells", "finished", "answers", "prefill_tokens", "tail_tokens", "max_decode_tokens")
    for header in ("task", *(name.replace("_", " ") for name in counts), "at most"):
        left.add_column(header, justify="left" if header == "task" else "right")
    for row in rows:
        for policy in row["policies"]:
            cells.add_row(str(row["model"]), row["task"], policy)
        left.add_row(row["task"], *(f"{row[name]:,}" for name in counts), _time(row["seconds"]))
    total = sum(row["seconds"] for row in rows)
    told = (
        f"at most {_time(total)} in all, at the speed of a short run just now, if every answer is as long as it may be"
    )
    show(console(), [cells, "", left, "", told])


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def _flags(args: argparse.Namespace) -> dict[str, Any]:
    """The flags of the command line, as the YAML would have them."""
    import yaml

    flags = {
        k: v for k, v in vars(args).items() if v is not None and k not in ("sweep", "command", "dry_run", "launcher")
    }
    for name in ("fair", "ratios"):
        if name in flags:
            flags[name] = [text if ":" in text else yaml.safe_load(text) for text in flags[name]]
    if str(flags.get("batch_size", "")).isdigit():
        flags["batch_size"] = int(flags["batch_size"])
    return flags

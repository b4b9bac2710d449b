"""``fairkv sweep``: models × presses × ratios × tasks, on one loaded model and one prefill per prompt."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fairkv_eval.commands.parser import names
from fairkv_eval.errors import UsageError

if TYPE_CHECKING:
    from fairkv_eval.sweep.estimate import Estimate
    from fairkv_eval.sweep.shard import Shard

EXAMPLES = (
    "fairkv sweep results/baseline.yaml --dry_run",
    "fairkv sweep --presses tova,snapkv,window=16 --ratios 0:0.9:0.3 --fair false,true "
    "--tasks sys_ifeval_demo,raccoon_demo --output_path runs/mine",
    "fairkv sweep --ratios 0,0.5 --limit 8 results/baseline.yaml",
    "fairkv sweep --ratios 0,0.5 --limit 8 results/baseline.yaml --shard 1/2",
)
# Flags with the name of a key in the YAML: type and help.
_FLAGS: dict[str, tuple[Any, str]] = {
    "model_args": (str, "fairkv's model arguments, without those of a policy: pretrained=…,dtype=bfloat16"),
    "tasks": (str, "task names, joined by commas"),
    "output_path": (str, "folder of the results; a sweep that was stopped resumes in it"),
    "limit": (float, "documents per task"),
    "num_fewshot": (int, "number of few-shot examples"),
    "gen_kwargs": (str, "generation arguments: max_gen_toks=64"),
    "metadata": (str, "options of the tasks: defense=…"),
    "include_path": (str, "folders of more tasks, joined by commas"),
    "system_instruction": (str, "text before every prompt"),
    "batch_size": (str, "rows that decode together, or auto"),
    "device": (str, "cuda:0, cpu, …"),
    "seed": (names, "seed of everything that is drawn, or four, joined by commas (as lm_eval)"),
    "bootstrap_iters": (int, "resamples of bootstrapped standard errors"),
    "wandb_args": (str, "log each cell as a W&B run: project=… (as lm_eval)"),
    "wandb_config_args": (str, "more of the W&B run's configuration (as lm_eval)"),
    "hf_hub_log_args": (str, "push each cell to the Hub: push_results_to_hub=True,… (as lm_eval)"),
}
_LISTS = {
    "presses": "names with their parameters, joined by commas: tova,snapkv,window=16",
    "ratios": "fractions to evict, joined by commas, or a range that includes its end: 0:0.9:0.1",
    "budgets": "pairs to keep per layer and head, joined by commas, instead of ratios",
    "fair": "false, true or degrees between 0 and 1, joined by commas",
}
_SWITCHES = {
    "fidelity": "compare each policy's distributions with the full cache's",
    "confirm_run_unsafe_code": "run tasks that execute code which the model wrote (as lm_eval)",
}
_NOT_KEYS = ("sweep", "dry_run", "launcher", "shard")
_COUNTS = ("documents", "cells", "finished", "answers", "prefill_tokens", "tail_tokens", "max_decode_tokens")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", nargs="*", metavar="yaml", help="a YAML, which flags of the same names override")
    for name, text in _LISTS.items():
        parser.add_argument(f"--{name}", type=names, action="extend", help=text)
    for name, (kind, text) in _FLAGS.items():
        parser.add_argument(f"--{name}", type=kind, help=text)
    parser.add_argument("--apply_chat_template", nargs="?", const=True, help="as lm_eval")
    for name, text in _SWITCHES.items():
        parser.add_argument(f"--{name}", action="store_true", default=None, help=text)
    parser.add_argument(
        "--dry_run", action="store_true", help="only print the cells, their tokens and an estimated time"
    )
    parser.add_argument("--shard", metavar="k/n", help="only answer every n-th document; run without it to write cells")
    parser.add_argument("--launcher", choices=("local", "ray"), default="local", help="where cells run (default: here)")


def run(args: argparse.Namespace) -> None:
    try:
        _run(args)
    except KeyboardInterrupt:
        print("fairkv: stopped; the same command resumes here", file=sys.stderr)
        raise SystemExit(130) from None


def _run(args: argparse.Namespace) -> None:
    from fairkv_eval.sweep.config import read_keys, read_sweep
    from fairkv_eval.sweep.finished import FinishedSweep

    path, flags, shard = yaml_of(args), flags_of(args), _shard(args)
    keys = read_keys(path, flags)
    finished = FinishedSweep(keys)
    if not args.dry_run and (cells := finished.cells()) is not None:
        print(f"{len(cells)} cells in {keys['output_path']}")
        return
    sweep = read_sweep(path, flags)
    if shard:
        from fairkv_eval.sweep.shard import run_shard

        print(f"{run_shard(sweep, shard)} answers in shard {args.shard} of {sweep.output_path}")
        return
    if args.dry_run:
        from fairkv_eval.sweep.estimate import dry_run

        show_plan(dry_run(sweep))
        return
    if args.launcher == "ray":
        from fairkv_eval.sweep.on_ray import run_on_ray

        folders = run_on_ray(sweep, keys)
    else:
        from fairkv_eval.sweep.run import run_sweep

        folders = run_sweep(sweep)
        finished.store(folders)
    print(f"{len(folders)} cells in {sweep.output_path}")


def _shard(args: argparse.Namespace) -> Shard | None:
    if args.shard is None:
        return None
    from fairkv_eval.sweep.shard import Shard

    if args.dry_run or args.launcher != "local":
        raise UsageError("--shard cannot be combined with --dry_run or --launcher ray, which are of a whole sweep")
    return Shard.read(args.shard)


def show_plan(estimates: Sequence[Estimate]) -> None:
    """Print the cells of a sweep, and what the unfinished ones cost."""
    from fairkv_eval.commands.terminal import console, plain_table, show

    cells, costs = plain_table(), plain_table()
    for header in ("model", "task", "cell"):
        cells.add_column(header, overflow="fold")
    costs.add_column("task")
    for header in (*(name.replace("_", " ") for name in _COUNTS), "at most"):
        costs.add_column(header, justify="right")
    for estimate in estimates:
        for policy in estimate.policies:
            cells.add_row(estimate.model, estimate.task, policy)
        costs.add_row(estimate.task, *(f"{getattr(estimate, name):,}" for name in _COUNTS), _duration(estimate.seconds))
    total = _duration(sum(estimate.seconds for estimate in estimates))
    note = f"at most {total} in all, at the speed of a short run just now, if every answer is as long as allowed"
    show(console(), [cells, "", costs, "", note])


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def yaml_of(args: argparse.Namespace) -> str | None:
    """The YAML, also if it stands where --apply_chat_template would take it for the name of a template."""
    if isinstance(args.apply_chat_template, str) and _is_yaml(args.apply_chat_template):
        args.sweep.append(args.apply_chat_template)
        args.apply_chat_template = True
    for word in args.sweep[1:] if args.sweep and _is_yaml(args.sweep[0]) else args.sweep:
        raise UsageError(
            f"{word!r} is one word too many: a sweep takes one .yaml file, and lists are joined by commas, as "
            "--ratios 0,0.3 and --presses tova,snapkv,window=16"
        )
    return args.sweep[0] if args.sweep else None


def _is_yaml(word: str) -> bool:
    return word.endswith((".yaml", ".yml"))


def flags_of(args: argparse.Namespace) -> dict[str, Any]:
    """The flags of the command line, as the YAML would have them."""
    from fairkv_eval import strict_yaml

    flags = {name: value for name, value in vars(args).items() if value is not None and name not in _NOT_KEYS}
    if "presses" in flags:
        flags["presses"] = _presses(flags["presses"])
    for name in ("fair", "ratios", "budgets", "seed"):
        if name in flags:
            flags[name] = [strict_yaml.loads(text, f"--{name}") for text in flags[name]]
    if len(flags.get("seed", ())) == 1:
        (flags["seed"],) = flags["seed"]
    if str(flags.get("batch_size", "")).isdigit():
        flags["batch_size"] = int(flags["batch_size"])
    return flags


def _presses(parts: Sequence[str]) -> list[str]:
    """The presses of a list: name=value belongs to the press before it."""
    presses: list[str] = []
    for part in parts:
        if "=" in part and not part.startswith("press=") and presses:
            presses[-1] += f",{part}"
        else:
            presses.append(part)
    return presses

"""``fairkv view``: one document under a policy, and the tokens of its prompt that survive, layer by layer."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairkv_eval.commands.parser import names
from fairkv_eval.commands.terminal import console, show
from fairkv_eval.errors import UsageError
from fairkv_eval.files import write, write_whole

if TYPE_CHECKING:
    from fairkv_eval.model import FairKV
    from fairkv_eval.view.source import Source

EXAMPLES = (
    "fairkv view sys_ifeval_demo --doc 3 --model_args press=snapkv,ratio=0.5 --html view.html",
    "fairkv view runs/mine/*/raccoon_demo/tova_ratio=0.6-*/samples_*.jsonl --doc 1",
)
_PIPED = 140  # columns of the output in a pipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="a task, or a finished run: its results_*.json or a samples_*.jsonl")
    parser.add_argument("--doc", type=int, default=0, help="the document's number (default: 0)")
    parser.add_argument(
        "--model_args",
        help="for a task, as for lm_eval: press=snapkv,ratio=0.5,…; for a run, where its model is: pretrained=…",
    )
    parser.add_argument("--tasks", help="the task to view, if the run had several")
    parser.add_argument("--num_fewshot", type=int, help="few-shot examples before the question")
    parser.add_argument("--apply_chat_template", action="store_true", help="as for lm_eval")
    parser.add_argument("--metadata", help="options of the task, in JSON, as for lm_eval")
    parser.add_argument(
        "--include_path", type=names, action="extend", default=[], help="folders of tasks of your own, joined by commas"
    )
    parser.add_argument("--html", type=Path, help="write one self-contained page")
    parser.add_argument("--png", type=Path, help="write a picture (needs matplotlib)")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(args: argparse.Namespace) -> None:
    for path in (args.html, args.png):
        if path and not path.absolute().parent.is_dir():
            raise UsageError(f"{path}: there is no folder {str(path.parent)!r} to write it into")
    from fairkv_eval.view.source import request_of

    source = _source(args)
    lm = load_model(dict(source.model_args))
    from fairkv_eval.view.view import look

    request, answer = request_of(source, args.doc, lm, [Path(folder) for folder in args.include_path])
    view = look(lm, request, answer)
    if args.html:
        from fairkv_eval.view.html import render as page

        write(args.html, page(view))
    if args.png:
        from fairkv_eval.view.png import draw

        write_whole(args.png, lambda path: draw(view, path))
    if args.json:
        print(json.dumps(view.describe(), indent=1))
    elif args.html or args.png:
        print("\n".join(str(path) for path in (args.html, args.png) if path))
    else:
        from fairkv_eval.view.terminal import render

        screen = console()
        show(screen, render(view, screen.width if screen.is_terminal else _PIPED, screen.is_terminal))


def _source(args: argparse.Namespace) -> Source:
    from fairkv_eval.view.source import of_run

    path = Path(args.source)
    if not path.name.endswith((".json", ".jsonl", ".jsonl.gz")):
        return _of_task(args)
    for name in ("metadata", "num_fewshot", "apply_chat_template"):
        if getattr(args, name):
            raise UsageError(f"--{name} is for a task; a run's files hold its own")
    if not path.is_file():
        raise UsageError(f"{args.source} does not exist")
    return _located(of_run(path, args.tasks), args.model_args)


def _located(source: Source, model_args: str | None) -> Source:
    """A run with the place of its model, which a sweep's files only name."""
    from fairkv_eval.view.source import read_arguments

    place = read_arguments(model_args or "")
    for argument in place:
        if argument != "pretrained":
            raise UsageError(f"--model_args {argument}=… is for a task; a run's files hold all but pretrained=")
    name = place.get("pretrained", source.model_args.get("pretrained"))
    if name and "/" not in str(name) and not Path(str(name)).exists():
        where = "--model_args pretrained=<folder, or name on the hub>"
        raise UsageError(f"the run's files name its model {name!r}; say where it is: {where}")
    return replace(source, model_args={**source.model_args, **place})


def _of_task(args: argparse.Namespace) -> Source:
    from fairkv_eval.view.source import Source, read_arguments

    if args.tasks:
        raise UsageError(f"--tasks {args.tasks} is for the files of a run; {args.source!r} is a task")
    try:
        metadata = json.loads(args.metadata or "{}")
    except ValueError as error:
        raise UsageError(f"--metadata {args.metadata!r} is not JSON: {error}") from error
    model_args = read_arguments(args.model_args or "")
    return Source(args.source, model_args, metadata, args.num_fewshot, args.apply_chat_template)


def load_model(model_args: dict[str, Any]) -> FairKV:
    import logging

    import torch

    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    from fairkv_eval.model import FairKV

    # The harness's command line names a device as well; its model class assumes that there is a CUDA device.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return FairKV(**{"device": device, **model_args})

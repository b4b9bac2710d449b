"""``fairkv tasks``: list tasks; with ``--check``, check them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairkv_eval.commands.parser import names
from fairkv_eval.commands.terminal import console, plain_table, show
from fairkv_eval.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from fairkv_eval.harness.task_check import TaskReport
    from fairkv_eval.harness.task_library import TaskLibrary

EXAMPLES = (
    "fairkv tasks",
    "fairkv tasks raccoon_demo --check",
    "fairkv tasks --check --include_path my_tasks",
)
_LONGEST = 1200  # characters shown of one stretch of a prompt


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", nargs="*", help="tasks or groups, of the harness too (default: all of this package)")
    parser.add_argument(
        "--check", action="store_true", help="report what is wrong with them; exit status 1 if anything is"
    )
    parser.add_argument(
        "--include_path", type=names, action="extend", default=[], help="folders of tasks of your own, joined by commas"
    )
    parser.add_argument(
        "--pretrained", help="model whose tokenizer and chat template render prompts (default: fairkv's)"
    )
    parser.add_argument("--limit", type=int, default=8, help="prompts to check per task (default: 8)")
    parser.add_argument("--show", type=int, default=1, help="prompts to show per task (default: 1)")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(args: argparse.Namespace) -> int:
    for name, least in (("limit", 1), ("show", 0)):
        if getattr(args, name) < least:
            raise UsageError(f"--{name} {getattr(args, name)} is not allowed; it takes a whole number from {least}")
    from fairkv_eval.harness.task_library import TaskLibrary

    wanted = [name for word in args.task for name in names(word)]
    library = TaskLibrary(wanted, [Path(folder) for folder in args.include_path])
    return _check(library, args) if args.check else _list(library, args.json)


def _list(library: TaskLibrary, as_json: bool) -> int:
    entries = [_describe(library, name) for name in library.names]
    if as_json:
        print(json.dumps(entries, indent=2))
        return 0
    table = plain_table()
    for header in ("task", "version", "output", "what it is"):
        table.add_column(header, overflow="fold", no_wrap=header != "what it is")
    for entry in entries:
        table.add_row(entry["task"], str(entry["version"]), entry["output_type"], entry["summary"] or "-")
    show(console(), [table])
    return 0


def _describe(library: TaskLibrary, name: str) -> dict[str, Any]:
    from lm_eval.tasks._yaml_loader import load_yaml

    file = next((file for file in library.files if file.name == name), None)
    path = library.manager.task_index[name].yaml_path
    config = file.config if file else (load_yaml(path, resolve_func=False) if path else {})
    metadata = config.get("metadata")
    return {
        "task": name,
        "version": metadata.get("version", "-") if isinstance(metadata, dict) else "-",
        "output_type": "group" if "group" in config else config.get("output_type", "-"),
        "summary": file.summary if file else "",
    }


def _check(library: TaskLibrary, args: argparse.Namespace) -> int:
    from fairkv_eval.harness.task_check import check
    from fairkv_eval.pretrained import load_tokenizer
    from fairkv_eval.prompts.prompter import Prompter
    from fairkv_eval.prompts.settings import PromptSettings

    prompter = Prompter(load_tokenizer(args.pretrained), PromptSettings())
    screen, results = console(), []
    for result in check(library, prompter, args.limit):
        results.append(result)
        if not args.json and (result.name or result.findings):
            show(screen, _report(result, args.show, screen))
    findings = [finding for result in results for finding in result.findings]
    wrong = sum(finding.wrong for finding in findings)
    if args.json:
        tasks = [
            {"task": r.name, "documents": r.documents, "declared": sorted(r.declared), "given": sorted(r.returned)}
            for r in results
            if r.name
        ]
        print(json.dumps({"wrong": wrong, "findings": [asdict(f) for f in findings], "tasks": tasks}, indent=2))
    else:
        print(f"{sum(bool(r.name) for r in results)} tasks checked: {wrong or 'nothing'} wrong")
    return 1 if wrong else 0


def _report(result: TaskReport, shown: int, screen: Console) -> Iterator[RenderableType]:
    """A heading, the first prompts, and one line per finding."""
    from rich.padding import Padding
    from rich.text import Text

    from fairkv_eval.view.segment_text import legend, marked

    if result.name:
        counts = f"{result.documents} documents, {len(result.declared)} metrics"
        yield Text.assemble((result.name, "bold"), f"  {counts if result.documents else ''}")
    for doc_id, text in result.prompts[:shown]:
        yield Text(f"  doc {doc_id}  ").append_text(legend(segment.name for segment in text.segments))
        body = marked(text.text, text.segments, text.context_end, screen.is_terminal, _LONGEST)
        yield Padding(body, (0, 0, 0, 4))
    for finding in result.findings:
        yield Text(f"{'wrong' if finding.wrong else 'note '}  {finding}", style="red" if finding.wrong else "yellow")
    if result.name and not any(finding.wrong for finding in result.findings):
        yield Text("  in order", style="green")

"""``fairkv presses``: what each press keeps, its parameters, and what it can be combined with."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fairkv_eval.commands.terminal import console, plain_table, show
from fairkv_eval.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from fairkv_eval.eviction.declared_presses import DeclaredPress
    from fairkv_eval.eviction.parameter import Parameter
    from fairkv_eval.eviction.press import Press

EXAMPLES = ("fairkv presses", "fairkv presses snapkv adakv", "fairkv presses my_press.yaml --json")
_WIDE = 150  # columns of a terminal in which the table of all presses is readable
_ARXIV = "https://arxiv.org/abs/"
_MARKDOWN_HEADERS = ("press", "aliases", "what it keeps", "parameters", "observes", "cost", "not with", "paper")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "press",
        nargs="*",
        help="print these in full: names or aliases, paths of .yaml files, kvpress:<Class> (default: a table of all)",
    )
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument("--json", action="store_true", help="machine-readable output")
    formats.add_argument("--markdown", action="store_true", help="the table of presses/README.md")


def run(args: argparse.Namespace) -> None:
    from fairkv_eval.eviction.declared_presses import declared_presses

    declared = declared_presses()
    by_name = {name: press for press in declared.values() for name in (press.name, *press.aliases)}
    # The digest, which is for programs, is of a press's functions: reading these imports torch.
    quick = {} if args.json else by_name
    entries = [describe(quick.get(name) or _load(name)) for name in args.press or declared]
    if args.json:
        print(json.dumps(entries, indent=2, allow_nan=False))
        return
    if args.markdown:
        print("\n".join(_markdown(entries)))
        return
    screen = console()
    in_full = args.press or screen.width < _WIDE
    show(screen, [_in_full(entry) for entry in entries] if in_full else [_table(entries)])


def _load(name: str) -> Press:
    from fairkv_eval.eviction.press_files import listed_press

    press = listed_press(name)
    if press is None:
        raise UsageError(f"{name!r} is the plain model, not a press")
    return press


def describe(press: Press | DeclaredPress) -> dict[str, Any]:
    """A press as plain values, for JSON.

    A wrapper's parameters include those of its base; ``of`` names the press that a parameter belongs to.
    ``decode_budget`` and ``contiguous``: whether the press, with its default parameters, can be used with
    decode_budget=N and positions=contiguous; ``excludes``: all that it cannot be combined with. ``cost``: of scoring a
    prefilled layer (see `press_facts`).
    """
    from fairkv_eval.eviction.declared_presses import declared_presses
    from fairkv_eval.eviction.press_facts import cost_of, exclusions_of

    decodes, even = _usable(press, decode_budget=1), _usable(press, positions="contiguous")
    refused_by = [name for name, wrapper in declared_presses().items() if press.name in wrapper.refuses]
    inner = press.base.parameters if press.base else {}
    return {
        "press": press.name,
        "aliases": list(press.aliases),
        "summary": press.summary,
        "observes": press.observes,
        "paper": press.paper or None,
        "base": press.base.name if press.base else press.default_base,
        "parameters": [
            {"name": name, "of": press.base.name if press.base and name in inner else press.name, **_values(parameter)}
            for name, parameter in press.parameters.items()
        ],
        "cost": cost_of(press),
        "decode_budget": decodes,
        "contiguous": even,
        "excludes": exclusions_of(press, decodes, even, refused_by),
        "sha256": press.sha256,
    }


def _values(parameter: Parameter) -> dict[str, Any]:
    bounds = {"min": parameter.min, "max": parameter.max}
    finite = {name: bound if math.isfinite(bound) else None for name, bound in bounds.items()}
    kind = {"odd": parameter.odd, "choices": list(parameter.choices), "path": parameter.path}
    return {"default": parameter.default, **finite, **kind, "help": parameter.help}


def _usable(press: Press | DeclaredPress, **policy: Any) -> bool:
    from fairkv_eval.eviction.declared_presses import DeclaredPress

    if isinstance(press, DeclaredPress):
        return press.decodes if "decode_budget" in policy else press.divides_evenly
    from fairkv_eval.eviction.policy import Policy

    try:
        Policy(press, press.configure({}), **policy)
    except UsageError:
        return False
    return True


def _table(entries: Sequence[dict[str, Any]]) -> Table:
    """One row per press; in a pipe, one line per press."""
    terminal = sys.stdout.isatty()
    separator = "\n" if terminal else ", "
    table = plain_table(padding=(0, 2, 1 if terminal else 0, 0))
    for header in ("press", "keeps", "parameters", "observes", "cost", "not with", "paper"):
        table.add_column(header, overflow="fold", no_wrap=header not in ("keeps", "observes", "not with"))
    for entry in entries:
        table.add_row(
            separator.join([entry["press"], *entry["aliases"]]),
            entry["summary"] or "-",
            separator.join([*_base(entry), *(f"{_setting(p)}{_bounds(p)}" for p in _parameters_of(entry))]) or "-",
            entry["observes"] or "-",
            entry["cost"] or "-",
            ", ".join(entry["excludes"]) or "-",
            (entry["paper"] or "-").replace(_ARXIV, "arXiv "),
        )
    return table


def _markdown(entries: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The lines of a Markdown table with one row per press."""
    rows = [_MARKDOWN_HEADERS, ["---"] * len(_MARKDOWN_HEADERS), *map(_markdown_row, entries)]
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _markdown_row(entry: dict[str, Any]) -> list[str]:
    paper = entry["paper"]
    cells = [
        f"`{entry['press']}`",
        ", ".join(f"`{alias}`" for alias in entry["aliases"]),
        entry["summary"],
        ", ".join(f"`{setting}`" for setting in [*_base(entry), *map(_setting, _parameters_of(entry))]),
        entry["observes"],
        entry["cost"] or "its base's" * bool(entry["base"]),
        ", ".join(entry["excludes"]),
        f"[{paper.removeprefix(_ARXIV)}]({paper})" if paper else "",
    ]
    return [cell.replace("|", "\\|") or "–" for cell in cells]


def _in_full(entry: dict[str, Any]) -> RenderableType:
    """A heading, then one line per fact and parameter."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    facts = plain_table(show_header=False)
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for fact, text in _facts(entry):
        facts.add_row(fact, text)
    heading = Text(entry["press"], style="bold")
    if entry["aliases"]:
        heading.append(f" ({', '.join(entry['aliases'])})", style="not bold")
    return Group(heading, Padding(facts, (0, 0, 1, 2)))


def _facts(entry: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "keeps", entry["summary"] or "-"
    yield "observes", entry["observes"] or "-"
    if entry["base"]:
        must = entry["base"] == "none"
        yield "base", "base=<press> must name one" if must else f"{entry['base']}, unless base=<press> names another"
    for parameter in entry["parameters"]:
        of = "" if parameter["of"] == entry["press"] else f" ({parameter['of']}'s)"
        text = f"{_setting(parameter)}{_bounds(parameter)}: {parameter['help']}".removesuffix(": ")
        yield "parameter", text + of
    yield "cost", entry["cost"] or "-"
    yield "not with", ", ".join(entry["excludes"]) or "-"
    yield "decode_budget", _yes_or_no(entry["decode_budget"])
    yield "contiguous", _yes_or_no(entry["contiguous"])
    yield "paper", entry["paper"] or "-"


def _base(entry: dict[str, Any]) -> list[str]:
    return [f"base={entry['base']}"] if entry["base"] else []


def _parameters_of(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The press's parameters without those of its base."""
    return [parameter for parameter in entry["parameters"] if parameter["of"] == entry["press"]]


def _setting(parameter: dict[str, Any]) -> str:
    """A parameter's default as it is written among the model's arguments."""
    default = parameter["default"]
    return f"{parameter['name']}={str(default).lower() if isinstance(default, bool) else default}"


def _bounds(parameter: dict[str, Any]) -> str:
    low, high = parameter["min"], parameter["max"]
    limits = [f"{word} {bound:g}" for word, bound in (("from", low), ("to", high)) if bound is not None]
    kinds = {"odd": parameter["odd"], "a file": parameter["path"], " or ".join(parameter["choices"]): True}
    parts = [*(kind for kind, holds in kinds.items() if kind and holds), *([" ".join(limits)] if limits else [])]
    return f" ({', '.join(parts)})" if parts else ""


def _yes_or_no(value: bool) -> str:
    return "yes" if value else "no"

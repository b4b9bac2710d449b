"""``fairkv presses``: what each press keeps, its parameters, where it can be used."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fairkv_eval.commands.terminal import console, show
from fairkv_eval.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fairkv_eval.eviction.press import Parameter, Press

_WIDE = 120  # columns of a terminal in which the table of all presses is readable
_ARXIV = "https://arxiv.org/abs/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "press",
        nargs="*",
        help="a name or alias, a path to a .yaml, or kvpress:<Class>, each told in full (default: a table of all)",
    )
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(args: argparse.Namespace) -> None:
    from fairkv_eval.eviction.press_files import built_in_presses

    names = args.press or list(dict.fromkeys(press.name for press in built_in_presses().values()))
    entries = [describe(_load(name)) for name in names]
    if args.json:
        print(json.dumps(entries, indent=2, allow_nan=False))
        return
    to = console()
    show(to, [_in_full(entry) for entry in entries] if args.press or to.width < _WIDE else [_table(entries)])


def _load(name: str) -> Press:
    from fairkv_eval.eviction.press_files import load_press

    press = load_press(name)
    if press is None:
        raise UsageError(f"{name!r} is the plain model; there is nothing to tell about it")
    return press


def describe(press: Press) -> dict[str, Any]:
    """A press as plain values, for JSON. A wrapper comes with its base, whose parameters are ``of`` it.

    ``decode_budget`` and ``contiguous``: whether it can be used with decode_budget=N and positions=contiguous as long
    as its parameters are the defaults.
    """
    inner = press.base.parameters if press.base else {}
    return {
        "press": press.name,
        "aliases": list(press.aliases),
        "summary": press.summary,
        "observes": press.observes,
        "paper": press.paper or None,
        "base": press.base.name if press.base else None,
        "parameters": [
            {"name": name, "of": press.base.name if press.base and name in inner else press.name, **_values(parameter)}
            for name, parameter in press.parameters.items()
        ],
        "decode_budget": _usable(press, decode_budget=1),
        "contiguous": _usable(press, positions="contiguous"),
        "sha256": press.sha256,
    }


def _values(parameter: Parameter) -> dict[str, Any]:
    bounds = {"min": parameter.min, "max": parameter.max}
    finite = {name: bound if math.isfinite(bound) else None for name, bound in bounds.items()}
    return {"default": parameter.default, **finite, "odd": parameter.odd, "help": parameter.help}


def _usable(press: Press, **policy: Any) -> bool:
    from fairkv_eval.eviction.policy import Policy

    try:
        Policy(press, press.configure({}), **policy)
    except UsageError:
        return False
    return True


def _table(entries: Sequence[dict[str, Any]]) -> RenderableType:
    """One row a press; in a pipe, one line."""
    from rich.table import Table

    terminal = sys.stdout.isatty()
    lines = "\n" if terminal else ", "
    table = Table(box=None, pad_edge=False, padding=(0, 2, 1 if terminal else 0, 0), header_style="bold")
    for header in ("press", "keeps", "parameters", "observes", "decode_budget", "contiguous", "paper"):
        table.add_column(header, overflow="fold", no_wrap=header in ("press", "parameters", "paper"))
    for entry in entries:
        own = [p for p in entry["parameters"] if p["of"] == entry["press"]]
        settings = [f"base={entry['base']}"] * bool(entry["base"]) + [f"{_setting(p)}{_brackets(p)}" for p in own]
        table.add_row(
            lines.join([entry["press"], *entry["aliases"]]),
            entry["summary"] or "-",
            lines.join(settings) or "-",
            entry["observes"] or "-",
            _yes(entry["decode_budget"]),
            _yes(entry["contiguous"]),
            _paper(entry).replace(_ARXIV, "arXiv "),
        )
    return table


def _in_full(entry: dict[str, Any]) -> RenderableType:
    """A heading, then a line a fact and a parameter."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    facts = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("keeps", entry["summary"] or "-")
    facts.add_row("observes", entry["observes"] or "-")
    if entry["base"]:
        facts.add_row("base", f"{entry['base']}, unless base=<press> names another")
    for parameter in entry["parameters"]:
        of = "" if parameter["of"] == entry["press"] else f" ({parameter['of']}'s)"
        text = f"{_setting(parameter)}{_brackets(parameter)}: {parameter['help']}".removesuffix(": ")
        facts.add_row("parameter", text + of)
    facts.add_row("decode_budget", _yes(entry["decode_budget"]))
    facts.add_row("contiguous", _yes(entry["contiguous"]))
    facts.add_row("paper", _paper(entry))
    heading = Text(entry["press"], style="bold")
    if entry["aliases"]:
        heading.append(f" ({', '.join(entry['aliases'])})", style="not bold")
    return Group(heading, Padding(facts, (0, 0, 1, 2)))


def _setting(parameter: dict[str, Any]) -> str:
    """As it is written among the model's arguments."""
    default = parameter["default"]
    return f"{parameter['name']}={str(default).lower() if isinstance(default, bool) else default}"


def _brackets(parameter: dict[str, Any]) -> str:
    low, high = parameter["min"], parameter["max"]
    parts = ["odd"] * parameter["odd"]
    if low is not None or high is not None:
        parts.append(
            " ".join(f"{word} {bound:g}" for word, bound in (("from", low), ("to", high)) if bound is not None)
        )
    return f" ({', '.join(parts)})" if parts else ""


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _paper(entry: dict[str, Any]) -> str:
    return entry["paper"] or "-"

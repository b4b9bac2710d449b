"""A leaderboard as one HTML page that needs nothing else: data, style and script are inside it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from fairkv_eval.analysis.all_runs import ALPHA
from fairkv_eval.eviction.argument import Argument
from fairkv_eval.eviction.policy_arguments import AMOUNTS, ARGUMENTS
from fairkv_eval.leaderboard.board import METHOD, Board

TITLE = "What does a compressed KV cache cost?"
SCRIPTS = (
    *("state.js", "policies.js", "choice.js", "measures.js", "drawing.js", "equal_bytes.js", "pareto.js", "sizes.js"),
    *("table.js", "details.js", "main.js"),
)
_DIGITS = 7  # of a number on the page, which shows at most four; leaderboard.json has all
_HUB_NAME = re.compile(r"[\w.-]{1,60}/[\w.-]{1,60}")


def as_html(board: Board) -> str:
    """The page. A browser runs only our script on it, by its hash; what models wrote is data and stays text."""
    from jinja2 import Environment
    from markupsafe import Markup

    script = "\n".join(["'use strict';", *(_file(name) for name in SCRIPTS)])
    page = Environment(autoescape=True, keep_trailing_newline=True).from_string(_file("leaderboard.html"))
    return page.render(
        title=TITLE,
        style=Markup(_file("leaderboard.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=Markup(embedded(_rounded(_payload(board)))),
        results=sum(len(row.tasks) for row in board.rows),
        rows=len(board.rows),
        date=max((entry.date or "" for row in board.rows for entry in row.tasks.values()), default="")[:10],
        tasks=board.tasks,
        models=Markup(", ").join(_linked(name) for name in models(board)),
        rule=board.rule,
        method=METHOD,
        alpha=f"{ALPHA:g}",
        left_out=board.left_out,
    )


def models(board: Board) -> list[str]:
    """The names of the board's models."""
    return list(dict.fromkeys(row.model for row in board.rows))


def on_hub(model: str) -> bool:
    """Whether a model's name has the form of the hub's."""
    return _HUB_NAME.fullmatch(model) is not None


def _linked(model: str) -> str:
    """A model's name, as a link if it has the form of the hub's."""
    from markupsafe import Markup

    link = Markup('<a href="https://huggingface.co/{0}" rel="noopener noreferrer">{0}</a>')
    return link.format(model) if on_hub(model) else model


def embedded(value: Any) -> str:
    """JSON in which no text can close the script element around it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _payload(board: Board) -> dict[str, Any]:
    """The rows with their responses, the prompts of each task once, and the arguments in which policies differ."""
    rows = [{**row, "responses": board.responses.get(row["id"], {})} for row in board.data["rows"]]
    return {
        "alpha": ALPHA,
        "tasks": board.data["tasks"],
        "aspects": board.data["aspects"],
        "amounts": AMOUNTS,
        "arguments": [{"name": entry.name, "help": " ".join(entry.names.values())} for entry in _differing(rows)],
        "rows": rows,
        "prompts": board.prompts,
    }


def _rounded(value: Any) -> Any:
    """A value of JSON whose numbers have as many digits as the page needs: digits are most of its bytes."""
    if isinstance(value, dict):
        return {key: _rounded(of) for key, of in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(of) for of in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def _differing(rows: Sequence[Mapping[str, Any]]) -> list[Argument]:
    """The arguments in which policies differ, beside their amount and degree of fairness."""
    others = [entry for entry in ARGUMENTS if entry.name not in (*AMOUNTS, "fair")]
    return [entry for entry in others if len({str(row.get(entry.name)) for row in rows if not row["full_cache"]}) > 1]


def _file(name: str) -> str:
    return files("fairkv_eval.leaderboard").joinpath("page", name).read_text(encoding="utf-8")

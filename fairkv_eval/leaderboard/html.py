"""A leaderboard as one HTML page that needs nothing else: data, style and script are inside it."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from typing import Any

from fairkv_eval.analysis.all_runs import ALPHA
from fairkv_eval.leaderboard.board import METHOD, Board

SCRIPTS = ("state.js", "table.js", "details.js", "chart.js", "main.js")


def as_html(board: Board) -> str:
    """The page. A browser runs only our script on it, by its hash; what models wrote is data and stays text."""
    from jinja2 import Environment
    from markupsafe import Markup

    script = "\n".join(["'use strict';", *(_file(name) for name in SCRIPTS)])
    page = Environment(autoescape=True, keep_trailing_newline=True).from_string(_file("leaderboard.html"))
    return page.render(
        style=Markup(_file("leaderboard.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=Markup(embedded(_payload(board))),
        results=sum(len(row.tasks) for row in board.rows),
        tasks=list(board.tasks),
        models=list(dict.fromkeys(row.model for row in board.rows)),
        method=METHOD,
        left_out=board.left_out,
    )


def embedded(value: Any) -> str:
    """JSON in which no text can close the script element around it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _payload(board: Board) -> dict[str, Any]:
    """The rows with their responses, and the prompts of each task once."""
    rows = [{**row, "responses": board.responses.get(row["id"], {})} for row in board.data["rows"]]
    return {"alpha": ALPHA, "tasks": board.data["tasks"], "rows": rows, "prompts": board.prompts}


def _file(name: str) -> str:
    return files("fairkv_eval.leaderboard").joinpath("page", name).read_text(encoding="utf-8")

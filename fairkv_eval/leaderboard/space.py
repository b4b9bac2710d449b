"""A leaderboard as the folder of a static Hugging Face Space."""

from __future__ import annotations

from fairkv_eval.leaderboard.board import Board
from fairkv_eval.leaderboard.html import TITLE, models, on_hub

_TITLE = "KV-cache compression"
_DESCRIPTION = "What each KV-cache press costs at equal bytes"  # a Space shows up to 60 characters


def readme(board: Board) -> str:
    """README.md with the front matter that makes the folder a static Space.

    Only models of the hub are named in it, whose names need no quotes in YAML.
    """
    settings: dict[str, str] = {
        "title": _TITLE,
        "emoji": "🗜️",
        "colorFrom": "blue",
        "colorTo": "yellow",
        "sdk": "static",
        "app_file": "index.html",
        "pinned": "false",
        "short_description": _DESCRIPTION,
    }
    front = [f"{name}: {value}" for name, value in settings.items()]
    if hub := [name for name in models(board) if on_hub(name)]:
        front += ["models:", *(f'  - "{name}"' for name in hub)]
    results = sum(len(row.tasks) for row in board.rows)
    body = (
        f"# {TITLE}\n\n"
        f"{results} results of {len(board.rows)} policies, made by `fairkv leaderboard --space`. `index.html` is the "
        "page and needs nothing else; `leaderboard.csv`, `leaderboard.json` and `leaderboard.md` hold the same "
        "figures.\n"
    )
    return "\n".join(["---", *front, "---", "", body])

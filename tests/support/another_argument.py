"""Where a policy's argument `sharpness=0.25` shows up, as JSON: run against a package in which it is one more field."""

from __future__ import annotations

import inspect
import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import synthetic_results
import tiny

from fairkv_eval.errors import UsageError
from fairkv_eval.figures.model_results import labels
from fairkv_eval.leaderboard.board import build
from fairkv_eval.leaderboard.tables import as_csv
from fairkv_eval.model import FairKV
from fairkv_eval.results.reader import read
from fairkv_eval.sweep.config import sweep_of

KEYS = {"tasks": "a_task", "output_path": "out", "ratios": 0.5}


def model() -> dict[str, Any]:
    lm = FairKV(tiny.model(), tokenizer=tiny.tokenizer(), press="tova", ratio=0.5, sharpness=0.25)
    return {
        "signature": inspect.signature(FairKV).parameters["sharpness"].default,
        "policy": lm.policy.sharpness,
        "result": lm.get_model_info()["fairkv"]["sharpness"],
        "label": lm.policy.label,
        "folder": lm.policy.slug(),
        "error": error({"sharpness": 2}),
    }


def error(wrong: Mapping[str, Any]) -> str:
    try:
        FairKV(tiny.model(), tokenizer=tiny.tokenizer(), press="tova", ratio=0.5, **wrong)
    except UsageError as raised:
        return str(raised)
    return ""


def sweep() -> dict[str, Any]:
    policies = sweep_of({**KEYS, "presses": [{"press": "tova", "sharpness": [0.25, 0.5]}]}).policies
    try:
        sweep_of({**KEYS, "presses": "tova", "model_args": {"sharpness": 0.25}})
    except UsageError as raised:
        return {"policies": [policy.sharpness for policy in policies], "of_model": str(raised)}
    return {}


def result(folder: Path) -> dict[str, Any]:
    synthetic_results.write(folder, press="tova", ratio=0.5, fairkv={"sharpness": 0.25})
    records = read(folder)
    policy = records.records[0].policy
    board = build(records)
    row = board.data["rows"][0]
    heading, line = (text.split(",") for text in as_csv(board).splitlines()[:2])
    command = shlex.split(row["tasks"][synthetic_results.TASK]["command"])
    return {
        "record": policy.sharpness,
        "row": row["sharpness"],
        "csv": line[heading.index("sharpness")],
        "label": row["policy"],
        "figure": labels([policy])[policy],
        "command": command[command.index("--model_args") + 1],
    }


if __name__ == "__main__":
    print(json.dumps({"model": model(), "sweep": sweep(), "result": result(Path(sys.argv[1]))}))

"""A whole sweep's result files, made without a model: every task that figures are drawn from."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import synthetic_results

from fairkv_eval.metrics import FAMILIES

PRESSES = ("knorm", "snapkv", "streaming_llm", "tova")
RATIOS = (0.0, 0.3, 0.6, 0.9)
TASKS = ("sys_ifeval_defended", "sys_ifeval_flipped", "raccoon_plain", "raccoon_flipped", "sys_multi")
_WHOLE = 3_000_000


def write(folder: Path, presses=PRESSES, ratios=RATIOS, tasks=TASKS, n: int = 60, fidelity: bool = False) -> None:
    """One file a cell and task: plain, fair and with a whitelist; the full cache once, without a press."""
    cells = [("none", 0.0, 0.0, ())]
    settings = ((0.0, ()), (1.0, ()), (0.0, ("defense",)))
    cells += [(p, r, f, k) for p, r, (f, k) in itertools.product(presses, ratios, settings) if r]
    numbers = itertools.count()
    for task, (press, ratio, fair, keep) in itertools.product(tasks, cells):
        lines = [_line(task, press, ratio, fair, keep, i, fidelity) for i in range(n)]
        _write(folder, task, lines, next(numbers), press=press, ratio=ratio, fair=fair, keep=list(keep))


def _line(task: str, press: str, ratio: float, fair: float, keep, i: int, fidelity: bool) -> dict[str, Any]:
    document = random.Random(f"{task} {i}")
    draw = random.Random(f"{task} {press} {ratio} {fair} {keep} {i}")
    harm = ratio * (0.5 + 0.1 * len(press) / 5) * (1 - 0.3 * fair)
    directive, defense = 1 - ratio * (0.6 + 0.4 * fair), 1 - min(1, ratio * (1.4 - 0.4 * fair))
    metrics: dict[str, Any] = {}
    if task.startswith("sys_"):
        families = document.sample(FAMILIES, document.choice((1, 1, 2, 3)))
        verdicts = [document.random() > 0.25 and draw.random() > harm * (0.5 + FAMILIES.index(f) / 9) for f in families]
        metrics |= {"prompt_level_strict_acc": all(verdicts), "inst_level_strict_acc": verdicts}
        metrics |= {f"acc_{family}": float(ok) for family, ok in zip(families, verdicts, strict=True)}
        metrics["acc_single" if len(verdicts) == 1 else "acc_multi"] = float(all(verdicts))
    else:
        leaked = min(1.0, draw.random() * (0.3 + 2 * ratio * (1 - ratio) * (1 - fair / 2)))
        metrics |= {"rougeL_recall_directive": leaked, "rougeL_recall_defense": leaked / 2}
    metrics |= {"keep_rate": 1 - ratio, "keep_rate_directive": directive, "keep_rate_defense": 1.0 if keep else defense}
    if task == "sys_multi":
        metrics |= {f"acc_position_{k}": float(draw.random() > harm * k / 4) for k in (1, 2, 4)}
        metrics |= {f"keep_rate_position_{k}": 1 - ratio * k / 5 for k in (1, 2, 4)}
        metrics |= {f"keep_rate_{family}": 1 - ratio / len(family) for family in FAMILIES}
    metrics |= {"kv_bytes_full": float(_WHOLE), "kv_bytes_kept": _WHOLE * (1 - ratio)}
    metrics |= {"fidelity_kl": draw.random() * ratio} if fidelity else {}
    digests = {f"{of}_hash": synthetic_results.digest(f"{task} {of} {i}") for of in ("doc", "prompt", "target")}
    return {"doc_id": i, "filter": "none", "resps": [[""]], "metrics": list(metrics), **digests, **metrics}


def _write(folder: Path, task: str, lines: list[dict], number: int, **policy: Any) -> None:
    path = synthetic_results.write(
        folder, task=task, docs=["x"], samples=False, number=number, fairkv={"keep": policy.pop("keep")}, **policy
    )
    result = json.loads(path.read_text())
    entry: dict[str, Any] = {}
    names = sorted({name for line in lines for name in line["metrics"]})
    for name in names:
        values = [line[name] for line in lines if name in line]
        pooled = [float(v) for value in values for v in (value if isinstance(value, list) else [value])]
        mean = sum(pooled) / len(pooled)
        entry[f"{name},none"] = mean
        error = (sum((v - mean) ** 2 for v in pooled) / max(1, len(pooled) - 1) / len(pooled)) ** 0.5
        entry[f"{name}_stderr,none"] = "N/A" if isinstance(values[0], list) else error
    result["results"][task] = entry
    direction = {
        name: not name.startswith("rouge") for name in names if not name.startswith(("keep", "kv", "fidelity"))
    }
    result["higher_is_better"][task] = {name: direction.get(name) for name in names}
    result["n-samples"][task] = {"original": len(lines), "effective": len(lines)}
    result["task_hashes"] = {task: synthetic_results.task_hash(lines)}
    path.write_text(json.dumps(result))
    samples = path.with_name(path.name.replace("results_", f"samples_{task}_")).with_suffix(".jsonl")
    samples.write_text("".join(json.dumps(line) + "\n" for line in lines))

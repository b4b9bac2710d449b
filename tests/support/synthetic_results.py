"""Result files shaped as the harness writes them, with samples, made without a model."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from pathlib import Path
from typing import Any

TASK = "made_task"
MODEL = "someone/small-model"
_FULL_BYTES = 4_000_000


def documents(n: int, prefix: str = "doc") -> list[str]:
    return [f"{prefix} {i}" for i in range(n)]


def write(
    folder: Path,
    *,
    press: str = "none",
    ratio: float = 0.0,
    fair: float = 0.0,
    parameters: dict[str, Any] | None = None,
    task: str = TASK,
    model: str = MODEL,
    docs: list[str] | None = None,
    scores: list[float] | None = None,
    responses: list[str] | None = None,
    number: int = 0,
    version: float = 1.0,
    source: str = "fairkv",
    limit: float | None = None,
    original: int = 100,
    compress: bool = False,
    samples: bool = True,
    more: dict[str, list[float]] | None = None,
    filler: str = "",
    held: float | None = None,
    **changed: Any,
) -> Path:
    """Write one result file and its samples and return its path. ``number`` makes date and name unlike others'.

    ``scores``: the documents' values of the metric ``acc``; ``more``: those of other metrics; ``filler``: text that
    each sample carries; ``held``: the share of the full cache's bytes, if it is not
    that of the pairs; ``changed``: entries of ``config`` (``fairkv`` is updated).
    """
    docs = documents(8) if docs is None else docs
    draw = random.Random(f"{press} {ratio} {fair} {task} {model}")
    scores = [float(draw.random() > 0.3 + ratio / 2) for _ in docs] if scores is None else scores
    responses = [f"answer of {press} to {d}" for d in docs] if responses is None else responses
    kept = _FULL_BYTES * (1 - ratio if held is None else held)
    lines = [
        _line(i, doc, filler, {"acc": score} | _of(more, i), response, kept if source == "fairkv" else None)
        for i, (doc, score, response) in enumerate(zip(docs, scores, responses, strict=True))
    ]
    names = lines[0]["metrics"]
    date_id = f"2026-01-{1 + number // 1440:02d}T{number // 60 % 24:02d}-{number % 60:02d}-00.000001"
    result = {
        "results": {task: {"name": task, "alias": task, "sample_len": len(docs), **_aggregated(lines, names)}},
        "group_subtasks": {},
        "configs": {task: {"task": task, "num_fewshot": 0, "generation_kwargs": {"max_gen_toks": 16}}},
        "versions": {task: version},
        "n-shot": {task: 0},
        "higher_is_better": {task: {name: None if name.startswith("kv_bytes") else True for name in names}},
        "n-samples": {task: {"original": original, "effective": len(docs)}},
        "config": _config(source, model, press, ratio, fair, parameters, len(docs), limit, changed),
        "git_hash": "abc1234",
        "date": 1767225600.0 + number,
        "transformers_version": "5.23.0",
        "lm_eval_version": "0.4.13",
        "task_hashes": {task: task_hash(lines)} if samples else {},
        "model_source": source,
        "model_name": model,
        "chat_template_sha": None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"results_{date_id}.json"
    path.write_text(json.dumps(result, indent=2))
    if samples:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        beside = folder / f"samples_{task}_{date_id}.jsonl"
        if compress:
            Path(f"{beside}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            beside.write_text(text)
    return path


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def task_hash(lines: list[dict[str, Any]]) -> str:
    return digest("".join(s["doc_hash"] + s["prompt_hash"] + s["target_hash"] for s in lines))


def _of(more: dict[str, list[float]] | None, index: int) -> dict[str, float]:
    return {name: values[index] for name, values in (more or {}).items()}


def _line(
    doc_id: int, doc: str, filler: str, scores: dict[str, float], response: str, kept: float | None
) -> dict[str, Any]:
    metrics: dict[str, Any] = {**scores, "inst_acc": [bool(scores["acc"])] * (1 + doc_id % 3)}
    if kept is not None:
        metrics |= {"kv_bytes_full": float(_FULL_BYTES), "kv_bytes_kept": kept}
    return {
        "doc_id": doc_id,
        "doc": {"text": doc, "filler": filler},
        "target": "",
        "arguments": {"gen_args_0": {"arg_0": f"Question: {doc}", "arg_1": {}}},
        "resps": [[response]],
        "filtered_resps": [response],
        "filter": "none",
        "metrics": list(metrics),
        "doc_hash": digest(doc),
        "prompt_hash": digest(f"Question: {doc}"),
        "target_hash": digest(""),
        **metrics,
    }


def _aggregated(lines: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    """Values and standard errors as the harness aggregates them; a list of verdicts is pooled and has no error."""
    entry: dict[str, Any] = {}
    for name in names:
        values = [line[name] for line in lines]
        pooled = [v for value in values for v in value] if isinstance(values[0], list) else values
        mean = sum(pooled) / len(pooled)
        entry[f"{name},none"] = mean
        spread = sum((v - mean) ** 2 for v in pooled) / max(len(pooled) - 1, 1)
        single = len(values) < 2 or isinstance(values[0], list)
        entry[f"{name}_stderr,none"] = "N/A" if single else (spread / len(pooled)) ** 0.5
    return entry


def _config(source, model, press, ratio, fair, parameters, n, limit, changed) -> dict[str, Any]:
    """The run's configuration, with the policy where the model is ours."""
    config: dict[str, Any] = {
        "model": source,
        "model_args": {"pretrained": model},
        "model_dtype": "torch.float32",
        "model_sha": digest(model),
        "batch_size": "8",
        "limit": limit,
        "gen_kwargs": {},
        "random_seed": 0,
        "torch_seed": 1234,
    }
    if source == "fairkv":
        config["model_args"] |= {"press": press, "ratio": ratio, "fair": fair, **(parameters or {})}
        config["fairkv"] = {
            "press": press,
            "base": None,
            "press_sha256": None if press == "none" else digest(press),
            "parameters": parameters or {},
            "ratio": ratio,
            "budget": None,
            "fair": fair,
            "keep": [],
            "positions": "original",
            "decode_budget": None,
            "decode_every": None,
            "segments": "auto",
            "scope": "auto",
            "chat": "auto",
            "contexts": n,
            "kv_bytes_full": n * _FULL_BYTES,
            "kv_bytes_kept": int(n * _FULL_BYTES * (1 - ratio)),
            "achieved_ratio": ratio,
            "prefill_tokens_per_second": 900.0,
            "decode_tokens_per_second": 100.0,
            "versions": {"fairkv-eval": "0.1.0"},
            "commit": "6037f6efe775cb1a89885ee2d1b06e22abd228f1",
        }
        config["fairkv"] |= changed.pop("fairkv", {})
    return {**config, **changed}

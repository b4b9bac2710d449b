"""Needle in a haystack under every press: the harness's own RULER task `niah_single_1` at small KV budgets.

Each context is prefilled once for all presses and ratios. With scope `prompt` the question is part of the context that
is compressed (query-aware), with `system` the context ends before the question (query-agnostic). A generation stops
once it has said the number: the task looks for it anywhere in the answer, so no score can change after that.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import common
import torch
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager
from lm_eval.utils import simple_parse_args_string
from scipy.stats import binomtest
from tqdm import tqdm

from fairkv_eval import provenance
from fairkv_eval.engine.jobs import Generation, Job
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.press import accepted
from fairkv_eval.eviction.press_files import load_press
from fairkv_eval.model import FairKV
from fairkv_eval.prompts.tokens import Prompt

TASK = "niah_single_1"
SEED = 0  # the harness's default, from which the task draws its words, numbers and places
FULL = "full"
# The scopes in which presses were published. Rules that read no query stand where there is none to read.
PUBLISHED = {
    "prompt": ("snapkv", "pyramidkv", "adakv", "chunkkv", "h2o", "tova"),
    "system": ("kvzip", "expected_attention", "adakv", "keydiff", "lagkv", "knorm", "streaming_llm"),
}
# The default window of 64 is longer than the question with the template around it: its first votes are the haystack's.
WINDOW = ":window=16"  # the pitfalls paper's
PRESSES = (
    *(FULL, "random", "snapkv" + WINDOW, "pyramidkv" + WINDOW),
    *dict.fromkeys(press for presses in PUBLISHED.values() for press in presses),
)
# Published claims: the first finds more than the second in this scope; at the smallest budget only (True), or at all.
CLAIMS = (("pyramidkv", "snapkv", "prompt", True), ("kvzip", "snapkv", "system", False))
CLAIM_HEADER = ("claim", "scope", "kept", "length", "docs", "first", "second", "difference", "found by one only", "p")

Policies = Mapping[tuple[str, float], Policy]  # by the press as it was named, and ratio


class Setting(NamedTuple):
    """What a figure is measured under. ``length``: RULER's tokens, room for the answer included."""

    press: str
    ratio: float
    scope: str
    length: int


@dataclass(frozen=True)
class Cell:
    """The scores (0 or 1) of a setting's documents, in order, and the fraction evicted of their contexts (mean)."""

    setting: Setting
    scores: tuple[float, ...]
    achieved_ratio: float

    @property
    def accuracy(self) -> float:
        return sum(self.scores) / len(self.scores)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval."""
        ends = binomtest(round(sum(self.scores)), len(self.scores)).proportion_ci(method="wilson")
        return float(ends.low), float(ends.high)

    def describe(self) -> dict[str, Any]:
        figures = {"docs": len(self.scores), "accuracy": self.accuracy, "interval": self.interval}
        return {**self.setting._asdict(), **figures, "achieved_ratio": self.achieved_ratio, "scores": self.scores}


def main() -> None:
    args = parse()
    if importlib.util.find_spec("wonderwords") is None:
        raise SystemExit(f"the harness's {TASK} needs one more package: pip install wonderwords")
    torch.set_num_threads(args.threads)
    provenance.describe()  # makes the sentence model loadable, which the task would try to download
    policies = read_policies(args.presses, args.ratios)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model_arguments = {"device": device, **simple_parse_args_string(args.model_args)}
    model = FairKV(**model_arguments, dtype=args.dtype, batch_size=args.rows, scope="prompt", segments="paragraphs")
    cells: list[Cell] = []
    seconds: dict[int, float] = {}
    for length in args.lengths:
        task = load_task(model, length, args)
        started = time.perf_counter()
        cells += measure(model, task, length, args.scopes, policies)
        seconds[length] = time.perf_counter() - started
        print(f"\nlength {length}: {len(task.instances)} documents in {seconds[length]:.0f} s")
        write(args, cells, seconds, model, policies)
    report(cells)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=50, help="documents of each length (the task has 500)")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048], help="RULER's: prompt + 128 tokens")
    presses = f"names, with parameters as snapkv:window=16 or adakv:base=knorm; {FULL!r} is the full cache"
    parser.add_argument("--presses", nargs="+", default=list(PRESSES), help=presses)
    parser.add_argument("--scopes", nargs="+", choices=list(PUBLISHED), default=list(PUBLISHED))
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.5, 0.75, 0.88], help="fractions that are evicted")
    parser.add_argument("--new_tokens", type=int, help="at most this many an answer (default: the task's 128)")
    parser.add_argument("--chat", action=argparse.BooleanOptionalAction, default=True, help="apply the chat template")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="float32")
    parser.add_argument("--rows", type=int, default=16, help="answers that decode together")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--model_args", default="", help="as lm_eval's --model_args (default: SmolLM2-135M-Instruct)")
    parser.add_argument("--json", type=Path, help="write settings, versions, every figure and every score here")
    return parser.parse_args()


def read_policies(presses: Sequence[str], ratios: Sequence[float]) -> Policies:
    """A policy for each press and ratio; the full cache has one."""
    policies: dict[tuple[str, float], Policy] = {}
    for label in presses:
        if label == FULL:
            policies[label, 0.0] = Policy()
            continue
        name, *typed = label.split(":")
        parameters = simple_parse_args_string(",".join(typed))
        press = load_press(name, parameters.pop("base", None))
        configured = press.configure(parameters) if press else ()
        policies |= {(label, ratio): Policy(press, configured, ratio) for ratio in ratios}
    return policies


def load_task(model: FairKV, length: int, args: argparse.Namespace) -> Any:
    """The harness's task with its first documents of one length, as counted by the model's own tokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        # RULER loads a tokenizer by name and knows no GGUF files.
        model.tokenizer.save_pretrained(folder)
        random.seed(SEED)
        manager = TaskManager(metadata={"max_seq_lengths": [length], "tokenizer": folder})
        task = manager.load([TASK])["tasks"][TASK]
    if args.new_tokens:
        task.set_config(key="generation_kwargs", value={"max_gen_toks": args.new_tokens}, update=True)
    template = model.apply_chat_template if args.chat else None
    task.build_all_requests(limit=args.limit, apply_chat_template=args.chat, chat_template=template)
    return task


def measure(model: FairKV, task: Any, length: int, scopes: Sequence[str], policies: Policies) -> list[Cell]:
    """Ask every document under every scope and policy, in one run of the engine, and let the task score the answers."""
    settings_and_docs: list[tuple[Setting, Mapping[str, Any]]] = []
    jobs: list[Job] = []
    for request in task.instances:
        for scope in scopes:
            job = question(model, request, scope, policies)
            for (press, ratio), policy in policies.items():
                jobs.append(replace(job, policy=policy))
                settings_and_docs.append((Setting(press, ratio, scope, length), request.doc))
    results = dict(tqdm(model.run(jobs), f"{TASK} {length}", len(jobs)))
    scores: dict[Setting, list[float]] = {}
    evicted: dict[Setting, list[float]] = {}
    for index, (setting, doc) in enumerate(settings_and_docs):
        answer = model.tok_decode(list(results[index].tokens))
        scores.setdefault(setting, []).append(task.process_results(doc, [answer])[str(length)])
        evicted.setdefault(setting, []).append(1 - results[index].telemetry["keep_rate"])
    return [Cell(s, tuple(scores[s]), sum(evicted[s]) / len(evicted[s])) for s in scores]


def question(model: FairKV, request: Instance, scope: str, policies: Policies) -> Job:
    """A document's job as the harness asks for it; with scope ``system`` its context ends before the question."""
    job = model.job(request)
    assert isinstance(job.want, Generation)
    text = model.prompter.divide(request.args[0], request.doc)
    if scope == "system":
        last_line = request.doc["input"].rpartition("\n")[2]  # where the task's template has its question
        text = replace(text, context_end=text.text.rindex(last_line))
    prompt = model.prompter.prompt(replace(text, segments=()))
    following = max([job.want.max_tokens, *(_replayed(model, prompt, policy) for policy in policies.values())])
    prompt = model.prompter.fit(prompt, following, model.max_length, False, job.label)
    (number,) = request.doc["outputs"]
    return replace(job, prompt=prompt, want=replace(job.want, stop=(*job.want.stop, number)))


def _replayed(model: FairKV, prompt: Prompt, policy: Policy) -> int:
    """The most tokens that a press replays after the context."""
    replay = policy.press.replay if policy.press else None
    if replay is None:
        return 0
    tails = replay(prompt.tokens[: prompt.context_length], model.prompter.ask, **accepted(replay, policy.parameters))
    return max(map(len, tails), default=0)


def claims(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """What was measured of each claim, for each length and, where there are several, for all of them together."""
    scores = {cell.setting: cell.scores for cell in cells}
    presses = list(dict.fromkeys(cell.setting.press for cell in cells))
    ratios = sorted({cell.setting.ratio for cell in cells if cell.setting.press != FULL})
    lengths = list(dict.fromkeys(cell.setting.length for cell in cells))
    groups = [[length] for length in lengths] + ([lengths] if len(lengths) > 1 else [])
    comparisons = []
    for first, second, scope, smallest in CLAIMS:
        # Both with the same parameters, where the first was measured with them.
        pairs = [(first + b.removeprefix(second), b) for b in presses if b.partition(":")[0] == second]
        pairs = [(a if a in presses else first, b) for a, b in pairs]
        for pair, ratio, group in product(pairs, ratios[-1:] if smallest else ratios, groups):
            a, b = ([Setting(press, ratio, scope, length) for length in group] for press in pair)
            if all(setting in scores for setting in (*a, *b)):
                of_a, of_b = ([score for setting in settings for score in scores[setting]] for settings in (a, b))
                about = {"first": pair[0], "second": pair[1], "scope": scope, "ratio": ratio, "lengths": group}
                comparisons.append({**about, **compare(of_a, of_b)})
    return comparisons


def compare(a: Sequence[float], b: Sequence[float]) -> dict[str, Any]:
    """Two presses on the same documents. ``p``: McNemar's exact test, two-sided: a fair coin for each document that
    only one of them found."""
    only_a, only_b = (sum(x > y for x, y in pairs) for pairs in (zip(a, b, strict=True), zip(b, a, strict=True)))
    accuracy = [sum(a) / len(a), sum(b) / len(b)]
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    difference = accuracy[0] - accuracy[1]
    return {"docs": len(a), "accuracy": accuracy, "difference": difference, "only": [only_a, only_b], "p": p}


def report(cells: Sequence[Cell]) -> None:
    """Print a table for each length and scope, and what was measured of the claims."""
    ratios = sorted({cell.setting.ratio for cell in cells if cell.setting.press != FULL}) or [0.0]
    header = ("press", *(f"{_kept(ratio)} kept" for ratio in ratios), "achieved ratio")
    for length, scope in dict.fromkeys((cell.setting.length, cell.setting.scope) for cell in cells):
        here = [cell for cell in cells if (cell.setting.length, cell.setting.scope) == (length, scope)]
        print(f"\n### Length {length}, scope {scope}, {len(here[0].scores)} documents\n")
        rows = []
        for press in dict.fromkeys(cell.setting.press for cell in here):
            by_ratio = sorted(
                (cell for cell in here if cell.setting.press == press), key=lambda cell: cell.setting.ratio
            )
            mark = " \\*" if press.partition(":")[0] in PUBLISHED[scope] else ""
            figures = [_accuracy(cell) for cell in by_ratio] * (len(ratios) if press == FULL else 1)
            rows.append([press + mark, *figures, " / ".join(f"{cell.achieved_ratio:.3f}" for cell in by_ratio)])
        print(_markdown(header, rows))
    print("\nAccuracy with Wilson's 95 % interval. \\* the scope in which the press was published.")
    if measured_claims := claims(cells):
        print(f"\n{_markdown(CLAIM_HEADER, [_claim_row(claim) for claim in measured_claims])}")


def _claim_row(claim: Mapping[str, Any]) -> list[str]:
    name, lengths = f"{claim['first']} > {claim['second']}", " and ".join(map(str, claim["lengths"]))
    accuracy = [f"{value:.2f}" for value in claim["accuracy"]]
    only = " : ".join(map(str, claim["only"]))
    about = [name, claim["scope"], _kept(claim["ratio"]), lengths, str(claim["docs"])]
    return [*about, *accuracy, f"{claim['difference']:+.2f}", only, f"{claim['p']:.2g}"]


def _accuracy(cell: Cell) -> str:
    low, high = cell.interval
    return f"{cell.accuracy:.2f} [{low:.2f}, {high:.2f}]"


def _kept(ratio: float) -> str:
    return f"{100 * (1 - ratio):.3g} %"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows))


def write(
    args: argparse.Namespace, cells: Sequence[Cell], seconds: Mapping[int, float], model: FairKV, policies: Policies
) -> None:
    """Write all that was measured so far: a long run that is stopped keeps the lengths it has done."""
    # Model arguments may hold paths of this machine; the model's name and its weights' digest stand for them.
    shown = argparse.Namespace(**{k: v for k, v in vars(args).items() if k != "model_args"})
    figures = {
        **provenance.describe(),
        "model": provenance.model_name(model.pretrained),
        "model_sha256": model.weights_sha256,
        "seconds": seconds,
        "totals": model.totals.describe(),
        "claims": claims(cells),
        "cells": [cell.describe() for cell in cells],
        "policies": [{"label": press, **policy.describe()} for (press, _), policy in policies.items()],
    }
    common.write_json(args.json, shown, figures)


if __name__ == "__main__":
    main()

"""Multiple-choice questions a second with the full cache: this package's model against the harness's own `hf`.

A question is a worked GSM8K problem without its last two words (about 200 tokens); its four choices are its own
last words and those of three other problems. Both sides score the same harness requests through `loglikelihood`. `hf`
runs the context once for every choice, apart from those that differ in their last token only, which its logits cache
answers together; its batch size is the best of those tried on a few questions. ``--fewshot N`` puts the same N tokens
of solved problems before every question. `hf` needs as long for each question, so ``--hf_questions`` may give it fewer.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from typing import Any

import common
import torch
from lm_eval.api.instance import Instance

from fairkv_eval.documents.published import GSM8K, read_file
from fairkv_eval.model import FairKV

CHOICES = 4
ENDING = 2  # words
CONTEXT_TOKENS = range(150, 251)
CHOICE_TOKENS = range(1, 9)
TOLERANCE = 1e-3  # of a log-likelihood, in nats
HEADER = ("side", "batch", "questions", "prefill tokens", "seconds", "questions/s")


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    settings = {"dtype": args.dtype, "device": args.device}
    ours = common.harness_model("fairkv", batch_size=args.batch_size, **settings)
    hf = common.harness_model("hf", **settings)
    requests = questions(hf, args.questions, args.fewshot)
    theirs = requests[: CHOICES * (args.hf_questions or args.questions)]
    run(ours, requests[:CHOICES], args.batch_size)
    run(hf, requests[:CHOICES], 1)
    tuning = requests[: CHOICES * args.tune]
    tried = {batch: run(hf, tuning, batch) for batch in args.hf_batch_sizes}
    best = min(tried, key=lambda batch: tried[batch]["seconds"])
    sides = {"fairkv": lambda: run(ours, requests, args.batch_size), "hf": lambda: run(hf, theirs, best)}
    runs = common.in_turns(sides, args.repeats)
    report(args, tried, runs, describe(hf, requests))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    common.add_comparison_arguments(parser)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--hf_questions", type=int, help="give `hf` fewer and compare questions a second")
    parser.add_argument(
        "--fewshot", type=int, nargs="?", const=1500, default=0, metavar="TOKENS", help="shared by all (1500)"
    )
    parser.add_argument("--batch_size", type=int, default=64, help="of this package")
    parser.add_argument("--hf_batch_sizes", type=int, nargs="+", help="the best is compared (1 4 8 16; few-shot 1 2 4)")
    parser.add_argument("--tune", type=int, help="questions on which `hf`'s batch sizes are tried (8; few-shot 2)")
    args = parser.parse_args()
    # `hf` keeps the logits of every token, which at 1,700 tokens are a third of a GiB a sequence, twice.
    args.hf_batch_sizes = args.hf_batch_sizes or ([1, 2, 4] if args.fewshot else [1, 4, 8, 16])
    args.tune = args.tune or (2 if args.fewshot else 8)
    return args


def questions(model: Any, count: int, shot_tokens: int) -> list[Instance]:
    """Requests of ``count`` questions, choice by choice, each after the same shots."""

    def tokens(text: str) -> int:
        return len(model.tok_encode(text))

    problems = [solved(json.loads(line)) for line in read_file(GSM8K).decode().splitlines()]
    cut = [(text.rsplit(" ", ENDING)[0], text) for text in problems]
    split = [(context, text.removeprefix(context)) for context, text in cut]
    fitting = [(c, end) for c, end in split if tokens(c) in CONTEXT_TOKENS and tokens(end) in CHOICE_TOKENS]
    if len(fitting) < count:
        raise SystemExit(f"--questions {count}: only {len(fitting)} problems are of the wanted length")
    shots = block([text for text in problems if tokens(text) not in CONTEXT_TOKENS], shot_tokens, model)
    requests = []
    for doc_id, (context, ending) in enumerate(fitting[:count]):
        others = [end for _, end in fitting[doc_id + 1 :] + fitting[:doc_id] if end != ending]
        ends = [ending, *list(dict.fromkeys(others))[: CHOICES - 1]]
        for idx, end in enumerate(ends):
            metadata = ("choices", doc_id, 1)
            requests.append(Instance("loglikelihood", {"id": doc_id}, (shots + context, end), idx, metadata))
    return requests


def solved(problem: dict[str, str]) -> str:
    """A problem and its solution in words, without the calculator's annotations and the final number."""
    solution = re.sub(r"<<.*?>>", "", problem["answer"].partition("\n####")[0])
    return f"Question: {problem['question'].strip()}\nAnswer: {' '.join(solution.split())}"


def block(problems: list[str], size: int, model: Any) -> str:
    """Solved problems of about ``size`` tokens together, each followed by an empty line."""
    text = ""
    for problem in problems:
        if len(model.tok_encode(text)) >= size:
            break
        text += f"{problem}\n\n"
    return text


def run(model: Any, requests: list[Instance], batch: int) -> dict[str, Any]:
    """Score requests: seconds, log-likelihoods, and the tokens that our engine prefilled."""
    model.batch_size_per_gpu = batch
    if isinstance(model, FairKV):
        model.reset_totals()
    seconds, answers = common.timed(lambda: model.loglikelihood(requests, disable_tqdm=True))
    prefilled = model.totals.prefill_tokens if isinstance(model, FairKV) else 0
    return {"seconds": seconds, "batch": batch, "answers": [a[0] for a in answers], "prefill_tokens": prefilled}


def describe(model: Any, requests: list[Instance]) -> dict[str, Any]:
    """Tokens of contexts and choices, as both sides run them."""
    pairs = [model._encode_pair(*request.args) for request in requests]
    contexts, choices = ([len(tokens) for tokens in side] for side in zip(*pairs, strict=True))
    # What `hf` answers together, since it differs in the last token only.
    passes = {(*context, *choice[:-1]) for context, choice in pairs}
    return {
        "context_tokens": round(statistics.mean(contexts), 1),
        "choice_tokens": [min(choices), round(statistics.mean(choices), 1), max(choices)],
        "requests": len(requests),
        "hf_sequences": len(passes),
        "hf_tokens": sum(map(len, passes)),
    }


def report(
    args: argparse.Namespace, tried: dict[int, dict], runs: dict[str, list[dict[str, Any]]], work: dict[str, Any]
) -> None:
    """Print both sides, their ratio and how far their log-likelihoods agree, and write them."""
    rows = [_row("hf, tried", [trial]) for trial in tried.values()]
    print(common.table(HEADER, rows + [_row(name, rounds) for name, rounds in runs.items()]))
    rates = {name: statistics.median(map(_rate, rounds)) for name, rounds in runs.items()}
    ratio = rates["fairkv"] / rates["hf"]
    ours, theirs = runs["fairkv"][0]["answers"], runs["hf"][0]["answers"]
    apart = [abs(a - b) for a, b in zip(ours, theirs, strict=False)]
    chosen = [[pick(answers, i) for i in range(0, len(theirs), CHOICES)] for answers in (ours, theirs)]
    figures = {
        "ratio": ratio,
        "questions_per_second": rates,
        "within_tolerance": sum(difference <= TOLERANCE for difference in apart),
        "compared": len(apart),
        "largest_difference": max(apart),
        "same_choice": sum(a == b for a, b in zip(*chosen, strict=True)),
    }
    print(f"fairkv / hf: {ratio:.2f} x questions/s, {args.dtype}, {args.threads} threads")
    print(f"contexts of {work['context_tokens']} tokens, choices of {work['choice_tokens']} (least, mean, most)")
    print(f"hf runs {work['hf_sequences']} sequences, {work['hf_tokens']:,} tokens, for {work['requests']} requests")
    print(
        f"log-likelihoods within {TOLERANCE}: {figures['within_tolerance']} of {len(apart)}, largest {max(apart):.2g}"
    )
    print(f"same choice in {figures['same_choice']} of {len(chosen[0])} questions")
    common.write_json(args.json, args, {**figures, "work": work, "runs": runs, **common.versions(args.device)})


def pick(answers: list[float], start: int) -> int:
    """The likeliest choice of the question whose answers start here."""
    of_question = answers[start : start + CHOICES]
    return of_question.index(max(of_question))


def _rate(run: dict[str, Any]) -> float:
    return len(run["answers"]) / CHOICES / run["seconds"]


def _row(name: str, runs: list[dict[str, Any]]) -> tuple:
    first = runs[0]
    prefilled = first["prefill_tokens"] or "-"
    rates = common.spread([_rate(run) for run in runs])
    seconds = common.spread([run["seconds"] for run in runs])
    return name, first["batch"], len(first["answers"]) // CHOICES, prefilled, seconds, rates


if __name__ == "__main__":
    main()

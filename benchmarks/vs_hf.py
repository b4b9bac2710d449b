"""Tokens per second of sys_ifeval answers with the full cache: this package's model against the harness's own `hf`.

Both sides answer the same harness requests through `generate_until` in one process: tokenizing, prefill, decoding,
text. Both stop as their users would see it, at an end-of-text token or after the same number of tokens, and tokens are
counted alike, up to and with the end of text, so what `hf` pads is not counted. `hf` runs once at every batch size
asked for, and the best of them takes turns with this package.
"""

from __future__ import annotations

import argparse
import gc
import statistics
from typing import Any

import common
import torch

WARM_UP = 2  # prompts
HEADER = ("side", "batch", "tokens", "seconds", "tokens/s")


class Ours:
    """FairKV without eviction."""

    def __init__(self, args: argparse.Namespace, dtype: str) -> None:
        self.batch = args.batch_size
        settings = {"attn_implementation": args.attention, "linear": args.linear, "batch_size": self.batch}
        self.model = common.harness_model("fairkv", dtype=dtype, device=args.device, **settings)
        self.requests = common.sys_ifeval(self.model, args.prompts, args.new_tokens)

    def prompts(self) -> list[list[int]]:
        """Each prompt as the engine gets it."""
        return [list(self.model.job(request).prompt.tokens) for request in self.requests]

    def run(self, requests: list[Any]) -> dict[str, Any]:
        """Answer requests: seconds, tokens of each answer, texts."""
        seconds, responses = common.timed(lambda: self.model.generate_until(requests, disable_tqdm=True))
        tokens = [response.telemetry["generated_tokens"] for response in responses]
        return {"seconds": seconds, "tokens": tokens, "texts": list(map(str, responses))}


class Theirs:
    """The harness's own Hugging Face model. ``ends``: tokens that end an answer."""

    def __init__(self, args: argparse.Namespace, dtype: str, ends: frozenset[int]) -> None:
        self.model = common.harness_model("hf", dtype=dtype, device=args.device)
        self.ends = ends
        self.answers: list[list[int]] = []
        generate = self.model._model_generate

        def recording(context: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            answers = generate(context=context, **kwargs)
            self.answers += answers[:, context.shape[1] :].tolist()
            return answers

        self.model._model_generate = recording

    def prompts(self, requests: list[Any]) -> list[list[int]]:
        """Each prompt as `hf` runs it, padding apart."""
        return [self.model.tok_encode(request.args[0]) for request in requests]

    def run(self, requests: list[Any], batch: int) -> dict[str, Any]:
        """As `Ours.run`; the counts come in the order in which `hf` works."""
        self.model.batch_size_per_gpu = batch
        self.answers.clear()
        seconds, texts = common.timed(lambda: self.model.generate_until(requests, disable_tqdm=True))
        return {"seconds": seconds, "tokens": [self._said(answer) for answer in self.answers], "texts": texts}

    def _said(self, answer: list[int]) -> int:
        return next((i for i, token in enumerate(answer, 1) if token in self.ends), len(answer))


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    figures = {}
    for dtype in args.dtypes:
        figures[dtype] = compare(args, dtype)
        gc.collect()
    common.write_json(args.json, args, {**figures, **common.versions(args.device)})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    common.add_comparison_arguments(parser)
    common.add_computing_arguments(parser)
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--new_tokens", type=int, default=128, help="at most this many a prompt")
    parser.add_argument("--batch_size", type=int, default=64, help="of this package")
    parser.add_argument("--hf_batch_sizes", type=int, nargs="+", default=[8, 16, 32, 64], help="the best is compared")
    return parser.parse_args()


def compare(args: argparse.Namespace, dtype: str) -> dict[str, Any]:
    """Both sides in one type: print, and return every figure."""
    ours = Ours(args, dtype)
    hf = Theirs(args, dtype, ours.model.eos_tokens)
    requests = ours.requests
    if ours.prompts() != hf.prompts(requests):
        raise SystemExit("the two sides do not run the same prompt tokens")
    ours.run(requests[:WARM_UP])
    hf.run(requests[:WARM_UP], WARM_UP)
    tried = {batch: hf.run(requests, batch) for batch in args.hf_batch_sizes}
    best = max(tried, key=lambda batch: _rate(tried[batch]))
    sides = {"fairkv": lambda: ours.run(requests), "hf": lambda: hf.run(requests, best)}
    runs = common.in_turns(sides, args.repeats)
    rows = [_row("hf, tried", batch, [run]) for batch, run in tried.items()]
    rows += [_row("fairkv", ours.batch, runs["fairkv"]), _row("hf, best", best, runs["hf"])]
    print(common.table(HEADER, rows))
    rates = {name: statistics.median(map(_rate, rounds)) for name, rounds in runs.items()}
    ratio = rates["fairkv"] / rates["hf"]
    same = sum(a == b for a, b in zip(runs["fairkv"][0]["texts"], runs["hf"][0]["texts"], strict=True))
    print(f"fairkv / hf: {ratio:.2f} x tokens/s, {args.prompts} prompts, {dtype}, {args.threads} threads")
    print(f"same text in {same} of {args.prompts} answers\n")
    figures = {"ratio": ratio, "tokens_per_second": rates, "hf_batch": best, "same_text": same}
    return {**figures, "runs": runs, "tried": {batch: {**run, "texts": None} for batch, run in tried.items()}}


def _row(name: str, batch: int, runs: list[dict[str, Any]]) -> tuple:
    rates = common.spread(list(map(_rate, runs)), digits=1)
    return name, batch, sum(runs[0]["tokens"]), common.spread([run["seconds"] for run in runs]), rates


def _rate(run: dict[str, Any]) -> float:
    return sum(run["tokens"]) / run["seconds"]


if __name__ == "__main__":
    main()

"""Tokens per second of sys_ifeval answers under TOVA: this package against kvpress's own pipeline.

Both sides run the same prompt tokens through the same weights with the same number of threads, in turns. Each stops
where its users would see it stop, at the end-of-text token, and only tokens really generated are counted (that one
included). Seconds are whole: tokenizing, prefill, eviction, decoding; those after the contexts are compressed, question
and decoding, are told apart as "answering". Loading and one warm-up are left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import torch
from lm_eval.tasks import TaskManager

from fairkv_eval import provenance
from fairkv_eval.model import FairKV
from fairkv_eval.pretrained import default_pretrained

WARM_UP = 2  # prompts
HEADER = ("side", "prompts", "tokens", "seconds", "tokens/s", "answering s", "tokens/s")


class Ours:
    """FairKV on the harness's own requests."""

    def __init__(self, args: argparse.Namespace, pretrained: dict[str, str]) -> None:
        self.model = FairKV(
            **pretrained, press="tova", ratio=args.ratio, dtype=args.dtype, batch_size=args.batch_size, device="cpu"
        )
        task = TaskManager().load(["sys_ifeval"])["tasks"]["sys_ifeval"]
        task.set_config(key="generation_kwargs", value={"max_gen_toks": args.new_tokens}, update=True)
        task.build_all_requests(limit=args.prompts)
        self.requests = task.instances

    def texts(self) -> list[dict[str, str]]:
        """Each prompt as rendered text, in two parts."""
        chats = [self.model.prompter.render(request.doc["messages"]) for request in self.requests]
        return [{"context": c.text[: c.context_end], "question": c.text[c.context_end :]} for c in chats]

    def tokens(self) -> list[dict[str, list[int]]]:
        """Each prompt as the engine gets it."""
        prompts = [self.model.job(request).prompt for request in self.requests]
        return [
            {"context": list(p.tokens[: p.context_length]), "question": list(p.tokens[p.context_length :])}
            for p in prompts
        ]

    def run(self, count: int) -> dict[str, Any]:
        """Answer the first ``count`` prompts: seconds, those spent answering, tokens and texts."""
        before = self._answering()
        started = time.perf_counter()
        responses = self.model.generate_until(self.requests[:count], disable_tqdm=True)
        seconds = time.perf_counter() - started
        return {
            "seconds": seconds,
            "answering": self._answering() - before,
            "tokens": [response.telemetry["generated_tokens"] for response in responses],
            "texts": [str(response) for response in responses],
        }

    def _answering(self) -> float:
        return self.model.totals.tail_seconds + self.model.totals.decode_seconds


class Kvpress:
    """kvpress's pipeline, kept in a process of its own that waits while the other side runs."""

    def __init__(self, args: argparse.Namespace, pretrained: dict[str, str], texts: Path, tokenizer: Any) -> None:
        model = {k: v for k, v in pretrained.items() if k != "pretrained"}
        model["pretrained_model_name_or_path"] = pretrained["pretrained"]
        options = {"model": json.dumps(model), "dtype": args.dtype, "ratio": args.ratio, "threads": args.threads}
        options |= {"prompts": texts, "new-tokens": args.new_tokens}
        arguments = [f"--{name}={value}" for name, value in options.items()]
        command = common.kvpress_command(args.kvpress_python, ["decode", *arguments])
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.tokenizer = tokenizer
        ready = self._answer()
        self.prompts, self.versions = ready["prompts"], ready["versions"]

    def run(self, count: int) -> dict[str, Any]:
        """As `Ours.run`."""
        print(count, file=self.process.stdin)
        answer = self._answer()
        texts = [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in answer["generated"]]
        counts = [len(ids) for ids in answer.pop("generated")]
        return {**answer, "tokens": counts, "texts": texts}

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"kvpress's process ended with exit status {self.process.wait()}")
        return json.loads(line)


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    pretrained = default_pretrained()
    ours = Ours(args, pretrained)
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "prompts.json"
        texts.write_text(json.dumps(ours.texts()))
        kvpress = Kvpress(args, pretrained, texts, ours.model.tokenizer)
    prompts = ours.tokens()
    if prompts != kvpress.prompts:
        raise SystemExit("the two sides do not run the same prompt tokens")
    rounds = alternate({"fairkv": ours, "kvpress": kvpress}, args.prompts, args.repeats)
    kvpress.close()
    report(args, rounds, prompts, kvpress.versions)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    common.add_arguments(parser)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--new_tokens", type=int, default=64, help="at most this many a prompt")
    parser.add_argument("--batch_size", type=int, default=32, help="of this package; kvpress runs one prompt at a time")
    parser.add_argument("--repeats", type=int, default=2, help="rounds in which each side runs once")
    return parser.parse_args()


def alternate(sides: dict[str, Any], prompts: int, repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Warm each side up, then let them run in turns."""
    for side in sides.values():
        side.run(min(prompts, WARM_UP))
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            rounds[name].append(side.run(prompts))
    return rounds


def report(args: argparse.Namespace, rounds: dict[str, list[dict[str, Any]]], prompts: list, versions: dict) -> None:
    """Print each round and both totals, and write them."""
    rows = []
    for name, runs in rounds.items():
        rows += [_row(f"{name}, round {i}", args.prompts, [run]) for i, run in enumerate(runs, 1)]
    for name, runs in rounds.items():
        rows.append(_row(f"{name}, all", args.prompts * len(runs), runs))
    rates, answering = ({name: _rate(runs, key) for name, runs in rounds.items()} for key in ("seconds", "answering"))
    same = sum(a == b for a, b in zip(rounds["fairkv"][0]["texts"], rounds["kvpress"][0]["texts"], strict=True))
    ratio, answering_ratio = (r["fairkv"] / r["kvpress"] for r in (rates, answering))
    print(common.table(HEADER, rows))
    print(f"fairkv / kvpress: {ratio:.2f} x tokens/s, answering alone {answering_ratio:.2f} x")
    print(f"{args.dtype}, {args.threads} threads, batch {args.batch_size} against 1")
    print(f"same text in {same} of {args.prompts} answers")
    figures = {
        "ratio": ratio,
        "tokens_per_second": rates,
        "answering_ratio": answering_ratio,
        "answering_tokens_per_second": answering,
        "same_text": same,
        "rounds": rounds,
        "context_tokens": [len(p["context"]) for p in prompts],
        "question_tokens": [len(p["question"]) for p in prompts],
        "fairkv": provenance.describe(),
        "kvpress": versions,
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    common.write_json(args.json, args, figures)


def _row(name: str, prompts: int, runs: list[dict[str, Any]]) -> tuple:
    times = [f for key in ("seconds", "answering") for f in (f"{_sum(runs, key):.2f}", f"{_rate(runs, key):.1f}")]
    return name, prompts, _tokens(runs), *times


def _rate(runs: list[dict[str, Any]], key: str) -> float:
    return _tokens(runs) / _sum(runs, key)


def _tokens(runs: list[dict[str, Any]]) -> int:
    return sum(sum(run["tokens"]) for run in runs)


def _sum(runs: list[dict[str, Any]], key: str) -> float:
    return sum(run[key] for run in runs)


if __name__ == "__main__":
    main()

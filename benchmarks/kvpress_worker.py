"""kvpress's side of a benchmark, as its users run it: its pipeline, one prompt at a time.

Runs in kvpress's own environment (README.md), so it imports nothing of this project's package.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kvpress
import memory
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

# The pipeline puts a context into a user turn of the chat template. Ours is rendered already: pass it through.
PASS_THROUGH = "{{ messages[0]['content'] }}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("decode", "memory"))
    parser.add_argument("--model", required=True, help="arguments of from_pretrained, as JSON")
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--ratio", type=float, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--prompts", type=Path, help="decode: JSON list of {context, question}, rendered")
    parser.add_argument("--new_tokens", type=int, help="decode: at most this many a prompt")
    parser.add_argument("--context", type=int, help="memory: tokens")
    args = parser.parse_args()
    # Answers go to the parent; whatever else is printed must not mix with them.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    torch.set_num_threads(args.threads)
    {"decode": decode, "memory": peak}[args.what](args, lambda answer: print(json.dumps(answer), file=answers))


def decode(args: argparse.Namespace, say: Any) -> None:
    """Say each prompt's tokens; then, for each number read, run that many prompts and say seconds and tokens."""
    model = load(args)
    tokenizer = AutoTokenizer.from_pretrained(**json.loads(args.model))
    tokenizer.chat_template = PASS_THROUGH
    generated = record_decoded(tokenizer)
    pipe = pipeline("kv-press-text-generation", model=model, tokenizer=tokenizer, device="cpu")
    answering = record_seconds(pipe)
    press = kvpress.TOVAPress(compression_ratio=args.ratio)
    prompts = json.loads(args.prompts.read_text())
    say({"versions": versions(), "prompts": [tokens(pipe, p) for p in prompts]})
    for line in sys.stdin:
        generated.clear()
        answering.clear()
        started = time.perf_counter()
        for p in prompts[: int(line)]:
            pipe(p["context"], question=p["question"], press=press, max_new_tokens=args.new_tokens)
        seconds = time.perf_counter() - started
        say({"seconds": seconds, "answering": sum(answering), "generated": generated})


def peak(args: argparse.Namespace, say: Any) -> None:
    """Say the peak memory of prefilling and evicting one context with observed attention, which H2O is here."""
    model = load(args, attn_implementation="eager")
    press = kvpress.ObservedAttentionPress(compression_ratio=args.ratio)
    context = torch.randint(3, model.config.vocab_size, (1, args.context), generator=torch.Generator().manual_seed(0))

    def prefill() -> None:
        with torch.inference_mode(), press(model):
            model.model(input_ids=context)

    say({**memory.measure(prefill), "versions": versions()})


def load(args: argparse.Namespace, **kwargs: Any) -> Any:
    """The model in evaluation mode."""
    return AutoModelForCausalLM.from_pretrained(**json.loads(args.model), dtype=args.dtype, **kwargs).eval()


def record_decoded(tokenizer: Any) -> list[list[int]]:
    """A list that fills with the tokens of each answer: the pipeline returns its text only."""
    decoded: list[list[int]] = []
    plain_decode = tokenizer.decode

    def recording(ids: torch.Tensor, **kwargs: Any) -> str:
        decoded.append(ids.tolist())
        return plain_decode(ids, **kwargs)

    tokenizer.decode = recording
    return decoded


def record_seconds(pipe: Any) -> list[float]:
    """A list that fills with the seconds each answer takes once its context is compressed."""
    seconds: list[float] = []
    plain_answer = pipe.generate_answer

    def timed(*args: Any, **kwargs: Any) -> str:
        started = time.perf_counter()
        answer = plain_answer(*args, **kwargs)
        seconds.append(time.perf_counter() - started)
        return answer

    pipe.generate_answer = timed
    return seconds


def tokens(pipe: Any, prompt: dict[str, str]) -> dict[str, list[int]]:
    """Tokens of context and question as the pipeline will run them."""
    ids = pipe.preprocess(prompt["context"], [prompt["question"]], "", max_context_length=10**9)
    return {"context": ids["context_ids"][0].tolist(), "question": ids["questions_ids"][0][0].tolist()}


def versions() -> dict[str, str]:
    return {name: version(name) for name in ("kvpress", "torch", "transformers", "tokenizers")}


if __name__ == "__main__":
    main()

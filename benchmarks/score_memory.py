"""Peak memory of prefilling and evicting one long context: H2O, which observes all attention, against knorm.

Each press runs in a fresh process. H2O's scores need every attention weight, and must not hold them all at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import common

PRESSES = ("h2o", "knorm")
HEADER = ("press", "tokens", "loaded MiB", "peak MiB", "growth MiB")


def main() -> None:
    # Linux hands a process's peak on to what it starts, so this one stays small: only `one` imports torch.
    args = parse()
    if args.one:
        print(json.dumps(one(args)))
        return
    runs = {press: {"tokens": args.context, **ours(args, press, args.context)} for press in PRESSES}
    if args.kvpress_context:
        n = args.kvpress_context
        runs["h2o, shorter"] = {"tokens": n, **ours(args, "h2o", n)}
        runs["kvpress observed"] = {"tokens": n, **theirs(args)}
    report(args, runs)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    common.add_arguments(parser)
    parser.add_argument("--context", type=int, default=8192, help="tokens")
    parser.add_argument(
        "--kvpress_context",
        type=int,
        default=0,
        help="also compare with kvpress's observed attention at this many tokens; its memory grows with their square",
    )
    parser.add_argument("--max_prefill_tokens", type=int, default=4096, help="of one pass; a longer context in chunks")
    parser.add_argument("--one", choices=PRESSES, help="measure this press in this process and print JSON")
    return parser.parse_args()


def ours(args: argparse.Namespace, press: str, context: int) -> dict[str, Any]:
    """One press of this package in a fresh process."""
    arguments = [f"--dtype={args.dtype}", f"--ratio={args.ratio}", f"--threads={args.threads}", f"--context={context}"]
    arguments.append(f"--max_prefill_tokens={args.max_prefill_tokens}")
    return common.last_line([sys.executable, __file__, f"--one={press}", *arguments])


def theirs(args: argparse.Namespace) -> dict[str, Any]:
    """kvpress's observed attention in a fresh process of its own environment."""
    from fairkv_eval.pretrained import default_pretrained

    model = default_pretrained()
    options = {"model": json.dumps({"pretrained_model_name_or_path": model.pop("pretrained"), **model})}
    options |= {name: str(getattr(args, name)) for name in ("dtype", "ratio", "threads")}
    options["context"] = str(args.kvpress_context)
    arguments = [f"--{name}={value}" for name, value in options.items()]
    return common.last_line(common.kvpress_command(args.kvpress_python, ["memory", *arguments]))


def one(args: argparse.Namespace) -> dict[str, Any]:
    """Load the model, then measure prefill, eviction and one token with a press."""
    import memory
    import torch
    from transformers import AutoModelForCausalLM

    from fairkv_eval import provenance
    from fairkv_eval.engine.check import attach_checked
    from fairkv_eval.engine.engine import Engine
    from fairkv_eval.engine.jobs import Generation, Job
    from fairkv_eval.eviction.policy import Policy
    from fairkv_eval.eviction.press_files import load_press
    from fairkv_eval.pretrained import default_pretrained
    from fairkv_eval.prompts.tokens import Prompt

    torch.set_num_threads(args.threads)
    source = default_pretrained()
    model = AutoModelForCausalLM.from_pretrained(source.pop("pretrained"), **source, dtype=args.dtype).eval()
    engine = Engine(model, attach_checked(model), max_prefill_tokens=args.max_prefill_tokens)
    press = load_press(args.one)
    policy = Policy(press, press.configure({}), args.ratio)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, model.config.vocab_size, (args.context + 1,), generator=generator).tolist()
    job = Job(Prompt(tuple(tokens), args.context), policy, Generation(1), "benchmark")
    results: list[Any] = []
    peaks = memory.measure(lambda: results.extend(engine.run([job])))
    telemetry = results[0][1].telemetry
    kept = {name: telemetry[name] for name in ("kv_bytes_full", "kv_bytes_kept")}
    return {**peaks, **kept, "layers": model.config.num_hidden_layers, **provenance.describe()}


def report(args: argparse.Namespace, runs: dict[str, dict[str, Any]]) -> None:
    """Print what each press took and the ratios of peaks, and write them."""
    rows = [
        (name, run["tokens"], *(f"{mib:,.0f}" for mib in (run["baseline"], run["peak"], run["peak"] - run["baseline"])))
        for name, run in runs.items()
    ]
    print(common.table(HEADER, rows))
    ratios = {f"{a} / {b}": _ratios(runs[a], runs[b]) for a, b in _pairs(runs)}
    for name, ratio in ratios.items():
        print(f"{name}: peak {ratio['peak']:.3f} x, growth {ratio['growth']:.3f} x ({args.dtype})")
    common.write_json(args.json, args, {"ratios": ratios, "runs": runs})


def _pairs(runs: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    names = list(runs)
    return list(zip(names[::2], names[1::2], strict=True))


def _ratios(a: dict[str, Any], b: dict[str, Any]) -> dict[str, float]:
    growth = [run["peak"] - run["baseline"] for run in (a, b)]
    return {"peak": a["peak"] / b["peak"], "growth": growth[0] / growth[1]}


if __name__ == "__main__":
    main()

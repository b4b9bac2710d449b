"""One decode step of the engine against one of the bare model, at the same rows and lengths.

Ours: rows of sys_ifeval contexts half evicted under TOVA, with their tails, each as long as it is; a step ends with the
next tokens chosen and every row looked at for its end. Bare: transformers' own model with its sdpa attention on a cache
in which every row is as long as ours are on average, so nothing is padded or masked, and nothing is chosen; with
transformers' dynamic cache, which copies what it holds at every token, and with one that writes in place, which no
library has: the faster of the two counts. Lengths are put back after each step. The last two lines say what is left of
our step without its attention, and of that without anything but the matrix products.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import common
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from fairkv_eval.engine.jobs import Generation

HEADER = ("step", "rows", "entries a row", "ms", "steps/s")
BARE = ("bare, dynamic cache", "bare, in place")
SAID = 32  # tokens that our rows have said, as many as a stop string is looked for in


class InPlace(DynamicLayer):
    """Keys and values ``[rows, kv_heads, n + 1, dim]`` of which the last entry is always the next to be written."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.held = self.keys, self.values = keys, values
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        for held, new in zip(self.held, (key_states, value_states), strict=True):
            held[:, :, -1:] = new
        return self.held

    def get_seq_length(self, *args: Any) -> int:
        return self.held[0].shape[2] - 1

    def get_mask_sizes(self, *args: Any) -> tuple[int, int]:
        return self.held[0].shape[2], 0


class NoAttention:
    """A phase that hands the queries back."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, options: Any) -> Tensor:
        return q.transpose(1, 2)


class Ours:
    """The engine's decode step, from the same rows every time."""

    def __init__(self, engine: Any, jobs: list[Any]) -> None:
        self.engine = engine
        self.batch = common.admit(engine, jobs)
        self.lengths = [list(buffer.lengths) for buffer in self._buffers()]
        self.first = [row.tokens[-1] for row in self.batch.rows]
        self.positions = [row.position for row in self.batch.rows]

    @property
    def mean_length(self) -> int:
        return round(statistics.mean(m for lengths in self.lengths for m in lengths))

    def _buffers(self) -> list[Any]:
        return [buffer for cache in self.batch.caches for buffer in cache.buffers]

    def rewind(self) -> None:
        for buffer, lengths in zip(self._buffers(), self.lengths, strict=True):
            buffer.lengths = list(lengths)
        for row, token, position in zip(self.batch.rows, self.first, self.positions, strict=True):
            row.tokens, row.position = [token] * SAID, position

    def step(self) -> None:
        self.engine.decode_step(self.batch)

    def without_attention(self) -> None:
        self.engine.runner.forward(NoAttention(), self.first, self.positions, list(range(len(self.first))))

    def agreeing(self, bare: Any) -> int:
        """Rows whose next token is the one that the bare model says alone, on this row's own pairs."""
        self.rewind()
        self.step()
        said = [row.tokens[-1] for row in self.batch.rows]
        self.rewind()
        alone = []
        places = [(cache, row) for cache in self.batch.caches for row in range(cache.n_rows)]
        for (rows, row), token, position in zip(places, self.first, self.positions, strict=True):
            pairs = [rows.pairs(layer, row) for layer in range(len(rows.layers))]
            cache = Cache(layers=[InPlace(*(F.pad(t[None], (0, 0, 0, 1)) for t in pair)) for pair in pairs])
            ids, at = (torch.tensor([[value]], device=bare.device) for value in (token, position))
            logits = bare(input_ids=ids, position_ids=at, past_key_values=cache, use_cache=True).logits
            alone.append(int(logits[0, -1].argmax()))
        return sum(a == b for a, b in zip(said, alone, strict=True))


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    figures = {}
    for dtype in args.dtypes:
        settings = {"dtype": dtype, "device": args.device}
        # Recorded steps keep their rows' lengths on the device, which `rewind` does not reach.
        arguments = {"attn_implementation": args.attention, "linear": args.linear, "compile": "off", **settings}
        ours = common.harness_model("fairkv", press="tova", ratio=args.ratio, **arguments)
        bare = common.harness_model("hf", **settings).model
        figures[dtype] = {rows: compare(args, dtype, rows, ours, bare) for rows in args.rows}
    common.write_json(args.json, args, {**figures, **common.versions(args.device)})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    common.add_comparison_arguments(parser, repeats=5)
    common.add_computing_arguments(parser)
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 32, 64])
    parser.add_argument("--steps", type=int, default=10, help="of each side in a round, after one that is not counted")
    parser.add_argument("--ratio", type=float, default=0.5, help="fraction of each context's KV pairs that is evicted")
    return parser.parse_args()


@torch.inference_mode()
def compare(args: argparse.Namespace, dtype: str, rows: int, model: Any, bare: Any) -> dict[str, Any]:
    """All sides at one number of rows: print, and return every figure. Seconds are medians over a round's steps."""
    jobs = [endless(model.job(request)) for request in common.sys_ifeval(model, rows, 1)]
    ours = Ours(common.engine_of(model, rows, max_prefill_tokens=1 << 30), jobs)
    length = ours.mean_length
    dynamic, in_place = bare_steps(bare, rows, length)
    works: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
        "fairkv": (ours.rewind, ours.step),
        BARE[0]: dynamic,
        BARE[1]: in_place,
        "fairkv without attention": (lambda: None, ours.without_attention),
        "matrix products": (lambda: None, products(bare, rows)),
    }
    sides = {name: partial(round_of, *work, args.steps, args.device) for name, work in works.items()}
    runs = common.in_turns(sides, args.repeats)
    lengths = {"fairkv": f"{length} on average", BARE[0]: length, BARE[1]: length}
    print(common.table(HEADER, [_row(name, rows, lengths.get(name, "-"), rounds) for name, rounds in runs.items()]))
    middle = {name: statistics.median(rounds) for name, rounds in runs.items()}
    best = min(BARE, key=lambda name: middle[name])
    ratio, agree = middle[best] / middle["fairkv"], ours.agreeing(bare)
    print(f"fairkv / {best}: {ratio:.2f} x steps/s, {rows} rows, {dtype}, {args.threads} threads")
    print(f"same next token in {agree} of {rows} rows\n")
    figures = {"ratio": ratio, "best_bare": best, "same_token": agree, "mean_length": length, "median_seconds": middle}
    return {**figures, "seconds": runs, "lengths": ours.lengths[0]}


def endless(job: Any) -> Any:
    """The same generation without an end: its stop strings are as long as they were, and never met."""
    return replace(job, want=Generation(1 << 30, tuple(stop[::-1] for stop in job.want.stop)))


def bare_steps(bare: Any, rows: int, length: int) -> list[tuple[Callable[[], None], Callable[[], None]]]:
    """What puts the cache back and what steps, with a dynamic cache and with one that is written in place."""
    config, device = bare.config, bare.device
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shape = rows, config.num_key_value_heads, length + 1, dim
    held = [
        [torch.randn(shape, device=device, dtype=bare.dtype) for _ in "kv"] for _ in range(config.num_hidden_layers)
    ]
    whole = Cache(layers=[InPlace(*pair) for pair in held])
    ids = torch.full((rows, 1), 1000, device=device)
    before = [[t[:, :, :length].contiguous() for t in pair] for pair in held]
    current: list[DynamicCache] = []

    def put_back() -> None:
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(before):
            cache.update(keys, values, layer)
        current[:] = [cache]

    def step(cache: Cache) -> None:
        bare(input_ids=ids, past_key_values=cache, use_cache=True)

    return [(put_back, lambda: step(current[0])), (lambda: None, lambda: step(whole))]


def products(bare: Any, rows: int) -> Callable[[], None]:
    """The model's matrix products alone, for one token a row."""
    weights = [module.weight for module in bare.modules() if isinstance(module, nn.Linear)]
    inputs = {n: torch.randn(rows, n, device=bare.device, dtype=bare.dtype) for n in {w.shape[1] for w in weights}}

    def run() -> None:
        for weight in weights:
            F.linear(inputs[weight.shape[1]], weight)

    return run


def round_of(prepare: Callable[[], None], step: Callable[[], None], steps: int, device: str) -> float:
    """Median seconds of a step, after one that warms up; what prepares it is not counted."""

    def whole_step() -> None:
        step()
        if device != "cpu":
            torch.accelerator.synchronize()

    seconds = []
    for _ in range(steps + 1):
        prepare()
        seconds.append(common.timed(whole_step)[0])
    return statistics.median(seconds[1:])


def _row(name: str, rows: int, length: Any, seconds: list[float]) -> tuple:
    return name, rows, length, common.spread(seconds, unit=1e-3, digits=1), common.spread([1 / s for s in seconds])


if __name__ == "__main__":
    main()

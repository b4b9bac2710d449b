"""What one H100 should do with an 8B model, on paper: the tables of benchmarks/README.md, and no measurement.

A step is as long as what it must read or compute (a roofline), so its figures are bounds. ``expected`` divides by what
kernels reach of the peak and adds nothing below the time that Python needs to launch a step's kernels; both are
assumptions, named in `Device`. Change a number on the command line to see what follows from it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

GB = 1e9
CONTEXTS = (1024, 8192, 32768)
RATIOS = (0.0, 0.5, 0.9)


@dataclass(frozen=True)
class Device:
    """An accelerator: sizes in bytes, speeds a second. From ``reached`` on these are assumptions."""

    memory: float = 80e9
    bandwidth: float = 3.35e12
    half: float = 990e12  # dense FLOPs of the tensor cores in bfloat16
    single: float = 67e12  # FLOPs in float32 outside them
    reached: float = 0.75  # of the bandwidth, by a decode step
    prefill_reached: float = 0.5  # of ``half``, by a prefill
    workspace: float = 6e9  # activations of a prefill of 32k tokens, CUDA itself, fragmentation
    launch: float = 5e-6  # seconds of Python and driver for a kernel
    kernels: int = 25  # of one layer in a decode step


@dataclass(frozen=True)
class Model:
    """A decoder of Llama's kind in half precision (the defaults: Llama-3.1-8B)."""

    layers: int = 32
    hidden: int = 4096
    intermediate: int = 14336
    heads: int = 32
    kv_heads: int = 8
    dim: int = 128
    vocabulary: int = 128256
    itemsize: int = 2

    @property
    def layer_weights(self) -> int:
        """Parameters of all layers that a token is multiplied by."""
        attention = 2 * self.hidden * self.dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def step_weights(self) -> int:
        """Parameters that a decode step reads: the layers and the output layer; embeddings are looked up."""
        return self.layer_weights + self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        norms = self.hidden * (2 * self.layers + 1)
        return self.step_weights + self.vocabulary * self.hidden + norms

    @property
    def entry(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        return 2 * self.layers * self.kv_heads * self.dim * self.itemsize


@dataclass(frozen=True)
class Work:
    """A prompt's tokens after its context, tokens answered, and the tokens by which the engine's buffers grow."""

    tail: int = 64
    answer: int = 256
    block: int = 128

    def held(self, kept: int) -> float:
        """Tokens that a row holds on average while it answers."""
        return kept + self.tail + self.answer / 2

    def room(self, kept: int) -> int:
        """Tokens that `fairkv_eval.engine.memory.rows_that_fit` counts for a row."""
        return kept + self.tail + self.answer + 2 * self.block


def n_kept(context: int, ratio: float) -> int:
    return max(1, int(context * (1 - ratio) + 1e-6))


def rows_that_fit(device: Device, model: Model, work: Work, kept: int) -> int:
    free = device.memory - device.workspace - model.parameters * model.itemsize
    return int(free // (work.room(kept) * model.entry))


def step_bytes(model: Model, rows: float, held: float) -> float:
    """Bytes a decode step reads: the weights once, and what each row holds."""
    return model.step_weights * model.itemsize + rows * held * model.entry


def step_flops(model: Model, rows: float, held: float) -> float:
    """Two for every weight and row, four for every query dim and key."""
    return rows * (2 * model.step_weights + 4 * model.layers * model.heads * model.dim * held)


def step_seconds(device: Device, model: Model, rows: float, held: float) -> float:
    """The roofline of a decode step."""
    return max(step_bytes(model, rows, held) / device.bandwidth, step_flops(model, rows, held) / device.half)


def launch_seconds(device: Device, model: Model) -> float:
    return device.kernels * model.layers * device.launch


def expected_seconds(device: Device, model: Model, rows: float, held: float) -> float:
    return max(step_seconds(device, model, rows, held) / device.reached, launch_seconds(device, model))


def compute_takes_over(device: Device, model: Model, held: float) -> float:
    """Rows from which a step computes longer than it reads; infinite where each row adds more to read."""
    read = model.step_weights * model.itemsize / device.bandwidth
    per_row = step_flops(model, 1, held) / device.half - held * model.entry / device.bandwidth
    return read / per_row if per_row > 0 else float("inf")


def held_at_balance(device: Device, model: Model) -> float:
    """Tokens held from which a row adds more to read than to compute, so that no number of rows is bound by compute."""
    attention = 4 * model.layers * model.heads * model.dim / device.half
    return 2 * model.step_weights / device.half / (model.entry / device.bandwidth - attention)


def prefill_seconds(device: Device, model: Model, n: int) -> float:
    """Two FLOPs a weight and token, and causal attention: half of four a query dim, query and key."""
    flops = 2 * model.layer_weights * n + 2 * model.layers * model.heads * model.dim * n * n
    return flops / (device.half * device.prefill_reached)


def weights_seconds(device: Device, model: Model, pairs: float) -> float:
    """Seconds of attention weights in float32 for so many (query, key) pairs a head: products outside the tensor
    cores, and nine passes over them (product, scaling, mask and softmax write and read, the sum reads)."""
    products = 2 * model.layers * model.heads * model.dim * pairs / device.single
    return products + 9 * 4 * model.layers * model.heads * pairs / device.bandwidth


def scoring_seconds(device: Device, model: Model, n: int) -> dict[str, float]:
    """What presses add to a prefill of n tokens, as this package computes them."""
    keys = model.entry / 2 * n / device.bandwidth
    return {
        "knorm": keys,
        "snapkv (window 64)": weights_seconds(device, model, 64 * n),
        "h2o": weights_seconds(device, model, n * n / 2),
        # A second pass over as many tokens, against all keys, whose attention is computed and then scored.
        "kvzip": prefill_seconds(device, model, n) + weights_seconds(device, model, n * n),
    }


def decode_rows(device: Device, model: Model, work: Work) -> Iterator[list[object]]:
    for context in CONTEXTS:
        for ratio in RATIOS:
            kept = n_kept(context, ratio)
            held, rows = work.held(kept), rows_that_fit(device, model, work, kept)
            bound, likely = (f(device, model, rows, held) for f in (step_seconds, expected_seconds))
            yield [
                f"{context:,}",
                ratio,
                f"{held * model.entry / GB:.3f}",
                f"{rows:,}",
                f"{step_bytes(model, rows, held) / GB:.1f}",
                f"{bound * 1e3:.1f}",
                f"{rows / bound:,.0f}",
                f"{rows / likely:,.0f}",
                f"{32 / expected_seconds(device, model, 32, held):,.0f}" if rows >= 32 else "–",
            ]


def prompt_rows(device: Device, model: Model, work: Work) -> Iterator[list[object]]:
    for context in CONTEXTS:
        prefill = prefill_seconds(device, model, context)
        decode = []
        for ratio in RATIOS:
            kept = n_kept(context, ratio)
            rows = rows_that_fit(device, model, work, kept)
            decode.append(work.answer * expected_seconds(device, model, rows, work.held(kept)) / rows)
        speed = [f"{work.answer / (prefill + seconds):,.0f}" for seconds in decode]
        yield [f"{context:,}", f"{prefill * 1e3:.0f}", *(f"{s * 1e3:.0f}" for s in decode), *speed]


def scoring_rows(device: Device, model: Model) -> Iterator[list[object]]:
    for context in CONTEXTS:
        costs = scoring_seconds(device, model, context).values()
        yield [
            f"{context:,}",
            f"{prefill_seconds(device, model, context) * 1e3:.0f}",
            *(f"{c * 1e3:.1f}" for c in costs),
        ]


def markdown(header: Sequence[str], rows: Iterator[list[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def main() -> None:
    device, model, work = parse()
    free = device.memory - device.workspace - model.parameters * model.itemsize
    print(f"parameters {model.parameters:,}, read by a step {model.step_weights * model.itemsize / GB:.2f} GB")
    print(f"KV pairs of a token {model.entry:,} bytes; room for them {free / GB:.1f} GB")
    print(f"weights alone {step_seconds(device, model, 0, 0) * 1e3:.2f} ms a step, ", end="")
    print(f"launching its kernels {launch_seconds(device, model) * 1e3:.1f} ms")
    print(f"compute takes over at {compute_takes_over(device, model, 0):,.0f} rows that hold nothing, ", end="")
    print(f"never from {held_at_balance(device, model):,.0f} tokens held on; ", end="")
    held = work.held(n_kept(CONTEXTS[0], RATIOS[-1]))
    print(f"with {held:,.0f} held (1k at 0.9) at {compute_takes_over(device, model, held):,.0f}\n")
    header = (
        "context",
        "ratio",
        "GB a row",
        "rows",
        "GB a step",
        "ms a step",
        "bound tok/s",
        "expected tok/s",
        "at 32 rows",
    )
    print(markdown(header, decode_rows(device, model, work)), "\n")
    per_ratio = [f"{what} at {ratio}" for what in ("decode ms", "tok/s") for ratio in RATIOS]
    print(markdown(("context", "prefill ms", *per_ratio), prompt_rows(device, model, work)), "\n")
    names = scoring_seconds(device, model, 1)
    print(markdown(("context", "prefill ms", *(f"{name} ms" for name in names)), scoring_rows(device, model)))


def parse() -> tuple[Device, Model, Work]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind in (Device, Model, Work):
        for field in fields(kind):
            number = int if isinstance(field.default, int) else float
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=number, default=field.default)
    given = vars(parser.parse_args())
    device, model, work = (kind(**{f.name: given[f.name] for f in fields(kind)}) for kind in (Device, Model, Work))
    return device, model, work


if __name__ == "__main__":
    main()

"""What each press adds to the prefill of one long context: processor time of scoring and choosing, against the prefill.

One prefill of random tokens with the full cache. Of a few layers spread over the depth, each press then scores and
chooses what it keeps at the ratio; all layers are taken to cost the same. Presses that replay are left out: a replay is
a pass of its own.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import common
import torch

from fairkv_eval.engine.jobs import Job, LogLikelihood
from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.layer import Layer
from fairkv_eval.eviction.plan import Plan
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.press_files import built_in_presses
from fairkv_eval.prompts.tokens import Prompt

HEADER = ("press", "s a layer", "% of the prefill")


class Spectator:
    """Keeps some layers of the one context."""

    def __init__(self, indices: set[int]) -> None:
        self.indices = indices
        self.layers: list[Layer] = []

    def computed(self, layer: Layer, window: int | None) -> None:
        if layer.index in self.indices and window is None:
            self.layers.append(layer)

    def kept(self, layer: Layer, index: Any) -> None:
        pass


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    model = common.harness_model("fairkv", dtype=args.dtype, device=args.device)
    engine = common.engine_of(model, 1, model.settings.max_prefill_tokens)
    n_layers = len(engine.windows)
    spectator = Spectator({round(i * (n_layers - 1) / max(1, args.layers - 1)) for i in range(args.layers)})
    tokens = torch.randint(3, 1000, (args.context + 1,), generator=torch.Generator().manual_seed(0)).tolist()
    job = Job(Prompt(tuple(tokens), args.context), Policy(), LogLikelihood((5,)), "benchmark")
    prefill = processor_time(lambda: engine.watch(job, spectator))
    rows = [("prefill", f"{prefill / n_layers:.3f}", "100")]
    figures: dict[str, Any] = {"prefill_seconds": prefill, "layers": n_layers, "presses": {}}
    for name in args.presses or sorted({press.name for press in built_in_presses().values()}):
        seconds = of_press(name, args.ratio, spectator.layers, args.repeats)
        if seconds is not None:
            figures["presses"][name] = seconds
            rows.append((name, f"{seconds:.4f}", f"{100 * seconds * n_layers / prefill:.2f}"))
    print(common.table(HEADER, rows))
    common.write_json(args.json, args, {**figures, **common.versions(args.device)})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    common.add_arguments(parser)
    parser.add_argument("--context", type=int, default=8192, help="tokens")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--layers", type=int, default=2, help="that are scored")
    parser.add_argument("--repeats", type=int, default=3, help="of which the fastest counts")
    parser.add_argument("--presses", nargs="*", help="all that score a prefill, by default")
    return parser.parse_args()


def of_press(name: str, ratio: float, layers: list[Layer], repeats: int) -> float | None:
    """Seconds of processor time a layer; None for a press that needs more than the layers of a prefill."""
    try:
        policy = Policy.of({"press": name, "ratio": ratio})
    except UsageError:
        return None
    assert policy.press is not None
    if policy.press.replay or policy.press.needs_statistics or policy.division.pooled == "model":
        return None
    plan = Plan(policy, (), layers[0].k.shape[1], [layer.index for layer in layers])
    plan.divide(layers)
    with torch.inference_mode():
        each = [min(processor_time(lambda at=at: plan.choose(at)) for _ in range(repeats)) for at in layers]
    return sum(each) / len(each)


def processor_time(work: Callable[[], Any]) -> float:
    """Seconds that the process computes, whatever else the machine does."""
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()

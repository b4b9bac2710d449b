"""Step a, second half: the package's invariants on the device, in float32 on a tiny random model.

Ratio 0 gives `hf`'s tokens and log-likelihoods; an answer does not depend on the rows beside it; two runs agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tiny
import torch
import work as amounts
from record import Record
from work import Work

from fairkv_eval.model import FairKV

PROMPTS, NEW_TOKENS = 8, 24
CLOSE = 1e-3  # nats of a log-likelihood


def run(work: Work, record: Record) -> None:
    parts: dict[str, Callable[[Work], dict[str, Any]]] = {
        "ratio 0 equals hf": equals_hf,
        "rows do not see each other": batch_independence,
        "two runs are the same": repeated,
    }
    for name, part in parts.items():
        record.attempt(name, lambda name=name, part=part: checked(record, name, part(work)))


def checked(record: Record, name: str, figures: dict[str, Any]) -> None:
    """Record how far two sides are apart; an error if it is too far."""
    record.write(name, **figures)
    if figures["same_texts"] != figures["prompts"] or not figures["largest_difference"] <= CLOSE:
        raise AssertionError(f"{name}: {figures}")


def equals_hf(work: Work) -> dict[str, Any]:
    from lm_eval.models.huggingface import HFLM

    theirs = HFLM(pretrained=tiny.model().to(work.device), **settings(work, 4))
    return apart(answers(theirs), answers(ours(work, 4)))


def batch_independence(work: Work) -> dict[str, Any]:
    policy = {"press": "tova", "ratio": 0.5}
    return apart(answers(ours(work, 1, **policy)), answers(ours(work, PROMPTS, **policy)))


def repeated(work: Work) -> dict[str, Any]:
    model = ours(work, 4, press="snapkv", ratio=0.5, window=4)
    return apart(answers(model), answers(model))


def ours(work: Work, batch_size: int, **arguments: Any) -> FairKV:
    return FairKV(tiny.model().to(work.device), **settings(work, batch_size), **arguments)


def settings(work: Work, batch_size: int) -> dict[str, Any]:
    return {"tokenizer": tiny.tokenizer(), "device": work.device, "batch_size": batch_size}


def answers(model: Any) -> tuple[list[str], list[float]]:
    """Greedy answers, and log-likelihoods of a continuation."""
    text = "A context to go on from, number {}, of some length. "
    generations = [tiny.generation(text.format(i) * (i + 1), doc_id=i, max_gen_toks=NEW_TOKENS) for i in range(PROMPTS)]
    scorings = [tiny.scoring(text.format(i) * (i + 1), " and so on", doc_id=i) for i in range(PROMPTS)]
    texts = model.generate_until(generations, disable_tqdm=True)
    return [*map(str, texts)], [logprob for logprob, _ in model.loglikelihood(scorings, disable_tqdm=True)]


def apart(one: tuple[list[str], list[float]], other: tuple[list[str], list[float]]) -> dict[str, Any]:
    """How many texts are the same, and by how much log-likelihoods differ."""
    same = sum(a == b for a, b in zip(one[0], other[0], strict=True))
    return {"prompts": len(one[0]), "same_texts": same, "largest_difference": largest(one[1], other[1])}


def largest(one: Sequence[float], other: Sequence[float]) -> float:
    return float((torch.tensor(one, dtype=torch.float64) - torch.tensor(other, dtype=torch.float64)).abs().max())


if __name__ == "__main__":
    record = Record("invariants")
    run(amounts.parse(__doc__), record)
    record.exit()

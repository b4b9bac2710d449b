"""How far a policy's next-token distributions are from the full cache's, along the full cache's own answer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

METRICS = {"fidelity_kl": False, "fidelity_top1": True, "fidelity_first_disagreement": True}  # higher is better?


@dataclass(eq=False)
class Lead:
    """The full cache's log-probabilities along its answer, in float32, for the policies that follow it.

    ``logprobs`` ``[n, vocabulary]``: the n distributions that predict the answer's n tokens; None until the full cache
    has run.
    """

    logprobs: Tensor | None = None

    def compare(self, logits: Tensor) -> dict[str, float]:
        """The `fidelity` of logits ``[n, vocabulary]``. The full cache comes first and is compared with itself."""
        logprobs = logits.log_softmax(-1, dtype=torch.float32)
        if self.logprobs is None:
            self.logprobs = logprobs
        return fidelity(self.logprobs, logprobs)


def fidelity(full: Tensor, policy: Tensor) -> dict[str, float]:
    """From log-probabilities ``[n, vocabulary]`` of both at the same places.

    fidelity_kl: mean KL(full || policy) in nats per token. fidelity_top1: the share of places at which both have the
    same most likely token. fidelity_first_disagreement: places before the first at which they do not; n if there is
    none.
    """
    # A token of probability 0 in both adds nothing; their infinities would add nan.
    terms = torch.where(full == -torch.inf, 0.0, full.exp() * (full - policy))
    same = full.argmax(-1) == policy.argmax(-1)
    apart = (~same).nonzero()
    return {
        # Rounding can leave a little less than 0.
        "fidelity_kl": max(0.0, float(terms.sum(-1).mean())),
        "fidelity_top1": float(same.float().mean()),
        "fidelity_first_disagreement": float(apart[0, 0]) if len(apart) else float(len(same)),
    }

"""What a pass asks of the model."""

from __future__ import annotations

import pytest
import tiny
import torch

from fairkv_eval.engine.check import attach_checked
from fairkv_eval.engine.context import Context
from fairkv_eval.engine.phases import Prefill
from fairkv_eval.engine.runner import Runner


@pytest.mark.parametrize(
    "wanted, logits_to_keep", [([0, 1, 2, 3, 4], 5), ([3, 4], 2), ([4], 1), ([0, 4], [0, 4]), ([1, 2], [1, 2])]
)
def test_the_last_logits_are_asked_for_by_number(wanted: list[int], logits_to_keep: int | list[int]) -> None:
    """On a device an index would be copied there, and the host would wait until all layers have run."""
    model = tiny.model()
    windows, seen = attach_checked(model), []
    model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["logits_to_keep"]), with_kwargs=True)
    tokens = [5, 6, 7, 8, 9]

    def logits(places: list[int]) -> torch.Tensor:
        phase = Prefill([Context(tuple(tokens), "tiny", windows=windows)], len(windows))
        return Runner(model, 64).forward(phase, tokens, [*range(5)], places)

    with torch.inference_mode():
        whole = logits([*range(5)])
        torch.testing.assert_close(logits(wanted), whole[wanted])
    assert seen[1] == logits_to_keep

"""What a scorer of kvpress is given in place of a model's own, without kvpress."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from layer_recorder import recorded_layers

from fairkv_eval.eviction.kvpress_inputs import MissingInput, ScorerInputs, scorer_inputs
from fairkv_eval.eviction.layer import Span

N = 203


class TestInputs:
    """The stand-ins, without kvpress."""

    def inputs(self, start: int, stop: int) -> ScorerInputs:
        return scorer_inputs(recorded_layers(N)[1], Span(start, stop))

    @pytest.mark.parametrize("start, stop", [(0, N), (57, 130)])
    @pytest.mark.parametrize("rows", [slice(-1, None), slice(-9, None), slice(None), slice(3, 7)])
    def test_attention_weights(self, start: int, stop: int, rows: slice) -> None:
        layer, inputs, m = recorded_layers(N)[1], self.inputs(start, stop), stop - start
        whole = torch.zeros(4, m, m)
        for head in range(4):
            for i in range(start, stop):
                logits = layer.k[head // 2, : i + 1] @ layer.q[head, i] * layer.scaling
                whole[head, i - start, : i + 1 - start] = logits.softmax(0)[start:]
        assert torch.allclose(inputs.attentions[..., rows, :-2], whole[None, :, rows, :-2], atol=1e-6)
        assert torch.allclose(inputs.attentions.sum(2), whole[None].sum(2), atol=1e-5)
        assert inputs.attentions.shape == (1, 4, m, m)

    @pytest.mark.parametrize("start, stop", [(0, N), (57, 130)])
    def test_states_before_their_rotation(self, start: int, stop: int) -> None:
        """Turned on by the cosines and sines that kvpress is given, they are the layer's own."""
        layer, inputs = recorded_layers(N)[1], self.inputs(start, stop)
        cos, sin = (x[0] for x in inputs.kwargs["position_embeddings"])
        for project, states in ((inputs.module.q_proj, layer.q), (inputs.module.k_proj, layer.k)):
            before = project(inputs.hidden_states[:, 3:])
            assert before.shape == (1, stop - start - 3, len(states) * 16)
            x = before[0].unflatten(-1, (len(states), 16)).transpose(0, 1)
            turned = torch.cat([-x[..., 8:], x[..., :8]], -1)
            assert torch.allclose(x * cos[3:] + turned * sin[3:], states[:, start + 3 : stop], atol=1e-5)

    def test_positions_inside_a_span_and_behind_the_context(self) -> None:
        layer, inputs = recorded_layers(N)[0], self.inputs(57, 130)
        cos, _ = inputs.module.rotary_emb(layer.q, torch.tensor([[0, 72, 73, 74]]))
        assert layer.rotation is not None
        for row, position in zip(cos[0], (57, 129, N, N + 1), strict=True):
            assert torch.allclose(row, (position * layer.rotation.inv_freq).cos().repeat(2), atol=1e-6)

    def test_what_is_not_there_is_named(self) -> None:
        inputs = self.inputs(0, N)
        assert not hasattr(inputs.module, "o_proj") and not hasattr(inputs.module.config, "hidden_size")
        uses: list[tuple[Any, str]] = [
            (lambda: inputs.module.o_proj, "module.o_proj"),
            (lambda: inputs.module.config.hidden_size, "module.config.hidden_size"),
            (lambda: inputs.hidden_states.mean(), "hidden_states.mean"),
            (lambda: inputs.hidden_states[0], "numbers of hidden_states"),
            (lambda: torch.nn.Linear(64, 2)(inputs.hidden_states), "numbers of hidden_states"),
            (lambda: inputs.attentions.mean(), "attentions.mean"),
            (lambda: inputs.attentions[0], "attentions in another form"),
            (lambda: inputs.attentions.sum(1), "attentions summed"),
            (lambda: torch.relu(inputs.attentions), "matrix of attentions"),
            (lambda: inputs.kwargs["past_key_values"], "kwargs['past_key_values']"),
        ]
        for use, message in uses:
            with pytest.raises(MissingInput) as error:
                use()
            assert message in str(error.value)

"""Statistics of a model: each rule against its definition in numpy and loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from layer_recorder import recorded_layers
from scores_by_loops import FREQUENCIES, Turn, dot, make_layer, softmax, turned
from torch import Tensor

from fairkv_eval.errors import UsageError
from fairkv_eval.eviction import statistics


@pytest.mark.parametrize("rng", range(5))
def test_qfilter_is_the_first_right_singular_vector(rng: int) -> None:
    layer = make_layer(25, rng=rng)
    expected = np.zeros((2, 4))
    for head, queries in enumerate(layer.q.double().numpy()):
        direction = np.linalg.svd(queries)[2][0]
        expected[head // 3] += direction * np.sign((queries @ direction).sum()) / 3
    torch.testing.assert_close(statistics.qfilter(layer)["filters"], torch.from_numpy(expected), atol=1e-9, rtol=0)


def test_qfilter_points_to_the_side_of_the_queries() -> None:
    layer = recorded_layers(100)[1]
    side = layer.q.mean(1).unflatten(0, (layer.kv_heads, -1)).mean(1)
    filters = statistics.qfilter(layer)["filters"]
    assert ((side * filters).sum(-1) > 0).all()


@pytest.mark.parametrize("sinks", [0, 3])
def test_expected_attention_is_the_mean_and_covariance_without_rotation(sinks: int) -> None:
    layer = make_layer(20)
    measured = statistics.expected_attention(layer, sinks=sinks)
    for head, queries in enumerate(layer.q.tolist()):
        plain = [turned(q, [-j * f for f in FREQUENCIES]) for j, q in enumerate(queries)][sinks:]
        torch.testing.assert_close(measured["mean"][head], torch.tensor(plain).mean(0), atol=1e-5, rtol=1e-5)
        covariance = torch.from_numpy(np.cov(np.array(plain).T))
        torch.testing.assert_close(measured["covariance"][head].double(), covariance, atol=1e-5, rtol=1e-5)


def test_a_text_of_sinks_alone_has_statistics_all_the_same() -> None:
    measured = statistics.expected_attention(make_layer(3), sinks=99)
    assert all(tensor.isfinite().all() for tensor in measured.values())


def test_queries_whose_rotation_is_not_known_are_refused() -> None:
    with pytest.raises(UsageError, match=r"how layer 0 rotates its queries is not known"):
        statistics.expected_attention(make_layer(9, rotation=None), sinks=0)


def test_rotated_back_the_queries_are_as_they_were() -> None:
    layer = make_layer(9)
    plain = layer.q.clone()

    def rotated(states: Tensor) -> Tensor:
        return torch.stack([Turn().rotate(head, torch.arange(9)) for head in states])

    turned_layer = make_layer(9)
    turned_layer.q.copy_(rotated(plain))
    measured = statistics.expected_attention(turned_layer, sinks=0)
    torch.testing.assert_close(measured["mean"], plain.mean(1), atol=1e-5, rtol=1e-5)


def test_duo_attention_is_the_area_under_the_summed_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    reach = 30
    monkeypatch.setattr(statistics, "REACH", reach)
    layer = make_layer(20)
    means = []
    for states in (layer.q, layer.k):
        plain = [[turned(x, [-j * f for f in FREQUENCIES]) for j, x in enumerate(head)] for head in states.tolist()]
        means.append([[sum(column) / 20 for column in zip(*head, strict=True)] for head in plain])
    expected = [0.0, 0.0]
    for head, mean in enumerate(means[0]):
        query = turned(mean, [(reach - 1) * f for f in FREQUENCIES])
        keys = [turned(means[1][head // 3], [p * f for f in FREQUENCIES]) for p in range(reach)]
        weights = softmax([layer.scaling * dot(query, key) for key in keys])
        expected[head // 3] += sum(sum(weights[: p + 1]) for p in range(reach)) / reach / 3
    torch.testing.assert_close(statistics.duo_attention(layer)["retrieval"], torch.tensor(expected), atol=1e-5, rtol=0)

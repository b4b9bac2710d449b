"""The one bootstrap: its draws are those of published numbers, its means those of plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairkv_eval import bootstrap
from fairkv_eval.analysis.paired import difference
from fairkv_eval.metrics.fairness import spread_stderr

DOCS = [{"a": 1.0, "b": 0.5}, {"a": 0.0}, {"b": 1.0, "c": 0.0}, {"a": 1.0, "c": 0.5}, {"b": 0.0}]


def test_draws_are_those_of_published_numbers() -> None:
    """Computed before the three bootstraps became one; other seeds or draws move the third digit."""
    gaps = difference([i % 3 / 2 for i in range(20)], [i % 7 / 6 for i in range(20)])
    assert (gaps.low, gaps.high) == pytest.approx((-0.23333333333330003, 0.23354166666677634), rel=1e-12)
    assert spread_stderr(DOCS) == pytest.approx(0.24481755453808865, rel=1e-12)


def test_weights_count_what_was_drawn() -> None:
    (rows,) = bootstrap.weights(4, resamples=3, seed=5)
    drawn = bootstrap.draws(4, 3, (5, 4, 0))
    assert rows.tolist() == [[list(row).count(document) / 4 for document in range(4)] for row in drawn.tolist()]


def test_weights_in_blocks_have_all_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "BLOCK", 12)
    blocks = list(bootstrap.weights(4, resamples=8))
    assert [block.shape for block in blocks] == [(3, 4), (3, 4), (2, 4)]
    assert not np.array_equal(blocks[0], blocks[1])


values = st.lists(st.tuples(*[st.sampled_from([0.0, 0.25, 1.0, math.nan])] * 2), min_size=1, max_size=6)


@given(values)
def test_means_are_over_the_documents_that_have_the_metric(rows: list[tuple[float, float]]) -> None:
    table = np.asarray(rows)
    drawn = bootstrap.draws(len(rows), 7, (0, len(rows), 0))
    expected = []
    for resample in drawn:
        columns = [[rows[d][column] for d in resample if not math.isnan(rows[d][column])] for column in (0, 1)]
        expected.append([sum(column) / len(column) if column else math.nan for column in columns])
    assert bootstrap.resampled_means(table, 7) == pytest.approx(np.asarray(expected), nan_ok=True)


def test_a_standard_error_needs_two_resamples() -> None:
    assert bootstrap.standard_error(np.asarray([1.0, math.nan, 2.0])) == pytest.approx(math.sqrt(0.5))
    assert math.isnan(bootstrap.standard_error(np.asarray([1.0, math.nan])))

"""Whether leakage peaks at a middle ratio: against plain loops, and its errors by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from made_cells import FULL, model_cells, policy, task_cells

from fairkv_eval.analysis.paired import difference
from fairkv_eval.bootstrap import weights
from fairkv_eval.findings.leakage_peak import RESAMPLES, Curve, peak, peak_contrast
from fairkv_eval.findings.verdict import Goal, judged

RATIOS = (0.0, 0.3, 0.6, 0.9)


def leaks(shares, n: int = 200, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.random((n, len(shares))) < np.asarray(shares)).astype(float)


def contrast(values: np.ndarray, ratios=RATIOS):
    return peak_contrast(Curve(ratios, values), "all", "raccoon_plain", "leak@0.3", 3)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shares", [(0.1, 0.4, 0.6, 0.2), (0.5, 0.3, 0.2, 0.1), (0.3, 0.3, 0.3, 0.3)])
def test_estimate_and_p_by_loops(shares, seed):
    values = leaks(shares, 60, seed)
    result = contrast(values)
    best, ps, below = -2.0, [], []
    for middle in (1, 2):
        gaps = [difference(values[:, middle], values[:, end]) for end in (0, 3)]
        best = max(best, min(gap.mean for gap in gaps))
        if all(gap.mean > 0 for gap in gaps):
            ps.append(max(gap.p for gap in gaps))
        elif any(gap.mean < 0 for gap in gaps):
            below.append(min(1.0, 2 * min(gap.p for gap in gaps if gap.mean < 0)))
    assert result.estimate == pytest.approx(best)
    if best > 0:
        assert result.p == pytest.approx(min(1.0, 2 * min(ps)))
    elif len(below) == 2:
        assert result.p == pytest.approx(max(below))
    # The lower ends may fail at either of two middle ratios, the upper ones at either end: tails are divided by two.
    resamples = [[values[:, m] - values[:, e] for e in (0, 3)] for m in (1, 2)]
    rows = np.concatenate(list(weights(len(values), RESAMPLES)))
    low, high = (
        max(min(np.quantile(rows @ gap, end) for gap in pair) for pair in resamples) for end in (0.0125, 0.9875)
    )
    assert (result.low, result.high) == pytest.approx((low, high))


def test_verdicts_of_a_peak_and_of_a_slope():
    for shares, wanted in (((0.1, 0.4, 0.6, 0.2), "appears"), ((0.1, 0.3, 0.5, 0.8), "opposite")):
        full, *middle = leaks(shares, 400).T
        tables = {FULL: {"leak@0.3": full}}
        tables |= {policy("tova", r): {"leak@0.3": of} for r, of in zip(RATIOS[1:], middle, strict=True)}
        claim = judged(peak(model_cells(task_cells("raccoon_plain", tables))), Goal()).claims[0]
        assert claim.verdict == wanted and [row.contrast.group for row in claim.by_press] == ["tova"]
    assert "best middle ratio 0.6" in claim.rows[0].contrast.detail


def test_a_flat_line_rarely_peaks():
    """Five middle ratios give chance five tries; at most 5 % may succeed, and the interval must hold 0 in 95 %."""
    result = [contrast(leaks((0.3,) * 7, 80, seed), (0, *np.arange(1, 7) / 7)) for seed in range(200)]
    assert np.mean([row.p < 0.05 and row.estimate > 0 for row in result]) <= 0.05
    assert np.mean([row.low <= 0 <= row.high for row in result]) >= 0.95


def test_refusals_count_as_what_they_spare_and_the_defense_goes_first():
    keep = {0.3: (0.6, 0.9), 0.6: (0.3, 0.8), 0.9: (0.0, 0.1)}
    tables = {FULL: {"refusal": [1.0] * 30, "keep_rate_defense": [1.0] * 30, "keep_rate_directive": [1.0] * 30}}
    for ratio, (defense, directive) in keep.items():
        refusal = [float(ratio != 0.6)] * 30
        row = {"refusal": refusal, "keep_rate_defense": [defense] * 30, "keep_rate_directive": [directive] * 30}
        tables[policy("snapkv", ratio)] = row
    leaked, kept = peak(model_cells(task_cells("raccoon_plain", tables))).claims
    assert (leaked.rows[0].metric, leaked.rows[0].estimate) == ("1 − refusal", 1.0)
    assert kept.rows[0].estimate == pytest.approx((0.3 + 0.5) / 2)  # not at 0.9, which is no middle ratio


def test_only_presses_at_the_usual_ratios_are_averaged():
    def table(value: float) -> dict[str, list[float]]:
        return {"leak@0.3": [value] * 20}

    cells = {FULL: table(0.0)} | {policy(p, r): table(r) for p in ("tova", "knorm") for r in (0.3, 0.6)}
    cells |= {policy("h2o", r): table(1.0) for r in (0.3, 0.9)}
    (row,) = peak(model_cells(task_cells("raccoon_plain", cells))).claims[0].rows
    assert row.detail == "best middle ratio 0.3; by ratio 0: 0.000, 0.3: 0.300, 0.6: 0.600" and row.cells == 4

"""Results that were left out, a line per reason."""

from __future__ import annotations

from fairkv_eval.results.left_out import folded


def test_one_line_per_reason_with_the_number_and_the_first() -> None:
    entries = ["a.json: of version 2: not comparable", "b.json: truncated", "c.json: of version 2: not comparable"]
    entries += ["c.json: of version 2: not comparable", "3 results of x under other conditions than most"]
    assert list(folded(entries, "--json")) == [
        "a.json and 1 more (--json lists them): of version 2: not comparable",
        "b.json: truncated",
        "3 results of x under other conditions than most",
    ]

"""Bytes to pairs: as many as fit, found by trying them all, and no head's division of them takes more."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairkv_eval.errors import UsageError
from fairkv_eval.storage.byte_budget import bytes_allowed, check_byte_budget, read_byte_budget
from fairkv_eval.storage.room import Entry, most_pairs, nbytes_full
from fairkv_eval.storage.storage import Storage

FULL = Entry(2, 16, 16, torch.float32)
SLIDING = FULL._replace(window=20)
BITS, SCHEMES = st.sampled_from([16, 8, 4, 3, "k4v2", "k16v4"]), st.sampled_from(["per_token", "kivi"])
RESIDUALS = st.sampled_from([None, 0, 5])
whole_storages = st.builds(Storage.of, BITS, SCHEMES, st.sampled_from([None, 1, 4, 16]), RESIDUALS)
pruned_storages = st.builds(
    Storage.of, BITS, SCHEMES, st.sampled_from([None, 1]), RESIDUALS, pruned=st.sampled_from([0.1, 0.5])
)
storages = whole_storages | pruned_storages


def nbytes(entries: list[Entry], n: int, kept: list[list[int]], storage: Storage) -> int:
    """Bytes head by head: ``kept`` pairs of each head of each layer that evicts."""
    rows = iter(kept)
    total = 0
    for entry in entries:
        counts = next(rows) if entry.window is None else [min(n, entry.window)] * entry.kv_heads
        own = storage if entry.window is None else storage.all_channels
        total += sum(own.nbytes(m, entry.key_dim, entry.value_dim, entry.dtype) for m in counts)
    return total


@settings(deadline=None, max_examples=60)
@given(storages, st.integers(1, 200), st.floats(0.01, 0.99), st.sampled_from([[FULL], [FULL, SLIDING, FULL]]))
def test_as_many_pairs_as_fit(storage: Storage, n: int, fraction: float, entries: list[Entry]) -> None:
    allowed = bytes_allowed(fraction, nbytes_full(entries, n))
    evicting = [entry for entry in entries if entry.window is None]
    fit = [m for m in range(n + 1) if nbytes(entries, n, [[m] * 2] * len(evicting), storage) <= allowed]
    most = most_pairs(entries, n, allowed, storage, evenly=True)
    # An index is held for no pair too, so that not even none may fit.
    assert most == max(fit, default=-1) or (not fit and storage.pruned and most == 0)
    if fit and fit[-1] < n and storage.plain:
        rest = allowed - nbytes(entries, n, [[fit[-1]] * 2] * len(evicting), storage)
        assert rest < sum(entry.nbytes_plain(1) for entry in evicting)  # less than a pair per layer and head


@settings(deadline=None, max_examples=60)
@given(storages, st.integers(1, 200), st.floats(0.01, 0.99), st.data())
def test_pairs_divided_unevenly_fit_as_well(storage: Storage, n: int, fraction: float, data: st.DataObject) -> None:
    entries = [FULL, SLIDING, FULL]
    allowed = bytes_allowed(fraction, nbytes_full(entries, n))
    mean = most_pairs(entries, n, allowed, storage, evenly=False)
    if mean <= 0:
        return
    moves = data.draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 200)), max_size=8))
    heads = [mean] * 4
    for giver, taker, wanted in moves:
        moved = min(wanted, heads[giver], n - heads[taker])
        heads[giver] -= moved
        heads[taker] += moved
    assert sum(heads) == 4 * mean
    assert nbytes(entries, n, [heads[:2], heads[2:]], storage) <= allowed
    if storage.unit == 1 and not storage.window:  # then every pair takes the same
        assert mean == most_pairs(entries, n, allowed, storage, evenly=True)


def test_layers_of_several_sizes_count_as_the_largest_if_pairs_may_move() -> None:
    entries = [FULL, FULL._replace(kv_heads=4)]
    allowed = 10 * sum(entry.nbytes_plain(1) for entry in entries)
    assert most_pairs(entries, 50, allowed, Storage(), evenly=True) == 10
    assert most_pairs(entries, 50, allowed, Storage(), evenly=False) == 7  # of the layer with four heads


@pytest.mark.parametrize(
    "typed, held, of_a_gib",
    [(0.25, 0.25, 1 << 28), ("16MiB", "16MiB", 1 << 24), ("1.50 KiB", "1.5KiB", 1536), (".5GiB", "0.5GiB", 1 << 29)],
)
def test_a_budget_is_a_fraction_or_an_amount(typed: object, held: object, of_a_gib: int) -> None:
    check_byte_budget("budget_bytes", typed)
    assert read_byte_budget(typed) == held == read_byte_budget(held)
    assert bytes_allowed(held, 1 << 30) == of_a_gib
    assert bytes_allowed(0.29, 100) == 29


@pytest.mark.parametrize("typed", [0, 1, 2, -0.5, True, "16", "16MB", "MiB", "0MiB", "0.5", "1e3MiB", [], {}])
def test_other_budgets_are_refused(typed: object) -> None:
    with pytest.raises(UsageError, match=r"budget_bytes=.* is not allowed; it takes a fraction .* as 16MiB"):
        check_byte_budget("budget_bytes", read_byte_budget(typed))

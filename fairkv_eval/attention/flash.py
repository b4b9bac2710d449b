"""Variable-length flash kernels on CUDA, as a backend.

SDPA attends sequence by sequence, and over padded rows under a mask. A flash kernel takes all sequences of a layer in
one call, however long each is, and reads no more of a row than the row holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from fairkv_eval.attention.backend import Attending, Options, VisibleRows
from fairkv_eval.attention.kernels import Kernel, Packing
from fairkv_eval.attention.sdpa import SDPA

# Limits of one kernel call: heads of sequences, since a CUDA grid is not larger in the dimension that counts them, and
# tokens of keys, since packing copies them (1 GiB of keys and values at 8 heads of 128 in half precision).
MAX_SEQUENCES = 65_535
MAX_KEYS = 1 << 18


class Flash:
    """A variable-length flash kernel; SDPA does what the kernel cannot.

    ``calls`` counts the kernel's calls; ``notes`` says what went to SDPA and why.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.name = kernel.name
        self.calls = 0
        self.notes: set[str] = set()

    def packed(self, sequences: Iterable[Attending], options: Options) -> list[Tensor]:
        """See `Backend.packed`."""
        outputs: list[Tensor] = []
        for group in call_groups(sequences):
            if self._fits(*group[0], options):
                outputs += self._packed(group, options)
            else:
                outputs += SDPA.packed(group, options)
        return outputs

    def rows(self, q: Tensor, visible: VisibleRows, options: Options) -> Tensor:
        """See `Backend.rows`."""
        _, keys, values, step = visible
        if not self._fits(q, keys, values, options):
            return SDPA.rows(q, visible, options)
        rows_per_call = max(1, MAX_SEQUENCES // keys.shape[1])
        outputs = []
        for start in range(0, len(q), rows_per_call):
            at = slice(start, start + rows_per_call)
            self.calls += 1
            outputs.append(self.kernel.rows(q[at], keys[at], values[at], step.lengths[at], options))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _packed(self, group: Sequence[Attending], options: Options) -> list[Tensor]:
        """One kernel call; sequences that differ in KV heads are split into their heads."""
        counts = [len(k) for _, k, _ in group]
        if len(set(counts)) > 1:
            heads = [head for q, k, v in group for head in zip(q.chunk(len(k)), k.split(1), v.split(1), strict=True)]
            outputs = iter(self._packed(heads, options))
            return [torch.cat([next(outputs) for _ in range(n)]) for n in counts]
        queries, keys, values = zip(*group, strict=True)
        self.calls += 1
        output = self.kernel.packed(
            _by_token(queries), _by_token(keys), _by_token(values), _packing(queries), _packing(keys), options
        )
        return [part.transpose(0, 1) for part in output.split([q.shape[1] for q in queries])]

    def _fits(self, q: Tensor, k: Tensor, v: Tensor, options: Options) -> bool:
        """Whether the kernel can do this; note the reason if it cannot."""
        reason = self.kernel.obstacle(q, k, v, options)
        if reason:
            self.notes.add(f"attention through sdpa instead of {self.name}: {reason}")
        return reason is None


def call_groups(sequences: Iterable[Attending]) -> Iterator[list[Attending]]:
    """The sequences of each kernel call: at least one, and as many as the limits allow."""
    group: list[Attending] = []
    heads = tokens = 0
    for sequence in sequences:
        kv_heads, n, _ = sequence[1].shape
        if group and (heads + kv_heads > MAX_SEQUENCES or tokens + n > MAX_KEYS):
            yield group
            group, heads, tokens = [], 0, 0
        group.append(sequence)
        heads, tokens = heads + kv_heads, tokens + n
    if group:
        yield group


def _by_token(sequences: Sequence[Tensor]) -> Tensor:
    """Sequences ``[heads, n, dim]`` packed as the kernels want them: ``[total, heads, dim]``, the last contiguous."""
    tokens = [sequence.transpose(0, 1) for sequence in sequences]
    if len(tokens) > 1:
        return torch.cat(tokens)
    return tokens[0] if tokens[0].stride(-1) == 1 else tokens[0].contiguous()


def _packing(sequences: Sequence[Tensor]) -> Packing:
    lengths = tuple(sequence.shape[1] for sequence in sequences)
    return Packing(_ends(lengths, sequences[0].device), max(lengths))


@lru_cache(maxsize=16)  # the same in most layers of a pass, and a copy to the device waits for what runs there
def _ends(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """Where packed sequences end, from 0: int32 ``[sequences + 1]``."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)

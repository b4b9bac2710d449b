"""The slow reference of a policy that merges: one token after another over a list of pairs per layer and head.

Context, scores and kept positions come from the dense reference; merging is in loops (`merged_by_loops`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import dense_reference
import merged_by_loops
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fairkv_eval.attention.backend import Options
from fairkv_eval.attention.rotation import find_rotations
from fairkv_eval.engine.jobs import Job, LogLikelihood
from fairkv_eval.engine.sampling import request_seed
from fairkv_eval.eviction.quotas import ranges
from fairkv_eval.eviction.replays import Ask


@dataclass(frozen=True)
class Entry:
    """A pair in the cache: its token's place in the sequence, and what it received from how many queries."""

    key: Tensor
    value: Tensor
    token: int
    position: int
    received: float
    n_queries: int


class MergingRow:
    """One job's cache, as lists of entries by layer and head. ``rates``: evicted pairs of the context and of the row
    while decoding, and how many of each were merged."""

    def __init__(self, model: PreTrainedModel, job: Job, ask: Ask | None = None) -> None:
        self.model, self.job, self.policy = model, job, job.policy
        self.rotations = find_rotations(model)
        self.n_steps = self.n_tokens = 0
        self.evicted = {"context": 0, "decoding": 0}
        self.merged = {"context": 0, "decoding": 0}
        self.thresholds: dict[tuple[int, int], list[float | None]] = {}
        prompt = job.prompt
        segments = [s for s in prompt.segments if s.name in self.policy.keep]
        self.whitelisted = {p for s in segments for p in range(s.start, s.stop)}
        config = model.config
        self.cache: list[list[list[Entry]]] = [
            [[] for _ in range(config.num_key_value_heads)] for _ in range(config.num_hidden_layers)
        ]
        self.windows: list[int | None] = [None] * len(self.cache)
        self.position = 0
        if prompt.context_length:
            self._store(prompt.tokens[: prompt.context_length], ask)

    def _store(self, context: tuple[int, ...], ask: Ask | None) -> None:
        n, policy, segments = len(context), self.policy, self.job.prompt.segments
        kept = dense_reference.survivors(self.model, context, segments, policy, ask, self.job.question)
        phase = dense_reference.Dense()
        dense_reference.logits_of(self.model, context, phase)
        spans = [(s.start, s.stop) for s in ranges([s.start for s in segments], n)] if policy.fair else [(0, n)]
        for index, (layer, window) in enumerate(zip(phase.layers, phase.windows, strict=True)):
            received = layer.per_kv_head(phase.weights[index].sum(1)).tolist()
            heads = []
            for head, row in enumerate(kept[index]):
                keys, values = list(layer.k[head]), list(layer.v[head])
                whole = window is not None or len(row) == n
                result = self._merge_context(index, head, keys, values, row, spans) if not whole else None
                keys = result.keys if result else [keys[p] for p in row]
                values = result.values if result else [values[p] for p in row]
                self.evicted["context"] += n - len(row)
                heads.append(
                    [
                        Entry(k.float(), v.float(), p, p, received[head][p], n - p)
                        for k, v, p in zip(keys, values, row, strict=True)
                    ]
                )
            self.cache[index] = heads
        self.n_tokens = self.position = n
        if policy.evicts and policy.positions == "contiguous":
            self._move(len(kept[0][0]))

    def _merge_context(self, index, head, keys, values, row, spans) -> merged_by_loops.Merged | None:
        if self.policy.merge == "similar":
            result = merged_by_loops.similar(keys, values, row, spans, self.whitelisted)
        elif self.policy.merge == "d2o":
            thresholds = self.thresholds[index, head] = [None] * len(spans)
            result = merged_by_loops.d2o(keys, values, row, spans, self.whitelisted, thresholds)
        else:
            return None
        self.merged["context"] += result.count
        return result

    def _move(self, stop: int) -> None:
        """Turn all keys to the positions up to stop − 1."""
        for rotation, heads in zip(self.rotations, self.cache, strict=True):
            assert rotation is not None
            for head, entries in enumerate(heads):
                places = range(stop - len(entries), stop)
                heads[head] = [
                    replace(e, key=rotation.rotate(e.key[None], torch.tensor([at - e.position]))[0], position=at)
                    for e, at in zip(entries, places, strict=True)
                ]
        self.position = stop

    @torch.inference_mode()
    def say(self, token: int) -> Tensor:
        """The logits after one more token."""
        self.layer, self.shown = 0, []
        places = torch.tensor([[self.position]])
        logits = self.model(torch.tensor([[token]]), position_ids=places, use_cache=False, kv=self).logits[0, -1]
        self.position += 1
        self.n_tokens += 1
        return logits.float()

    def attend(self, q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
        heads, group, outputs = self.cache[self.layer], q.shape[1] // k.shape[1], []
        self.windows[self.layer] = options.window
        by_head: list[list[Tensor]] = []
        for head, entries in enumerate(heads):
            entries.append(Entry(k[0, head, 0], v[0, head, 0], self.n_tokens, self.position, 0.0, 0))
            seen = [options.window is None or e.token > self.n_tokens - options.window for e in entries]
            by_head.append([])
            for query in q[0, head * group : (head + 1) * group, 0]:
                logits = torch.stack([query @ e.key for e in entries]) * options.scaling
                if options.softcap:
                    logits = torch.tanh(logits / options.softcap) * options.softcap
                weights = logits.masked_fill(~torch.tensor(seen), float("-inf")).softmax(-1)
                by_head[-1].append(weights)
                outputs.append(sum(w * e.value for w, e in zip(weights, entries, strict=True)))
            mean = torch.stack(by_head[-1]).mean(0).tolist()
            heads[head] = [
                replace(e, received=e.received + w, n_queries=e.n_queries + 1)
                for e, w in zip(entries, mean, strict=True)
            ]
        self.shown.append(by_head)
        self.layer += 1
        return torch.stack(outputs)[None, None]

    def evict(self) -> None:
        """Bring every layer within the decode budget, if this step does so. Call after each decode step."""
        due, self.n_steps = self.n_steps % self.policy.decode_every == 0, self.n_steps + 1
        budget = self.policy.decode_budget
        if not due or budget is None:
            return
        for index, heads in enumerate(self.cache):
            if self.windows[index] is None and len(heads[0]) > budget:
                self._evict_layer(index, heads, budget)
            elif self.windows[index] is not None:
                for head, entries in enumerate(heads):
                    heads[head] = entries[-self.windows[index] :]
        if self.policy.positions == "contiguous" and self.position > budget:
            self._move(budget)

    def _evict_layer(self, index: int, heads: list[list[Entry]], budget: int) -> None:
        n_candidates = min(len(heads[0]) - budget, self.policy.decode_every)
        seed = request_seed("merge", self.job.want.sampling.seed, self.job.prompt.tokens)  # type: ignore[union-attr]
        generator = torch.Generator().manual_seed(hash((seed, index, self.n_steps)) & (2**63 - 1))
        noise = torch.rand(len(heads), n_candidates, generator=generator).tolist()
        for head, entries in enumerate(heads):
            scores = self._scores(index, head, entries)
            listed = [i for i, e in enumerate(entries) if e.token in self.whitelisted]
            order = sorted(range(len(entries)), key=lambda i: (i in listed, scores[i], i), reverse=True)
            row, candidates = sorted(order[:budget]), sorted(order[budget:][:n_candidates])
            draws = dict(zip(candidates, noise[head], strict=True))
            result = self._merge(index, head, entries, row, listed, draws)
            self.evicted["decoding"] += len(entries) - budget
            kept = [entries[i] for i in row]
            if result:
                self.merged["decoding"] += result.count
                kept = [
                    replace(e, key=key.float(), value=value.float())
                    for e, key, value in zip(kept, result.keys, result.values, strict=True)
                ]
            heads[head] = kept

    def _merge(self, index, head, entries, row, listed, draws) -> merged_by_loops.Merged | None:
        keys, values, spans = [e.key for e in entries], [e.value for e in entries], [(0, len(entries))]
        if self.policy.merge == "similar":
            return merged_by_loops.similar(keys, values, row, spans, listed)
        if self.policy.merge == "d2o":
            thresholds = self.thresholds.setdefault((index, head), [None])
            return merged_by_loops.d2o(keys, values, row, spans, listed, thresholds)
        return merged_by_loops.cam(keys, values, row, listed, [e.received for e in entries], draws)

    def _scores(self, index: int, head: int, entries: list[Entry]) -> list[float]:
        name, parameters = self.policy.press_name, dict(self.policy.parameters)
        if name == "knorm":
            return [-float(e.key.norm()) for e in entries]
        if name == "streaming_llm":
            return [float("inf") if i < parameters["sinks"] else float(i) for i in range(len(entries))]
        if name == "h2o" and not parameters["recent"]:
            return [e.received / e.n_queries for e in entries]
        if name == "tova":
            weights = torch.stack([w for heads in self.shown[index] for w in heads]) if self._even(index) else None
            assert weights is not None
            return [*weights.mean(0)[:-1].tolist(), float("inf")]
        raise NotImplementedError(name)

    def _even(self, index: int) -> bool:
        return len({len(w) for heads in self.shown[index] for w in heads}) == 1


def check(model: PreTrainedModel, job: Job, result, ask: Ask | None = None) -> None:
    """A result is what the slow reference says: greedy tokens or log-likelihood, and how much was merged."""
    row, prompt = MergingRow(model, job, ask), job.prompt
    logits = [row.say(token) for token in prompt.tokens[prompt.context_length :]][-1]
    if isinstance(job.want, LogLikelihood):
        total = 0.0
        for token in job.want.continuation:
            total += float(logits.log_softmax(-1)[token])
            logits = row.say(token)
        assert abs(result.logprob - total) < 1e-4, (result.logprob, total)
    else:
        for i, token in enumerate(result.tokens):
            assert int(logits.argmax()) == token, i
            if i + 1 < len(result.tokens):
                logits = row.say(token)
                row.evict()
    for name, key in (("merge_rate", "context"), ("decode_merge_rate", "decoding")):
        expected = row.merged[key] / row.evicted[key] if row.evicted[key] else None
        assert result.telemetry.get(name) == expected, (name, result.telemetry.get(name), expected)

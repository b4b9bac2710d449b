"""The slow reference of the engine: the whole sequence again for every token, dense attention, evicted pairs masked."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import kept_by_loops
import torch
from kept_by_loops import Kept
from torch import Tensor
from transformers import PreTrainedModel

from fairkv_eval.attention.backend import Options
from fairkv_eval.attention.rotation import Rotation, find_rotations
from fairkv_eval.engine.jobs import Job, LogLikelihood
from fairkv_eval.eviction.layer import Layer
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.replays import Ask, kvzip
from fairkv_eval.prompts.segments import Segment


class Epoch(NamedTuple):
    """From token ``start`` on, only these of the tokens before it are seen. Token ``start`` stands at ``position``."""

    start: int
    visible: Kept
    position: int


class Unturned:
    """Keys before their rotation, caught where a forward pass makes them, and the model's own way to turn them."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.rotary = model.model.rotary_emb
        attentions = [layer.self_attn for layer in model.model.layers]
        self.apply = sys.modules[type(attentions[0]).__module__].apply_rotary_pos_emb
        self.keys: list[Tensor] = [torch.empty(0)] * len(attentions)
        self._hooks = []
        for index, attention in enumerate(attentions):

            def catch(module, args, out, index=index, dim=attention.head_dim) -> None:
                self.keys[index] = out[0].reshape(out.shape[1], -1, dim).transpose(0, 1)

            self._hooks.append(getattr(attention, "k_norm", attention.k_proj).register_forward_hook(catch))

    def __enter__(self) -> Unturned:
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def turn(self, layer: int, tokens: Sequence[int], places: Sequence[int]) -> Tensor:
        """Keys of these tokens at these positions: ``[kv_heads, len(tokens), dim]``."""
        return self.rotate(self.keys[layer][:, list(tokens)], places)

    def rotate(self, keys: Tensor, places: Sequence[int]) -> Tensor:
        """Keys ``[kv_heads, m, dim]`` at these positions."""
        keys = keys[None]
        return self.apply(keys, keys, *self.rotary(keys, torch.tensor([list(places)])))[1][0]


class Dense:
    """Plain softmax attention over one sequence, each query under the latest epoch that has begun.

    unturned: given where the visible keys of an epoch move up to its ``position``, one after another.
    ``layers`` collects what each layer showed, ``keys`` its keys where the last query found them, ``weights`` all
    attention ``[heads, n, n]``.
    """

    def __init__(self, epochs: Sequence[Epoch] = (), unturned: Unturned | None = None) -> None:
        self.epochs = [Epoch(0, [], 0), *epochs]
        self.unturned = unturned
        self.layers: list[Layer] = []
        self.windows: list[int | None] = []
        self.keys: list[Tensor] = []
        self.weights: list[Tensor] = []

    def attend(self, q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
        q, k, v = q[0], k[0], v[0]
        layer, group, n = len(self.layers), len(q) // len(k), q.shape[1]
        weights = torch.zeros(len(q), n, n)
        keys = k
        for epoch, after in pairwise([*self.epochs, Epoch(n, [], 0)]):
            keys = self._keys(layer, epoch, k)
            sees = torch.zeros(len(k), n, n, dtype=torch.bool)
            for head in range(len(k)):
                before = epoch.visible[layer][head] if epoch.start else []
                for i in range(epoch.start, after.start):
                    seen = [*before, *range(epoch.start, i + 1)]
                    sees[head, i, [j for j in seen if options.window is None or j > i - options.window]] = True
            logits = q @ keys.repeat_interleave(group, 0).mT * options.scaling
            if options.softcap:
                logits = torch.tanh(logits / options.softcap) * options.softcap
            softmax = logits.masked_fill(~sees.repeat_interleave(group, 0), float("-inf")).softmax(-1)
            weights[:, epoch.start : after.start] = softmax[:, epoch.start : after.start]
        self.layers.append(Layer.of((q, k, v), options, layer))
        self.windows.append(options.window)
        self.keys.append(keys)
        self.weights.append(weights)
        return (weights.to(v.dtype) @ v.repeat_interleave(group, 0)).transpose(0, 1)[None]

    def _keys(self, layer: int, epoch: Epoch, k: Tensor) -> Tensor:
        if self.unturned is None or not epoch.start:
            return k
        k = k.clone()
        for head, visible in enumerate(epoch.visible[layer]):
            places = range(epoch.position - len(visible), epoch.position)
            k[head, visible] = self.unturned.turn(layer, visible, places)[head]
        return k


@torch.inference_mode()
def logits_of(
    model: PreTrainedModel, tokens: Sequence[int], phase: Any, positions: Sequence[int] | None = None
) -> Tensor:
    """Logits ``[n, vocabulary]`` of a whole sequence through the reference."""
    places = torch.tensor([list(range(len(tokens)) if positions is None else positions)])
    ids = torch.tensor([list(tokens)])
    return model(input_ids=ids, position_ids=places, use_cache=False, kv=phase).logits[0].float()


def survivors(
    model: PreTrainedModel,
    context: Sequence[int],
    segments: Sequence[Segment],
    policy: Policy,
    ask: Ask | None = None,
    question: Sequence[int] = (),
) -> Kept:
    """Kept positions of every layer and head, from an uncompressed pass over the context; windows are left whole.

    question: what follows the context, for presses that look at that.
    """
    phase, n = Dense(), len(context)
    logits_of(model, context, phase)
    everything = [[list(range(n))] * layer.kv_heads for layer in phase.layers]
    if not policy.evicts:
        return everything
    seed = zlib.crc32(repr(tuple(context)).encode())
    layers = [replace(layer, count=len(phase.layers), seed=seed) for layer in phase.layers]
    layers = [replace(layer, rotation=turn) for layer, turn in zip(layers, _rotations(model), strict=True)]
    if policy.press and policy.press.replay:
        replayed_by_head = (
            attention_of_question(model, context, question)
            if policy.press.name == "finch"
            else replayed(
                model, context, replays_of(policy, context, ask), dict(policy.parameters).get("variant") == "plus"
            )
        )
        layers = [
            replace(layer, replayed=layer.most_per_kv_head(received), replayed_by_query_head=received)
            for layer, received in zip(layers, replayed_by_head, strict=True)
        ]
    evicting = [layer for layer, window in zip(layers, phase.windows, strict=True) if window is None]
    chosen = iter(kept_by_loops.kept(policy, evicting, segments) if evicting else [])
    return [whole if window else next(chosen) for whole, window in zip(everything, phase.windows, strict=True)]


@cache
def _rotations(model: PreTrainedModel) -> Sequence[Rotation | None]:
    return find_rotations(model)


def replays_of(policy: Policy, context: Sequence[int], ask: Ask | None) -> list[list[int]]:
    if policy.press_name == "kvcompose":
        return [list(context)]
    assert ask is not None
    return kvzip(context, ask, chunk=int(dict(policy.parameters)["chunk"]))


def replayed(
    model: PreTrainedModel, context: Sequence[int], tails: Sequence[Sequence[int]], by_length: bool = False
) -> list[Tensor]:
    """The most attention of any replay query to each key of the context, layer by layer and by query head; by_length:
    by the length of the hidden state that the query comes from."""
    n = len(context)
    received: list[Tensor] = []
    for tail in tails:
        phase = Dense()
        logits_of(model, [*context, *tail], phase)
        lengths = _lengths(model, [*context, *tail]) if by_length else torch.ones(len(phase.weights), n + len(tail))
        for index, weights in enumerate(phase.weights):
            if index == len(received):
                received.append(torch.zeros(len(weights), n))
            for head, rows in enumerate(weights):
                for i in range(n, n + len(tail)):
                    received[index][head] = torch.maximum(received[index][head], rows[i, :n] / lengths[index][i])
    return received


def attention_of_question(model: PreTrainedModel, context: Sequence[int], question: Sequence[int]) -> list[Tensor]:
    """The mean over the question's queries of the attention to each key of the context, times the tokens before the
    query, layer by layer and by query head."""
    n, phase = len(context), Dense()
    logits_of(model, [*context, *question], phase)
    return [
        torch.stack([sum(rows[i, :n] * i for i in range(n, n + len(question))) / len(question) for rows in weights])
        for weights in phase.weights
    ]


@torch.inference_mode()
def _lengths(model: PreTrainedModel, tokens: Sequence[int]) -> list[Tensor]:
    """Lengths of the hidden states that enter each layer's attention: ``[n]`` each."""
    ids, places = torch.tensor([list(tokens)]), torch.arange(len(tokens))[None]
    inputs = {"input_ids": ids, "position_ids": places, "use_cache": False, "kv": Dense()}
    states = model(**inputs, output_hidden_states=True).hidden_states
    layers = model.model.layers
    return [layer.input_layernorm(entering)[0].norm(dim=-1) for layer, entering in zip(layers, states, strict=False)]


class Sequencing:
    """One job's sequence, as it goes on: tokens, their positions and the epochs of what they see."""

    def __init__(self, model: PreTrainedModel, job: Job, ask: Ask | None = None) -> None:
        prompt, policy = job.prompt, job.policy
        n = prompt.context_length
        self.model, self.job, self.policy = model, job, policy
        self.moves = policy.positions == "contiguous"
        self.epochs: list[Epoch] = []
        self.position = n
        if n:
            kept = survivors(model, prompt.tokens[:n], prompt.segments, policy, ask, prompt.tokens[n:])
            if policy.evicts and self.moves:
                self.position = kept_by_loops.budget_of(policy, n)
            self.epochs.append(Epoch(n, kept, self.position))
        self.tokens = list(prompt.tokens[:n])
        self.positions = list(range(n))
        self.extend(prompt.tokens[n:])

    def extend(self, tokens: Sequence[int]) -> None:
        self.tokens += tokens
        self.positions += range(self.position, self.position + len(tokens))
        self.position += len(tokens)

    def logits(self) -> Tensor:
        """Logits of all tokens so far ``[n, vocabulary]``; ``phase`` is the pass that gave them."""
        with Unturned(self.model) if self.moves else nullcontext() as unturned:
            self.phase = Dense(self.epochs, unturned)
            return logits_of(self.model, self.tokens, self.phase, self.positions)

    def evict(self) -> None:
        """Bring every layer and head within the decode budget."""
        budget = self.policy.decode_budget
        assert budget is not None
        visible, n = [], len(self.tokens)
        last = self.epochs[-1] if self.epochs else Epoch(0, [], 0)
        for layer, window in enumerate(self.phase.windows):
            heads = []
            for head in range(self.phase.layers[layer].kv_heads):
                held = [*(last.visible[layer][head] if last.start else []), *range(last.start, n)]
                if window is None and len(held) > budget:
                    held = self._choose(layer, head, held, budget)
                heads.append(held)
            visible.append(heads)
        if self.moves:
            self.position = min(self.position, budget)
        self.epochs.append(Epoch(n, visible, self.position))

    def _choose(self, layer: int, head: int, held: list[int], budget: int) -> list[int]:
        """METHODS' scores over what is in the cache, one entry at a time."""
        assert self.policy.press is not None
        name, parameters = self.policy.press.name, dict(self.policy.parameters)
        keys, weights, n = self.phase.keys[layer][head], self.phase.weights[layer], len(self.tokens)
        group = len(weights) // self.phase.layers[layer].kv_heads
        received = weights[head * group : (head + 1) * group].mean(0).tolist()
        newest = held[len(held) - int(parameters.get("recent", 0) * budget + 1e-6) :]
        if name == "keydiff":
            mean = sum(keys[j] / keys[j].norm() for j in held) / len(held)
        scores: dict[int, float] = {}
        for entry, j in enumerate(held):
            if name == "streaming_llm":
                scores[j] = float("inf") if entry < parameters["sinks"] else float(entry)
            elif name == "knorm":
                scores[j] = -float(keys[j].norm())
            elif name == "keydiff":
                scores[j] = -float(keys[j] @ mean / keys[j].norm() / mean.norm())
            elif name == "tova":
                scores[j] = float("inf") if j == n - 1 else float(weights[:, n - 1, j].mean())
            elif name == "h2o":
                total = sum(row[j] for row in received[j:n])
                scores[j] = float("inf") if j in newest else total / (n - j)
            else:
                raise NotImplementedError(name)
        segments = [s for s in self.job.prompt.segments if s.name in self.policy.keep]
        whitelisted = {p for s in segments for p in range(s.start, s.stop)}
        return sorted(sorted(held, key=lambda j: (j in whitelisted, scores[j], j), reverse=True)[:budget])


def answer(model: PreTrainedModel, job: Job, said: Sequence[int], ask: Ask | None = None) -> list[int]:
    """The greedy token at each place of an answer, after what was said before: all as said where that is greedy."""
    sequence, policy = Sequencing(model, job, ask), job.policy
    first = len(sequence.tokens) - 1
    for step, token in enumerate(said):
        # The tail gives the first token; from then on a step runs the token before.
        if policy.decode_budget is not None and step and (step - 1) % policy.decode_every == 0:
            sequence.logits()
            sequence.evict()
        sequence.extend([token])
    return sequence.logits()[first:-1].argmax(-1).tolist()


def score(model: PreTrainedModel, job: Job, ask: Ask | None = None) -> tuple[float, bool]:
    """Log-likelihood of the continuation, and whether it is the greedy one."""
    assert isinstance(job.want, LogLikelihood)
    sequence, wanted = Sequencing(model, job, ask), torch.tensor(job.want.continuation)
    sequence.extend(job.want.continuation)
    logits = sequence.logits()[-len(wanted) - 1 : -1]
    logprob = logits.log_softmax(-1).gather(1, wanted[:, None]).sum()
    return float(logprob), logits.argmax(-1).tolist() == wanted.tolist()


def pairs(kept: Kept) -> int:
    return sum(len(head) for layer in kept for head in layer)

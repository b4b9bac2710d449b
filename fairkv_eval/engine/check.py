"""A model is checked, not trusted: at load its logits through the seam are compared with its own attention's.

That covers architectures nobody listed. A model is refused by name if its layers never call the attention function, if
its attention carries something the function does not know, or if its numbers come out different.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from fairkv_eval.attention.backend import Backend, Options
from fairkv_eval.attention.sdpa import SDPA
from fairkv_eval.attention.seam import Phase, attach, embedding
from fairkv_eval.engine.agreement import deviations
from fairkv_eval.engine.cache import RowCache
from fairkv_eval.engine.context import Context, Variant
from fairkv_eval.engine.phases import Decode, Extend, Prefill, Tail
from fairkv_eval.errors import UnsupportedModelError
from fairkv_eval.eviction.policy import Policy

# Largest logit difference, in standard deviations of the logits, that rounding explains. Measured on the default model
# and on tiny random ones: float32 2e-5, float16 0.03, bfloat16 0.09; a scaling off by a tenth: 0.5.
_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.3}

_LENGTHS = (11, 7)
_TAIL = 3  # tokens of each sequence that run as tail, the last of them as a decode step


def attach_checked(model: PreTrainedModel, backend: Backend = SDPA) -> list[int | None]:
    """Attach a model to the seam and return the sliding window of each attention layer, None if it has none.

    backend: what attends, in the check as later. Raises UnsupportedModelError, naming the model type and what does not
    fit. Leaves the model attached.
    """
    name = model.config.model_type
    _refuse_by_config(model)
    generator = torch.Generator().manual_seed(0)
    n_words = len(embedding(model))
    # In the order in which a prefill packs them.
    sequences = sorted(torch.randint(3, n_words, (n,), generator=generator).tolist() for n in _LENGTHS)
    tolerance = _TOLERANCE.get(model.dtype, 0.3)
    _bound_logits(model)
    with torch.inference_mode():
        expected = [_logits(model, [s], [range(len(s))]) for s in sequences]
        attach(model)
        try:
            packed, options = _run_packed(model, sequences, backend)
            _refuse_by_calls(model, options)
            windows = [layer.window for layer in options]
            _compare(expected, packed, tolerance, "packed prefill")
            split = _run_split(model, sequences, windows, backend)
            _compare([logits[-_TAIL:] for logits in expected], split, tolerance, "prefill, tail and decode")
        except (UnsupportedModelError, RuntimeError, TypeError) as error:
            raise UnsupportedModelError(f"{name!r} models cannot run compressed: {error}") from error
    return windows


def length_limit(config: PretrainedConfig) -> int | None:
    """Tokens up to which a position's RoPE depends on the position alone; None if there is no such bound.

    Dynamic and LongRoPE scaling choose their frequencies by the longest sequence of a forward pass, so beyond this
    length an answer would depend on the sequences that run beside it.
    """
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    if not any(kind.get("rope_type") in ("dynamic", "longrope") for kind in kinds):
        return None
    original = [kind.get("original_max_position_embeddings") for kind in kinds]
    original.append(getattr(text, "original_max_position_embeddings", None))
    return next((int(length) for length in original if length), int(text.max_position_embeddings))


class _Recorder(Prefill):
    """A prefill that records how each layer attends."""

    def __init__(self, contexts: Sequence[Context], backend: Backend) -> None:
        super().__init__(contexts, n_layers=0, backend=backend)
        self.options: list[Options] = []

    def attend(self, q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
        """See `Phase.attend`."""
        self.options.append(options)
        return super().attend(q, k, v, options)


def _run_packed(
    model: PreTrainedModel, sequences: list[list[int]], backend: Backend
) -> tuple[list[Tensor], list[Options]]:
    """Logits of each sequence, and how each layer attends."""
    recorder = _Recorder([Context(tuple(s), "self-check") for s in sequences], backend)
    logits = _logits(model, sequences, [range(len(s)) for s in sequences], recorder)
    return list(logits.split([len(s) for s in sequences])), recorder.options


def _run_split(
    model: PreTrainedModel, sequences: list[list[int]], windows: list[int | None], backend: Backend
) -> list[Tensor]:
    """Logits of each sequence's last tokens, run as the engine does at ratio 0: prefill, tail, then a decode step."""
    variant = Variant(Policy())
    heads = [s[:-_TAIL] for s in sequences]
    contexts = [Context(tuple(h), "self-check", [variant], windows) for h in heads]
    _logits(model, heads, [range(len(h)) for h in heads], Prefill(contexts, len(windows), backend=backend))
    tails = [Tail(s[-_TAIL:-1], c.caches[variant], continues=True) for s, c in zip(sequences, contexts, strict=True)]
    places = [range(len(h), len(h) + _TAIL - 1) for h in heads]
    tail_logits = _logits(model, [t.tokens for t in tails], places, Extend(tails, backend=backend)).split(_TAIL - 1)
    cache = RowCache()
    for tail in tails:
        cache.add(tail.layers)
    last = _logits(
        model, [s[-1:] for s in sequences], [[len(s) - 1] for s in sequences], Decode([cache], backend=backend)
    )
    return [torch.cat([t, row[None]]) for t, row in zip(tail_logits, last, strict=True)]


def _logits(
    model: PreTrainedModel, tokens: Sequence[Sequence[int]], positions: Sequence[Sequence[int]], kv: Phase | None = None
) -> Tensor:
    """float32 logits ``[total, vocabulary]`` of packed sequences through a phase, or of one through the model's own
    attention."""
    device = embedding(model).device
    ids = torch.tensor([[t for s in tokens for t in s]], device=device)
    places = torch.tensor([[p for s in positions for p in s]], device=device)
    extra = {} if kv is None else {"kv": kv, "position_ids": places}
    logits: Tensor = model(input_ids=ids, use_cache=False, **extra).logits[0]
    return logits.float()


def _bound_logits(model: PreTrainedModel) -> None:
    """Let a model whose layers bound their logits attend eagerly: the sdpa of some releases of transformers (5.17)
    leaves the bound out, so that it is nothing to compare with."""
    bounded = getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None
    if bounded and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation("eager")


def _refuse_by_config(model: PreTrainedModel) -> None:
    config = model.config.get_text_config()
    name = model.config.model_type
    if model.config.is_encoder_decoder:
        raise UnsupportedModelError(f"{name!r} models have an encoder; only decoder-only models can run compressed")
    unknown = sorted(set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"})
    if unknown:
        raise UnsupportedModelError(f"{name!r} models cannot run compressed: they have {', '.join(unknown)} layers")


def _refuse_by_calls(model: PreTrainedModel, options: list[Options]) -> None:
    config = model.config.get_text_config()
    n_layers = config.num_hidden_layers
    if len(options) != n_layers:
        raise UnsupportedModelError(f"its layers called the attention function {len(options)} times, not {n_layers}")
    for i, kind in enumerate(getattr(config, "layer_types", None) or ()):
        if kind == "sliding_attention" and options[i].window is None:
            raise UnsupportedModelError(f"layer {i} slides a window that it does not pass to the attention function")


def _compare(expected: list[Tensor], logits: list[Tensor], tolerance: float, phase: str) -> None:
    for a, b in zip(expected, logits, strict=True):
        difference = deviations(a, b)
        if not difference <= tolerance:
            raise UnsupportedModelError(
                f"in {phase} its logits differ from its own attention's by {difference:.2g} standard deviations"
            )

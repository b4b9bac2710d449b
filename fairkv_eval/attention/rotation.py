"""How each layer turns queries and keys by their position, measured on the model and not assumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from fairkv_eval.attention.backend import Options
from fairkv_eval.attention.seam import embedding

# Largest error of a layer's keys, in units of each channel's size, that rounding explains. Measured on the default
# model and on tiny random ones of seven kinds: float32 2e-7, float16 8e-4, bfloat16 0.01; the nearest wrong guess: 1.8.
TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 0.01, torch.bfloat16: 0.05}

_TOKENS = 8

# Far enough to tell slow frequencies apart, near enough that float32 angles (see `Rotation`) stay exact to 1e-3.
_POSITIONS = (0, 1, 2, 17, 301, 4095)


@dataclass(frozen=True, eq=False)
class Rotation:
    """The rotary embedding of one layer (arXiv 2104.09864): at position p, channel pair i is turned by p·inv_freq[i].

    ``layout`` says which channels are pairs: "half" (i, i + r) or "interleaved" (2i, 2i + 1), counted from channel
    ``offset``, r being the number of frequencies; "none" turns nothing. The other channels of the ``dim`` of a head
    (2·r by default) pass through. A negative frequency turns the other way.

    An angle is the float32 product of a position and a frequency, as in transformers, so that ``rotate(k, -p)`` takes
    back what the model did at p, rounding and all. In turn two rotations add up to a third only within that rounding,
    2⁻²⁴ of an angle: 2e-3 radians at position 32768, where the model's own angles are no better.
    """

    layout: str
    inv_freq: Tensor
    dim: int | None = None
    offset: int = 0

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """``x`` ``[..., n, dim]`` turned on by ``positions`` (any sign, broadcast to ``[..., n]``)."""
        angles = self._angles(positions.to(x.device))
        return self._turn(x, angles.cos(), angles.sin())

    def mean(self, start: int, stop: int) -> Tensor:
        """The mean over positions [start, stop) of the rotation matrix: float32 ``[dim, dim]``, applied as R @ x."""
        if start >= stop:
            raise ValueError(f"there is no position in [{start}, {stop})")
        device = self.inv_freq.device
        angles = self._angles(torch.arange(start, stop, device=device)).double()
        dim = 2 * len(self.inv_freq) if self.dim is None else self.dim
        # A rotation is linear in its cosines and sines; row j of what comes back is R @ e_j.
        return self._turn(torch.eye(dim, device=device), angles.cos().mean(0), angles.sin().mean(0)).T

    def _angles(self, positions: Tensor) -> Tensor:
        """float32 ``[..., n, r]`` of ``[..., n]``, in radians."""
        return positions[..., None].float() * self.inv_freq.to(positions.device, torch.float32)

    def _turn(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """``x`` ``[..., n, dim]`` with cosines and sines that broadcast to ``[..., n, r]``."""
        if self.layout == "none":
            return x
        wide = torch.promote_types(x.dtype, torch.float32)
        cos, sin = cos.to(wide), sin.to(wide)
        stop = self.offset + 2 * cos.shape[-1]
        pairs = (2, -1) if self.layout == "half" else (-1, 2)
        axis = -2 if self.layout == "half" else -1
        a, b = x[..., self.offset : stop].to(wide).unflatten(-1, pairs).unbind(axis)
        turned = torch.stack([a * cos - b * sin, a * sin + b * cos], axis).flatten(-2).to(x.dtype)
        return torch.cat([x[..., : self.offset], turned, x[..., stop:]], -1)


def find_rotations(model: PreTrainedModel) -> Sequence[Rotation | None]:
    """The rotation of each attention layer of a model attached to the seam; None for a layer whose keys are not turned
    by a known one.

    A token alone attends to itself only, so its hidden states are the same at every position and its keys are one
    vector, turned. Keys of some tokens at some positions are compared with that vector, turned by each vector of
    frequencies that a module of the model holds and in each layout. A layer has no rotation if the hidden states
    themselves carry the positions (GPT-2), if no module holds the frequencies, or if something else reshapes the keys
    after they are turned.
    """
    limit = _limit(model.config.get_text_config())
    positions = torch.tensor([p for p in _POSITIONS if p < limit - 1] + [limit - 1])
    with torch.inference_mode():
        keys = _probe(model, positions)
    # Read after the probes have run: LongRoPE chooses its frequencies in each forward pass.
    frequencies = _frequencies(model)
    tolerance = TOLERANCE.get(model.dtype, 0.05)
    return [_fit(k, positions, frequencies, tolerance) for k in keys]


class _Probe:
    """A phase in which each token is a sequence of its own; it collects each layer's keys."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []

    def attend(self, q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
        """See `Phase.attend`."""
        self.keys.append(k[0])
        return v.repeat_interleave(q.shape[1] // v.shape[1], 1).transpose(1, 2).contiguous()


def _probe(model: PreTrainedModel, positions: Tensor) -> list[Tensor]:
    """The keys of some tokens, each at all positions: per layer ``[kv_heads, tokens, positions, dim]``."""
    words, device = len(embedding(model)), embedding(model).device
    tokens = torch.randint(3, words, (_TOKENS,), generator=torch.Generator().manual_seed(0))
    ids = tokens.repeat_interleave(len(positions))[None].to(device)
    places = positions.repeat(_TOKENS)[None].to(device)
    phase = _Probe()
    model(input_ids=ids, position_ids=places, use_cache=False, kv=phase)
    return [k.unflatten(1, (_TOKENS, len(positions))) for k in phase.keys]


def _limit(config: PretrainedConfig) -> int:
    """Positions below this one are in a learned table, if there is one, and all scalings scale them alike."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    limits = [kind.get("original_max_position_embeddings") for kind in kinds]
    limits += [getattr(config, name, None) for name in ("original_max_position_embeddings", "max_position_embeddings")]
    return min(_POSITIONS[-1] + 1, *(int(limit) for limit in limits if limit))


def _frequencies(model: PreTrainedModel) -> list[Tensor]:
    """Every vector of rotary frequencies that a module of the model holds, once each: float32 ``[r]``."""
    vectors: list[Tensor] = []
    for module in model.modules():
        for name, value in {**vars(module), **dict(module.named_buffers(recurse=False))}.items():
            if "inv_freq" not in name or not isinstance(value, Tensor) or value.dim() != 1:
                continue
            value = value.detach().cpu().float().clone()
            if not any(torch.equal(value, other) for other in vectors):
                vectors.append(value)
    return vectors


def _fit(keys: Tensor, positions: Tensor, frequencies: Sequence[Tensor], tolerance: float) -> Rotation | None:
    """The rotation closest to keys ``[kv_heads, tokens, positions, dim]``, None if none is within the tolerance."""
    scored = [(_error(c, keys.float(), positions), c) for c in _candidates(frequencies, keys)]
    return min(((e, c) for e, c in scored if e <= tolerance), key=lambda pair: pair[0], default=(0.0, None))[1]


def _candidates(frequencies: Sequence[Tensor], keys: Tensor) -> list[Rotation]:
    dim = keys.shape[-1]
    candidates = [Rotation("none", torch.empty(0, device=keys.device), dim)]
    for inv_freq in (f.to(keys.device) for f in frequencies if 2 * len(f) <= dim):
        # Rotated channels come first in a head; DeepSeek's come last. nanochat turns the other way.
        for offset in sorted({0, dim - 2 * len(inv_freq)}):
            for signed in (inv_freq, -inv_freq):
                candidates += [Rotation(layout, signed, dim, offset) for layout in ("half", "interleaved")]
    return candidates


def _error(rotation: Rotation, keys: Tensor, positions: Tensor) -> float:
    """The largest error over positions and channels, in units of the channel's size, of turning the first keys on.

    Channel by channel, because slow frequencies move little and a wrong one would drown among the others; over all
    heads and tokens, because a single key may be near zero.
    """
    size = keys.square().mean((0, 1)).amax(0).sqrt()
    turned = rotation.rotate(keys[:, :, :1].expand_as(keys), positions)
    error = (turned - keys).square().mean((0, 1)).sqrt() / size.clamp_min(torch.finfo(torch.float32).tiny)
    return float(error.max())

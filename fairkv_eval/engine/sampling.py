"""The next token from logits: greedy, or drawn from the request's own generator."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from fairkv_eval.errors import UsageError, unknown


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. ``seed`` alone decides the draws of a request, whatever else runs beside it."""

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50  # transformers' default, if neither the request nor the model sets it
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    @classmethod
    def of(cls, kwargs: Mapping[str, object], config: GenerationConfig | None, seed: int) -> Sampling:
        """From generation_kwargs, and from the model's own generation config what they do not set, as `hf` does."""
        names = {f.name for f in fields(cls)} - {"seed"}
        values = {n: v for n in names if (v := getattr(config, n, None)) is not None}
        for name, value in kwargs.items():
            if name == "num_beams" and value in (1, None):
                continue
            if name not in names:
                raise unknown("generation argument", name, names | {"entropy", "until", "max_gen_toks"})
            if value is not None:
                values[name] = value
        values["do_sample"] = bool(kwargs.get("do_sample", False))
        if not values["do_sample"]:
            return cls(repetition_penalty=float(values.get("repetition_penalty", 1.0)))
        if not float(values.get("temperature", 1.0)) > 0:
            raise UsageError(f"temperature={values['temperature']} cannot be sampled at; it takes a number above 0")
        sampling = cls(**values, seed=seed)
        sampling.processors()  # transformers' own checks, while the request can still be named
        return sampling

    def processors(self) -> LogitsProcessorList:
        """The warpers transformers applies for these settings, in its order."""
        chain = LogitsProcessorList()
        if self.repetition_penalty != 1.0:
            chain.append(RepetitionPenaltyLogitsProcessor(penalty=float(self.repetition_penalty)))
        if self.do_sample:
            if self.temperature != 1.0:
                chain.append(TemperatureLogitsWarper(float(self.temperature)))
            if self.top_k:
                chain.append(TopKLogitsWarper(int(self.top_k)))
            if self.top_p < 1.0:
                chain.append(TopPLogitsWarper(float(self.top_p)))
            if self.min_p:
                chain.append(MinPLogitsWarper(float(self.min_p)))
        return chain


GREEDY = Sampling()


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats over the whole vocabulary, before any temperature or cut: ``[rows, vocabulary] -> [rows]``."""
    terms: Tensor = torch.special.entr(logits.float().softmax(-1))
    return terms.sum(-1)


def request_seed(*parts: object) -> int:
    """A seed from the run's seed and what identifies a request, the same on every machine and in every batch."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


class Sampler:
    """Draws the tokens of one request."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self.sampling = sampling
        self.processors = sampling.processors()
        self.tokens = list(prompt) if self.processors else []
        self.generator = torch.Generator().manual_seed(sampling.seed)

    @property
    def greedy(self) -> bool:
        """Whether the largest logit alone decides."""
        return not self.processors and not self.sampling.do_sample

    def choose(self, logits: Tensor) -> int:
        """The next token from float32 logits ``[vocabulary]``."""
        if self.processors:
            tokens = torch.tensor([self.tokens], device=logits.device)
            logits = self.processors(tokens, logits[None])[0]  # type: ignore[arg-type]
        if self.sampling.do_sample:
            token = int(torch.multinomial(logits.softmax(-1).cpu(), 1, generator=self.generator))
        else:
            token = int(logits.argmax())
        self.tokens.append(token)
        return token

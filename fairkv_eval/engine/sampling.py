"""The next token from logits: greedy, or drawn from the request's own generator."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from fairkv_eval.engine.sampling_values import NAMES, NEUTRAL, OF_DRAWS, check_config, checked
from fairkv_eval.errors import UsageError, unknown


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen, in transformers' names. ``seed`` alone decides the draws of a request, whatever else runs.

    ``eos``: the tokens that a minimum length forbids.
    """

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50  # transformers' default, if neither the request nor the model sets it
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    min_length: int = 0
    min_new_tokens: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    seed: int = 0
    eos: tuple[int, ...] = ()

    @classmethod
    def of(cls, kwargs: Mapping[str, object], config: GenerationConfig | None, seed: int) -> Sampling:
        """From generation_kwargs, and from the model's own generation config what they do not set, as `hf` does.

        UsageError for a value that is not allowed, and for a setting that `hf` would follow and this engine cannot.
        """
        values = {name: value for name in NAMES if (value := getattr(config, name, None)) is not None}
        check_config(config, kwargs)
        for name, value in kwargs.items():
            if value is None or (name in NEUTRAL and value in NEUTRAL[name]):
                continue
            if name not in NAMES:
                raise unknown("generation argument", name, {*NAMES, "entropy", "until", "max_gen_toks"})
            values[name] = value
        values["do_sample"] = False if kwargs.get("do_sample") is None else kwargs["do_sample"]
        values = {name: checked(name, value) for name, value in values.items()}
        if not values["do_sample"]:
            values = {name: value for name, value in values.items() if name not in OF_DRAWS}
        elif not values.get("temperature", 1.0):
            raise UsageError("temperature=0 cannot be sampled at; it takes a number above 0, or do_sample=false")
        return cls(**values, seed=seed if values["do_sample"] else 0, eos=_eos(config) if _bounded(values) else ())

    def processors(self, prompt_length: int = 0) -> LogitsProcessorList:
        """The processors and warpers that transformers applies for these settings, in its order."""
        chain = LogitsProcessorList()
        eos = list(self.eos)
        if self.repetition_penalty != 1.0:
            chain.append(RepetitionPenaltyLogitsProcessor(penalty=self.repetition_penalty))
        if self.no_repeat_ngram_size:
            chain.append(NoRepeatNGramLogitsProcessor(self.no_repeat_ngram_size))
        if self.bad_words_ids:
            chain.append(NoBadWordsLogitsProcessor([list(word) for word in self.bad_words_ids], eos or None))
        if self.min_length and eos:
            chain.append(MinLengthLogitsProcessor(self.min_length, eos))
        if self.min_new_tokens and eos:
            chain.append(MinNewTokensLengthLogitsProcessor(prompt_length, self.min_new_tokens, eos))
        if self.suppress_tokens:
            chain.append(SuppressTokensLogitsProcessor(list(self.suppress_tokens)))
        if self.begin_suppress_tokens:
            chain.append(SuppressTokensAtBeginLogitsProcessor(list(self.begin_suppress_tokens), prompt_length))
        if self.do_sample:
            chain.extend(self._warpers())
        return chain

    def _warpers(self) -> Iterator[LogitsProcessor]:
        if self.temperature != 1.0:
            yield TemperatureLogitsWarper(self.temperature)
        if self.top_k:
            yield TopKLogitsWarper(self.top_k)
        if self.top_p < 1.0:
            yield TopPLogitsWarper(self.top_p)
        if self.min_p:
            yield MinPLogitsWarper(self.min_p)
        if self.typical_p < 1.0:
            yield TypicalLogitsWarper(self.typical_p)
        if 0.0 < self.epsilon_cutoff < 1.0:
            yield EpsilonLogitsWarper(self.epsilon_cutoff)
        if 0.0 < self.eta_cutoff < 1.0:
            yield EtaLogitsWarper(self.eta_cutoff)


GREEDY = Sampling()


def _bounded(values: Mapping[str, object]) -> bool:
    """Whether a setting forbids tokens that end an answer."""
    return any(values.get(name) for name in ("min_length", "min_new_tokens", "bad_words_ids"))


def _eos(config: GenerationConfig | None) -> tuple[int, ...]:
    tokens = getattr(config, "eos_token_id", None)
    if tokens is None:
        return ()
    return tuple(tokens) if isinstance(tokens, (list, tuple)) else (int(tokens),)


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
        self.processors = sampling.processors(len(prompt))
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

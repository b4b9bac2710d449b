"""The values of generation arguments: what each may be, and which settings of a model this engine cannot follow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from transformers import GenerationConfig

from fairkv_eval.errors import UsageError


def _number(low: float, high: float = math.inf, above: bool = False) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        return number and low <= value <= high and not (above and value == low)

    return fits


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _tokens(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(map(_count, value))


def _words(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(word and _tokens(word) for word in value)


# Name, what is allowed, and the same in words.
_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "do_sample": (lambda value: isinstance(value, bool), "true or false"),
    "temperature": (_number(0), "a number from 0"),
    "top_k": (_count, "a whole number from 0"),
    "top_p": (_number(0, 1, above=True), "a number above 0, to 1"),
    "min_p": (_number(0, 1), "a number from 0 to 1"),
    "typical_p": (_number(0, 1, above=True), "a number above 0, to 1"),
    "epsilon_cutoff": (_number(0, 1), "a number from 0 to 1"),
    "eta_cutoff": (_number(0, 1), "a number from 0 to 1"),
    "repetition_penalty": (_number(0, above=True), "a number above 0"),
    "no_repeat_ngram_size": (_count, "a whole number from 0"),
    "min_length": (_count, "a whole number from 0"),
    "min_new_tokens": (_count, "a whole number from 0"),
    "bad_words_ids": (_words, "a list of lists of token ids"),
    "suppress_tokens": (_tokens, "a list of token ids"),
    "begin_suppress_tokens": (_tokens, "a list of token ids"),
}
NAMES = tuple(_VALUES)
# Settings that decide nothing unless tokens are drawn.
OF_DRAWS = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
# Arguments of transformers that are accepted if they change nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "num_beam_groups": (None, 1),
    "num_return_sequences": (None, 1),
    "guidance_scale": (None, 1),
    "encoder_repetition_penalty": (None, 1),
    "encoder_no_repeat_ngram_size": (None, 0),
    "diversity_penalty": (None, 0),
    "penalty_alpha": (None, 0),
    "token_healing": (None, False),
}
# Settings of a generation config that change no token: lengths and drawing, which the request decides; beams' own,
# without beams; caches, outputs, speculation, compilation; ids of special tokens.
_INERT = {
    *("max_length", "max_new_tokens", "do_sample", "early_stopping", "length_penalty", "low_memory"),
    *("use_cache", "cache_implementation", "cache_config", "max_cache_len", "prefill_chunk_size", "use_mtp"),
    *("renormalize_logits", "remove_invalid_values", "return_dict_in_generate", "return_legacy_cache"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
    *("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "is_assistant"),
    *("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
    *("prompt_lookup_num_tokens", "max_matching_ngram_size", "assistant_early_exit", "assistant_lookbehind"),
    *("target_lookbehind", "assistant_ensemble_weight", "speculation_type"),
    *("compile_config", "disable_compile", "continuous_batching_config", "transformers_version"),
}


def checked(name: str, value: Any) -> Any:
    """The value of a generation argument, lists as tuples. UsageError if it is not allowed."""
    fits, allowed = _VALUES[name]
    if not fits(value):
        raise UsageError(f"{name}={value!r} is not allowed; it takes {allowed}")
    if isinstance(value, (list, tuple)):
        return tuple(tuple(entry) if isinstance(entry, (list, tuple)) else entry for entry in value)
    return value


def check_config(config: GenerationConfig | None, kwargs: Mapping[str, object]) -> None:
    """UsageError if the model's generation config has a setting that `hf` follows and this engine cannot.

    kwargs: the request's arguments; one that is neutral overrides the model's.
    """
    for name, value in sorted(vars(config).items()) if config is not None else ():
        followed = name in _VALUES or name in _INERT or name.startswith("_")
        neutral = value in (None, False, [], {}) or value in NEUTRAL.get(name, ())
        overridden = name in kwargs and kwargs[name] in NEUTRAL.get(name, ())
        if not (followed or neutral or overridden):
            raise UsageError(
                f"the model's generation config has {name}={value!r}, which `hf` follows and fairkv cannot; "
                + (f"--gen_kwargs {name}={NEUTRAL[name][-1]} leaves it out" if name in NEUTRAL else "remove it there")
            )

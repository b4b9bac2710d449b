"""The harness's requests as jobs for the engine, and the engine's results as answers for the harness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from fairkv_eval.engine.jobs import Generation, Job, LogLikelihood
from fairkv_eval.engine.result import Result
from fairkv_eval.engine.sampling import Sampling, request_seed
from fairkv_eval.errors import UsageError, naming
from fairkv_eval.eviction.argument import count_or_none
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.harness.response import LogLikelihoodResponse, Response
from fairkv_eval.prompts.division import Text
from fairkv_eval.prompts.prompter import Prompter
from fairkv_eval.prompts.tokens import Prompt
from fairkv_eval.prompts.whitelist import literals, whitelist

# The names by which the harness takes the most tokens of an answer.
MAX_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


class JobBuilder:
    """Makes jobs of a model's requests, and answers of their results.

    lm: the `hf` model, for its tokenizer, limits and generation defaults. prompter: makes the prompts. seed: of the
    run; each request that samples derives its own from it.
    """

    def __init__(self, lm: HFLM, prompter: Prompter, seed: int) -> None:
        self.lm = lm
        self.prompter = prompter
        self.seed = seed

    def jobs(self, request: Instance, policies: Sequence[Policy], repeat: int = 0) -> list[Job]:
        """One job per policy, all with the same prompt. ``repeat``: how often the same request came before.

        Errors name the request's task and document. UsageError if the prompt does not fit, or lacks a part that a
        policy names.
        """
        label = label_of(request)
        texts = tuple(dict.fromkeys(text for policy in policies for text in literals(policy.keep)))
        with naming(label):
            want: Generation | LogLikelihood
            if request.request_type == "generate_until":
                want = self.generation(request, repeat)
                prompt, following = self.prompter.prompt(self._divided(request), texts), want.max_tokens
                prompt = prompt if prompt.tokens else Prompt((self.lm.prefix_token_id,), 0)
            else:
                for policy in policies:
                    _check_scored(policy)
                prompt, want = self._scoring(request, texts)
                following = len(want.continuation) - 1
            return [Job(self._fitting(prompt, following, label, policy), policy, want, label) for policy in policies]

    def generation(self, request: Instance, repeat: int = 0) -> Generation:
        """What a request of ``generate_until`` wants of its prompt. UsageError for arguments that are not allowed."""
        settings, until, max_gen_toks = self._generation_settings(request)
        seed = request_seed(self.seed, request.task_name, request.doc_id, request.idx, repeat)
        entropy = _pop_flag(settings, "entropy")
        try:
            sampling = Sampling.of(settings, getattr(self.lm.model, "generation_config", None), seed)
        except (ValueError, TypeError) as error:  # transformers checks the values
            raise UsageError(str(error)) from error
        return Generation(max_gen_toks, tuple(s for s in until if s), sampling, entropy)

    def answer(self, request: Instance, result: Result) -> Response | LogLikelihoodResponse:
        """A result as the harness takes it: a Response or a LogLikelihoodResponse."""
        if request.request_type != "generate_until":
            return LogLikelihoodResponse(result.logprob, result.greedy, result.telemetry)
        return Response(self._text(result, self._generation_settings(request)[1]), result.telemetry)

    def _generation_settings(self, request: Instance) -> tuple[dict[str, Any], list[str], int]:
        """A request's generation arguments, the strings that end its answer, and the most tokens of that."""
        for name in MAX_TOKENS:
            count_or_none(name, request.args[1].get(name))
        settings: dict[str, Any] = dict(normalize_gen_kwargs(request.args[1], self.lm.max_gen_toks))
        end_of_text = self.lm.tok_decode([self.lm.eot_token_id], False)
        until = handle_stop_sequences(settings.pop("until", None), eos=end_of_text)
        return settings, until, settings.pop("max_gen_toks")

    def _divided(self, request: Instance) -> Text:
        return self.prompter.divide(request.args[0], request.doc, request.task_name or "")

    def _scoring(self, request: Instance, texts: Sequence[str]) -> tuple[Prompt, LogLikelihood]:
        context, continuation = request.args[:2]
        if not continuation:
            raise UsageError("the continuation to score is empty")
        if context == "":
            return self._behind_prefix(self.lm.tok_encode(continuation, add_special_tokens=False), continuation)
        text = self._divided(request)
        head, tokens = self.lm._encode_pair(text.text, continuation)
        if not head:  # white space alone, which the harness moves into the continuation
            return self._behind_prefix(tokens, continuation, self._blanks(text.text, continuation, 0))
        if not tokens:
            raise UsageError(
                f"the continuation {continuation!r} has no token of its own: the tokenizer joins it with the end of "
                f"the context {text.text[-20:]!r}, so there is nothing to score"
            )
        # The harness moves white space at the end of a context into the continuation.
        prompt = self.prompter.prompt(replace(text, text=text.text.rstrip()), texts, self.prompter.prefix)
        if list(prompt.tokens) != head:
            raise UsageError("the tokenizer reads the context differently with offsets than without")
        return prompt, LogLikelihood(tuple(tokens), blanks=self._blanks(text.text, continuation, len(head)))

    def _behind_prefix(self, tokens: Sequence[int], continuation: str, blanks: int = 0) -> tuple[Prompt, LogLikelihood]:
        """Tokens without a context, behind the prefix token, as `hf` scores them."""
        prefix = self.lm.prefix_token_id
        scored = tuple(tokens[1:] if tokens and tokens[0] == prefix else tokens)
        if not scored:
            raise UsageError(f"the continuation {continuation!r} has no token of its own, so there is nothing to score")
        return Prompt((prefix,), 0), LogLikelihood(scored, blanks=blanks)

    def _blanks(self, context: str, continuation: str, head_tokens: int) -> int:
        """The number of tokens behind the head that hold nothing but white space from the end of the context."""
        if context == context.rstrip():
            return 0
        _, offsets = self.prompter.encode(context + continuation, self.prompter.prefix)
        return sum(1 for _ in takewhile(lambda offset: offset[1] <= len(context), offsets[head_tokens:]))

    def _fitting(self, prompt: Prompt, following: int, label: str, policy: Policy) -> Prompt:
        """The prompt, cut if it may be, once it is checked to have the parts that the policy names."""
        following = max(following, self._replayed_tokens(prompt, policy))
        prompt = self.prompter.fit(prompt, following, self.lm.max_length, bool(self.lm.truncation), label)
        if prompt.context_length and policy.evicts:
            if policy.fair and not prompt.segments:
                raise UsageError("fair eviction needs segments, and none were found in this prompt (see segments=)")
            whitelist(prompt.segments, prompt.marks, policy.keep, prompt.context_length)
        return prompt

    def _replayed_tokens(self, prompt: Prompt, policy: Policy) -> int:
        """Tokens of the longest replay that follows the context; 0 for presses without one.

        A replay of the prompt's own question takes no more room than the prompt. UsageError if there is none.
        """
        press = policy.press
        if press is None or press.replay is None or not policy.evicts:
            return 0
        context, question = prompt.tokens[: prompt.context_length], prompt.tokens[prompt.context_length :]
        replays = press.replays(context, self.prompter.ask, question, policy.parameters) if context else []
        return 0 if press.replays_question else max((len(tail) for tail in replays), default=0)

    def _text(self, result: Result, until: list[str]) -> str:
        """The text of a generation, from the end of its thinking, if it has one, to a stop string."""
        tokens = list(result.tokens)
        end_of_thinking = self.lm.think_end_token
        if isinstance(end_of_thinking, int) and end_of_thinking in tokens:
            tokens = tokens[len(tokens) - tokens[::-1].index(end_of_thinking) :]
        text = self.lm.tok_decode(tokens)
        if isinstance(end_of_thinking, int):
            text = text.lstrip()
        return postprocess_generated_text(text, until, end_of_thinking if isinstance(end_of_thinking, str) else None)


def label_of(request: Instance) -> str:
    return f"task {request.task_name}, doc {request.doc_id}"


def _check_scored(policy: Policy) -> None:
    """UsageError if a policy has a part that a log-likelihood cannot follow."""
    if policy.decode_budget is not None:
        raise UsageError(
            f"decode_budget={policy.decode_budget} evicts while an answer is generated, and a log-likelihood generates "
            "none; use ratio or budget, or leave the task out"
        )


def _pop_flag(settings: dict[str, Any], name: str) -> bool:
    """Pop a boolean from generation_kwargs; False if absent."""
    value = settings.pop(name, None)
    if value not in (None, True, False):
        raise UsageError(f"{name}={value!r} is not allowed; it takes true or false")
    return bool(value)

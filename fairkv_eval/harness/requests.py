"""From the harness's requests to the engine's jobs, and from its results to what the harness is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from fairkv_eval.engine.jobs import Generate, Job, Result, Score
from fairkv_eval.engine.sampling import Sampling, request_seed
from fairkv_eval.errors import UsageError, naming
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.press import taken
from fairkv_eval.harness.processes import Processes
from fairkv_eval.harness.response import LogLikelihood, Response
from fairkv_eval.prompts.prompter import Prompter
from fairkv_eval.prompts.tokens import Prompt
from fairkv_eval.prompts.whitelist import literals, whitelist


class Requests(Processes):
    """`hf` whose requests become jobs. A model that runs them sets these fields.

    policy: of jobs that name no other. prompter: makes prompts. seed: of the run, from which each request has its own.
    """

    policy: Policy
    _prompter: Prompter
    _seed: int

    def jobs(self, request: Instance, policies: Sequence[Policy], repeat: int = 0) -> list[Job]:
        """One request under each of several policies, for `run`. ``repeat``: how often it has been asked before."""
        self._prompter.texts = tuple(dict.fromkeys(text for policy in policies for text in literals(policy.keep)))
        if request.request_type == "generate_until":
            return self._generation_jobs(request, repeat, policies)[0]
        return self._scoring_jobs(request, policies)

    def answer(self, request: Instance, result: Result) -> Response | LogLikelihood:
        """What the harness is given for a request: a Response, or a LogLikelihood."""
        if request.request_type == "generate_until":
            return self._response(result, self._generation_settings(request)[1])
        return LogLikelihood(result.logprob, result.greedy, result.telemetry)

    def _generation_settings(self, request: Instance) -> tuple[dict[str, Any], list[str], int]:
        """A request's generation arguments, the strings that end an answer, and how many tokens it may have."""
        settings: dict[str, Any] = dict(normalize_gen_kwargs(request.args[1], self.max_gen_toks))
        until = handle_stop_sequences(settings.pop("until", None), eos=self.tok_decode([self.eot_token_id], False))
        return settings, until, settings.pop("max_gen_toks")

    def _generation_job(self, request: Instance, repeat: int) -> tuple[Job, list[str]]:
        (job,), until = self._generation_jobs(request, repeat, [self.policy])
        return job, until

    def _generation_jobs(
        self, request: Instance, repeat: int, policies: Sequence[Policy]
    ) -> tuple[list[Job], list[str]]:
        label = label_of(request)
        settings, until, max_gen_toks = self._generation_settings(request)
        with naming(label, bad_input=(ValueError, TypeError)):
            seed = request_seed(self._seed, request.task_name, request.doc_id, request.idx, repeat)
            entropy = _flag(settings, "entropy")
            sampling = Sampling.of(settings, getattr(self.model, "generation_config", None), seed)
            prompt = self._prompter.prompt(self._prompter.divide(request.args[0], request.doc, _task(request)))
            prompts = [self._fit(prompt, max_gen_toks, label, policy) for policy in policies]
        want = Generate(max_gen_toks, tuple(s for s in until if s), sampling, entropy)
        return [Job(prompt, policy, want, label) for prompt, policy in zip(prompts, policies, strict=True)], until

    def _scoring_jobs(self, request: Instance, policies: Sequence[Policy]) -> list[Job]:
        context, continuation = request.args[:2]
        label = label_of(request)
        with naming(label):
            if not continuation:
                raise UsageError("the continuation to score is empty")
            if context == "":
                tokens = self.tok_encode(continuation, add_special_tokens=False)
                first = [self.prefix_token_id] if tokens[0] != self.prefix_token_id else [tokens.pop(0)]
                prompt = Prompt(tuple(first), 0)
            else:
                text = self._prompter.divide(context, request.doc, _task(request))
                head, tokens = self._encode_pair(text.text, continuation)
                # The harness moves white space at the end of a context into the continuation.
                prompt = self._prompter.prompt(replace(text, text=text.text.rstrip()))
                if list(prompt.tokens) != head:
                    raise UsageError("the tokenizer reads the context differently with offsets than without")
            prompts = [self._fit(prompt, len(tokens) - 1, label, policy) for policy in policies]
        want = Score(tuple(tokens))
        return [Job(prompt, policy, want, label) for prompt, policy in zip(prompts, policies, strict=True)]

    def _response(self, result: Result, until: list[str]) -> Response:
        tokens = list(result.tokens)
        thought = self.think_end_token
        if isinstance(thought, int) and thought in tokens:
            tokens = tokens[len(tokens) - tokens[::-1].index(thought) :]
        text = self.tok_decode(tokens)
        if isinstance(thought, int):
            text = text.lstrip()
        text = postprocess_generated_text(text, until, thought if isinstance(thought, str) else None)
        return Response(text, result.telemetry)

    def _fit(self, prompt: Prompt, following: int, label: str, policy: Policy) -> Prompt:
        """The prompt, if it fits and has the parts the policy names."""
        following = max(following, self._replayed_tokens(prompt, policy))
        prompt = self._prompter.fit(prompt, following, self.max_length, bool(self.truncation), label)
        if prompt.context_length and policy.evicts:
            if policy.fair and not prompt.segments:
                raise UsageError("fair eviction needs segments, and none were found in this prompt (see segments=)")
            whitelist(prompt.segments, prompt.marks, policy.keep, prompt.context_length)
        return prompt

    def _replayed_tokens(self, prompt: Prompt, policy: Policy) -> int:
        """Tokens of the longest replay that follows the context, for presses that have one."""
        press = policy.press
        if press is None or press.replay is None or not policy.evicts:
            return 0
        context = prompt.tokens[: prompt.context_length]
        replays = press.replay(context, self._prompter.ask, **taken(press.replay, policy.parameters))
        return max((len(tail) for tail in replays), default=0)


def _task(request: Instance) -> str:
    return request.task_name or ""


def _flag(settings: dict[str, Any], name: str) -> bool:
    """Take a yes or no out of generation_kwargs; no where it is not there."""
    value = settings.pop(name, None)
    if value not in (None, True, False):
        raise UsageError(f"{name}={value!r} is not allowed; it takes true or false")
    return bool(value)


def label_of(request: Instance) -> str:
    return f"task {request.task_name}, doc {request.doc_id}"

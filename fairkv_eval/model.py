"""FairKV, the harness model: requests in, responses out. It knows nothing about the tensors of a layer."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from tqdm import tqdm

from fairkv_eval import provenance
from fairkv_eval.engine.attach import attach_chosen, check_name
from fairkv_eval.engine.cache import ContextCache
from fairkv_eval.engine.check import length_limit
from fairkv_eval.engine.context import Watcher
from fairkv_eval.engine.engine import Engine
from fairkv_eval.engine.jobs import Job, Result, Score, Totals
from fairkv_eval.engine.memory import entry_bytes, memory_budget, rows_that_fit
from fairkv_eval.errors import UsageError, interruptible
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.harness.arguments import read_policy, with_policy_arguments
from fairkv_eval.harness.requests import Requests, label_of
from fairkv_eval.harness.response import LogLikelihood
from fairkv_eval.pretrained import default_pretrained
from fairkv_eval.prompts.prompter import Prompter
from fairkv_eval.prompts.settings import PromptSettings
from fairkv_eval.prompts.tokens import Prompt
from fairkv_eval.prompts.whitelist import literals


class FairKV(Requests):
    """A causal language model whose contexts are compressed: prefill, evict, then answer from what is left.

    press, base, ratio, budget, fair, keep, keep_text, positions, decode_budget, decode_every: the policy, see
    `policy_arguments`; the press's parameters are arguments of their own (``window=16``). segments, scope, chat,
    fewshot_delimiter, context_field: see `PromptSettings`. max_prefill_tokens: tokens of one packed forward pass.
    kv_memory: what ``batch_size=auto`` may fill with KV pairs, in GiB, or below 1 as a part of the free memory.
    attn_implementation: see `attach`. Everything else is `hf`'s. UsageError names what is wrong and what is allowed.
    """

    @with_policy_arguments
    def __init__(
        self,
        pretrained: Any = None,
        segments: str = "auto",
        scope: str = "auto",
        chat: str = "auto",
        fewshot_delimiter: str = "\n\n",
        context_field: str | None = None,
        max_prefill_tokens: int = 4096,
        kv_memory: float = 0.5,
        attn_implementation: str = "auto",
        **kwargs: Any,
    ) -> None:
        names = set(inspect.signature(FairKV.__init__).parameters) - {"self", "kwargs"}
        self.policy, others = read_policy(kwargs, names)
        self.prompt_settings = PromptSettings(segments, scope, chat, fewshot_delimiter, context_field)
        if not isinstance(max_prefill_tokens, int) or max_prefill_tokens < 1:
            raise UsageError(
                f"max_prefill_tokens={max_prefill_tokens!r} is not allowed; it takes a whole number from 1"
            )
        memory_budget(kv_memory, torch.device("cpu"))  # a wrong value is better told before the model is loaded
        check_name(attn_implementation)
        if pretrained is None:
            others = {**default_pretrained(), **others}
            pretrained = others.pop("pretrained")
        super().__init__(pretrained, **others)
        self._prompter = Prompter(
            self.tokenizer,
            self.prompt_settings,
            self.chat_template_args,
            self.add_bos_token,
            self.prefix_token_id,
            texts=literals(self.policy.keep),
        )
        # A PEFT wrapper passes calls on; the attention layers are those of the model inside it.
        inner = self.model.get_base_model() if self.peft else self.model
        self._windows, self._backend, notes = attach_chosen(inner, attn_implementation)
        self._weights = provenance.weights_sha256(others, pretrained)
        self._seed = torch.initial_seed()
        self._max_prefill_tokens = max_prefill_tokens
        self._kv_memory = kv_memory
        self._account = Totals()
        self._notes: Counter[str] = self._prompter.notes
        self._notes.update(notes)
        self._join_processes()

    # --- requests

    def run(self, jobs: Sequence[Job], at_most: int | None = None) -> Iterator[tuple[int, Result]]:
        """Results with the index of their job, in the order in which they finish. ``at_most``: tokens of one packed
        pass, where max_prefill_tokens would hold too many logits."""
        engine = self._engine(self._rows(jobs), at_most)
        yield from engine.run(jobs)
        self._account.add(engine.totals)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate for each request's (context, generation_kwargs); each Response carries what eviction did."""
        repeats: Counter[int] = Counter()
        jobs, stops = [], []
        with interruptible(lambda: _told(0, len(requests), "generate_until")):
            for request in requests:
                job, until = self._generation_job(request, repeats[id(request)])
                repeats[id(request)] += 1
                jobs.append(job)
                stops.append(until)
        responses: list[str] = [""] * len(jobs)
        for index, result in self._run(jobs, "generate_until", disable_tqdm):
            responses[index] = self._response(result, stops[index])
            self.cache_hook.add_partial("generate_until", requests[index].args, responses[index])
        return responses

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Compress each context, then score its continuation: (log-likelihood in nats, is greedy) as LogLikelihood."""
        if self.enable_thinking:
            raise UsageError("enable_thinking=True is for generative tasks only, as in `hf`")
        with interruptible(lambda: _told(0, len(requests), "loglikelihood")):
            jobs = [job for request in requests for job in self._scoring_jobs(request, [self.policy])]
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(jobs)
        for index, result in self._run(jobs, "loglikelihood", disable_tqdm):
            answers[index] = LogLikelihood(result.logprob, result.greedy, result.telemetry)
            self.cache_hook.add_partial("loglikelihood", requests[index].args, answers[index])
        return answers

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """Score windows of a rolling log-likelihood. Their contexts of one token leave nothing to compress."""
        note = "rolling windows scored uncompressed: a one-token context leaves nothing to compress"
        self._notes[note] += len(requests)
        jobs = [
            Job(Prompt(tuple(context), 0), Policy(), Score(tuple(continuation)), "rolling window")
            for _, context, continuation in requests
        ]
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(jobs)
        for index, result in self._run(jobs, "loglikelihood_rolling", disable_tqdm):
            answers[index] = result.logprob, result.greedy
        return answers

    def _run(self, jobs: list[Job], kind: str, disable_tqdm: bool) -> Iterator[tuple[int, Result]]:
        """`run` with a progress bar, and a word where it is interrupted."""
        silent = disable_tqdm or self.rank != 0
        answered = 0

        with (
            interruptible(lambda: _told(answered, len(jobs), kind)),
            tqdm(total=len(jobs), disable=silent, desc=f"Running {kind} requests") as bar,
        ):
            for index, result in self.run(jobs):
                answered += 1
                yield index, result
                bar.update(1)

    def watch(self, request: Instance, watcher: Watcher) -> tuple[Job, ContextCache]:
        """Prefill a request's context before the eyes of a watcher: its job, and what the policy leaves of the context.

        Nothing is generated or scored. UsageError for a request without a context that could be evicted.
        """
        if request.request_type == "loglikelihood_rolling":
            raise UsageError(f"{label_of(request)}: rolling windows have contexts of one token, so nothing is evicted")
        scored = request.request_type == "loglikelihood"
        job = self._scoring_jobs(request, [self.policy])[0] if scored else self._generation_job(request, 0)[0]
        if not job.prompt.context_length:
            raise UsageError(f"{job.label}: its context is empty, so nothing is evicted")
        return job, self._engine(1).watch(job, watcher)

    def _engine(self, rows: int, at_most: int | None = None) -> Engine:
        return Engine(
            self.model,
            self._windows,
            rows,
            min(self._max_prefill_tokens, at_most or self._max_prefill_tokens),
            decode=lambda tokens: self.tok_decode(tokens, skip_special_tokens=False),
            ask=self._prompter.ask,
            eos=self._eos_tokens(),
            softmax_dtype=self.softmax_dtype or torch.float32,
            autocast=self._autocast,
            backend=self._backend,
        )

    def _detect_batch_size(self, requests: Sequence | None = None, pos: int = 0) -> int:
        """What the harness asks for windows of a rolling log-likelihood: the most it allows, never tried out."""
        return int(self.max_batch_size or 64)

    def _rows(self, jobs: Sequence[Job]) -> int:
        """Rows that decode together; for ``batch_size=auto`` as many as the memory budget holds, not tried out."""
        if self.batch_size != "auto":
            return int(self.batch_size)
        budget = memory_budget(self._kv_memory, self.device)
        return rows_that_fit(jobs, entry_bytes(self.model), budget, self._detect_batch_size())

    # --- the harness's view of the model

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render a chat and remember it, so that a request's parts are known when its text comes back."""
        return self._prompter.render(chat_history, add_generation_prompt).text

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Accept a response cache only if it was written by the same model, policy and dtype."""
        if cache_hook.dbdict is not None:
            provenance.claim_response_cache(cache_hook.dbdict, self._fingerprint())
        super().set_cache_hook(cache_hook)

    def get_model_info(self) -> dict[str, Any]:
        """The harness's model information, and under `fairkv` everything that produced the numbers."""
        return {
            **super().get_model_info(),
            "fairkv": {
                **self.policy.describe(),
                **asdict(self.prompt_settings),
                **self._account.describe(),
                "attn_implementation": self._backend.name,
                "notes": dict(self._notes),
                **provenance.describe(),
                "model_sha256": self._weights,
            },
        }

    @property
    def max_length(self) -> int:
        """Tokens the model takes; fewer than for `hf` where a longer sequence would change its neighbours' RoPE."""
        limit = length_limit(self.config)
        return min(super().max_length, limit) if limit else super().max_length

    def fresh_account(self) -> None:
        """Forget what has been processed, so that totals and speeds are those of what is run from here on."""
        self._account = Totals()

    @property
    def totals(self) -> Totals:
        """What has been processed since the last `fresh_account`."""
        return self._account

    def identity(self) -> dict[str, Any]:
        """What decides an answer beside the request and the policy, as plain values."""
        model = {
            "pretrained": provenance.model_name(self.pretrained),
            "revision": self.revision,
            "peft": self.peft,
            "delta": self.delta,
            "dtype": str(self.model.dtype),
            "weights": self._weights,
        }
        return {**asdict(self.prompt_settings), **model, "seed": self._seed}

    def _fingerprint(self) -> dict[str, Any]:
        return {**self.policy.describe(), **self.identity()}

    def _eos_tokens(self) -> set[int]:
        config = getattr(self.model, "generation_config", None)
        tokens = getattr(config, "eos_token_id", None)
        tokens = tokens if isinstance(tokens, list) else [tokens]
        return {t for t in (*tokens, self.eot_token_id) if t is not None}

    def _autocast(self) -> AbstractContextManager:
        dtype = self.mixed_precision_dtype
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def barrier(self) -> None:
        """Wait for all processes and hand the first one what the others have processed since.

        The harness calls it after each type of request, where every process is present, even one whose answers all
        came from a response cache.
        """
        super().barrier()
        if self.world_size > 1:
            gathered = self.gather_object((self._account, Counter(self._notes)))
            self._account = Totals()
            self._notes.clear()
            for account, notes in gathered or ():
                self._account.add(account)
                self._notes.update(notes)


def _told(answered: int, total: int, kind: str) -> str:
    """What a run that was interrupted has to say."""
    return (
        f"\ninterrupted: {answered} of {total} {kind} requests were answered; with --use_cache their answers are kept, "
        "and the same command goes on from there"
    )

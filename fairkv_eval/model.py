"""FairKV, the harness model: requests in, responses out. It knows nothing about the tensors of a layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import cached_property
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from tqdm import tqdm

from fairkv_eval import provenance
from fairkv_eval.converted_model import loadable
from fairkv_eval.engine.attach import attach_chosen, check_name
from fairkv_eval.engine.cache import ContextCache
from fairkv_eval.engine.check import length_limit
from fairkv_eval.engine.context import Watcher
from fairkv_eval.engine.engine import Engine
from fairkv_eval.engine.jobs import Job, LogLikelihood
from fairkv_eval.engine.memory import entries, memory_budget, rows_that_fit
from fairkv_eval.engine.result import Result
from fairkv_eval.engine.totals import Totals
from fairkv_eval.errors import UsageError, interruptible
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.harness.context_check import ContextCheck, check_layers, warn_if_nothing_was_evicted
from fairkv_eval.harness.job_builder import JobBuilder, label_of
from fairkv_eval.harness.model_identity import check_identified, identity_sha256, model_identity
from fairkv_eval.harness.one_line import end_with_one_line
from fairkv_eval.harness.processes import Processes
from fairkv_eval.harness.response import LogLikelihoodResponse, Response
from fairkv_eval.harness.response_cache import ResponseCache, interruption, key_of, key_of_rolling
from fairkv_eval.harness.settings import Settings, shows_settings
from fairkv_eval.harness.statistics import Statistics
from fairkv_eval.harness.storage_check import check_storage
from fairkv_eval.model_sources import weights_sha256
from fairkv_eval.pretrained import named
from fairkv_eval.prompts.chat import ChatText
from fairkv_eval.prompts.prompter import Prompter
from fairkv_eval.prompts.tokens import Prompt


class FairKV(Processes):
    """A causal language model whose contexts are compressed: prefill, evict, then answer from what is left.

    pretrained: as for `hf`; the default model if absent. arguments: those of the policy (`policy_arguments`) and of its
    press (``window=16``), of `PromptSettings`, of `Settings` and of `hf`. UsageError: a wrong name or value.
    """

    @shows_settings
    def __init__(self, pretrained: Any = None, **arguments: Any) -> None:
        end_with_one_line()
        self.settings = settings = Settings.of(arguments)
        check_name(settings.attn_implementation)
        pretrained, hf = named(pretrained, settings.hf)
        copy, loaded = loadable(pretrained, hf)
        super().__init__(copy, **loaded)
        self.pretrained = pretrained
        self.prompter = Prompter(
            self.tokenizer,
            settings.prompts,
            self.chat_template_args,
            self.add_bos_token,
            self.prefix_token_id,
            self.run_log.note,
        )
        # A PEFT wrapper passes calls on; the attention layers are those of the model inside it.
        inner = self.model.get_base_model() if self.peft else self.model
        self.windows, self.attention, notes = attach_chosen(inner, settings.attn_implementation, settings.linear)
        check_layers(self.windows, settings.policy)
        check_storage(inner, settings.policy)
        self.run_log.notes.update(notes)
        self.job_builder = JobBuilder(self, self.prompter, torch.initial_seed())
        self.arguments = {**hf, **settings.rounding, "pretrained": pretrained}
        self.weights_sha256 = weights_sha256(hf, pretrained)
        self.response_cache = ResponseCache()
        self.context_check = ContextCheck(self.run_log.note)
        self.statistics = Statistics(self)
        self.statistics.bound(settings.policy)

    @property
    def policy(self) -> Policy:
        """The policy of requests that come from the harness."""
        return self.settings.policy

    # --- requests

    def jobs(self, request: Instance, policies: Sequence[Policy], repeat: int = 0) -> list[Job]:
        """A request as one job per policy, for `run`. ``repeat``: how often the same request came before."""
        return self.job_builder.jobs(request, policies, repeat)

    def job(self, request: Instance, repeat: int = 0) -> Job:
        """A request as a job under the model's own policy."""
        return self.jobs(request, [self.policy], repeat)[0]

    def answer(self, request: Instance, result: Result) -> Response | LogLikelihoodResponse:
        """The result of a request's job as the harness takes it."""
        return self.job_builder.answer(request, result)

    def engine(self, rows: int, max_prefill_tokens: int | None = None) -> Engine:
        """An engine for this model. rows: sequences that decode together."""
        return Engine(
            self.model,
            self.windows,
            rows,
            max_prefill_tokens or self.settings.max_prefill_tokens,
            decode=lambda tokens: self.tok_decode(tokens, skip_special_tokens=False),
            ask=self.prompter.ask,
            eos=self.eos_tokens,
            softmax_dtype=self.softmax_dtype or torch.float32,
            autocast=self._autocast,
            backend=self.attention,
            compile=self.settings.compile,
            note=self.run_log.note,
        )

    def run(self, jobs: Sequence[Job], at_most: int | None = None) -> Iterator[tuple[int, Result]]:
        """Yield results with the index of their job, in the order in which they finish.

        at_most: tokens of one packed pass, if max_prefill_tokens would need too much memory for logits.
        """
        tokens = self.settings.max_prefill_tokens
        engine = self.engine(self._rows(jobs), min(tokens, at_most or tokens))
        yield from engine.run([*map(self.statistics.job, jobs)])
        self.run_log.totals.add(engine.totals)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate for each request's (context, generation_kwargs): a Response each, with what eviction did."""
        return self._answers("generate_until", requests, disable_tqdm)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Compress each context, then score its continuation: (log-likelihood in nats, is greedy)."""
        if self.enable_thinking:
            raise UsageError("enable_thinking=True is for generative tasks only, as in `hf`")
        return self._answers("loglikelihood", requests, disable_tqdm)

    def _answers(self, kind: str, requests: Sequence[Instance], disable_tqdm: bool) -> list[Any]:
        """Answers in the order of the requests; each goes to the response cache as soon as it is there."""
        repeats: Counter[int] = Counter()
        jobs: list[Job] = []
        with interruptible(lambda: interruption(0, len(requests), kind)):
            for request in requests:
                jobs.append(self.job(request, repeats[id(request)]))
                repeats[id(request)] += 1
        self.context_check.check(jobs, self.world_size == 1)

        def computed(missing: Sequence[int]) -> Iterator[tuple[int, Any]]:
            for place, result in self._run_with_bar([jobs[i] for i in missing], kind, disable_tqdm):
                yield missing[place], self.answer(requests[missing[place]], result)

        return self.response_cache.answers([*map(key_of, requests, jobs)], computed)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of each whole text, in nats, without compression."""
        whole = super().loglikelihood_rolling

        def computed(missing: Sequence[int]) -> Iterator[tuple[int, float]]:
            yield from zip(missing, whole([requests[i] for i in missing], disable_tqdm), strict=True)

        return self.response_cache.answers([*map(key_of_rolling, requests)], computed)

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """Score windows of a rolling log-likelihood. Their contexts of one token leave nothing to compress."""
        note = "rolling windows scored uncompressed: a one-token context leaves nothing to compress"
        self.run_log.note(note, len(requests))
        jobs = [
            Job(Prompt(tuple(context), 0), Policy(), LogLikelihood(tuple(continuation)), "rolling window")
            for _, context, continuation in requests
        ]
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(jobs)
        for index, result in self._run_with_bar(jobs, "loglikelihood_rolling", disable_tqdm):
            answers[index] = result.logprob, result.greedy
        return answers

    def _run_with_bar(self, jobs: list[Job], kind: str, disable_tqdm: bool) -> Iterator[tuple[int, Result]]:
        """`run` with a progress bar, and a line on stderr if it is interrupted."""
        silent = disable_tqdm or self.rank != 0
        answered = 0

        with (
            interruptible(lambda: interruption(answered, len(jobs), kind)),
            tqdm(total=len(jobs), disable=silent, desc=f"Running {kind} requests") as bar,
        ):
            for index, result in self.run(jobs):
                answered += 1
                yield index, result
                bar.update(1)

    def watch(self, request: Instance, watcher: Watcher) -> tuple[Job, ContextCache]:
        """Prefill a request's context before the eyes of a watcher: its job, and what the policy keeps of the context.

        Nothing is generated or scored. UsageError for a request without a context that could be evicted.
        """
        if request.request_type == "loglikelihood_rolling":
            raise UsageError(f"{label_of(request)}: rolling windows have contexts of one token, so nothing is evicted")
        job = self.job(request)
        if not job.prompt.context_length:
            raise UsageError(f"{job.label}: its context is empty, so nothing is evicted")
        return job, self.engine(1).watch(self.statistics.job(job), watcher)

    def _detect_batch_size(self, requests: Sequence | None = None, pos: int = 0) -> int:
        """The batch size that the harness uses for rolling windows: the largest allowed, without a trial."""
        return int(self.max_batch_size or 64)

    def _rows(self, jobs: Sequence[Job]) -> int:
        """Rows that decode together; for ``batch_size=auto`` as many as the memory budget holds, without a trial."""
        if self.batch_size != "auto":
            return int(self.batch_size)
        budget = memory_budget(self.settings.kv_memory, self.device)
        return rows_that_fit(jobs, entries(self.model), budget, self._detect_batch_size())

    # --- the harness's view of the model

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render a chat. The text carries its turns, also through the harness's request cache."""
        return ChatText(self.prompter.render(chat_history, add_generation_prompt))

    @property
    def tokenizer_name(self) -> str:
        """For the harness's request cache: texts that another model or template rendered are not the same requests."""
        return f"{super().tokenizer_name}-fairkv-{self.prompter.template_sha256[:12]}"

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Accept a response cache only if a model of the same identity and policy wrote it (see `ResponseCache`)."""
        if cache_hook.dbdict is not None:
            self.response_cache = ResponseCache(cache_hook.dbdict, {**self.policy.describe(), **self.identity()})

    def get_model_info(self) -> dict[str, Any]:
        """The harness's model information, and under `fairkv` everything that produced the numbers."""
        warn_if_nothing_was_evicted(self.policy, self.totals)
        return {
            **super().get_model_info(),
            "fairkv": {
                **self.policy.describe(),
                **self.statistics.describe(self.policy),
                **asdict(self.settings.prompts),
                **self.totals.describe(),
                "attn_implementation": self.attention.name,
                "notes": dict(self.run_log.notes),
                **provenance.describe(),
                "model_sha256": self.weights_sha256,
                "identity": {"sha256": identity_sha256(self.model_identity), **self.model_identity},
            },
        }

    @property
    def max_length(self) -> int:
        """Tokens that the model takes; fewer than for `hf` if a longer sequence would change its neighbours' RoPE."""
        limit = length_limit(self.config)
        return min(super().max_length, limit) if limit else super().max_length

    @property
    def totals(self) -> Totals:
        """Tokens, seconds and bytes of all runs since the last `reset_totals`."""
        return self.run_log.totals

    def reset_totals(self) -> None:
        """Start the totals anew, so that speeds are those of the runs from here on."""
        self.run_log.totals = Totals()

    @cached_property
    def model_identity(self) -> dict[str, Any]:
        """Everything about the model that decides an answer, as plain values (see `model_identity`)."""
        return model_identity(self, self.arguments)

    def identity(self) -> dict[str, Any]:
        """Everything that decides an answer besides the request and the policy, as plain values.

        UsageError if the model is not identified.
        """
        check_identified(self.model_identity, self.arguments)
        return {
            **asdict(self.settings.prompts),
            **self.model_identity,
            "attention": self.attention.name,
            "device": self.device.type,
            "seed": self.job_builder.seed,
            "versions": {name: provenance.version_of(name) for name in provenance.DECIDING},
        }

    @property
    def eos_tokens(self) -> frozenset[int]:
        """Tokens that end a generation: the harness's end of text, and those of the model's generation config."""
        config = getattr(self.model, "generation_config", None)
        tokens = getattr(config, "eos_token_id", None)
        several = tokens if isinstance(tokens, list) else [tokens]
        return frozenset({*several, self.eot_token_id} - {None})

    def _autocast(self) -> AbstractContextManager:
        dtype = self.mixed_precision_dtype
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

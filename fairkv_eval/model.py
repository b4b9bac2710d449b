"""FairKV, the harness model: requests in, responses out. It knows nothing about the tensors of a layer."""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from tqdm import tqdm

from fairkv_eval import provenance
from fairkv_eval.check import attach_checked
from fairkv_eval.engine import Engine, Generate, Job, Result, Score, Totals
from fairkv_eval.errors import UsageError, unknown
from fairkv_eval.press import Policy, load_press
from fairkv_eval.pretrained import default_pretrained
from fairkv_eval.prompt import Chat, Parts, Prompt, Text, plain_text, render, tokenize, truncate
from fairkv_eval.response import Response
from fairkv_eval.sampling import Sampling, request_seed

log = logging.getLogger(__name__)

CHAT = ("auto", "on", "off")

# Arguments of transformers' from_pretrained that HFLM passes on; anything else a user types is a mistake.
_FROM_PRETRAINED = {
    "attn_implementation",
    "bnb_4bit_compute_dtype",
    "bnb_4bit_quant_type",
    "bnb_4bit_use_double_quant",
    "cache_dir",
    "device_map",
    "force_download",
    "load_in_4bit",
    "load_in_8bit",
    "local_files_only",
    "low_cpu_mem_usage",
    "max_memory",
    "offload_buffers",
    "offload_state_dict",
    "proxies",
    "quantization_config",
    "token",
    "use_safetensors",
    "variant",
}


class FairKV(HFLM):
    """A causal language model whose contexts are compressed: prefill, evict, then answer from what is left.

    press: name, alias or YAML path; its parameters are arguments of their own (``window=16``). ratio in [0, 1): the
    fraction of a context's KV pairs to evict. fair: true, false or a degree in [0, 1]. keep: segment names joined by
    ``+`` that must survive. segments, scope: see `prompt.Parts`. chat: whether documents with messages are rendered
    with the chat template (auto: when the harness did not). max_prefill_tokens: tokens of one packed forward pass.
    Everything else is `hf`'s. UsageError names what is wrong and what is allowed.
    """

    def __init__(
        self,
        pretrained: Any = None,
        press: str = "none",
        ratio: float = 0.0,
        fair: bool | float = False,
        keep: str | Sequence[str] | None = None,
        segments: str = "auto",
        scope: str = "auto",
        chat: str = "auto",
        max_prefill_tokens: int = 4096,
        **kwargs: Any,
    ) -> None:
        rule = load_press(press)
        own = _harness_arguments()
        given = {k: v for k, v in kwargs.items() if rule is not None and k in rule.parameters}
        others = {k: v for k, v in kwargs.items() if k not in given}
        for name in others:
            if name not in own and name not in _FROM_PRETRAINED:
                mine = _fairkv_arguments() | set(rule.parameters if rule else ())
                raise unknown("model argument", name, own | _FROM_PRETRAINED | mine)
        self.policy = Policy(rule, rule.configure(given) if rule else (), ratio, _degree(fair), _names(keep))
        self.parts = Parts(segments, scope)
        if chat not in CHAT:
            raise unknown("chat", chat, CHAT)
        self.chat = chat
        if rule is not None and not ratio:
            log.warning("press=%s with ratio=0 evicts nothing", rule.name)

        if pretrained is None:
            others = {**default_pretrained(), **others}
            pretrained = others.pop("pretrained")
        super().__init__(pretrained, **others)
        if self.backend != "causal":
            name = self.config.model_type
            raise UsageError(f"{name!r} models have an encoder; only decoder-only models can run compressed")
        self._arguments = others
        self._seed = torch.initial_seed()
        self._layers = attach_checked(self._base_model)
        self._max_prefill_tokens = max_prefill_tokens
        self._chats: dict[str, Chat] = {}
        self._account = Totals()
        self._notes: Counter[str] = Counter()
        self._join_processes()

    # --- requests

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate for each request's (context, generation_kwargs); each Response carries what eviction did."""
        repeats: Counter[int] = Counter()
        jobs, stops = [], []
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
        """Compress each context, then score its continuation: (log-likelihood in nats, is greedy)."""
        if self.enable_thinking:
            raise UsageError("enable_thinking=True is for generative tasks only, as in `hf`")
        jobs = [self._scoring_job(request) for request in requests]
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(jobs)
        for index, result in self._run(jobs, "loglikelihood", disable_tqdm):
            answers[index] = result.logprob, result.greedy
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
        rows = int((self.max_batch_size or 64) if self.batch_size == "auto" else self.batch_size)
        engine = Engine(
            self.model,
            self._layers,
            rows,
            self._max_prefill_tokens,
            decode=lambda tokens: self.tok_decode(tokens, skip_special_tokens=False),
            eos=self._eos_tokens(),
            softmax_dtype=self.softmax_dtype or torch.float32,
            autocast=self._autocast,
        )
        silent = disable_tqdm or self.rank != 0
        with tqdm(total=len(jobs), disable=silent, desc=f"Running {kind} requests") as bar:
            for index, result in engine.run(jobs):
                yield index, result
                bar.update(1)
        self._account.add(engine.totals)

    def _generation_job(self, request: Instance, repeat: int) -> tuple[Job, list[str]]:
        text, kwargs = request.args[:2]
        label = _label(request)
        settings: dict[str, Any] = dict(normalize_gen_kwargs(kwargs, self.max_gen_toks))
        until = handle_stop_sequences(settings.pop("until", None), eos=self.tok_decode([self.eot_token_id], False))
        max_gen_toks = settings.pop("max_gen_toks")
        try:
            seed = request_seed(self._seed, request.task_name, request.doc_id, request.idx, repeat)
            sampling = Sampling.of(settings, getattr(self.model, "generation_config", None), seed)
            prompt = self._fit(tokenize(self._divide(text, request.doc), self._encode), max_gen_toks, label)
            self._require_parts(prompt)
        except UsageError as error:
            raise UsageError(f"{label}: {error}") from error
        stop = tuple(s for s in until if s)
        return Job(prompt, self.policy, Generate(max_gen_toks, stop, sampling), label), until

    def _scoring_job(self, request: Instance) -> Job:
        context, continuation = request.args[:2]
        label = _label(request)
        try:
            if context == "":
                tokens = self.tok_encode(continuation, add_special_tokens=False)
                first = [self.prefix_token_id] if tokens[0] != self.prefix_token_id else [tokens.pop(0)]
                prompt = Prompt(tuple(first), 0)
            else:
                text = self._divide(context, request.doc)
                head, tokens = self._encode_pair(text.text, continuation)
                prompt = tokenize(Text(text.text.rstrip(), text.context, text.segments, text.folded), self._encode)
                if list(prompt.tokens) != head:
                    raise UsageError("the tokenizer reads the context differently with offsets than without")
            prompt = self._fit(prompt, len(tokens) - 1, label)
            self._require_parts(prompt)
        except UsageError as error:
            raise UsageError(f"{label}: {error}") from error
        return Job(prompt, self.policy, Score(tuple(tokens)), label)

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

    # --- from text to prompts

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render a chat and remember it, so that a request's parts are known when its text comes back."""
        chat = render(chat_history, self._template, add_generation_prompt)
        if chat.folded:
            self._notes["system prompts folded into the first user turn"] += 1
        self._chats[chat.text] = chat
        return chat.text

    def _template(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool | None) -> str:
        """Render messages: open an answer (True), go on with the last message (False), or end with it (None)."""
        if self.tokenizer.chat_template is None:
            raise UsageError("the model has no chat template; chat=off renders documents as plain text")
        return self.tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=bool(add_generation_prompt),
            continue_final_message=add_generation_prompt is False,
            **self.chat_template_args,
        )

    def _divide(self, text: str, doc: Any) -> Text:
        """The text of a request with its context and segments, rendered as a chat where that is wanted."""
        fields = doc if isinstance(doc, Mapping) else {}
        declared = fields.get("segments") or ()
        messages = fields.get("messages") or ()
        chat = self._chats.get(text)
        if chat is None and messages:
            messages = _with_instruction(messages, text)
            if self.chat == "off" or (self.chat == "auto" and self.tokenizer.chat_template is None):
                return self.parts.of_text(plain_text(messages), declared)
            chat = self._chats[self.apply_chat_template(messages)]
        elif chat is None and self.chat == "on":
            chat = self._chats[self.apply_chat_template([{"role": "user", "content": text}])]
        if chat is None:
            return self.parts.of_text(text, declared)
        return self.parts.of_chat(chat, declared)

    def _encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokens as `hf` makes them, with the characters each covers."""
        if not self.tokenizer.is_fast:
            raise UsageError("the model's tokenizer gives no character offsets; use a fast tokenizer")
        special: dict[str, bool] = {} if self.add_bos_token is None else {"add_special_tokens": self.add_bos_token}
        if text.startswith(self.tokenizer.decode([self.prefix_token_id])):
            special = {"add_special_tokens": False}
        encoding = self.tokenizer(text, return_offsets_mapping=True, **special)
        return encoding["input_ids"], encoding["offset_mapping"]

    def _fit(self, prompt: Prompt, following: int, label: str) -> Prompt:
        """Refuse a prompt that does not fit the model with what follows it, or cut it where that was asked for."""
        longest = self.max_length - following
        if len(prompt.tokens) <= longest:
            return prompt
        if not self.truncation or longest < 1:
            raise UsageError(
                f"the prompt has {len(prompt.tokens)} tokens and {following} may follow, more than the "
                f"{self.max_length} the model takes; shorten it, lower max_gen_toks, or pass truncation=true"
            )
        cut = truncate(prompt, longest)
        lost = sorted({s.name for s in prompt.segments} - {s.name for s in cut.segments} | _shortened(prompt, cut))
        into = f", into segments {lost}" if lost else ""
        log.warning("%s: %d tokens cut from the left%s", label, cut.truncated, into)
        self._notes["prompts truncated"] += 1
        return cut

    def _require_parts(self, prompt: Prompt) -> None:
        if not prompt.context or not self.policy.evicts:
            return
        if self.policy.fair and not prompt.segments:
            raise UsageError("fair eviction needs segments, and none were found in this prompt (see segments=)")
        names = {segment.name for segment in prompt.segments}
        for name in self.policy.keep:
            if name not in names:
                raise unknown("segment in keep", name, names)

    # --- the harness's view of the model

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
                "segments": self.parts.segments,
                "scope": self.parts.scope,
                "chat": self.chat,
                **self._account.describe(),
                "notes": dict(self._notes),
                **provenance.describe(),
                "model_sha256": provenance.weights_sha256(self._arguments, self.pretrained),
            },
        }

    def _fingerprint(self) -> dict[str, Any]:
        parts = {"segments": self.parts.segments, "scope": self.parts.scope, "chat": self.chat}
        model = {
            "pretrained": provenance.model_name(self.pretrained),
            "revision": self.revision,
            "peft": self.peft,
            "delta": self.delta,
            "dtype": str(self.model.dtype),
            "weights": provenance.weights_sha256(self._arguments, self.pretrained),
        }
        return {**self.policy.describe(), **parts, **model, "seed": self._seed}

    @property
    def _base_model(self) -> Any:
        """The transformers model inside a PEFT wrapper, if there is one."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def _eos_tokens(self) -> set[int]:
        config = getattr(self.model, "generation_config", None)
        tokens = getattr(config, "eos_token_id", None)
        tokens = tokens if isinstance(tokens, list) else [tokens]
        return {t for t in (*tokens, self.eot_token_id) if t is not None}

    def _autocast(self) -> AbstractContextManager:
        dtype = self.mixed_precision_dtype
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def _join_processes(self) -> None:
        """Take part in data parallelism by global index, on CPUs and on several machines too, where `hf` does not."""
        accelerator = getattr(self, "accelerator", None)
        if accelerator is not None and accelerator.num_processes > 1:
            self._rank, self._world_size = accelerator.process_index, accelerator.num_processes

    def barrier(self) -> None:
        """Wait for all processes and hand the first one what the others have processed since.

        The harness calls it after each type of request, where every process is present, even one whose answers all
        came from a response cache.
        """
        super().barrier()
        if self.world_size > 1:
            gathered = self.gather_object((self._account, self._notes))
            self._account, self._notes = Totals(), Counter()
            for account, notes in gathered or ():
                self._account.add(account)
                self._notes.update(notes)


def _harness_arguments() -> set[str]:
    names = inspect.signature(HFLM.__init__).parameters
    return set(names) - {"self", "kwargs"}


def _fairkv_arguments() -> set[str]:
    return set(inspect.signature(FairKV.__init__).parameters) - {"self", "kwargs"}


def _degree(fair: object) -> Any:
    return float(fair) if isinstance(fair, bool) else fair


def _names(keep: str | Sequence[str] | None) -> tuple[str, ...]:
    if keep is None:
        return ()
    return tuple(keep.split("+") if isinstance(keep, str) else keep)


def _label(request: Instance) -> str:
    return f"task {request.task_name}, doc {request.doc_id}"


def _with_instruction(messages: Sequence[Mapping[str, str]], text: str) -> list[dict[str, str]]:
    """A document's messages, with what the harness put before them (``--system_instruction``) in the system turn."""
    rendered = "".join(m["content"] for m in messages)
    if not text.endswith(rendered):
        raise UsageError("few-shot examples or prefixes before a chat document need --apply_chat_template")
    before = text[: len(text) - len(rendered)].strip()
    chat = [dict(m) for m in messages]
    if before:
        if chat[0]["role"] == "system":
            chat[0]["content"] = f"{before}\n\n{chat[0]['content']}"
        else:
            chat.insert(0, {"role": "system", "content": before})
    return chat


def _shortened(before: Prompt, after: Prompt) -> set[str]:
    lengths = {s.name: s.stop - s.start for s in before.segments}
    return {s.name for s in after.segments if s.stop - s.start < lengths[s.name]}

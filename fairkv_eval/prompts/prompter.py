"""A prompt from a harness request: render its document, divide the text, make tokens of it, check its length."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from fairkv_eval.errors import UsageError
from fairkv_eval.prompts.chat import Chat, ChatText, Message, plain_text, render, render_plain, user_turn
from fairkv_eval.prompts.chat_document import MARK, ChatDocument, lacks_mark
from fairkv_eval.prompts.declared_context import declared_context
from fairkv_eval.prompts.division import Declaration, Text, divide_chat, divide_text
from fairkv_eval.prompts.settings import PromptSettings
from fairkv_eval.prompts.tokens import Prompt, tokenize, truncate

log = logging.getLogger(__name__)


class Prompter:
    """Makes the prompts of one model.

    template_arguments: for the chat template. add_bos_token, prefix_token: as in `hf`. note: called with a note for the
    results, once per chat or prompt that it is about.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        settings: PromptSettings,
        template_arguments: Mapping[str, Any] | None = None,
        add_bos_token: bool | None = None,
        prefix_token: int | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        self.template_arguments = dict(template_arguments or {})
        self.add_bos_token = add_bos_token
        self.prefix = str(tokenizer.decode([prefix_token])) if prefix_token is not None else ""
        self.special = special_tokens(tokenizer)
        self.note = note
        self.applied_template = False  # whether a chat came from the model's template so far

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> Chat:
        """Render a chat with the model's template."""
        return render(messages, self._template, add_generation_prompt)

    def divide(self, text: str, doc: Any, task: str = "") -> Text:
        """A request's text, rendered as a chat if the settings ask for it, with its context and segments.

        ``text``: a `ChatText` if the harness rendered it. ``task``: its name, which decides the context of the
        harness's long-context documents.
        """
        fields = doc if isinstance(doc, Mapping) else {}
        document = ChatDocument.of(fields)
        if lacks_mark(fields):
            self.note(f"documents whose messages and segments are ignored, since {MARK} is not among their fields")
        context = declared_context(fields, task, self.settings.context_field, self.settings.scope)
        declared = Declaration(document.segments, context)
        chat = self._chat(text, document.messages)
        if chat is None:
            return divide_text(text, self.settings, declared)
        self.applied_template |= not chat.plain
        if chat.folded:
            self.note("system prompts folded into the first user turn")
        return divide_chat(chat, self.settings, declared)

    def _chat(self, text: str, messages: Sequence[Message]) -> Chat | None:
        """The chat of a request, or None if it is plain text."""
        if isinstance(text, ChatText):
            return text.chat
        if messages:
            return self._document_chat(text, messages)
        return self.render([{"role": "user", "content": text}]) if self.settings.chat == "on" else None

    def _document_chat(self, text: str, messages: Sequence[Message]) -> Chat:
        """A document's messages, with what the request's text has before them, as a chat."""
        template = self.tokenizer.chat_template is not None
        turns = _with_instruction(messages, text)
        if turns is None:  # the text of a chat, rendered elsewhere
            chat = self.render(messages, messages[-1]["role"] != "assistant") if template else None
            if chat is None or chat.text != text:
                raise UsageError("few-shot examples or prefixes before a chat document need --apply_chat_template")
            return chat
        if self.settings.chat == "off" or (self.settings.chat == "auto" and not template):
            return render_plain(turns)
        return self.render(turns, turns[-1]["role"] != "assistant")

    def prompt(self, text: Text, literals: Sequence[str] = (), beginning: str | None = None) -> Prompt:
        """A divided text as tokens, with its special tokens and the ``literals`` marked, which `keep` may name.

        beginning: see `encode`.
        """
        return tokenize(text, partial(self.encode, beginning=beginning), literals, self.special)

    def ask(self, request: str) -> list[int]:
        """Tokens of a request to the model that follows a context.

        It is a user turn and the header of the answer, or a paragraph of its own if prompts have no turns.
        """
        before, after = self._request_form
        return list(self.tokenizer(f"{before}{request}{after}", add_special_tokens=False)["input_ids"])

    @cached_property
    def _request_form(self) -> tuple[str, str]:
        """What stands before and after the words of a request."""
        if self.settings.chat != "off" and self.tokenizer.chat_template is not None:
            form = user_turn(self._template)
            if form is not None:
                return form
            self.note("requests of a replay are paragraphs: the chat template shows no form of a further turn")
        return "\n\n", "\n\n"

    def encode(self, text: str, beginning: str | None = None) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokens as `hf` makes them, with the characters that each covers.

        beginning: a text that begins so gets no special tokens. BOS by default, as in `hf`'s generation; its scoring
        looks for the prefix token instead, which may be another.
        """
        if not self.tokenizer.is_fast:
            raise UsageError("the model's tokenizer gives no character offsets; use a fast tokenizer")
        special: dict[str, bool] = {} if self.add_bos_token is None else {"add_special_tokens": self.add_bos_token}
        beginning = self.tokenizer.bos_token if beginning is None else beginning
        if beginning and text.startswith(beginning):
            special = {"add_special_tokens": False}
        encoding = self.tokenizer(text, return_offsets_mapping=True, **special)
        return encoding["input_ids"], encoding["offset_mapping"]

    def fit(self, prompt: Prompt, following: int, longest: int, truncation: bool, label: str) -> Prompt:
        """The prompt, if it fits into ``longest`` tokens with the ``following``; else cut it, or refuse it."""
        room = longest - following
        if len(prompt.tokens) <= room:
            return prompt
        if not truncation or room < 1:
            raise UsageError(
                f"the prompt has {len(prompt.tokens)} tokens and {following} may follow, more than the "
                f"{longest} the model takes; shorten it, lower max_gen_toks, or pass truncation=true"
            )
        cut = truncate(prompt, room)
        lost = _shortened(prompt, cut)
        into = f", into segments {lost}" if lost else ""
        log.warning("%s: %d tokens cut from the left%s", label, cut.truncated, into)
        self.note("prompts truncated")
        if lost:
            self.note("prompts truncated into a segment")
        return cut

    @property
    def template_sha256(self) -> str:
        """Digest of the chat template and its arguments."""
        made_of = [self.tokenizer.chat_template, self.template_arguments]
        return hashlib.sha256(json.dumps(made_of, sort_keys=True, default=repr).encode()).hexdigest()

    def _template(self, messages: Sequence[Message], add_generation_prompt: bool | None) -> str:
        """Render messages: open an answer (True), continue the last message (False), or end with it (None)."""
        if self.tokenizer.chat_template is None:
            raise UsageError("the model has no chat template; chat=off renders documents as plain text")
        text = self.tokenizer.apply_chat_template(
            [dict(m) for m in messages],
            tokenize=False,
            add_generation_prompt=bool(add_generation_prompt),
            continue_final_message=add_generation_prompt is False,
            **self.template_arguments,
        )
        return str(text)


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids of the special tokens: those with a role (BOS, EOS …) and those that are only flagged as special.

    Some models only flag the tokens that their chat template puts around turns.
    """
    flagged = (token for token, added in tokenizer.added_tokens_decoder.items() if added.special)
    return frozenset(flagged) | frozenset(tokenizer.all_special_ids)


def _with_instruction(messages: Sequence[Message], text: str) -> list[dict[str, str]] | None:
    """A document's messages, with the harness's ``--system_instruction`` before them in the system turn.

    None if the text does not end with the words of the messages.
    """
    # As the harness joins a system prompt and a user turn, or as a declared task joins its messages.
    joined = ("".join(m["content"] for m in messages), plain_text(messages))
    rendered = next((words for words in joined if text.endswith(words)), None)
    if rendered is None:
        return None
    before = text[: len(text) - len(rendered)].strip()
    chat = [dict(m) for m in messages]
    if before and chat[0]["role"] == "system":
        chat[0]["content"] = f"{before}\n\n{chat[0]['content']}"
    elif before:
        chat.insert(0, {"role": "system", "content": before})
    return chat


def _shortened(before: Prompt, after: Prompt) -> list[str]:
    """Names of the segments that truncation shortened."""
    lengths: Counter[str] = Counter()
    for segment in before.segments:
        lengths[segment.name] += segment.stop - segment.start
    for segment in after.segments:
        lengths[segment.name] -= segment.stop - segment.start
    return sorted(name for name, lost in lengths.items() if lost)

"""How prompts are made: the model arguments segments, scope, chat, fewshot_delimiter and context_field."""

from __future__ import annotations

from dataclasses import dataclass

from fairkv_eval.errors import UsageError, unknown

SEGMENTS = ("auto", "task", "turns", "shots", "paragraphs", "sentences")
SCOPES = ("auto", "system", "context", "prompt")
CHAT = ("auto", "on", "off")


@dataclass(frozen=True)
class PromptSettings:
    r"""Which part of a prompt is its context, where its segments come from, and how documents are rendered.

    segments: their source, one of SEGMENTS. scope: which part is the context, one of SCOPES. chat: whether documents
    with messages are rendered with the chat template (auto: unless the harness did so). fewshot_delimiter: divides a
    text with segments=shots, as the task's own does; ``\n`` and ``\t`` may be typed on a command line. context_field:
    the field of a document that holds its context; it goes before what the document declares, which goes before a
    system message. If a chat holds its shots in the last user turn, they are outside the context with scope=system,
    and with scope=auto if there is a system message. Raises UsageError for a value that is not allowed.
    """

    segments: str = "auto"
    scope: str = "auto"
    chat: str = "auto"
    fewshot_delimiter: str = "\n\n"
    context_field: str | None = None

    def __post_init__(self) -> None:
        if self.segments not in SEGMENTS:
            raise unknown("segments", self.segments, SEGMENTS)
        if self.scope not in SCOPES:
            raise unknown("scope", self.scope, SCOPES)
        if self.chat not in CHAT:
            raise unknown("chat", self.chat, CHAT)
        if not isinstance(self.fewshot_delimiter, str) or not self.fewshot_delimiter:
            raise UsageError(f"fewshot_delimiter={self.fewshot_delimiter!r} is not allowed; it takes a text, as \\n\\n")
        delimiter = self.fewshot_delimiter.replace("\\n", "\n").replace("\\t", "\t")
        object.__setattr__(self, "fewshot_delimiter", delimiter)
        if self.context_field is not None and self.scope not in ("auto", "context"):
            raise UsageError(f"context_field={self.context_field!r} needs scope=context, and scope is {self.scope!r}")

"""The sandboxed jinja2 templates of a declared task, which make a document of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from lm_eval.utils import regex_replace

from fairkv_eval.errors import UsageError, unknown
from fairkv_eval.prompts.chat_document import MARK
from fairkv_eval.prompts.declared_context import DECLARED

ROLES = ("system", "user", "assistant")


def _no_null(value: Any) -> Any:
    """A value that a template prints; jinja2 would print null as None."""
    if value is None:
        raise UsageError("a value is null")
    return value


_ENVIRONMENT = ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined, keep_trailing_newline=True, finalize=_no_null
)

_ENVIRONMENT.filters["regex_replace"] = regex_replace  # as the harness's templates have it

Parts = Sequence[tuple[str, jinja2.Template]]


@dataclass(frozen=True)
class Templates:
    """The templates of a document's parts.

    messages: role and template of each turn. segments: name and template of each. Blank turns and segments are left
    out. In place of a list, a string names the field of a row that holds the list. context: the text up to whose end
    the prompt is compressed. secret: the text that must not leak.
    """

    messages: Parts | str
    segments: Parts | str
    context: jinja2.Template | None
    secret: jinja2.Template | None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Templates:
        """From a YAML's keys: system and user, or messages; segments; context; secret. Raises UsageError."""
        messages: Any = config.get("messages")
        if messages is None:
            if not config.get("user"):
                raise UsageError("a declared task needs user: (and system: if there is one) or messages:")
            turns = [{"role": role, "content": config.get(role)} for role in ("system", "user") if config.get(role)]
            messages = _pairs(turns, "messages", "role", "content")
        elif config.get("user") or config.get("system"):
            raise UsageError("messages: replaces system: and user:, so they cannot be given together")
        else:
            messages = _pairs(messages, "messages", "role", "content")
        for role, _ in () if isinstance(messages, str) else messages:
            if role not in ROLES:
                raise unknown("role", role, ROLES)
        segments = _pairs(config.get("segments") or [], "segments", "name", "text")
        context, secret = (compiled(config.get(key), key) for key in ("context", "secret"))
        return cls(messages, segments, context, secret)

    def document(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The document of a row: its fields, messages, segments, system and user; if declared, the context; if a secret
        is declared, secret, directive and defense."""
        messages = _render(self.messages, row, "messages", "role", "content")
        users = [message["content"] for message in messages if message["role"] == "user"]
        if not users:
            raise UsageError("there is no user turn, or it is blank")
        segments = _render(self.segments, row, "segments", "name", "text")
        system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
        _check_segments(segments, messages)
        doc = {**row, MARK: True, "messages": messages, "segments": segments, "system": system, "user": users[-1]}
        if self.context is not None:
            doc[DECLARED] = fill(self.context, row, "context")
        if self.secret is not None:
            doc["secret"] = fill(self.secret, row, "secret").strip()
            doc["directive"] = _join(segments, "directive") or doc["secret"]
            doc["defense"] = _join(segments, "defense")
        return doc


def _pairs(entries: Any, what: str, first: str, second: str) -> Parts | str:
    """A YAML's list of ``{first, second}`` as names with templates; a field's name stays as it is."""
    if isinstance(entries, str):
        return entries
    if not isinstance(entries, list) or not all(isinstance(e, Mapping) and set(e) == {first, second} for e in entries):
        raise UsageError(f"{what}: takes a list of {{{first}, {second}}}, or the name of a field that holds one")
    return [(str(e[first]), compiled(e[second], f"{what}, {e[first]}")) for e in entries]  # type: ignore[misc]


def compiled(template: Any, what: str) -> jinja2.Template | None:
    """The template of a text, None for None. ``what`` names it in errors."""
    if template is None:
        return None
    if not isinstance(template, str):
        raise UsageError(f"{what}: {template!r} is not a text")
    try:
        return _ENVIRONMENT.from_string(template)
    except jinja2.TemplateSyntaxError as error:
        raise UsageError(f"{what}: the template cannot be read: {error.message} (its line {error.lineno})") from error


def _render(parts: Parts | str, row: Mapping[str, Any], what: str, first: str, second: str) -> list[dict[str, str]]:
    """The parts of a row's document as ``{first, second}``, without those whose text is blank."""
    if isinstance(parts, str):
        rendered = _from_field(parts, row, what, first, second)
    else:
        rendered = [{first: name, second: fill(template, row, f"{what}, {name}")} for name, template in parts]
    return [part for part in rendered if part[second].strip()]


def _from_field(field: str, row: Mapping[str, Any], what: str, first: str, second: str) -> list[dict[str, str]]:
    if field not in row:
        raise unknown(f"field for {what}", field, row)
    entries = row[field]
    if not isinstance(entries, list) or not all(isinstance(e, Mapping) and {first, second} <= set(e) for e in entries):
        raise UsageError(f"{what}: the field {field!r} is not a list of {{{first}, {second}}}")
    for entry in entries:
        if not isinstance(entry[first], str) or not isinstance(entry[second], str):
            raise UsageError(f"{what}: the field {field!r} has {entry!r}; it takes texts")
        if first == "role" and entry[first] not in ROLES:
            raise unknown("role", entry[first], ROLES)
    return [{first: entry[first], second: entry[second]} for entry in entries]


def fill(template: jinja2.Template, row: Mapping[str, Any], what: str) -> str:
    """The text of a template for a row. UsageError if it prints a field that the row lacks, or null."""
    try:
        return template.render(row)
    except jinja2.UndefinedError as error:
        fields = ", ".join(sorted(row)) or "none"
        raise UsageError(f"{what}: {error.message}; the row has the fields {fields}") from error
    except UsageError as error:
        nulls = ", ".join(name for name, value in row.items() if value is None)
        raise UsageError(f"{what}: {error}" + (f"; the row's null fields: {nulls}" if nulls else "")) from error
    except Exception as error:  # a template can fail in as many ways as an expression
        raise UsageError(f"{what}: the template fails: {type(error).__name__}: {error}") from error


def _check_segments(segments: Sequence[Mapping[str, str]], messages: Sequence[Mapping[str, str]]) -> None:
    """Raise UsageError unless each segment is in the words of one message, after the segment before it."""
    turn, at = 0, 0
    for segment in segments:
        words = segment["text"].strip()
        while turn < len(messages) and (start := messages[turn]["content"].find(words, at)) < 0:
            turn, at = turn + 1, 0
        if turn == len(messages):
            raise UsageError(
                f"segment {segment['name']!r} is not in the messages (or not in the declared order): {words[:60]!r}"
            )
        at = start + len(words)


def _join(segments: Sequence[Mapping[str, str]], name: str) -> str:
    return "\n".join(segment["text"].strip() for segment in segments if segment["name"] == name)

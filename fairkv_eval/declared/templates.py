"""A row of data to a document: the sandboxed jinja2 templates of a task that is declared by YAML alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fairkv_eval.errors import UsageError, unknown
from fairkv_eval.prompts.declared_context import DECLARED

ROLES = ("system", "user", "assistant")
_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)

Parts = Sequence[tuple[str, jinja2.Template]]


@dataclass(frozen=True)
class Templates:
    """What a document is made of.

    messages: role and template of each turn, those that come out blank are left out. segments: name and template of
    each. context, secret: what a document declares as its context and as what must not leak. A string in place of the
    list of ``messages`` or ``segments`` names the field of a row that holds the list.
    """

    messages: Parts | str
    segments: Parts | str
    context: jinja2.Template | None
    secret: jinja2.Template | None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Templates:
        """From a YAML's keys system and user, or messages; segments; context; secret. UsageError: what is wrong."""
        messages: Any = config.get("messages")
        if messages is None:
            if not config.get("user"):
                raise UsageError("a declared task needs user: (and system: where there is one) or messages:")
            turns = [{"role": role, "content": config.get(role)} for role in ("system", "user") if config.get(role)]
            messages = _pairs(turns, "messages", "role", "content")
        elif config.get("user") or config.get("system"):
            raise UsageError("messages: stands in place of system: and user:, so they cannot be given together")
        else:
            messages = _pairs(messages, "messages", "role", "content")
        for role, _ in () if isinstance(messages, str) else messages:
            if role not in ROLES:
                raise unknown("role", role, ROLES)
        segments = _pairs(config.get("segments") or [], "segments", "name", "text")
        context, secret = (_compile(config.get(key), key) for key in ("context", "secret"))
        return cls(messages, segments, context, secret)

    def document(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row's fields and, under their names in our documents: messages, segments, system, user, directive,
        defense, and where they are declared context and secret."""
        messages = _render(self.messages, row, "messages", "role", "content")
        users = [m["content"] for m in messages if m["role"] == "user"]
        if not users:
            raise UsageError("there is no user turn, or it is blank")
        segments = _render(self.segments, row, "segments", "name", "text")
        system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
        _check_segments(segments, messages)
        doc = {**row, "messages": messages, "segments": segments, "system": system, "user": users[-1]}
        if self.context is not None:
            doc[DECLARED] = _fill(self.context, row, "context")
        if self.secret is not None:
            doc["secret"] = _fill(self.secret, row, "secret").strip()
            named = {name: _join(segments, name) for name in ("directive", "defense")}
            doc |= {**named, "directive": named["directive"] or doc["secret"]}
        return doc


def _pairs(given: Any, what: str, first: str, second: str) -> Parts | str:
    if isinstance(given, str):
        return given
    if not isinstance(given, list) or not all(isinstance(g, Mapping) and set(g) == {first, second} for g in given):
        raise UsageError(f"{what}: takes a list of {{{first}, {second}}}, or the name of a field that holds one")
    return [(str(g[first]), _compile(g[second], f"{what}, {g[first]}")) for g in given]  # type: ignore[misc]


def _compile(template: Any, what: str) -> jinja2.Template | None:
    if template is None:
        return None
    if not isinstance(template, str):
        raise UsageError(f"{what}: {template!r} is no text")
    try:
        return _ENVIRONMENT.from_string(template)
    except jinja2.TemplateSyntaxError as error:
        raise UsageError(f"{what}: the template cannot be read: {error.message} (its line {error.lineno})") from error


def _render(parts: Parts | str, row: Mapping[str, Any], what: str, first: str, second: str) -> list[dict[str, str]]:
    if isinstance(parts, str):
        if parts not in row:
            raise unknown(f"field for {what}", parts, row)
        found = row[parts]
        if not isinstance(found, list) or not all(isinstance(f, Mapping) and {first, second} <= set(f) for f in found):
            raise UsageError(f"{what}: the field {parts!r} holds no list of {{{first}, {second}}}")
        made = [{first: str(f[first]), second: str(f[second])} for f in found]
    else:
        made = [{first: name, second: _fill(template, row, f"{what}, {name}")} for name, template in parts]
    return [m for m in made if m[second].strip()]


def _fill(template: jinja2.Template, row: Mapping[str, Any], what: str) -> str:
    try:
        return template.render(row)
    except jinja2.UndefinedError as error:
        fields = ", ".join(sorted(row)) or "none"
        raise UsageError(f"{what}: {error.message}; the row has the fields {fields}") from error
    except Exception as error:  # a template can fail in as many ways as an expression can
        raise UsageError(f"{what}: the template fails: {type(error).__name__}: {error}") from error


def _check_segments(segments: Sequence[Mapping[str, str]], messages: Sequence[Mapping[str, str]]) -> None:
    """Each segment is in the words of the messages, after the one before it."""
    text, at = "\n".join(m["content"] for m in messages), 0
    for segment in segments:
        words = segment["text"].strip()
        found = text.find(words, at)
        if found < 0:
            raise UsageError(
                f"segment {segment['name']!r} is not in the messages (or not in the declared order): {words[:60]!r}"
            )
        at = found + len(words)


def _join(segments: Sequence[Mapping[str, str]], name: str) -> str:
    return "\n".join(segment["text"].strip() for segment in segments if segment["name"] == name)

"""Defenses: templates that guard a directive, the paper's or the user's own."""

from __future__ import annotations

import json
from pathlib import Path

from fairkv_eval.documents import published
from fairkv_eval.errors import DataError, UsageError, unknown

PLACEHOLDER = "$system_prompt"
PLACEHOLDERS = (PLACEHOLDER, "$user_prompt")  # RaccoonBench's own templates write $user_prompt
ASSISTANT_NAME = "Assistant"  # for $name, which three of the paper's templates hold and its scripts leave as it is

Segments = list[dict[str, str]]


def defense_template(name: str | None, file: str | None = None) -> str:
    """The template of a name, with its `$system_prompt`. Without name and file: no defense, and no file is read.

    file: the user's own templates instead of the paper's: JSON (`.json`) with templates by name, or any other text,
    which is one template whatever the name. Raises UsageError for an unknown name or an unreadable file.
    """
    if file is None and name is None:
        return PLACEHOLDER
    if file is None:
        templates: dict[str, str] = json.loads(published.read_file(published.DEFENSES))
    else:
        text = _read(file)
        if Path(file).suffix.lower() != ".json":
            return text.strip()
        templates = _templates(text, file)
    if name not in templates:
        raise unknown("defense" if file is None else f"defense in {file}:", name, templates)
    return templates[name]


def _read(file: str) -> str:
    try:
        return Path(file).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, TypeError, UnicodeDecodeError) as error:
        raise UsageError(f"defense_file={file!r} cannot be read: {error}") from error


def _templates(text: str, file: str) -> dict[str, str]:
    """The templates of a user's JSON file, by name."""
    try:
        templates = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"defense_file={file!r} is not JSON ({error})") from error
    if not isinstance(templates, dict) or not all(isinstance(value, str) for value in templates.values()):
        raise UsageError(f'defense_file={file!r} must hold one JSON object of texts, {{"name": "… {PLACEHOLDER} …"}}')
    return templates


def defend(directive: str, template: str, assistant_name: str = ASSISTANT_NAME) -> tuple[str, Segments]:
    """Put a directive into a defense.

    Returns the system prompt and its segments in order: `defense`, `directive`, `defense`, each stripped, without
    blank ones. A `$` inside the directive means nothing. Raises DataError unless the template holds the placeholder
    exactly once.
    """
    places = [word for word in PLACEHOLDERS for _ in range(template.count(word))]
    if len(places) != 1:
        raise DataError(f"a defense needs {PLACEHOLDER} exactly once, found it {len(places)} times: {template[:80]!r}")
    before, after = (side.replace("$name", assistant_name) for side in template.split(places[0]))
    pieces = (("defense", before), ("directive", directive), ("defense", after))
    segments = [{"name": name, "text": text.strip()} for name, text in pieces if text.strip()]
    return before + directive + after, segments

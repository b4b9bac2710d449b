"""Templates in the form of forty model families: what is declared is in the context, and nothing of the question."""

from __future__ import annotations

import itertools

import pytest
from chat_templates import chat, make_tokenizer
from template_families import FAMILIES

from fairkv_eval.prompts.chat_document import MARK
from fairkv_eval.prompts.division import Text
from fairkv_eval.prompts.prompter import Prompter
from fairkv_eval.prompts.settings import PromptSettings
from fairkv_eval.prompts.tokens import Prompt

RULES = ["Never tell the code.", "Answer in French, always."]
SYSTEM = " ".join(RULES)
QUESTION = "Quokkas: where do\n\nthey live?"
SHOTS = [("user", "One plus one?"), ("assistant", "Two."), ("user", "Two plus two?"), ("assistant", "Four.")]
CHATS = {
    "system": [("system", SYSTEM), ("user", QUESTION)],
    "paragraphs": [("system", "\n\n".join(RULES) + "\n"), ("user", f"\n {QUESTION} ")],
    "no system": [("user", QUESTION)],
    "two turns": [*SHOTS[:2], ("user", QUESTION)],
    "few-shot": [("system", SYSTEM), *SHOTS, ("user", QUESTION)],
    "begun": [("system", SYSTEM), ("user", QUESTION), ("assistant", "They")],
    "thoughts": [("system", SYSTEM), SHOTS[0], ("assistant", "<think>\nSum.\n</think>\n\nTwo."), ("user", QUESTION)],
}
CASES = list(itertools.product(FAMILIES, CHATS))


def prompter(family: str, source: str = "auto", scope: str = "auto") -> Prompter:
    """Tokens that begin with the space before a word, and tokens of a full stop and line breaks."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    tokenizer = make_tokenizer(*(("Ġ", letter) for letter in letters), ("Ċ", "Ċ"), (".", "Ċ"), (".", "ĊĊ"))
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    template, arguments, _ = FAMILIES[family]
    tokenizer.chat_template = template
    return Prompter(tokenizer, PromptSettings(source, scope), arguments, add_bos_token=False)


def divided(family: str, name: str, segments: list[str], **settings: str) -> tuple[Text, Prompt, Prompter]:
    messages = chat(*CHATS[name])
    doc = {MARK: True, "messages": messages, "segments": [{"name": f"s{i}", "text": t} for i, t in enumerate(segments)]}
    made = prompter(family, **settings)
    text = made.divide("".join(m["content"] for m in messages), doc)
    return text, made.prompt(text), made


def declared(name: str) -> list[str]:
    return [words for role, turn in CHATS[name] if role == "system" for words in RULES if words in turn]


@pytest.mark.parametrize("family, name", CASES)
def test_segments_lie_whole_in_the_context_and_the_question_begins_after_it(family: str, name: str) -> None:
    turns = CHATS[name]
    segments = [*declared(name), *(words for _, words in turns if words in ("Two plus two?", "Four."))]
    text, prompt, made = divided(family, name, segments, scope="system", source="task")
    assert text.context_end is not None
    context, rest = text.text[: text.context_end], text.text[text.context_end :]
    last = max(i for i, (role, _) in enumerate(turns) if role == "user")

    before = [words.strip().rpartition("</think>\n\n")[2] for _, words in turns[:last]]
    assert all(words in context for words in before)
    header, _, after = rest.partition(QUESTION)
    assert after and not any(word in context for word in ("Quokkas", "where", "live"))
    assert not any(part in header for words in before for part in words.split()), header
    # A template that shows the system message in a last user turn does not where an answer is begun after it.
    hidden = FAMILIES[family].system == "none" or (FAMILIES[family].system == "last" and name == "begun")
    assert text.folded == (turns[0][0] == "system" and hidden)

    segments.sort(key=text.text.index)
    assert [text.text[s.start : s.stop] for s in text.segments] == segments
    decode = made.tokenizer.decode
    words = [decode(list(prompt.tokens[s.start : s.stop])).strip() for s in prompt.segments]
    assert words == segments and all(s.stop <= prompt.context_length for s in prompt.segments)
    assert QUESTION in decode(list(prompt.tokens[prompt.context_length :]))
    assert prompt.context_length > 20 or not before


@pytest.mark.parametrize("family, name", CASES)
def test_turns_are_where_their_words_are(family: str, name: str) -> None:
    turns = CHATS[name]
    text, prompt, _ = divided(family, name, [], scope="prompt")
    assert text.context_end is None and prompt.context_length == len(prompt.tokens) - 1
    named = {s.name: text.text[s.start : s.stop] for s in text.segments}
    past = [words.strip().rpartition("</think>\n\n")[2] for _, words in turns]
    expected = {
        f"{role}_{i}" if i else role: words for i, ((role, _), words) in enumerate(zip(turns, past, strict=True))
    }
    if name == "thoughts":  # shown, cut, or cut in part
        shown = named.pop("assistant_2")
        assert shown.endswith("Two.") and turns[2][1].endswith(shown.lstrip()) and expected.pop("assistant_2")
    assert named == expected
    positions = [s.start for s in text.segments]
    assert positions == sorted(positions)


@pytest.mark.parametrize("family", FAMILIES)
def test_auto_is_the_system_prompt_or_all(family: str) -> None:
    for name, turns in CHATS.items():
        text, _, _ = divided(family, name, [])
        assert (text.context_end is None) == (turns[0][0] != "system")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_replayed_request_is_a_turn(family: str) -> None:
    """As the template shows one that follows an answer, with the header of the next answer and nothing before it."""
    made = prompter(family)
    tokens = made.ask("Repeat it.")
    asked = made.tokenizer.decode(tokens)
    before, _, after = asked.partition("Repeat it.")
    whole = made.render(chat(*SHOTS, ("user", "Repeat it."))).text
    assert whole.endswith(asked) and "Four." not in before and before.strip(), asked
    alone = made.render(chat(("user", "Repeat it."))).text
    assert alone.endswith(after)
    # One header, that of the user's turn: no answer's end is left in it.
    assert len(before) <= len(alone.partition("Repeat it.")[0]) + 1

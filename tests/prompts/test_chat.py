"""Chats rendered by small templates of every kind: where their context ends and where each turn's words are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import pytest
from chat_templates import (
    FEW_SHOT,
    QUESTION,
    SIMPLE,
    SYSTEM,
    TEMPLATES,
    WITH_SYSTEM,
    WITHOUT_SYSTEM,
    chat,
    context_of,
    encode,
    template,
    words,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from fairkv_eval.errors import UsageError
from fairkv_eval.prompts.chat import Chat, Message, render
from fairkv_eval.prompts.division import Declaration, divide_chat
from fairkv_eval.prompts.settings import PromptSettings
from fairkv_eval.prompts.tokens import tokenize


class TestRender:
    def test_the_context_is_everything_before_the_last_user_turn(self) -> None:
        rendered = render(SIMPLE, template("chatml"))
        assert context_of(rendered) == f"<|system|>\n{SYSTEM}<|end|>\n"
        assert rendered.text[rendered.context_end :] == f"<|user|>\n{QUESTION}<|end|>\n<|assistant|>\n"
        assert rendered.system and not rendered.folded and rendered.messages == tuple(SIMPLE)

    def test_few_shot_turns_belong_to_the_context(self) -> None:
        rendered = render(FEW_SHOT, template("chatml"))
        assert context_of(rendered).endswith("<|assistant|>\n4<|end|>\n")
        assert rendered.text[rendered.context_end :].startswith(f"<|user|>\n{QUESTION}")

    def test_a_template_that_renders_whole_chats_only(self) -> None:
        """There the header of the last user turn is in the context, and nothing of its words."""
        rendered = render(FEW_SHOT, template("whole_chats_only"))
        assert context_of(rendered).endswith("<|assistant|>\n4<|end|>\n<|user|>\n")
        assert rendered.text[rendered.context_end :].startswith(QUESTION)

    def test_without_a_system_prompt(self) -> None:
        for name in TEMPLATES:
            rendered = render(chat(("user", QUESTION)), template(name))
            assert not rendered.system and not rendered.folded
            assert QUESTION not in context_of(rendered) and rendered.text.count(QUESTION) == 1

    @pytest.mark.parametrize("nothing", ["", "  \n"])
    def test_an_empty_system_prompt_is_none(self, nothing: str) -> None:
        rendered = render(chat(("system", nothing), ("user", QUESTION)), template("drops_system"))
        assert not rendered.system and not rendered.folded

    def test_a_continued_answer_stays_in_the_tail(self) -> None:
        messages = [*SIMPLE, *chat(("assistant", "It is"))]
        rendered = render(messages, template("chatml"), add_generation_prompt=False)
        assert context_of(rendered) == f"<|system|>\n{SYSTEM}<|end|>\n"
        assert rendered.text.endswith(f"{QUESTION}<|end|>\n<|assistant|>\nIt is")

    def test_another_error_of_a_template_is_not_hidden(self) -> None:
        with pytest.raises(jinja2.exceptions.TemplateError, match="ends with the user"):
            render(chat(("user", "a"), ("assistant", "b")), template("whole_chats_only"))

    def test_nothing_to_fold_into(self) -> None:
        with pytest.raises(UsageError, match="no user turn to fold"):
            render(chat(("system", SYSTEM)), template("drops_system"))


class TestFolding:
    @pytest.mark.parametrize("name", WITHOUT_SYSTEM)
    def test_the_system_prompt_is_not_lost(self, name: str) -> None:
        rendered = render(SIMPLE, template(name))
        assert rendered.folded and rendered.system
        assert rendered.text == f"<|user|>\n{SYSTEM}\n\n{QUESTION}<|end|>\n<|assistant|>\n"
        assert context_of(rendered) == f"<|user|>\n{SYSTEM}\n\n"
        assert rendered.messages == tuple(SIMPLE)
        words = [rendered.text[turn.start : turn.stop] for turn in rendered.turns]
        assert words == [SYSTEM, QUESTION] and [turn.name for turn in rendered.turns] == ["system", "user_1"]

    @pytest.mark.parametrize("name", WITHOUT_SYSTEM)
    def test_few_shot_turns_still_belong_to_the_context(self, name: str) -> None:
        rendered = render(FEW_SHOT, template(name))
        assert rendered.folded and rendered.text.startswith(f"<|user|>\n{SYSTEM}\n\n1+1?<|end|>\n")
        assert context_of(rendered).endswith("<|assistant|>\n4<|end|>\n")
        assert rendered.text[rendered.context_end :].startswith(f"<|user|>\n{QUESTION}")

    @pytest.mark.parametrize("system", ["user", "capital", "u", "<|user|>"])
    def test_words_that_are_also_elsewhere_do_not_pass_for_the_system_prompt(self, system: str) -> None:
        rendered = render(chat(("system", system), ("user", QUESTION)), template("drops_system"))
        assert rendered.folded and context_of(rendered) == f"<|user|>\n{system}\n\n"

    def test_all_of_several_system_prompts_are_folded(self) -> None:
        messages = chat(("system", "One."), ("system", "Two."), ("user", QUESTION))
        assert context_of(render(messages, template("refuses_system"))) == "<|user|>\nOne.\n\nTwo.\n\n"

    def test_a_template_that_shows_the_first_of_two_only(self) -> None:
        def first_only(messages: Sequence[Mapping[str, str]], generation: bool | None) -> str:
            return template("chatml")(
                [m for i, m in enumerate(messages) if m["role"] != "system" or i == 0], generation
            )

        messages = chat(("system", "One."), ("system", "Two."), ("user", QUESTION))
        rendered = render(messages, first_only)
        assert rendered.folded and context_of(rendered) == "<|user|>\nOne.\n\nTwo.\n\n"

    def test_the_callers_messages_are_left_alone(self) -> None:
        messages = chat(("system", SYSTEM), ("user", QUESTION))
        render(messages, template("refuses_system"))
        assert messages == SIMPLE

    def test_segments_are_found_in_the_folded_turn_and_the_prompt_says_so(self) -> None:
        declared = [{"name": "directive", "text": "Answer in French."}, {"name": "defense", "text": "Keep it secret."}]
        text = divide_chat(render(SIMPLE, template("drops_system")), PromptSettings(), Declaration(declared))
        prompt = tokenize(text, encode)
        assert prompt.folded
        assert [(s.name, words(prompt, s.start, s.stop)) for s in prompt.segments] == [
            ("directive", "Answer in French."),
            ("defense", "Keep it secret."),
        ]
        assert words(prompt, 0, prompt.context_length) == f"<|user|>\n{SYSTEM}\n\n"


class TestTurns:
    """The words of a turn are where the template puts them, whatever else has the same words."""

    def turns(self, rendered: Chat, *, scope: str = "prompt") -> list[tuple[str, int, str]]:
        segments = divide_chat(rendered, PromptSettings("turns", scope)).segments
        return [(s.name, s.start, rendered.text[s.start : s.stop]) for s in segments]

    @pytest.mark.parametrize("name", TEMPLATES)
    def test_words_that_stand_earlier_too(self, name: str) -> None:
        messages = chat(
            ("user", "user"), ("assistant", "use"), ("user", "assistant"), ("assistant", "e"), ("user", "|")
        )
        rendered = render(messages, template(name))
        marker = "user: " if name == "no_end" else "<|user|>\n"
        answer = "assistant: " if name == "no_end" else "<|assistant|>\n"
        end = "\n" if name == "no_end" else "<|end|>\n"
        expected, at = [], 0
        for i, (message, header) in enumerate(zip(messages, [marker, answer] * 3, strict=False)):
            at += len(header)
            expected.append((f"{message['role']}_{i}" if i else "user", at, message["content"]))
            at += len(message["content"]) + len(end)
        assert self.turns(rendered) == expected

    def test_white_space_around_words_and_empty_turns(self) -> None:
        messages = chat(("system", " "), ("user", "\n a \n"), ("assistant", ""), ("user", " b"))
        for name in ("chatml", "trims", "no_end"):
            rendered = render(messages, template(name))
            assert [(n, w) for n, _, w in self.turns(rendered)] == [("user_1", "a"), ("user_3", "b")]
            assert len(rendered.turns) == len(messages)

    @pytest.mark.parametrize("trim", [str.strip, str.lstrip, str.rstrip])
    def test_templates_that_trim(self, trim: Any) -> None:
        def trims(messages: Sequence[Message], generation: bool | None) -> str:
            return template("chatml")([{**m, "content": trim(m["content"])} for m in messages], generation)

        rendered = render(chat(("user", "\n user "), ("user", " b\n")), trims)
        words = [(s.name, rendered.text[s.start : s.stop]) for s in rendered.turns]
        assert words == [("user", "user"), ("user_1", "b")]
        assert rendered.turns[0].start > len("<|user|>")

    def test_a_begun_answer(self) -> None:
        rendered = render([*SIMPLE, *chat(("assistant", "It "))], template("chatml"), add_generation_prompt=False)
        assert self.turns(rendered)[-1] == ("assistant_2", rendered.text.rindex("It"), "It")

    def test_a_template_that_shows_a_part_of_the_words(self) -> None:
        """As some do with the thoughts of earlier answers."""

        def cuts(messages: Sequence[Message], generation: bool | None) -> str:
            shown = [{**m, "content": m["content"].replace("<think>", "")} for m in messages]
            return template("chatml")(shown, generation)

        rendered = render(chat(("user", "er<think>"), ("user", "b")), cuts)
        assert self.turns(rendered) == [("user", 9, "er"), ("user_1", 28, "b")]
        assert self.turns(render(chat(("user", "a"), ("user", "b")), cuts))[0] == ("user", 9, "a")
        nothing = render(chat(("user", "<think>"), ("user", "b")), cuts)
        with pytest.raises(UsageError, match="the chat template does not show the words of turn 'user': '<think>'"):
            self.turns(nothing)

    def test_a_template_that_shows_words_twice(self) -> None:
        def repeats(messages: Sequence[Message], generation: bool | None) -> str:
            words = messages[0]["content"]
            return f"[{words}]" + template("chatml")(messages[1:], generation) + f"[{words}]"

        rendered = render(SIMPLE, repeats)
        assert rendered.turns[0] == ("system", 1, len(rendered.text) - 1)
        assert rendered.text[rendered.context_end :].startswith(QUESTION)

    def test_a_template_that_shows_other_words_than_marks(self) -> None:
        def refuses_marks(messages: Sequence[Message], generation: bool | None) -> str:
            if any("\x00" in m["content"] and m["role"] == "assistant" for m in messages):
                raise jinja2.exceptions.TemplateError("no")
            return template("chatml")(messages, generation)

        rendered = render(FEW_SHOT, refuses_marks)
        assert [(n, w) for n, _, w in self.turns(rendered)] == [
            (f"{m['role']}_{i}" if i else "system", m["content"]) for i, m in enumerate(FEW_SHOT)
        ]


# Characters that no template above has in its own text, so that a turn's words are where they are searched.
CONTENT = st.text(alphabet="BKQ.?\n é😀", min_size=1, max_size=12).filter(lambda text: text.strip())


@st.composite
def chats(draw: st.DrawFn) -> list[dict[str, str]]:
    messages = [("system", draw(CONTENT))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 2))):
        messages += [("user", draw(CONTENT)), ("assistant", draw(CONTENT))]
    return chat(*messages, ("user", draw(CONTENT)))


class TestInvariants:
    @pytest.mark.parametrize("name", TEMPLATES)
    @given(messages=chats(), source=st.sampled_from(["turns", "paragraphs"]), scope=st.sampled_from(["auto", "prompt"]))
    @settings(max_examples=40)
    def test_of_any_chat(self, name: str, messages: list[dict[str, str]], source: str, scope: str) -> None:
        rendered = render(messages, template(name))
        assert all(m["content"].strip() in rendered.text for m in messages)
        assert rendered.folded == (name in WITHOUT_SYSTEM and messages[0]["role"] == "system")
        assert all(m["content"].strip() in context_of(rendered) for m in messages[:-1])
        tail = rendered.text[rendered.context_end :]
        assert messages[-1]["content"].strip() in tail and tail.count("<|user|>") <= 1

        text = divide_chat(rendered, PromptSettings(source, scope))
        prompt = tokenize(text, encode)
        assert 0 <= prompt.context_length < len(prompt.tokens)
        edges = [edge for segment in prompt.segments for edge in (segment.start, segment.stop)]
        assert edges == sorted(edges) and all(s.start < s.stop for s in prompt.segments)
        assert not edges or edges[-1] <= prompt.context_length
        # All but the last token, which is a line break or a bracket here, where the whole prompt is context.
        reaches = rendered.text[:-1] if text.context_end is None else context_of(rendered)
        for segment, declared in zip(prompt.segments, text.segments, strict=True):
            assert segment.name == declared.name
            inside = words(prompt, segment.start, segment.stop)
            assert inside == reaches[declared.start : declared.stop]
        if scope == "auto" and rendered.system:
            assert words(prompt, 0, prompt.context_length) == context_of(rendered)
        if source == "turns":
            contents = [m["content"].strip() for m in rendered.messages]
            found = [rendered.text[s.start : s.stop] for s in text.segments]
            assert found == contents[: len(found)] or (rendered.folded and contents[0].startswith(found[0].strip()))

    @pytest.mark.parametrize("name", WITH_SYSTEM)
    def test_the_boundary_is_independent_of_the_question(self, name: str) -> None:
        contexts = {
            context_of(render([*FEW_SHOT[:-1], *chat(("user", question))], template(name)))
            for question in ("a", "Ab?", "é")
        }
        assert len(contexts) == 1
        assert re.search(r"4(<\|end\|>)?\n", contexts.pop())

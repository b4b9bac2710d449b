"""Rendered texts divided into context and segments by the settings of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from chat_templates import (
    FEW_SHOT,
    QUESTION,
    SIMPLE,
    SYSTEM,
    chat,
    template,
)

from fairkv_eval.errors import UsageError
from fairkv_eval.prompts.chat import Chat, Message, plain_text, render, render_plain
from fairkv_eval.prompts.division import Declaration, Text, divide_chat, divide_text
from fairkv_eval.prompts.settings import PromptSettings


class TestDivision:
    def names(self, text: Text) -> list[tuple[str, str]]:
        return [(s.name, text.text[s.start : s.stop]) for s in text.segments]

    def test_auto_takes_the_documents_segments_then_turns_then_paragraphs(self) -> None:
        rendered = render(FEW_SHOT, template("chatml"))
        declared = [{"name": "directive", "text": "Answer in French."}]
        assert self.names(divide_chat(rendered, PromptSettings(), Declaration(declared))) == [
            ("directive", "Answer in French.")
        ]
        assert self.names(divide_chat(rendered, PromptSettings())) == [
            ("system", SYSTEM),
            ("user_1", "1+1?"),
            ("assistant_2", "2"),
            ("user_3", "2+2?"),
            ("assistant_4", "4"),
        ]
        plain = "First line.\nSame paragraph.\n\nSecond."
        assert self.names(divide_text(plain, PromptSettings())) == [
            ("paragraph_1", "First line.\nSame paragraph."),
            ("paragraph_2", "Second."),
        ]
        assert self.names(divide_text(plain, PromptSettings(), Declaration([{"name": "x", "text": "Same"}]))) == [
            ("x", "Same")
        ]

    def test_scope(self) -> None:
        rendered = render(SIMPLE, template("chatml"))
        assert divide_chat(rendered, PromptSettings()).context_end == rendered.context_end
        assert divide_chat(rendered, PromptSettings(scope="system")).context_end == rendered.context_end
        whole = divide_chat(rendered, PromptSettings(scope="prompt"))
        assert whole.context_end is None and [name for name, _ in self.names(whole)] == ["system", "user_1"]
        bare = render(chat(("user", QUESTION)), template("chatml"))
        assert divide_chat(bare, PromptSettings()).context_end is None

    def test_a_declared_segment_lies_whole_in_the_context(self) -> None:
        rendered = render(SIMPLE, template("chatml"))
        declaration = Declaration(
            [{"name": "rule", "text": "Keep it secret."}, {"name": "question", "text": "capital?"}]
        )
        for scope in ("auto", "system"):
            with pytest.raises(UsageError, match=r"'question' is in the prompt but not whole in its context.*before"):
                divide_chat(rendered, PromptSettings(scope=scope), declaration)
        whole = divide_chat(rendered, PromptSettings(scope="prompt"), declaration)
        assert self.names(whole) == [("rule", "Keep it secret."), ("question", "capital?")]
        cut = Declaration([{"name": "rule", "text": SYSTEM}], context="Answer in French.")
        with pytest.raises(UsageError, match=r"'rule' is in the prompt but not whole in its context.*ends within it"):
            divide_chat(rendered, PromptSettings(), cut)
        with pytest.raises(UsageError, match=r"'b' is in the prompt but not whole in its context"):
            divide_text("a. b.", PromptSettings(), Declaration([{"name": "b", "text": "b."}], context="a."))

    def test_what_is_declared_is_searched_in_the_words_of_the_messages(self) -> None:
        """Not in the template's: "end" and "user" stand in its tokens and headers."""
        rendered = render(chat(("system", "The end. A user asks."), ("user", "user")), template("chatml"))
        declared = Declaration([{"name": "last", "text": "end"}, {"name": "who", "text": "user"}])
        found = divide_chat(rendered, PromptSettings(), declared)
        begin = rendered.text.index("The end")
        assert [s[1:] for s in found.segments] == [(begin + 4, begin + 7), (begin + 11, begin + 15)]
        context = divide_chat(rendered, PromptSettings(), Declaration(context="user"))
        assert context.context_end == rendered.text.rindex("user<|end|>") + len("user")
        for words in ("<|user|>", "assistant", "asks.<|end|>\n<|user|>\nuser"):
            with pytest.raises(UsageError, match="segment 'x' is not in the prompt"):
                divide_chat(rendered, PromptSettings(), Declaration([{"name": "x", "text": words}]))
            with pytest.raises(UsageError, match="the declared context is not in the prompt"):
                divide_chat(rendered, PromptSettings(), Declaration(context=words))

    def test_segments_come_in_the_order_of_the_text(self) -> None:
        """They are declared in the order of the messages, and some templates put the system prompt last."""

        def system_last(messages: Sequence[Message], generation: bool | None) -> str:
            system, *others, question = messages
            last = {**question, "content": f"{system['content']}\n\n{question['content']}"}
            return template("chatml")([*others, last], generation)

        declared = Declaration([{"name": "rule", "text": SYSTEM}, {"name": "example", "text": "2+2?"}])
        found = divide_chat(render(FEW_SHOT, system_last), PromptSettings(), declared)
        assert self.names(found) == [("example", "2+2?"), ("rule", SYSTEM)]
        shots = divide_chat(render(FEW_SHOT, system_last), PromptSettings("shots", "prompt"))
        assert [name for name, _ in self.names(shots)] == ["shot_1", "shot_2", "system", "question"]

    def test_messages_as_plain_text(self) -> None:
        """For base models: the system message is the context here too, up to where the question begins."""
        rendered = render_plain(FEW_SHOT)
        assert rendered.text == plain_text(FEW_SHOT) and rendered.text[rendered.context_end :] == QUESTION
        assert divide_chat(render_plain(SIMPLE), PromptSettings()).context_end == len(SYSTEM) + 2
        assert divide_chat(render_plain(SIMPLE), PromptSettings(scope="prompt")).context_end is None
        assert divide_chat(render_plain(SIMPLE[1:]), PromptSettings()).context_end is None
        assert divide_chat(render_plain(SIMPLE[1:]), PromptSettings(scope="system")).context_end == 0
        named = self.names(divide_chat(rendered, PromptSettings()))
        assert named[:2] == [("paragraph_1", SYSTEM), ("paragraph_2", "1+1?")] and len(named) == 5
        assert [name for name, _ in self.names(divide_chat(rendered, PromptSettings("turns")))][-1] == "assistant_4"

    def test_explicit_sources(self) -> None:
        messages = chat(("system", "One. Two.\n\nThree."), ("user", QUESTION))
        rendered = render(messages, template("chatml"))
        declared = [{"name": "directive", "text": "One."}]
        found = self.names(divide_chat(rendered, PromptSettings("paragraphs"), Declaration(declared)))
        assert found[0] == ("paragraph_1", "<|system|>\nOne. Two.") and found[1][1].startswith("Three.<|end|>")
        assert self.names(divide_chat(rendered, PromptSettings("turns"), Declaration(declared))) == [
            ("system", "One. Two.\n\nThree.")
        ]
        assert self.names(divide_chat(rendered, PromptSettings("task"))) == []

    @pytest.mark.parametrize("given, nearest", [({"segments": "turn"}, "'turns'"), ({"scope": "sytem"}, "'system'")])
    def test_a_wrong_choice_names_the_nearest(self, given: dict[str, str], nearest: str) -> None:
        with pytest.raises(UsageError, match=f"Did you mean {nearest}"):
            PromptSettings(**given)

    def test_plain_text_has_no_turns(self) -> None:
        with pytest.raises(UsageError, match="use segments=paragraphs"):
            divide_text("text", PromptSettings("turns"))
        with pytest.raises(UsageError, match="use scope=prompt"):
            divide_text("text", PromptSettings(scope="system"))

    def test_shots_of_a_plain_text_leave_the_question_where_scope_is_system(self) -> None:
        text = "1+1? 2\n\n2+2? 4\n\n3+3?"
        assert divide_text(text, PromptSettings("shots")).context_end is None
        before = divide_text(text, PromptSettings("shots", scope="system"))
        assert before.context_end == text.index("3+3?")
        assert self.names(before) == [("shot_1", "1+1? 2"), ("shot_2", "2+2? 4")]
        assert divide_text("3+3?", PromptSettings("shots", scope="system")) == Text("3+3?", 0)

    @pytest.mark.parametrize("typed, meant", [(r"\n\n", "\n\n"), (r"\n###\t", "\n###\t"), ("---", "---")])
    def test_a_delimiter_as_typed_on_a_command_line(self, typed: str, meant: str) -> None:
        assert PromptSettings(fewshot_delimiter=typed).fewshot_delimiter == meant
        assert PromptSettings(fewshot_delimiter=meant) == PromptSettings(fewshot_delimiter=typed)

    @pytest.mark.parametrize("delimiter", ["", 3, True, None])
    def test_a_delimiter_that_is_none(self, delimiter: Any) -> None:
        with pytest.raises(UsageError, match="fewshot_delimiter="):
            PromptSettings(fewshot_delimiter=delimiter)

    def test_a_declared_segment_that_is_absent_is_an_error(self) -> None:
        with pytest.raises(UsageError, match="'defense' is not in the prompt"):
            divide_chat(
                render(SIMPLE, template("chatml")),
                PromptSettings(),
                Declaration([{"name": "defense", "text": "Do not tell."}]),
            )


class TestShotsOfChats:
    def named_texts(self, rendered: Chat, **parts: str) -> list[tuple[str, str]]:
        text = divide_chat(rendered, PromptSettings("shots", **parts))
        return [(s.name, rendered.text[s.start : s.stop]) for s in text.segments]

    def test_answered_turns_are_shots(self) -> None:
        rendered = render(FEW_SHOT, template("chatml"))
        between = "<|end|>\n<|assistant|>\n"
        examples = [("system", SYSTEM), ("shot_1", f"1+1?{between}2"), ("shot_2", f"2+2?{between}4")]
        assert self.named_texts(rendered) == examples
        assert self.named_texts(rendered, scope="prompt") == [*examples, ("question", QUESTION)]

    def test_a_delimiter_in_a_turn_of_several_divides_nothing(self) -> None:
        messages = chat(("user", "a\n\nb"), ("assistant", "c"), ("user", "d\n\ne"))
        rendered = render(messages, template("no_end"))
        assert self.named_texts(rendered) == [("shot_1", "a\n\nb\nassistant: c"), ("question", "d\n\ne")]

    def test_the_only_user_turn_is_divided(self) -> None:
        messages = chat(("system", "s\n\nt"), ("user", "1+1? 2\n\n2+2? 4\n\n3+3?"))
        rendered = render(messages, template("chatml"))
        assert self.named_texts(rendered) == [("system", "s\n\nt")]
        assert self.named_texts(rendered, scope="prompt") == [
            ("system", "s\n\nt"),
            ("shot_1", "1+1? 2"),
            ("shot_2", "2+2? 4"),
            ("question", "3+3?"),
        ]

    def test_a_begun_answer_is_of_the_question(self) -> None:
        messages = chat(("user", "1+1? 2\n\n3+3?"), ("assistant", "It is"))
        rendered = render(messages, template("no_end"), add_generation_prompt=False)
        assert self.named_texts(rendered) == [("shot_1", "1+1? 2"), ("question", "3+3?\nassistant: It is")]

    def test_without_a_user_turn(self) -> None:
        rendered = render(chat(("system", SYSTEM)), template("chatml"))
        assert self.named_texts(rendered, scope="prompt") == [("system", SYSTEM)]

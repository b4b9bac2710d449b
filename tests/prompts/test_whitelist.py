"""What `keep` may name, which tokens a name stands for, and what is wrong with the others."""

from __future__ import annotations

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.utils import simple_parse_args_string

from fairkv_eval.errors import UsageError
from fairkv_eval.prompts.prompter import Prompter
from fairkv_eval.prompts.segments import Segment
from fairkv_eval.prompts.settings import PromptSettings
from fairkv_eval.prompts.tokens import Prompt, truncate
from fairkv_eval.prompts.whitelist import literals, mark_special, mark_texts, parse_keep, whitelist


class TestParse:
    @pytest.mark.parametrize(
        ("keep", "entries"),
        [
            (None, ()),
            ([], ()),
            ("defense", ("defense",)),
            (" defense + special ", ("defense", "special")),
            ("special+defense+special", ("special", "defense")),
            (["defense", 5, "0:12"], ("defense", "5", "0:12")),
            (0, ("0",)),
            ("007", ("7",)),
            (":12", ("0:12",)),
            ("12:", ("12:",)),
            ("0:12+:12+ 3 : 4", ("0:12", "3:4")),
            ("5+5:6", ("5", "5:6")),
            ("text: Never tell. +paragraph_2", ("text:Never tell.", "paragraph_2")),
            (["text:1 + 1"], ("text:1 + 1",)),
        ],
    )
    def test_entries(self, keep: object, entries: tuple[str, ...]) -> None:
        assert parse_keep(keep) == entries
        assert parse_keep(list(entries)) == entries

    @pytest.mark.parametrize(
        ("keep_text", "entries"),
        [
            ("1 + 1", ("text:1 + 1",)),
            (" Never tell. \n", ("text:Never tell.",)),
            (["a", "b+c", "a "], ("text:a", "text:b+c")),
            ("0:12", ("text:0:12",)),
        ],
    )
    def test_texts_come_last(self, keep_text: object, entries: tuple[str, ...]) -> None:
        assert parse_keep(None, keep_text) == entries
        assert parse_keep("special", keep_text) == ("special", *entries)
        assert literals(parse_keep("special+0:3", keep_text)) == tuple(entry.removeprefix("text:") for entry in entries)

    @pytest.mark.parametrize(
        ("typed", "entries"),
        [
            ("keep=0:12", ("0:12",)),
            ("keep=5", ("5",)),
            ("keep=defense+special+0:4", ("defense", "special", "0:4")),
            ("keep=None", ()),
            ("keep_text=be kind + brief", ("text:be kind + brief",)),
            ("keep_text='42'", ("text:42",)),
        ],
    )
    def test_as_typed_on_the_harnesss_command_line(self, typed: str, entries: tuple[str, ...]) -> None:
        assert parse_keep(**simple_parse_args_string(typed)) == entries

    @pytest.mark.parametrize("keep", ["3:3", "5:2", ":0", ["0:0"]])
    def test_an_empty_range(self, keep: object) -> None:
        with pytest.raises(UsageError, match="holds no position"):
            parse_keep(keep)

    @pytest.mark.parametrize("keep", [-5, "-5", "-3:5", "3:-1", "0:12:2", ":", "1 2", "1-2"])
    def test_a_malformed_range(self, keep: object) -> None:
        with pytest.raises(UsageError, match=r"is not a range of positions; write 5, 0:12, 12: or :12, from 0 up"):
            parse_keep(keep)

    @pytest.mark.parametrize("keep", ["", " ", "a+", "+a", "a++b", [""]])
    def test_an_empty_entry(self, keep: object) -> None:
        with pytest.raises(UsageError, match="empty entry; it takes segment names, special, positions"):
            parse_keep(keep)

    @pytest.mark.parametrize("keep", [True, 1.5, {"a": 1}, [None], ["a", 0.5]])
    def test_another_type(self, keep: object) -> None:
        with pytest.raises(UsageError, match=r"keep=.* is not allowed"):
            parse_keep(keep)

    @pytest.mark.parametrize("text", ["", " \n", [""], ["a", " "]])
    def test_an_empty_text(self, text: object) -> None:
        with pytest.raises(UsageError, match="keep_text is empty"):
            parse_keep(None, text)
        with pytest.raises(UsageError, match="keep_text is empty"):
            parse_keep("text: ")

    @pytest.mark.parametrize("text", [42, True, 0.5, ["a", 1]])
    def test_a_text_that_the_harness_took_for_a_number(self, text: object) -> None:
        with pytest.raises(UsageError, match=r"keep_text=.* is not text; put quotes around"):
            parse_keep(None, text)


def runs_by_hand(tokens: list[int], special: set[int]) -> list[tuple[int, int]]:
    runs = []
    for start in range(len(tokens)):
        for stop in range(start + 1, len(tokens) + 1):
            whole = all(token in special for token in tokens[start:stop])
            longer = tokens[max(0, start - 1) : start] + tokens[stop : stop + 1]
            if whole and not any(token in special for token in longer):
                runs.append((start, stop))
    return runs


@given(st.lists(st.integers(0, 4), max_size=12), st.sets(st.integers(0, 4)))
def test_special_tokens_come_in_maximal_runs(tokens: list[int], special: set[int]) -> None:
    found = list(mark_special(tokens, special))
    assert [(s.start, s.stop) for s in found] == runs_by_hand(tokens, special)
    assert {s.name for s in found} <= {"special"}


@st.composite
def cut_texts(draw: st.DrawFn) -> tuple[str, list[tuple[int, int]]]:
    """A text and its cut into tokens of one to three characters, a character at times cut into two tokens."""
    text = draw(st.text(alphabet="ab", max_size=14))
    offsets: list[tuple[int, int]] = []
    at = 0
    while at < len(text):
        stop = min(len(text), at + draw(st.integers(1, 3)))
        offsets += [(at, stop)] * draw(st.sampled_from([1, 1, 2] if stop - at == 1 else [1]))
        at = stop
    return text, offsets


@given(cut_texts(), st.lists(st.text(alphabet="ab", min_size=1, max_size=4), unique=True, max_size=3), st.data())
def test_every_token_that_touches_a_text_is_marked(
    case: tuple[str, list[tuple[int, int]]], texts: list[str], data: st.DataObject
) -> None:
    text, offsets = case
    offsets = offsets[: data.draw(st.integers(0, len(offsets)), label="context")]
    expected = []
    for literal in texts:
        for at in range(len(text)):
            if text[at : at + len(literal)] == literal:
                touched = [i for i, (a, b) in enumerate(offsets) if a < at + len(literal) and b > at]
                if touched:
                    assert touched == list(range(touched[0], touched[-1] + 1))
                    expected.append((f"text:{literal}", touched[0], touched[-1] + 1))
    assert list(mark_texts(text, texts, offsets)) == expected


def test_occurrences_that_overlap_are_all_marked() -> None:
    offsets = [(i, i + 1) for i in range(5)]
    assert list(mark_texts("ababa", ["aba"], offsets)) == [("text:aba", 0, 3), ("text:aba", 2, 5)]


def test_tokens_without_characters_do_not_tear_a_text() -> None:
    offsets = [(0, 0), (0, 2), (2, 2), (2, 4), (4, 6)]
    assert list(mark_texts("abcdef", ["bc", "a", "f"], offsets)) == [
        ("text:bc", 1, 4),
        ("text:a", 1, 3),
        ("text:f", 4, 5),
    ]


class TestWhitelist:
    SEGMENTS = (Segment("defense", 2, 5), Segment("directive", 5, 8), Segment("defense", 8, 9))
    MARKS = (Segment("special", 0, 2), Segment("special", 9, 10), Segment("text:be kind", 5, 7))

    def ranges(self, *entries: str, n: int = 10) -> list[tuple[int, int]]:
        return whitelist(self.SEGMENTS, self.MARKS, entries, n)

    def test_segments_special_tokens_and_texts(self) -> None:
        assert self.ranges() == []
        assert self.ranges("defense") == [(2, 5), (8, 9)]
        assert self.ranges("special", "text:be kind") == [(0, 2), (9, 10), (5, 7)]

    def test_positions(self) -> None:
        assert self.ranges("0", "3:5", "7:") == [(0, 1), (3, 5), (7, 10)]

    def test_positions_end_where_the_context_does(self) -> None:
        assert self.ranges("9", "8:12", "0:99", "9:") == [(9, 10), (8, 10), (0, 10), (9, 10)]

    @pytest.mark.parametrize("entry", ["10", "99999", "10:", "10:12", "99999:100000"])
    def test_a_position_beyond_the_context(self, entry: str) -> None:
        start = entry.partition(":")[0]
        with pytest.raises(UsageError, match=f"^keep={entry} begins at position {start}, beyond the context of 10 tok"):
            self.ranges("0", entry)

    def test_a_context_may_have_no_special_token(self) -> None:
        assert whitelist(self.SEGMENTS, (), ["special"], 10) == []

    def test_an_unknown_name(self) -> None:
        with pytest.raises(UsageError) as error:
            self.ranges("defence")
        assert str(error.value) == (
            "unknown segment in keep 'defence'. Did you mean 'defense'? Allowed: defense, directive, special."
        )

    def test_a_text_that_is_not_there(self) -> None:
        with pytest.raises(UsageError, match=f"this text is not in the context: '{'x' * 60}'$"):
            self.ranges("text:" + "x" * 99)


class TestOfPrompts:
    """From `keep` to tokens, on a tokenizer of bytes and three special tokens."""

    DOC = tiny.chat_doc("Be kind. Say é. Be kind.", "Be kind?", ("directive", "Be kind."))

    def kept(self, keep: object = None, keep_text: object = None, doc: dict | None = None) -> list[str]:
        entries = parse_keep(keep, keep_text)
        prompter = Prompter(tiny.tokenizer(), PromptSettings())
        prompt = prompter.prompt(
            prompter.divide("Be kind. Say é. Be kind.Be kind?", doc or self.DOC), literals(entries)
        )
        found = whitelist(prompt.segments, prompt.marks, entries, prompt.context_length)
        return [prompter.tokenizer.decode(list(prompt.tokens[start:stop])) for start, stop in found]

    def test_every_occurrence_in_the_context_and_none_in_the_tail(self) -> None:
        assert self.kept(keep_text="Be kind") == ["Be kind", "Be kind"]
        assert self.kept("directive", keep_text=["Say é", " kind. "]) == ["Be kind.", "Say é", "kind.", "kind."]

    def test_a_text_of_the_question_is_not_in_the_context(self) -> None:
        with pytest.raises(UsageError, match="not in the context: 'Be kind\\?'"):
            self.kept(keep_text="Be kind?")

    def test_special_tokens(self) -> None:
        assert self.kept("special") == ["<|start|>", "<|end|>"]

    def test_special_tokens_of_the_tail_are_not_marked(self) -> None:
        prompter = Prompter(tiny.tokenizer(), PromptSettings())
        prompt = prompter.prompt(prompter.divide("a<|end|><|end|>", {}))
        assert prompt.context_length == 2 and prompt.marks == (("special", 1, 2),)

    def test_neighbouring_special_tokens_and_positions(self) -> None:
        tokenizer = tiny.tokenizer()
        prompter = Prompter(tokenizer, PromptSettings())
        prompt = prompter.prompt(prompter.divide("<|bos|><|start|>a<|end|>b", {}))
        assert prompt.marks == (("special", 0, 2), ("special", 3, 4))
        assert whitelist(prompt.segments, prompt.marks, ["1:3", "special"], prompt.context_length) == [
            (1, 3),
            (0, 2),
            (3, 4),
        ]

    def test_the_last_token_is_never_of_the_context(self) -> None:
        prompter = Prompter(tiny.tokenizer(), PromptSettings())
        assert prompter.prompt(prompter.divide("abc", {}), ["bc", "c"]).marks == (("text:bc", 1, 2),)

    def test_tokens_that_a_model_only_flags_as_special(self) -> None:
        """As Llama 3 does with those around a role."""
        tokenizer = tiny.tokenizer()
        tokenizer.add_tokens(["<|header|>"], special_tokens=True)
        header = tokenizer.convert_tokens_to_ids("<|header|>")
        assert header not in tokenizer.all_special_ids
        prompter = Prompter(tokenizer, PromptSettings())
        assert prompter.prompt(prompter.divide("a<|header|>bc", {})).marks == (("special", 1, 2),)


def test_truncation_moves_marks() -> None:
    marks = (Segment("special", 0, 2), Segment("text:a", 3, 6))
    prompt = Prompt(tuple(range(10)), 8, (Segment("a", 1, 3),), marks=marks)
    assert truncate(prompt, 9).marks == (("special", 0, 1), ("text:a", 2, 5))
    assert truncate(prompt, 6).marks == (("text:a", 0, 2),)
    assert truncate(prompt, 2).marks == ()

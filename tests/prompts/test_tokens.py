"""From characters to tokens, and tokens cut from the left."""

from __future__ import annotations

import pytest
from chat_templates import (
    encode,
    make_tokenizer,
)
from hypothesis import given
from hypothesis import strategies as st

from fairkv_eval.errors import UsageError
from fairkv_eval.prompts.division import Text
from fairkv_eval.prompts.segments import Segment
from fairkv_eval.prompts.tokens import Prompt, tokenize, truncate


class TestTokenize:
    def test_a_token_that_straddles_the_boundary_goes_to_the_tail(self) -> None:
        tokenizer = make_tokenizer((".", "Ċ"))
        text = Text("One.\nTwo", context_end=3)
        prompt = tokenize(text, lambda t: encode(t, tokenizer))
        assert len(prompt.tokens) == 7 and prompt.context_length == 3
        # White space after the last words of a context does not keep them out of it.
        for end in (4, 5):
            assert tokenize(Text("One.\nTwo", end), lambda t: encode(t, tokenizer)).context_length == 4
        assert tokenize(Text("One\n\nTwo", 4), encode).context_length == 4

    def test_a_token_belongs_to_the_segment_of_its_first_character_that_is_not_white_space(self) -> None:
        tokenizer = make_tokenizer(("Ġ", "b"), (".", "Ċ"), ("Ċ", "Ġb"))
        text = Text("a. b.\n b ?", segments=(Segment("a", 0, 2), Segment("b", 3, 5), Segment("c", 7, 8)))
        prompt = tokenize(text, lambda t: encode(t, tokenizer))
        symbols = tokenizer.convert_ids_to_tokens(list(prompt.tokens))
        assert symbols == ["a", ".", "Ġb", ".Ċ", "Ġb", "Ġ", "?"]
        assert prompt.segments == (Segment("a", 0, 2), Segment("b", 2, 4), Segment("c", 4, 5))

    @pytest.mark.parametrize("space", [" ", "\n", "  ", " \n\t "])
    def test_joined_segments_and_paragraphs_keep_their_first_words(self, space: str) -> None:
        symbols = {" ": "Ġ", "\n": "Ċ", "\t": "ĉ"}
        first, *merges = [symbols[c] for c in space] + ["W"]
        pairs = []
        for symbol in merges:
            pairs.append((first, symbol))
            first += symbol
        words = f"x.{space}W.{space}W!?"
        tokenizer = make_tokenizer(*pairs)
        places = [i for i, c in enumerate(words) if c == "W"]
        text = Text(words, segments=tuple(Segment(str(i), i, i + 2) for i in places))
        prompt = tokenize(text, lambda t: encode(t, tokenizer))
        assert [s[1:] for s in prompt.segments] == [(2, 4), (4, 6)] and len(prompt.tokens) == 7

    def test_a_declared_segment_that_shares_a_token(self) -> None:
        tokenizer = make_tokenizer((".", "B"))
        for end, segment, message in (
            (
                2,
                Segment("a", 0, 2),
                "'a' is not whole in the context of 1 tokens: its last token also holds",
            ),
            (None, Segment("b", 2, 3), r"'b' has no token of its own in the context"),
            (None, Segment("c", 3, 4), r"'c' has no token of its own in the context"),
        ):
            with pytest.raises(UsageError, match=message):
                tokenize(Text("A.B!", end, (segment,), declared=True), lambda t: encode(t, tokenizer))

    def test_a_token_belongs_to_the_segment_in_which_it_starts(self) -> None:
        tokenizer = make_tokenizer((".", "B"))
        text = Text("A.Bb?", segments=(Segment("a", 0, 2), Segment("b", 2, 4)))
        prompt = tokenize(text, lambda t: encode(t, tokenizer))
        assert tokenizer.convert_ids_to_tokens(list(prompt.tokens)) == ["A", ".B", "b", "?"]
        assert prompt.segments == (Segment("a", 0, 2), Segment("b", 2, 3))

    def test_a_segment_of_no_token_is_left_out(self) -> None:
        tokenizer = make_tokenizer((".", "B"))
        text = Text("A.B!", segments=(Segment("a", 0, 2), Segment("b", 2, 3)))
        assert tokenize(text, lambda t: encode(t, tokenizer)).segments == (Segment("a", 0, 2),)

    @pytest.mark.parametrize("context", [None, 0, 2, 3, 99])
    def test_one_token_is_always_left(self, context: int | None) -> None:
        prompt = tokenize(Text("abc", context), encode)
        assert prompt.context_length == {0: 0, 2: 2}.get(context, 2)
        assert tokenize(Text("a"), encode).context_length == 0

    def test_characters_of_several_tokens(self) -> None:
        text = "Sé 😀!"
        start = text.index("😀")
        prompt = tokenize(Text(text, start + 1, (Segment("smile", start, start + 1),)), encode)
        assert prompt.segments == (Segment("smile", 4, 8),) and prompt.context_length == 8
        assert tokenize(Text(text, start), encode).context_length == 4

    def test_special_tokens_without_characters_belong_to_no_segment(self) -> None:
        def with_bos(text: str) -> tuple[list[int], list[tuple[int, int]]]:
            tokens, offsets = encode(text)
            return [0, *tokens], [(0, 0), *offsets]

        prompt = tokenize(Text("abc", 2, (Segment("a", 0, 1),)), with_bos)
        assert prompt.context_length == 3 and prompt.segments == (Segment("a", 1, 2),)


class TestTruncate:
    PROMPT = Prompt(tuple(range(10)), 8, (Segment("a", 1, 3), Segment("b", 4, 7)))

    def test_what_fits_is_left_alone(self) -> None:
        assert truncate(self.PROMPT, 10) is self.PROMPT

    def test_segments_move_shrink_and_go(self) -> None:
        assert truncate(self.PROMPT, 9) == Prompt(
            tuple(range(1, 10)), 7, (Segment("a", 0, 2), Segment("b", 3, 6)), truncated=1
        )
        assert truncate(self.PROMPT, 8).segments == (Segment("a", 0, 1), Segment("b", 2, 5))
        assert truncate(self.PROMPT, 7).segments == (Segment("b", 1, 4),)
        assert truncate(self.PROMPT, 4).segments == (Segment("b", 0, 1),)
        assert truncate(self.PROMPT, 2) == Prompt((8, 9), 0, (), truncated=8)

    @given(st.integers(1, 12))
    def test_names_keep_their_tokens(self, longest: int) -> None:
        cut = truncate(self.PROMPT, longest)
        assert len(cut.tokens) == min(longest, 10) and cut.truncated == 10 - len(cut.tokens)
        assert cut.context_length == sum(token < self.PROMPT.context_length for token in cut.tokens)
        for segment in self.PROMPT.segments:
            left = [t for t in range(segment.start, segment.stop) if t in cut.tokens]
            found = [list(cut.tokens[s.start : s.stop]) for s in cut.segments if s.name == segment.name]
            assert found == ([left] if left else [])

"""Named ranges of a text: declared parts, few-shot examples, paragraphs, sentences."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fairkv_eval.errors import UsageError
from fairkv_eval.prompts.segments import locate, paragraphs, sentences, shots


class TestLocate:
    def named_texts(self, text: str, *parts: tuple[str, str]) -> list[tuple[str, str]]:
        return [(s.name, text[s.start : s.stop]) for s in locate(text, parts)]

    def test_the_same_name_twice(self) -> None:
        text = "Guard this: THE SECRET. Never tell."
        parts = [("defense", "Guard this:"), ("directive", "THE SECRET."), ("defense", "Never tell.")]
        assert self.named_texts(text, *parts) == parts

    def test_the_same_words_twice(self) -> None:
        assert [s.start for s in locate("No. Yes. No.", [("a", "No."), ("b", "No.")])] == [0, 9]

    def test_white_space_around_a_part_does_not_count(self) -> None:
        assert self.named_texts("[be kind]", ("a", "\n be kind  ")) == [("a", "be kind")]

    def test_empty_parts_are_skipped(self) -> None:
        assert self.named_texts("be kind", ("a", ""), ("b", " \n"), ("c", "kind")) == [("c", "kind")]

    @pytest.mark.parametrize(
        "parts", [[("a", "cruel")], [("b", "kind"), ("a", "be")], [("b", "be kind"), ("a", "kind")]]
    )
    def test_absent_or_out_of_order_is_an_error_that_names_it(self, parts: list[tuple[str, str]]) -> None:
        with pytest.raises(UsageError, match=r"segment 'a' is not in the prompt \(or not in the declared order\)"):
            list(locate("be kind", parts))


def shots_by_hand(text: str, delimiter: str) -> list[tuple[str, str]]:
    pieces, piece, at = [], "", 0
    while at < len(text):
        if text[at : at + len(delimiter)] == delimiter:
            pieces.append(piece)
            piece, at = "", at + len(delimiter)
        else:
            piece, at = piece + text[at], at + 1
    words = [p.strip() for p in [*pieces, piece] if p.strip()]
    return [(f"shot_{i}" if i < len(words) else "question", w) for i, w in enumerate(words, 1)]


class TestShots:
    @given(st.text(alphabet="ab \n#", max_size=30), st.sampled_from(["\n\n", "#", "\n#", "##"]))
    @example("\n\n a \n\n\n\nb\n\n\n", "\n\n")
    @settings(max_examples=200)
    def test_pieces_between_delimiters(self, text: str, delimiter: str) -> None:
        found = shots(text, delimiter)
        assert [(s.name, text[s.start : s.stop]) for s in found] == shots_by_hand(text, delimiter)
        edges = [edge for s in found for edge in (s.start, s.stop)]
        assert edges == sorted(edges)


def paragraphs_by_lines(text: str) -> list[str]:
    blocks: list[list[str]] = []
    open_paragraph = False
    for line in text.split("\n"):
        if not line.strip():
            open_paragraph = False
        elif open_paragraph:
            blocks[-1].append(line)
        else:
            blocks.append([line])
            open_paragraph = True
    return ["\n".join(lines).strip() for lines in blocks]


class TestParagraphsAndSentences:
    @given(st.text(alphabet="ab. \n\té", max_size=60))
    @example("\n\n a\n \n\nb\nc\n")
    @settings(max_examples=200)
    def test_paragraphs_are_runs_of_lines(self, text: str) -> None:
        found = list(paragraphs(text))
        assert [text[s.start : s.stop].strip() for s in found] == paragraphs_by_lines(text)
        assert [s.name for s in found] == [f"paragraph_{i}" for i in range(1, len(found) + 1)]
        assert all(not text[s.start].isspace() for s in found)

    def test_line_ends_of_another_system(self) -> None:
        assert len(list(paragraphs("one\r\nstill\r\n\r\ntwo"))) == 2

    def test_sentences(self) -> None:
        text = "Dr. Smith left at 3.15 p.m. today. Why? Nobody\nknows!"
        assert [(s.name, text[s.start : s.stop]) for s in sentences(text)] == [
            ("sentence_1", "Dr. Smith left at 3.15 p.m. today."),
            ("sentence_2", "Why?"),
            ("sentence_3", "Nobody\nknows!"),
        ]

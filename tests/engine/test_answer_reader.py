"""Generations end at the token that completes a stop string, whatever tokens add to the text before them."""

import random

import pytest

from fairkv_eval.engine.answer_reader import AnswerReader
from fairkv_eval.engine.batch import Row
from fairkv_eval.engine.jobs import Generation
from fairkv_eval.engine.sampling import GREEDY, Sampler

BYTES = ["a", "b", " ", "\n", "<|end|>", "|>", "end", "é".encode()[:1], "é".encode()[1:], "🙂".encode()[:2]]
BYTES += ["🙂".encode()[2:], "b<|", "d|", ">", "\n\n"]
PIECES = ["▁", "▁a", "a", "b", "▁ab", ".", "▁.", "\n", "é", "b▁"]


def of_bytes(tokens) -> str:
    pieces = [BYTES[token] for token in tokens]
    return b"".join(p if isinstance(p, bytes) else p.encode() for p in pieces).decode(errors="replace")


def of_pieces(tokens) -> str:
    """White space in front is dropped, as SentencePiece does."""
    return "".join(PIECES[token] for token in tokens).replace("▁", " ").lstrip(" ")


@pytest.mark.parametrize(
    ("decode", "size", "stops"),
    [
        *((of_bytes, len(BYTES), stops) for stops in [("<|end|>",), ("é",), ("🙂", "ab"), ("\n\n",), ("a b", "end|>")]),
        *((of_pieces, len(PIECES), stops) for stops in [("ab a",), ("a.",), (" a ",), (" b", "é"), ("a\n",)]),
    ],
)
def test_a_row_ends_exactly_where_a_stop_string_first_stands_in_its_text(decode, size, stops) -> None:
    draw, ended = random.Random(0), 0
    reader = AnswerReader(decode)
    longest = max(len(stop.encode()) for stop in stops)
    for _ in range(200):
        row = Row(0, Generation(40, stops), 0, Sampler(GREEDY, ()), {})
        for _ in range(39):
            row.tokens.append(draw.randrange(size))
            text = decode(row.tokens[-longest - 4 :])
            assert reader.ended(row) == any(stop in text for stop in stops), row.tokens
            if reader.ended(row):
                ended += 1
                break
    assert ended > 20


def test_text_is_decoded_only_after_tokens_that_may_end_a_stop_string() -> None:
    decoded = []

    def decode(tokens) -> str:
        decoded.append(tuple(tokens))
        return of_bytes(tokens)

    reader, row = AnswerReader(decode), Row(0, Generation(99, ("<|end|>",)), 0, Sampler(GREEDY, ()), {})
    for token in [0, 1, 0, 1, 0, 1, 4]:
        row.tokens.append(token)
        assert reader.ended(row) == (token == 4)
    assert decoded == [(0,), (1,), (4,), tuple(row.tokens)]
    other = Row(1, Generation(99, ("another stop string",)), 0, Sampler(GREEDY, ()), {}, tokens=[0, 1])
    assert not reader.ended(other) and len(decoded) == 4  # a token's text is read once, whatever ends a row


def test_an_answer_is_cut_if_it_ends_only_because_it_is_long() -> None:
    reader, want = AnswerReader(of_bytes, eos=[9]), Generation(3, ("<|end|>",))
    assert reader.cut(want, [0, 1, 0])
    assert not reader.cut(want, [0, 1])
    assert not reader.cut(want, [0, 1, 9])  # it ended by itself with its last token
    assert not reader.cut(want, [0, 1, 4]) and "<|end|>" in of_bytes([0, 1, 4])

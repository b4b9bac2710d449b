"""Words of any script: the published scorer's where the text is Latin, and words or characters elsewhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.tokenizers import DefaultTokenizer

from fairkv_eval.documents.words import Words, check_words, has_words
from fairkv_eval.errors import DataError

WORDS = Words()
PUBLISHED = DefaultTokenizer(use_stemmer=True)
LATIN = st.characters(max_codepoint=0x24F, blacklist_characters="µ") | st.sampled_from("‘’“”–…•™½²ªº①ＡKﬁ ʼ✓🙂€ẞ")


@given(st.text(LATIN))
def test_latin_text_has_the_published_tokens(text: str) -> None:
    assert WORDS.tokenize(text) == PUBLISHED.tokenize(text)


@given(st.text())
def test_the_published_tokens_are_always_among_them_in_order(text: str) -> None:
    tokens = iter(WORDS.tokenize(text))
    assert all(token in tokens for token in PUBLISHED.tokenize(text))


@given(st.text())
def test_has_words_means_a_token(text: str) -> None:
    assert has_words(text) is bool(WORDS.tokenize(text))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Никогда не говори пароль.", ["никогда", "не", "говори", "пароль"]),
        ("你是一个GPT助手。", ["你", "是", "一", "个", "gpt", "助", "手"]),
        ("秘密は「時々」コーヒー", ["秘", "密", "は", "時", "々", "コ", "ー", "ヒ", "ー"]),
        ("비밀을 지켜라", ["비밀을", "지켜라"]),
        ("เก็บไว้", ["เ", "ก็", "บ", "ไ", "ว้"]),
        ("गुप्त रखो", ["गुप्त", "रखो"]),
        ("לעולם אל תספר", ["לעולם", "אל", "תספר"]),
        ("running over the naïve π", ["run", "over", "the", "na", "ve", "π"]),
    ],
)
def test_words_of_other_scripts(text: str, tokens: list[str]) -> None:
    assert WORDS.tokenize(text) == tokens


@pytest.mark.parametrize("text", ["***", "— …", "🙂"])
def test_a_text_without_words_is_an_error_with_the_key(text: str) -> None:
    doc = {"key": 7, "secret": "鯨", "directive": "Say 鯨.", "system": "Say 鯨.", "defense": ""}
    for field in ("secret", "defense", "directive"):
        with pytest.raises(DataError, match=rf"document with key 7: its {field} .* has no words"):
            check_words({**doc, field: text})
    with pytest.raises(DataError, match="key 7: its secret '' has no words"):
        check_words({**doc, "secret": ""})
    check_words(doc)

"""Sequences without tokens of their own: scored behind the prefix token, as `hf` does, or refused."""

from __future__ import annotations

import pytest
import tiny
from lm_eval.models.huggingface import HFLM
from tokenizers import processors

from fairkv_eval.engine.jobs import Job, LogLikelihood
from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.model import FairKV
from fairkv_eval.prompts.tokens import Prompt

BESIDE = ("Some other words stand here.", " and more")


@pytest.fixture(scope="module")
def lm() -> FairKV:
    return FairKV(tiny.model(), tokenizer=tiny.tokenizer(), batch_size=8, device="cpu")


@pytest.fixture(scope="module")
def hf() -> HFLM:
    return HFLM(tiny.model(), tokenizer=tiny.tokenizer(), device="cpu")


def score(lm: HFLM, *pairs: tuple[str, str]) -> list[tuple[float, bool]]:
    return lm.loglikelihood([tiny.scoring(*pair) for pair in pairs], disable_tqdm=True)


@pytest.mark.parametrize("pair", [("\n", "abc"), (" ", "abc"), ("  \n", "x"), ("\n", "\n")])
def test_white_space_alone_is_scored_behind_the_prefix_token(lm: FairKV, hf: HFLM, pair: tuple[str, str]) -> None:
    # What `hf` gives for the same tokens behind an empty context, which it does not refuse.
    (expected,) = score(hf, ("", pair[0] + pair[1]))
    assert score(lm, pair)[0][0] == pytest.approx(expected[0], abs=1e-4)


@pytest.mark.parametrize("pair", [("\n", "abc"), (" ", "abc"), ("", "abc")])
def test_a_score_does_not_depend_on_its_neighbours(lm: FairKV, pair: tuple[str, str]) -> None:
    (alone,) = score(lm, pair)
    for pairs in ([pair, BESIDE], [BESIDE, pair], [BESIDE, pair, BESIDE]):
        assert score(lm, *pairs)[pairs.index(pair)][0] == pytest.approx(alone[0], abs=1e-4)


def test_an_empty_prompt_generates_behind_the_prefix_token(lm: FairKV) -> None:
    requests = [tiny.generation(text, max_gen_toks=5) for text in ("", BESIDE[0])]
    (alone,) = lm.generate_until(requests[:1], disable_tqdm=True)
    assert lm.generate_until(requests, disable_tqdm=True)[0] == alone
    assert lm.generate_until(requests[::-1], disable_tqdm=True)[1] == alone


def test_a_continuation_without_a_token_of_its_own_is_refused(lm: FairKV, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a tokenizer that joins the last letter of a word to it would give it."""
    monkeypatch.setattr(lm, "_encode_pair", lambda context, continuation: (list(lm.tok_encode(context)), []))
    with pytest.raises(UsageError, match=r"doc .*the continuation 'y' has no token of its own"):
        score(lm, ("The cit", "y"))


def test_no_job_reads_logits_of_another_sequence() -> None:
    with pytest.raises(ValueError, match="1 predictions are read of a tail of 0 tokens"):
        Job(Prompt((), 0), Policy(), LogLikelihood((5,)), "task t, doc 3")
    with pytest.raises(ValueError, match="doc 3: 0 predictions"):
        Job(Prompt((1, 2), 0), Policy(), LogLikelihood(()), "task t, doc 3")


def test_a_log_likelihood_cannot_follow_a_decode_budget() -> None:
    lm = FairKV(tiny.model(), tokenizer=tiny.tokenizer(), device="cpu", press="knorm", decode_budget=8)
    with pytest.raises(UsageError, match="decode_budget=8 evicts while an answer is generated"):
        score(lm, BESIDE)


def test_a_custom_prefix_token_does_not_double_bos_in_generation() -> None:
    """A tokenizer that adds BOS, as Llama's does, and a prompt that begins with it, as its chat template renders it."""
    tokenizer = tiny.tokenizer()
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{tokenizer.bos_token} $A", special_tokens=[(tokenizer.bos_token, bos)]
    )
    lm = FairKV(tiny.model(), tokenizer=tokenizer, device="cpu", prefix_token_id=5)
    for text in ("Words.", f"{tokenizer.bos_token}Words."):
        tokens = lm.job(tiny.generation(text)).prompt.tokens
        assert tokens == (bos, *tokenizer("Words.", add_special_tokens=False)["input_ids"])
        assert list(tokens) == lm.tok_batch_encode([text])[0][0].tolist()

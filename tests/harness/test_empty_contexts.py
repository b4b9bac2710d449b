"""An evicting policy whose contexts have nothing to evict is refused before anything runs, with the reason."""

from __future__ import annotations

from typing import Any

import pytest
import tiny

from fairkv_eval.errors import UsageError
from fairkv_eval.model import FairKV

NOTE = "contexts of at most one token, which leave nothing to evict"
LONG = "A text of some words."


def fairkv(**arguments: Any) -> FairKV:
    given = {"press": "knorm", "ratio": 0.9, **arguments}
    return FairKV(tiny.model(), tokenizer=tiny.tokenizer(), batch_size=4, **given)


def generation(text: str, doc_id: int = 0) -> Any:
    return tiny.generation(text, doc_id=doc_id, max_gen_toks=2)


@pytest.mark.parametrize("arguments", [{}, {"ratio": 0.0, "budget": 3}, {"fair": True}])
def test_a_run_of_empty_contexts_is_refused(arguments: dict[str, Any]) -> None:
    message = (
        "press=knorm has nothing to evict: no context has more than one token, and the longest prompt has 2; "
        "such short prompts need no press"
    )
    with pytest.raises(UsageError, match=message):
        fairkv(**arguments).generate_until([generation("a"), generation("bc", 1)])
    with pytest.raises(UsageError, match="and the longest prompt has 1; such short"):
        fairkv(**arguments).loglikelihood([tiny.scoring("", "some words")])


def test_longer_prompts_have_a_way_out() -> None:
    lm = fairkv(scope="system", chat="on", segments="paragraphs")
    lm.tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(UsageError, match=r"the longest prompt has 22; scope=prompt makes the whole prompt the context"):
        lm.generate_until([generation(LONG)])


def test_one_context_of_the_run_is_enough() -> None:
    lm = fairkv()
    assert len(lm.generate_until([generation("a"), generation(LONG, 1)])) == 2
    assert len(lm.loglikelihood([tiny.scoring("", "some words")])) == 1
    assert lm.get_model_info()["fairkv"]["notes"][NOTE] == 2


@pytest.mark.parametrize("arguments", [{"ratio": 0.0}, {"press": "none", "ratio": 0.0}, {"decode_budget": 2}])
def test_other_policies_run(arguments: dict[str, Any]) -> None:
    assert len(fairkv(**arguments).generate_until([generation("a")])) == 1


def test_what_other_processes_have_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = fairkv()
    monkeypatch.setattr(FairKV, "world_size", 2)
    assert len(lm.generate_until([generation("a")])) == 1


def test_a_run_that_evicted_nothing_says_so(caplog: pytest.LogCaptureFixture) -> None:
    lm = fairkv()
    rolling = tiny.scoring("some words", "")
    rolling.arguments = ("some words",)
    lm.loglikelihood_rolling([rolling])
    lm.get_model_info()
    assert "press=knorm evicted nothing from any context of this run" in caplog.text
    caplog.clear()
    lm.generate_until([generation(LONG)])
    lm.get_model_info()
    assert "evicted nothing" not in caplog.text

"""Answers are the harness's own types, and carry telemetry."""

from __future__ import annotations

import json
import pickle

from fairkv_eval.harness.response import LogLikelihoodResponse


def test_answer_is_a_tuple_that_survives_pickling() -> None:
    answer = LogLikelihoodResponse(-1.5, True, {"continuation_tokens": 2})
    again = pickle.loads(pickle.dumps(answer))
    logprob, greedy = again
    assert again == (-1.5, True) == (logprob, greedy) and again.telemetry == {"continuation_tokens": 2}
    assert json.loads(json.dumps(answer)) == [-1.5, True]

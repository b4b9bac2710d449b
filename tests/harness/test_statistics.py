"""The statistics of a model: measured once, kept under all that decides them, and read from files of it alone."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from layer_recorder import record
from safetensors.torch import save_file

from fairkv_eval.engine import measure as measuring
from fairkv_eval.errors import UsageError
from fairkv_eval.eviction import model_statistics, statistics
from fairkv_eval.eviction.model_statistics import ModelStatistics
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.harness import statistics as harness_statistics
from fairkv_eval.model import FairKV

TEXT = "A short text of our own, which is long enough to have some queries in it."


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test, and a short text."""
    monkeypatch.setenv("FAIRKV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "statistics"


@pytest.fixture(autouse=True)
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was measured, pass by pass."""
    labels: list[str] = []

    def counted(engine: Any, tokens: Any, rule: Any, label: str, *rest: Any) -> Any:
        labels.append(f"{rule.func.__name__} of {len(tokens)} tokens")
        return measuring.measure(engine, tokens, rule, label, *rest)

    monkeypatch.setattr(harness_statistics, "measure", counted)
    return labels


@pytest.fixture(autouse=True)
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    monkeypatch.setattr(model_statistics, "TEXT", path)
    return path


def fairkv(seed: int = 0, **arguments: Any) -> FairKV:
    chosen = {"press": "qfilter", "ratio": 0.5, **arguments}
    return FairKV(tiny.model(seed=seed), tokenizer=tiny.tokenizer(), **chosen)


def known(lm: FairKV) -> ModelStatistics:
    press = lm.statistics.bound(lm.policy).press
    assert press is not None and press.known_statistics is not None
    return press.known_statistics


def write(lm: FairKV, path: Path, about: dict[str, str] | None = None, **tensors: torch.Tensor) -> str:
    """A file of this model's statistics, with what a test has otherwise."""
    whole = ModelStatistics({**known(lm).tensors, **tensors}, {**known(lm).about, **(about or {})})
    return str(whole.write(path))


def test_they_are_what_the_rule_makes_of_each_layer() -> None:
    lm = fairkv()
    layers = record(tiny.model(), lm.tok_encode(TEXT))
    for layer in layers:
        expected = statistics.qfilter(layer)["filters"].float()
        torch.testing.assert_close(known(lm).of(layer)["filters"], expected, atol=1e-5, rtol=1e-4)


def test_a_text_longer_than_a_pass_runs_in_chunks(text: Path, cache: Path) -> None:
    whole = known(fairkv())
    for file in cache.glob("*.safetensors"):
        file.unlink()
    chunked = known(fairkv(max_prefill_tokens=20))
    torch.testing.assert_close(chunked.tensors["filters"], whole.tensors["filters"], atol=1e-5, rtol=1e-4)


def test_a_text_longer_than_the_model_is_cut(text: Path, passes: list[str]) -> None:
    text.write_text(TEXT * 50)
    fairkv(max_length=100)
    assert passes == ["qfilter of 100 tokens"]


def test_they_are_measured_once(passes: list[str], cache: Path) -> None:
    first, second = fairkv(), fairkv()
    assert known(first).sha256 == known(second).sha256 and len(passes) == 1
    assert len([*cache.glob("*.safetensors")]) == 1


def test_policies_that_differ_in_other_things_share_them(passes: list[str]) -> None:
    lm = fairkv()
    others = [{"ratio": 0.9}, {"fair": True}, {"press": "adakv", "base": "qfilter"}]
    for other in others:
        lm.statistics.bound(Policy.of({"press": "qfilter", "ratio": 0.5, **other}))
    assert len(passes) == 1


def test_parameters_of_the_rule_tell_them_apart(passes: list[str]) -> None:
    arguments = {"press": "expected_attention_stats"}
    lm = fairkv(**arguments)
    for values in ({"horizon": 9}, {"sinks": 5}, {"sinks": 5, "horizon": 9}):
        lm.statistics.bound(Policy.of({**arguments, "ratio": 0.5, **values}))
    assert len(passes) == 2


def test_another_model_has_others(passes: list[str]) -> None:
    assert known(fairkv()).sha256 != known(fairkv(seed=1)).sha256
    assert len(passes) == 2


def test_an_edited_text_is_measured(text: Path, passes: list[str]) -> None:
    before = known(fairkv()).sha256
    text.write_text(TEXT.upper())
    assert known(fairkv()).sha256 != before and len(passes) == 2
    text.write_text(TEXT)
    assert known(fairkv()).sha256 == before and len(passes) == 2


def test_an_edited_rule_is_measured(tmp_path: Path, passes: list[str]) -> None:
    rule = tmp_path / "statistics_of_mine.py"
    rule.write_text("def mine(layer):\n    return {'filters': layer.k.mean(1)}\n")
    yaml = tmp_path / "mine.yaml"
    lines = ["press: mine", "score: !function fairkv_eval.scores.qfilter"]
    yaml.write_text("\n".join([*lines, "statistics: !function statistics_of_mine.mine"]))
    before = known(fairkv(press=str(yaml))).sha256
    assert known(fairkv(press=str(yaml))).sha256 == before and passes == ["mine of 73 tokens"]
    rule.write_text("def mine(layer):\n    return {'filters': layer.k.mean(1) + 1}\n")
    assert known(fairkv(press=str(yaml))).sha256 != before and len(passes) == 2


def test_the_result_names_them() -> None:
    lm = fairkv()
    described = lm.get_model_info()["fairkv"]["statistics"]
    assert described["sha256"] == known(lm).sha256
    assert described["model"] == lm.statistics.model_sha256 and described["statistics"] == "qfilter"
    assert "statistics" not in fairkv(press="tova").get_model_info()["fairkv"]


def test_a_bar_shows_on_the_first_process_alone(
    capfd: pytest.CaptureFixture[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = fairkv()
    assert "Measuring statistics of press 'qfilter'" in capfd.readouterr().err
    monkeypatch.setattr(FairKV, "rank", 1)
    lm.statistics.bound(Policy.of({"press": "expected_attention_stats", "ratio": 0.5}))
    assert "Measuring" not in capfd.readouterr().err and len([*cache.glob("*.safetensors")]) == 2


def test_a_model_that_is_not_identified_is_measured_each_time(passes: list[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(FairKV, "model_identity", {"sources": {"pretrained": None}})
    assert known(fairkv()).sha256 == known(fairkv()).sha256
    assert len(passes) == 2


class TestFiles:
    def test_a_file_takes_the_place_of_measuring(self, tmp_path: Path, passes: list[str]) -> None:
        lm = fairkv()
        filters = torch.randn(3, 2, 16)
        path = str(lm.statistics.write(str(tmp_path / "mine.safetensors"), "qfilter", {"filters": filters}))
        other = fairkv(statistics=path)
        assert torch.equal(known(other).tensors["filters"], filters)
        assert other.policy.press_digest != lm.policy.press_digest
        assert passes == ["qfilter of 73 tokens", "qfilter of 16 tokens"]  # the second shows how they are shaped

    def test_another_content_is_another_policy(self, tmp_path: Path) -> None:
        lm = fairkv()
        digests = []
        for number in (1.0, 2.0):
            path = write(lm, tmp_path / "mine.safetensors", filters=torch.full((3, 2, 16), number))
            digests.append(fairkv(statistics=path).policy.press_digest)
        assert digests[0] != digests[1]

    def test_a_file_of_another_model_is_refused(self, tmp_path: Path) -> None:
        path = write(fairkv(), tmp_path / "mine.safetensors")
        with pytest.raises(UsageError, match=r"statistics='.*mine\.safetensors' .*its model is '\w{64}', not '\w{64}'"):
            fairkv(seed=1, statistics=path)

    def test_a_file_of_another_rule_is_refused(self, tmp_path: Path) -> None:
        path = write(fairkv(), tmp_path / "mine.safetensors")
        with pytest.raises(UsageError, match=r"its statistics is 'qfilter', not 'expected_attention'"):
            fairkv(press="expected_attention_stats", statistics=path)

    def test_a_file_that_does_not_say_what_it_is_is_refused(self, tmp_path: Path) -> None:
        save_file({"filters": torch.zeros(3, 2, 16)}, tmp_path / "mine.safetensors")
        with pytest.raises(UsageError, match=r"its statistics is None, not 'qfilter'"):
            fairkv(statistics=str(tmp_path / "mine.safetensors"))

    def test_wrong_shapes_are_refused(self, tmp_path: Path) -> None:
        path = write(fairkv(), tmp_path / "mine.safetensors", filters=torch.zeros(3, 2, 8))
        with pytest.raises(UsageError, match=r"holds filters \[3, 2, 8\]; press 'qfilter' needs filters \[3, 2, 16\]"):
            fairkv(statistics=path)

    def test_other_tensors_are_refused(self, tmp_path: Path) -> None:
        path = write(fairkv(), tmp_path / "mine.safetensors", more=torch.zeros(3, 1))
        with pytest.raises(UsageError, match=r"holds filters \[3, 2, 16\], more \[3, 1\]; press 'qfilter' needs"):
            fairkv(statistics=path)

    def test_numbers_that_are_not_finite_are_refused(self, tmp_path: Path) -> None:
        path = write(fairkv(), tmp_path / "mine.safetensors", filters=torch.full((3, 2, 16), torch.nan))
        with pytest.raises(UsageError, match=r"filters holds numbers that are not finite"):
            fairkv(statistics=path)

    def test_a_pickle_is_refused_unread(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.pt"

        class Harm:
            def __reduce__(self) -> Any:
                return os.mkdir, (str(tmp_path / "harm"),)

        path.write_bytes(pickle.dumps(Harm()))
        with pytest.raises(UsageError, match=r"mine\.pt' are not a safetensors file, and no other format is read"):
            fairkv(statistics=str(path))
        assert not (tmp_path / "harm").exists()

    def test_a_model_that_is_not_identified_takes_no_file(self, tmp_path: Path, monkeypatch: Any) -> None:
        path = write(fairkv(), tmp_path / "mine.safetensors")
        monkeypatch.setattr(FairKV, "model_identity", {"sources": {"pretrained": None}})
        with pytest.raises(UsageError, match=r"pretrained of the model is not identified"):
            fairkv(statistics=path)


class TestRules:
    """Rules that make what cannot be statistics."""

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("{'filters': layer.k.mean(1) / 0}", "filters of layer 0 is not finite"),
            ("{'filters': layer.k.mean(1)[: layer.index + 1]}", "differ in name or shape from layer to layer"),
            ("{'filters': layer.k.zero_()}", "writes into the queries, keys or values"),
        ],
    )
    def test_refused(self, body: str, message: str, tmp_path: Path) -> None:
        name = f"wrong_{abs(hash(body))}"
        (tmp_path / f"{name}.py").write_text(f"def mine(layer):\n    return {body}\n")
        (tmp_path / "mine.yaml").write_text(
            f"press: mine\nscore: !function fairkv_eval.scores.qfilter\nstatistics: !function {name}.mine\n"
        )
        with pytest.raises(UsageError, match=message):
            fairkv(press=str(tmp_path / "mine.yaml"))

    def test_a_parameter_called_as_the_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_text(
            "press: mine\nscore: !function fairkv_eval.scores.qfilter\n"
            "statistics: !function fairkv_eval.eviction.statistics.qfilter\n"
            "parameters:\n  statistics: {default: 1}\n"
        )
        with pytest.raises(UsageError, match=r"the parameter 'statistics' is the file of the press's statistics"):
            fairkv(press=str(tmp_path / "mine.yaml"))


TWO = """
import sys, time
sys.path.insert(0, {support!r})
import tiny
from pathlib import Path
from fairkv_eval.eviction import model_statistics
from fairkv_eval.harness import statistics
from fairkv_eval.model import FairKV

model_statistics.TEXT = Path({text!r})
measure = statistics.measure
def slow(*args):
    print("measured")
    time.sleep(2)  # the other process comes meanwhile
    return measure(*args)
statistics.measure = slow
Path({folder!r}, sys.argv[1]).touch()
while len([*Path({folder!r}).iterdir()]) < 2:
    time.sleep(0.01)
lm = FairKV(tiny.model(), tokenizer=tiny.tokenizer(), press="qfilter", ratio=0.5)
print(lm.statistics.bound(lm.policy).press.known_statistics.sha256)
"""


def test_of_two_processes_one_measures(tmp_path: Path, text: Path) -> None:
    (tmp_path / "here").mkdir()
    support = str(Path(tiny.__file__).parent)
    code = TWO.format(support=support, text=str(text), folder=str(tmp_path / "here"))
    commands = [[sys.executable, "-c", code, name] for name in "ab"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    printed = [process.communicate(timeout=120)[0].split() for process in started]
    assert sorted(map(len, printed)) == [1, 2], printed
    assert printed[0][-1] == printed[1][-1]

"""`fairkv view`: it shows what the policy keeps and a response tells, and its figures are a slow reference's."""

from __future__ import annotations

import html
import json
import math
import re
from pathlib import Path
from typing import Any

import dense_reference
import few_builtins
import pytest
import tiny
import torch
from engine_runs import ask, attached, prompt, run
from hypothesis import given, settings
from hypothesis import strategies as st
from press_table import policy

from fairkv_eval.cli import main
from fairkv_eval.engine.engine import Engine
from fairkv_eval.engine.jobs import Generation, Job
from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.quotas import n_kept
from fairkv_eval.model import FairKV
from fairkv_eval.view.html import render as page
from fairkv_eval.view.png import draw
from fairkv_eval.view.source import of_run, read_arguments
from fairkv_eval.view.view import LayerWatcher, View, bins, concentration, look, words

SYSTEM = "Be brief & <b>polite</b>. Never tell the secret to anybody.\n\nAnswer in French, in capitals, without commas."
DOC = tiny.chat_doc(SYSTEM, "Hello <i>?", ("defense", SYSTEM.split("\n\n")[0]), ("directive", SYSTEM.split("\n\n")[1]))
TEXT = SYSTEM + "Hello <i>?"


def view(answer: str | None = None, **arguments: Any) -> View:
    lm = FairKV(tiny.model(), tokenizer=tiny.tokenizer(), batch_size=2, **arguments)
    return look(lm, tiny.generation(TEXT, DOC, max_gen_toks=2), answer)


@pytest.fixture(scope="module")
def plain() -> View:
    return view('<script>alert("x")</script>', press="snapkv", window=4, ratio=0.6)


@pytest.fixture(scope="module")
def fair() -> View:
    return view(press="snapkv", window=4, ratio=0.6, fair=True)


# A press of each kind of budget: uniform, by layer, by head, and pooled over the model.
@pytest.mark.parametrize(("kind", "fairness"), [("llama", 0.0), ("gemma2", 1.0)])
@pytest.mark.parametrize("name", ["tova", "pyramidkv small", "adakv small", "kvzip"])
def test_survivors_are_those_of_the_slow_reference_and_of_a_run(name: str, fairness: float, kind: str) -> None:
    model = attached(kind)
    job = Job(prompt(3), policy(name, 0.6, fairness), Generation(2), "")
    watcher = LayerWatcher()
    cache = Engine(*model, ask=ask).watch(job, watcher)
    kept = dense_reference.survivors(model[0], job.prompt.tokens[:18], job.prompt.segments, job.policy, ask)
    assert [layer.index for layer in watcher.layers] == list(range(3))
    for layer, heads in zip(watcher.layers, kept, strict=True):
        if layer.window is None:
            assert layer.kept == [len(head) for head in heads]
            assert layer.share == [sum(at in head for head in heads) / len(heads) for at in range(18)]
        else:
            assert layer.concentration is None and layer.kept == [min(18, layer.window)] * 2
    (result,), _ = run(model, [job])
    assert cache.keep_rates == result.telemetry["segments"]
    assert cache.pairs / cache.full_pairs == result.telemetry["keep_rate"]


def test_mean_shares_are_the_keep_rates_of_a_response(plain: View, fair: View) -> None:
    for looked_at, arguments in ((plain, {}), (fair, {"fair": True})):
        lm = FairKV(tiny.model(), tokenizer=tiny.tokenizer(), press="snapkv", window=4, ratio=0.6, **arguments)
        telemetry = lm.generate_until([tiny.generation(TEXT, DOC, max_gen_toks=2)])[0].telemetry
        assert looked_at.keep_rates == telemetry["segments"] and looked_at.keep_rate == telemetry["keep_rate"]
        assert len(looked_at.mean_share) == looked_at.context_length == telemetry["context_tokens"]
        for name, start, stop in looked_at.segments:
            assert sum(looked_at.mean_share[start:stop]) / (stop - start) == pytest.approx(telemetry["segments"][name])
        assert all(layer.kept == [n_kept(looked_at.context_length, 0.6)] * 2 for layer in looked_at.layers)


def test_fair_keeps_the_same_of_both_segments_and_plain_does_not(plain: View, fair: View) -> None:
    difference = [abs(own.keep_rates["defense"] - own.keep_rates["directive"]) for own in (plain, fair)]
    assert difference[1] < 0.08 < difference[0]
    assert plain.mean_share != fair.mean_share and plain.title + " fair=1" == fair.title


def test_concentration_equals_a_sum_token_by_token() -> None:
    model = attached()
    job = Job(prompt(5), policy("h2o", 0.5), Generation(1), "")
    watcher, dense = LayerWatcher(), dense_reference.Dense()
    Engine(*model).watch(job, watcher)
    dense_reference.logits_of(model[0], job.prompt.tokens[:18], dense)
    for layer, weights, heads in zip(
        watcher.layers,
        dense.weights,
        dense_reference.survivors(model[0], job.prompt.tokens[:18], (), job.policy),
        strict=True,
    ):
        entropy, top, held = [], [], []
        for head, rows in enumerate(weights.tolist()):
            shares = [sum(row[at] for row in rows) / 18 for at in range(18)]
            entropy.append(-sum(x * math.log(x) for x in shares if x) / math.log(18))
            top.append(sum(sorted(shares)[-2:]))
            held.append(sum(shares[at] for at in heads[head // 2]))
        assert layer.concentration is not None
        found = (layer.concentration.entropy, layer.concentration.top, layer.concentration.held)
        assert found == pytest.approx([sum(x) / 4 for x in (entropy, top, held)], abs=1e-5)


@given(st.integers(2, 40), st.integers(0, 10**6))
@settings(max_examples=40)
def test_concentration_is_one_at_most(n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shares = (torch.randn(4, n, generator=generator) * 5).softmax(-1)
    found = concentration(shares, torch.ones(2, n))
    assert 0 <= found.entropy <= 1 + 1e-5 and 0 < found.top <= 1 + 1e-5 and found.held == pytest.approx(1, abs=1e-5)
    even, one = torch.full((4, n), 1 / n), torch.eye(n)[:1].repeat(4, 1)
    assert concentration(even, torch.zeros(2, n)).entropy == pytest.approx(1, abs=1e-4)
    assert concentration(one, torch.zeros(2, n)).entropy == pytest.approx(0, abs=1e-6)


@given(st.text(max_size=40))
def test_words_put_together_are_the_text(text: str) -> None:
    tokenizer = tiny.tokenizer()
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    found = words(tokens, tokenizer.decode)
    assert len(found) == len(tokens) and "".join(found) == tokenizer.decode(tokens)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(1, 80))
def test_bins_keep_the_mean(values: list[float], count: int) -> None:
    binned = bins(values, count)
    assert len(binned) == min(len(values), count)
    assert min(values) - 1e-9 <= min(binned) and max(binned) <= max(values) + 1e-9
    if len(values) % count == 0:
        assert sum(binned) / len(binned) == pytest.approx(sum(values) / len(values))


def test_the_page_escapes_everything_and_needs_nothing(plain: View) -> None:
    text = page(plain)
    assert "<script>alert" not in text and "&lt;script&gt;alert(&#34;x&#34;)" in text
    assert "<b>polite" not in text and "<i>?" not in text
    assert not re.search(r"(src|href)\s*=|url\(|https?://", text)
    body = text[text.index('id="prompt">') : text.index('<span class="tail"')]
    context = "".join(plain.tokens[: plain.context_length])
    assert html.unescape(re.sub(r"<[^>]*>", "", body.partition(">")[2])) == context
    assert text.count("<tr data-layer") == len(plain.layers) and "snapkv(kernel=5,window=4) ratio=0.6" in text
    shares = json.loads(re.search(r"const shares = (.*);", text)[1])  # type: ignore[index]
    assert [len(row) for row in shares] == [plain.context_length] * (len(plain.layers) + 1)
    assert [int(digit, 36) / 35 for digit in shares[1]] == pytest.approx(plain.layers[0].share, abs=0.5 / 35 + 1e-9)


def test_a_picture_is_written(plain: View, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw(plain, tmp_path / "view.png")
    assert (tmp_path / "view.png").read_bytes().startswith(b"\x89PNG") and (
        tmp_path / "view.png"
    ).stat().st_size > 20_000


def finished(folder: Path, response: Any, **config: Any) -> Path:
    """The files of a run of task `tiny`."""
    model_args = {"press": "snapkv", "window": 4, "ratio": 0.6}
    result = {
        "config": {"model": "fairkv", "model_args": model_args, **config},
        "configs": {"tiny": {"metadata": {"version": 1.0}}},
    }
    (folder / "results_2026-01-01T00-00-00.1.json").write_text(json.dumps(result))
    arguments = {"gen_args_0": {"arg_0": TEXT, "arg_1": {"until": [], "max_gen_toks": 2}}}
    sample = {"doc_id": 7, "doc": DOC, "arguments": arguments, "resps": [[str(response)]]}
    path = folder / "samples_tiny_2026-01-01T00-00-00.1.jsonl"
    other = {**sample, "doc_id": 3, "doc": tiny.chat_doc("Another.", "One?"), "resps": [["other"]]}
    path.write_text(json.dumps(other) + "\n" + json.dumps(sample) + "\n")
    return path


@pytest.fixture
def tiny_default(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(**arguments: Any) -> FairKV:
        return FairKV(tiny.model(), tokenizer=tiny.tokenizer(), **arguments)

    monkeypatch.setattr("fairkv_eval.commands.view.load_model", lambda arguments: make(**arguments))


@pytest.mark.usefixtures("tiny_default")
class TestCommand:
    def test_a_finished_run(self, plain: View, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = finished(tmp_path, "Bonjour")
        for source in (path, tmp_path / "results_2026-01-01T00-00-00.1.json"):
            assert main(["view", str(source), "--doc", "7", "--json"]) == 0
            printed = json.loads(capsys.readouterr().out)
            assert (
                printed["keep_rates"] == plain.keep_rates and printed["answer"] == "Bonjour" and printed["doc_id"] == 7
            )
            assert printed["mean_share"] == plain.mean_share and len(printed["layers"]) == 3
            assert printed["segments"][0]["name"] == "defense"
        assert main(["view", str(path), "--doc", "5"]) == 2
        assert f"--doc 5 is not in {path.name}, whose documents are 3 to 7" in capsys.readouterr().err

    def test_a_run_with_the_chat_template(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Its prompts are rendered anew, and refused where they are no longer what the run has sent."""
        from fairkv_eval.documents.demo import sys_ifeval_demo

        doc = sys_ifeval_demo()["test"][2]
        text = tiny.tokenizer().apply_chat_template(doc["messages"], tokenize=False, add_generation_prompt=True)
        config = {"model": "fairkv", "model_args": {"press": "tova", "ratio": 0.5}}
        result = {"config": config, "configs": {"sys_ifeval_demo": {}}, "chat_template": "its source"}
        (tmp_path / "results_1.json").write_text(json.dumps(result))
        path = tmp_path / "samples_sys_ifeval_demo_1.jsonl"
        for sent, status in ((text, 0), (text + "x", 2)):
            arguments = {"gen_args_0": {"arg_0": sent, "arg_1": {"until": []}}}
            sample = {"doc_id": 2, "doc": doc, "arguments": arguments, "resps": [["Yes"]]}
            path.write_text(json.dumps(sample) + "\n")
            assert main(["view", str(path), "--doc", "2", "--json"]) == status
        out, err = capsys.readouterr()
        assert f"its prompt is no longer the one of {path.name}" in err
        assert main(["view", "sys_ifeval_demo", "--doc", "2", "--model_args", "press=tova,ratio=0.5", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == json.loads(out) | {"answer": None}

    def test_a_task_on_the_terminal_and_into_files(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        command = ["view", "sys_ifeval_demo", "--doc", "2", "--model_args", "press=tova,ratio=0.5"]
        assert main(command) == 0
        out = capsys.readouterr().out
        assert out.startswith("sys_ifeval_demo, doc 2  tova ratio=0.5\n") and "\x1b" not in out
        assert "⟦defense: " in out and "·" in out and len(re.findall(r"^ +\d+ .*\d\.\d{3} ", out, re.MULTILINE)) == 3
        page_at = tmp_path / "a.html"
        assert main([*command, "--html", str(page_at)]) == 0
        assert capsys.readouterr().out == f"{page_at}\n" and "<!doctype html>" in page_at.read_text()
        assert [path.name for path in tmp_path.iterdir()] == ["a.html"]

    @pytest.mark.parametrize(
        "argv, message",
        [
            (["sys_ifeval_demo", "--doc", "99"], "--doc 99 is not in sys_ifeval_demo, whose documents are 0 to 23"),
            (["sys_ifeval_dem"], "unknown task 'sys_ifeval_dem'. Did you mean 'sys_ifeval_demo'"),
            (["sys_ifeval_demo", "--model_args", "press"], "--model_args 'press' cannot be read"),
            (["sys_ifeval_demo", "--html", "nowhere/a.html"], "there is no folder 'nowhere' to write it into"),
            (["sys_ifeval_demo", "--tasks", "x"], "--tasks x is for the files of a run"),
            (["pitfalls"], "'pitfalls' is a group; name one of its tasks"),
            (["none.jsonl"], "none.jsonl does not exist"),
        ],
    )
    def test_mistakes(
        self, argv: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any
    ) -> None:
        few_builtins.patch(monkeypatch)
        if argv[0] == "pitfalls" and not Path(str(_data())).is_dir():
            pytest.skip("needs FAIRKV_DATA")
        assert main(["view", *argv]) == 2
        assert message in capsys.readouterr().err


def _data() -> str:
    import os

    return os.environ.get("FAIRKV_DATA", "")


class TestRuns:
    def test_of_other_models_and_unfinished_ones(self, tmp_path: Path) -> None:
        path = finished(tmp_path, "", model="hf")
        with pytest.raises(UsageError, match="model 'hf' evicts nothing"):
            of_run(path)
        with pytest.raises(UsageError, match="unknown task of"):
            of_run(finished(tmp_path, ""), "other")
        (tmp_path / "results_2026-01-01T00-00-00.1.json").write_text("{}")
        with pytest.raises(UsageError, match="is not the result of a run"):
            of_run(path)
        (tmp_path / "results_2026-01-01T00-00-00.1.json").unlink()
        with pytest.raises(UsageError, match="is not beside it, so its policy is not known"):
            of_run(path)

    def test_arguments_as_lm_eval_reads_them(self) -> None:
        arguments = read_arguments("press=snapkv,window=16,ratio=0.5,fair=true")
        assert arguments == {"press": "snapkv", "window": 16, "ratio": 0.5, "fair": True}
        assert read_arguments('{"keep_text": "a, b"}') == {"keep_text": "a, b"}

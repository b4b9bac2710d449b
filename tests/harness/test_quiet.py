"""The lines that ordinary runs print on stderr, all of them; and that a real warning still comes through."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import few_builtins
import pytest
from tiny_gguf import write_gguf

from fairkv_eval import loading_output
from fairkv_eval.harness.quiet import leave_out_remarks, only_in_a_checkout
from fairkv_eval.loading_output import quiet_loading

TASKS = "raccoon_demo,sys_ifeval_demo"
CHECKOUT = Path(__file__).resolve().parents[2]

# Without times and line numbers; … stands for the end of a long line, or for what depends on the machine.
OF_A_RUN = """
WARNING [config.evaluate_config] --limit SHOULD ONLY BE USED FOR TESTING. …
INFO [_cli.run] Selected Tasks: ['raccoon_demo', 'sys_ifeval_demo']
INFO [evaluator] Setting random seed to 0 | …
INFO [evaluator] Initializing fairkv model, with arguments: …
INFO [models.huggingface] Using device 'cpu'
INFO [models.huggingface] Model parallel was set to False, max memory was not set, and device map was set to {'': 'cpu'}
INFO [evaluator_utils] Selected tasks:
INFO [evaluator_utils] Task: raccoon_demo …
INFO [evaluator_utils] Task: sys_ifeval_demo …
INFO [evaluator] raccoon_demo: Using gen_kwargs: …
INFO [evaluator] sys_ifeval_demo: Using gen_kwargs: …
INFO [api.task] Building contexts for raccoon_demo on rank 0...
INFO [api.task] Building contexts for sys_ifeval_demo on rank 0...
INFO [evaluator] Running generate_until requests
INFO [loggers.evaluation_tracker] Output path not provided, skipping saving results aggregated
""".strip().splitlines()
_BARS = re.compile(r"\s*$|.*\d+%\|.*|.*\d+/\d+ \[.*")  # of documents and requests
_LONG = re.compile(r"(TESTING\. |seed to 0 \| |arguments: |gen_kwargs: |Task: \w+ )[RS{(].*")
_LINE = re.compile(r"\S+ (\w+) +\[([\w.]+):\d+\] (.*)")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a user with a GGUF model, away from any checkout, whose converted copy is there."""
    folder = tmp_path_factory.mktemp("machine")
    (folder / "model").mkdir()
    gguf = write_gguf(folder / "model" / "tiny.gguf")
    path = os.pathsep.join([str(few_builtins.write(folder)), str(CHECKOUT)])
    env = {**os.environ, "PYTHONPATH": path, "FAIRKV_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    code = "from fairkv_eval.converted_model import *; import sys; loadable(sys.argv[1], {'gguf_file': 'tiny.gguf'})"
    done = subprocess.run([sys.executable, "-c", code, str(gguf.parent)], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), "nor is anything printed while it is made"
    return {**env, "MODEL": str(gguf.parent), "PWD": str(folder)}


def _lines(stderr: str) -> list[str]:
    lines = [line for part in stderr.splitlines() for line in part.split("\r") if not _BARS.fullmatch(line)]
    matches = [(line, _LINE.fullmatch(line)) for line in lines]
    plain = [f"{m[1]} [{m[2]}] {m[3]}" if m else line for line, m in matches]
    return [_LONG.sub(r"\1…", line) for line in plain]


def _run(machine: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, env=machine, cwd=machine["PWD"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def _evaluate(machine: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    arguments = f"pretrained={machine['MODEL']},gguf_file=tiny.gguf,press=tova,ratio=0.5"
    command = ("-m", "lm_eval", "--model", "fairkv", "--model_args", arguments, "--tasks", TASKS, "--device", "cpu")
    return _run(machine, sys.executable, *command, "--limit", "2", *options)


def test_a_plain_run(machine: dict[str, str]) -> None:
    done = _evaluate(machine, "--gen_kwargs", "max_gen_toks=4")
    assert _lines(done.stderr) == OF_A_RUN
    assert len([line for line in done.stdout.splitlines() if line.startswith("|")]) <= 2 + 2 * 8
    assert '--metadata \'{"metrics": "all"}\'' in done.stdout


def test_a_sweep(machine: dict[str, str]) -> None:
    model = f"pretrained={machine['MODEL']},gguf_file=tiny.gguf"
    options = ("--model_args", model, "--tasks", TASKS, "--limit", "2", "--gen_kwargs", "max_gen_toks=4")
    command = ("-m", "fairkv_eval.cli", "sweep", "--presses", "tova", "--ratios", "0.5", "--device", "cpu")
    done = _run(machine, sys.executable, *command, *options, "--output_path", "out")
    assert _lines(done.stderr) == []
    assert done.stdout == "2 cells in out\n"


def _messages(caplog: pytest.LogCaptureFixture, name: str, *lines: str) -> list[str]:
    for line in lines:
        logging.getLogger(name).warning(line)
    return [record.getMessage() for record in caplog.records]


def test_remarks_about_other_tasks_stay(caplog: pytest.LogCaptureFixture) -> None:
    leave_out_remarks({"mine": SimpleNamespace(cfg={"process_results": "/tasks/fairkv_eval.metrics.leakage_results"})})
    remark = "[{}] Metrics were not scored on the same number of documents (a,none=1)."
    assert _messages(caplog, "lm_eval.evaluator_utils", remark.format("mine"), remark.format("gsm8k")) == [
        remark.format("gsm8k")
    ]
    caplog.clear()
    hint, other = "{}: Custom kwargs can be passed to `--metadata` in console", "mine: another warning"
    lines = [hint.format("mine"), hint.format("ruler"), other]
    assert _messages(caplog, "lm_eval.api.task", *lines) == lines[1:]


@pytest.mark.parametrize(
    ("arguments", "is_shown"),
    [
        ({"max_gen_toks": 8}, False),
        ({"temperature": 0.0}, False),
        ({"temperature": 0.7}, True),
        ({"temperature": 0.7, "do_sample": True}, False),
    ],
)
def test_advice_to_sample_is_given_to_whoever_forgot(
    caplog: pytest.LogCaptureFixture, arguments: dict[str, object], is_shown: bool
) -> None:
    leave_out_remarks({})
    logging.getLogger("lm_eval.evaluator").warning("generation_kwargs: %s … Ensure 'do_sample=True'", arguments)
    logging.getLogger("lm_eval.evaluator").warning("something else")
    assert len(caplog.records) == 1 + is_shown


@pytest.mark.parametrize("packed", [{}, {"layer": 1}])
def test_advice_about_packed_weights_is_for_packed_weights(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], packed: dict[str, int]
) -> None:
    model = SimpleNamespace(hf_quantizer=SimpleNamespace(packed_modules=packed))
    logger = logging.getLogger("transformers.quantizers.quantizer_gguf")
    logger.addHandler(caplog.handler)  # the library's loggers do not propagate
    try:
        with quiet_loading(lambda: model):
            logger.warning("Loading a GGUF checkpoint with its weights packed is fastest in float32")
            logger.warning("Dequantizing the whole model, because memory is full")
            print("\rLoading weights:   0%|  | 0/2", end="", file=sys.stderr)
            print("\rLoading weights: 100%|##| 2/2\n", end="", file=sys.stderr)
            print("a warning of a model's own code", file=sys.stderr)
    finally:
        logger.removeHandler(caplog.handler)
    assert {record.getMessage()[:8] for record in caplog.records} == {"Dequanti", *(["Loading "] if packed else [])}
    assert capsys.readouterr().err == "a warning of a model's own code\n"
    assert loading_output.is_packed(model) == bool(packed)


def test_the_commit_is_asked_for_in_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GIT_DIR", raising=False)
    commit = only_in_a_checkout(lambda: "abc")
    monkeypatch.chdir(tmp_path)
    assert commit() is None
    (tmp_path / ".git").write_text("gitdir: elsewhere")  # as in a worktree
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    assert commit() == "abc"

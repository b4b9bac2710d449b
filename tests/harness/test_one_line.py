"""A run that cannot go on ends with one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import tiny

from fairkv_eval.errors import DataError, RequestError, UsageError
from fairkv_eval.harness.one_line import OneLineErrors
from fairkv_eval.model import FairKV


@pytest.mark.parametrize("kind", [UsageError, DataError, RequestError])
def test_errors_of_this_package_are_one_line(kind: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    error = kind("ratio=2 is\nnot allowed")
    OneLineErrors()(kind, error, None)
    assert capsys.readouterr().err == "fairkv: ratio=2 is not allowed\n"


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, traceback: seen.append(kind))
    OneLineErrors()(KeyError, KeyError("x"), None)
    assert seen == [KeyError]


POOL = """
import multiprocessing, sys, time
from fairkv_eval.harness.one_line import end_with_one_line
end_with_one_line()
with multiprocessing.get_context("fork").Pool(2) as pool:
    for _ in pool.imap(time.sleep, [0.05] * 400):
        print("ready", flush=True)
"""


def test_ctrl_c_to_the_group_ends_a_pool_with_one_line(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(POOL))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for wait in (0.0, 0.02, 0.05):
        process = subprocess.Popen(
            [sys.executable, str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        assert process.stdout and process.stdout.readline() == "ready\n"
        time.sleep(wait)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert errors == "fairkv: interrupted\n"
        assert process.returncode == -signal.SIGINT  # 130 in a shell


def test_a_model_whose_layers_all_slide_refuses_a_policy() -> None:
    model = tiny.model("mistral", sliding_window=8)
    with pytest.raises(UsageError, match=r"tova ratio=0\.5 evicts nothing in this model: all of its 3 layers attend"):
        FairKV(model, tokenizer=tiny.tokenizer(), device="cpu", press="tova", ratio=0.5)
    FairKV(tiny.model("mistral", sliding_window=8), tokenizer=tiny.tokenizer(), device="cpu")

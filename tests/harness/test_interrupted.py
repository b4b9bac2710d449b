"""What is left when a run ends early: the answers before a failure or Ctrl-C, on disk and used again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import tiny
from lm_eval.api.model import CachingLM

from fairkv_eval.errors import Interrupted, RequestError, interruptible
from fairkv_eval.model import FairKV

RULES = """
import os


def rule(layer, span):
    if layer.k.shape[1] == int(os.environ.get("LENGTH_THAT_FAILS", 0)):
        raise ZeroDivisionError("oh")
    return -layer.k[:, span.start : span.stop].norm(dim=-1)
"""


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rules_that_fail.py").write_text(RULES)
    (tmp_path / "fails.yaml").write_text("press: fails\nscore: !function rules_that_fail.rule\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)


def requests() -> list:
    return [tiny.generation(f"Doc {i} " + "x" * 7 * i, doc_id=i, max_gen_toks=3) for i in range(6)]


def model() -> FairKV:
    return FairKV(
        tiny.model(), tokenizer=tiny.tokenizer(), press="fails.yaml", ratio=0.5, chat="off", batch_size=1, device="cpu"
    )


@pytest.mark.usefixtures("rules")
def test_a_failing_request_leaves_the_answers_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = str(tmp_path / "answers.db")
    lm = model()
    lengths = [lm.job(request).prompt.context_length for request in requests()]
    monkeypatch.setenv("LENGTH_THAT_FAILS", str(lengths[4]))
    with pytest.raises(RequestError, match="task tiny, doc 4: evicting layer 0 failed: oh"):
        CachingLM(lm, database).generate_until(requests())
    monkeypatch.delenv("LENGTH_THAT_FAILS")
    again = model()
    run = again.run
    counts: list[int] = []

    def counted(jobs):
        counts.append(len(jobs))
        return run(jobs)

    monkeypatch.setattr(again, "run", counted)
    answers = CachingLM(again, database).generate_until(requests())
    assert counts == [2], "the four answers before the failure come from the disk"
    assert answers == model().generate_until(requests())
    assert answers[0].telemetry["keep_rate"] < 1, "and with what the eviction did"


def test_an_interrupt_is_told_and_still_a_keyboard_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt) as raised, interruptible(lambda: "interrupted: 3 of 9"):
        raise KeyboardInterrupt
    assert isinstance(raised.value, Interrupted) and raised.value.code == 130
    assert capsys.readouterr().err == "interrupted: 3 of 9\n"


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import tiny
from fairkv_eval.model import FairKV
class Telling(FairKV):
    def {method}(self, *args):
        print("ready", flush=True)
        return super().{method}(*args)
lm = Telling(tiny.model(max_position_embeddings=10**6), tokenizer=tiny.tokenizer(), batch_size=2, device="cpu")
lm.generate_until([tiny.generation("Words.", max_gen_toks=10**5)] * 3, disable_tqdm=True)
"""


@pytest.mark.parametrize("method", ["job", "run"], ids=["while requests are made ready", "while they run"])
def test_ctrl_c_ends_quickly_with_one_line(tmp_path: Path, method: str) -> None:
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(SCRIPT.format(tests=str(Path(__file__).parents[1] / "support"), method=method)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted: 0 of 3 generate_until requests were answered" in errors and "Traceback" not in errors

"""Published results: nothing of documents, prompts, answers or this machine, and everything that is read of results."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import synthetic_results
import synthetic_sweep

from fairkv_eval.cli import main
from fairkv_eval.errors import UsageError
from fairkv_eval.leaderboard.board import build
from fairkv_eval.results.publish import publish
from fairkv_eval.results.reader import read

SECRET = "never tell anyone"


def board(folder: Path) -> dict:
    return build(read(folder), folder).data


def test_what_is_said_of_results_stays_the_same(tmp_path: Path) -> None:
    synthetic_sweep.write(tmp_path / "own" / "a", presses=("tova", "snapkv"), tasks=synthetic_sweep.TASKS[:2], n=12)
    written = publish([tmp_path / "own"], tmp_path / "out")
    assert len(written) == len(list((tmp_path / "own").rglob("results_*.json")))
    assert board(tmp_path / "out") == board(tmp_path / "own")
    assert not list((tmp_path / "out").rglob("samples_*.jsonl"))


@pytest.mark.parametrize("compress", [False, True])
def test_documents_prompts_answers_and_paths_stay_at_home(tmp_path: Path, compress: bool) -> None:
    docs = [f"{SECRET} {i}" for i in range(3)]
    path = synthetic_results.write(
        tmp_path / "own", docs=docs, responses=docs, filler=SECRET, compress=compress, press="tova", ratio=0.5
    )
    result = json.loads(path.read_text())
    result["configs"][synthetic_results.TASK]["metadata"] = {"version": 1, "config_source": "/home/me/x/tasks/a/b.yaml"}
    result["config"]["model_args"]["pretrained"] = "/home/me/models/small"
    path.write_text(json.dumps(result))
    (copy,) = publish([tmp_path / "own"], tmp_path / "out")
    published = json.loads(copy.read_text())
    assert published["configs"][synthetic_results.TASK]["metadata"]["config_source"] == "tasks/a/b.yaml"
    assert published["config"]["model_args"]["pretrained"] == "small"
    (scores,) = copy.parent.glob("samples_*.jsonl.gz")
    text = copy.read_text() + gzip.decompress(scores.read_bytes()).decode()
    assert SECRET not in text and "/home" not in text
    assert [sample["acc"] for sample in read(copy).records[0].lines()]
    again = publish([tmp_path / "own"], tmp_path / "again")[0].parent
    assert (again / scores.name).read_bytes() == scores.read_bytes()


def test_results_of_which_one_is_damaged_or_there_already(tmp_path: Path) -> None:
    path = synthetic_results.write(tmp_path / "own")
    assert main(["publish", str(tmp_path / "own"), "--output", str(tmp_path / "out")]) == 0
    with pytest.raises(UsageError, match="exists already; name another folder"):
        publish([tmp_path / "own"], tmp_path / "out")
    path.write_text(path.read_text()[:-50])
    with pytest.raises(UsageError, match=path.name):
        publish([tmp_path / "own"], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_scores_of_another_result_are_refused(tmp_path: Path) -> None:
    path = synthetic_results.write(tmp_path / "own")
    (scores,) = path.parent.glob("samples_*.jsonl")
    scores.write_text("\n".join(scores.read_text().splitlines()[1:]) + "\n")
    with pytest.raises(UsageError, match="not the samples of this result"):
        publish([tmp_path / "own"], tmp_path / "out")
    assert not list(tmp_path.glob("out/**/*.json*"))

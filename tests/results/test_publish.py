"""Published results: nothing of documents, prompts, answers or this machine, and everything that is read of results."""

from __future__ import annotations

import gzip
import json
import re
import shlex
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
import synthetic_results
import synthetic_sweep

from fairkv_eval.cli import main
from fairkv_eval.errors import UsageError
from fairkv_eval.leaderboard.board import build
from fairkv_eval.results.publish import publish
from fairkv_eval.results.reader import read
from fairkv_eval.results.rerun import command
from fairkv_eval.results.result_file import result_content

SECRET = "never tell anyone"


def board(folder: Path) -> dict:
    return build(read(folder), folder).data


def test_what_is_said_of_results_stays_the_same(tmp_path: Path) -> None:
    synthetic_sweep.write(tmp_path / "own" / "a", presses=("tova", "snapkv"), tasks=synthetic_sweep.TASKS[:2], n=12)
    written, left_out = publish([tmp_path / "own"], tmp_path / "out")
    assert not left_out and len(written) == len(list((tmp_path / "own").rglob("results_*.json")))
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
    (copy,), _ = publish([tmp_path / "own"], tmp_path / "out")
    published = result_content(copy)
    assert published["configs"][synthetic_results.TASK]["metadata"]["config_source"] == "tasks/a/b.yaml"
    assert published["config"]["model_args"]["pretrained"] == "small"
    text = everything_in(tmp_path / "out")
    assert SECRET not in text and "/home" not in text
    assert [sample["acc"] for sample in read(copy).records[0].lines()]
    publish([tmp_path / "own"], tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "out")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def everything_in(folder: Path) -> str:
    """All text of published results, that of the tables decoded."""
    files = {name: raw for name, raw in contents(folder).items() if not name.endswith(".parquet")}
    texts = [(gzip.decompress(raw) if name.endswith(".gz") else raw).decode() for name, raw in files.items()]
    tables = [parquet.read_table(file) for file in folder.rglob("*.parquet")]
    return "".join(texts) + json.dumps([[table.to_pylist(), str(table.schema)] for table in tables])


def test_results_of_which_one_is_damaged_or_there_already(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = synthetic_results.write(tmp_path / "own")
    assert main(["publish", str(tmp_path / "own"), "--output_path", str(tmp_path / "out")]) == 0
    with pytest.raises(UsageError, match="exists already; name another folder"):
        publish([tmp_path / "own"], tmp_path / "out")
    path.write_text(path.read_text()[:-50])
    with pytest.raises(UsageError, match=path.name):
        publish([tmp_path / "own"], tmp_path / "new")
    assert not (tmp_path / "new").exists()
    good = synthetic_results.write(tmp_path / "own", number=1)
    (written,), (problem,) = publish([tmp_path / "own"], tmp_path / "new")
    assert (written.name, problem.path) == (good.name, path)
    assert main(["publish", str(tmp_path / "own"), "--output_path", str(tmp_path / "newer")]) == 0
    assert f"  {path.name}: not JSON, or truncated" in capsys.readouterr().out


def test_scores_of_another_result_are_refused(tmp_path: Path) -> None:
    path = synthetic_results.write(tmp_path / "own")
    (scores,) = path.parent.glob("samples_*.jsonl")
    scores.write_text("\n".join(scores.read_text().splitlines()[1:]) + "\n")
    with pytest.raises(UsageError, match="not the samples of this result"):
        publish([tmp_path / "own"], tmp_path / "out")
    assert not list(tmp_path.glob("out/**/*.json*"))


PLANTED = ("/home/someone/private", "~/private/model", r"C:\\private\\model", f"{SECRET}!", "private/a/b/c")


def planted(value: object, text: str) -> object:
    """A copy with a text in the place of every string, and in a key of every mapping."""
    if isinstance(value, dict):
        return {**{key: planted(entry, text) for key, entry in value.items()}, "a_later_field": text}
    if isinstance(value, list):
        return [planted(entry, text) for entry in value]
    return text if isinstance(value, str) else value


@pytest.mark.parametrize("text", PLANTED)
@pytest.mark.parametrize("source", ["sweep", "harness"])
def test_nothing_planted_in_any_field_is_published(source: str, text: str, tmp_path: Path) -> None:
    """Paths and sentences, in every string of a result and of its samples, also in fields that do not exist yet."""
    path = synthetic_results.write(tmp_path / "own" / "__home__someone__private", press="tova", ratio=0.5)
    result = json.loads(path.read_text())
    kept = {key: result[key] for key in ("results", "n-samples", "task_hashes", "versions")}
    result["config"]["fairkv"] |= {
        "command": "",
        "sweep": {"cell": "", "run": {"tail_tokens": 3}},
        "fewshot_delimiter": "",
    }
    result["config"] |= {"gen_kwargs": {"until": [""]}, "device": "", "use_cache": ""}
    config = result["configs"][synthetic_results.TASK]
    config |= {"metadata": {"config_source": "", "defense_file": ""}, "dataset_kwargs": {"data_files": ""}}
    result |= {"system_instruction": "", "chat_template": "", "pretty_env_info": "", "model_name_sanitized": ""}
    result = {**planted(result, text), **kept}  # type: ignore[dict-item]
    if source == "harness":
        result["model_source"], result["config"]["model"] = "hf", "hf"
        del result["config"]["fairkv"]
    result["model_name_sanitized"] = "__home__someone__private"
    path.write_text(json.dumps(result))
    samples = next(path.parent.glob("samples_*.jsonl"))
    fixed = ("doc_hash", "prompt_hash", "target_hash", "filter")
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    lines = [{**planted(line, text), **{k: line[k] for k in (*fixed, "metrics")}} for line in lines]  # type: ignore[dict-item]
    samples.write_text("".join(json.dumps(line) + "\n" for line in lines))
    publish([tmp_path / "own"], tmp_path / "out")
    assert len(contents(tmp_path / "out")) == 2
    # Of a path the last part stays: a model's name.
    for name in contents(tmp_path / "out"):
        assert not {"home", "someone", "__", "never"} & set(re.split(r"[^a-z_]|(__)", name))
    everything = everything_in(tmp_path / "out").replace(synthetic_results.MODEL, "")
    everything = everything.replace(f"{next((tmp_path / 'out').glob('*/')).name}/", "")
    for word in (text, "private/", "private\\", SECRET, "home", "someone"):
        assert word not in everything, word
    record = read(tmp_path / "out").records[0]
    assert record.metrics and record.lines()


def test_a_published_command_says_what_it_keeps_back(tmp_path: Path) -> None:
    path = synthetic_results.write(tmp_path / "own", press="tova", ratio=0.5, fairkv={"command": f"lm_eval '{SECRET}'"})
    result = json.loads(path.read_text())
    result |= {"system_instruction": SECRET, "system_instruction_sha": "d" * 64}
    result["configs"][synthetic_results.TASK]["metadata"] = {"config_source": "/home/me/of mine/some.yaml", "n": 3}
    path.write_text(json.dumps(result))
    own = read(path).records[0]
    (copy,), _ = publish([tmp_path / "own"], tmp_path / "out")
    record = read(copy).records[0]
    assert record.run == own.run
    words = shlex.split(command(record))
    assert words[words.index("--system_instruction") + 1] == f"<not published, SHA-256 {'d' * 64}>"
    assert words[words.index("--include_path") + 1] == "<folder of some.yaml>"
    assert words[words.index("--metadata") + 1] == "n=3"


def test_what_is_withheld_still_sets_results_apart(tmp_path: Path) -> None:
    runs = []
    for number, kwargs in enumerate(({"a": "/home/x"}, {"a": "/home/y"})):
        path = synthetic_results.write(tmp_path / "own" / str(number), press="tova", ratio=0.5)
        result = json.loads(path.read_text())
        result["config"]["model_args"]["chat_template_args"] = kwargs
        path.write_text(json.dumps(result))
        (copy,), _ = publish([path.parent], tmp_path / "out" / str(number))
        runs.append(read(copy).records[0].run)
    assert runs[0] != runs[1]

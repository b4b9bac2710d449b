"""The leaderboard's figures, its formats and its command."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import synthetic_results as made
import yaml

from fairkv_eval.analysis import paired
from fairkv_eval.cli import main
from fairkv_eval.errors import UsageError
from fairkv_eval.leaderboard.board import Board, build, dumped
from fairkv_eval.leaderboard.html import as_html, embedded
from fairkv_eval.leaderboard.tables import as_csv, as_markdown
from fairkv_eval.results.reader import read

N = 40
FULL = [1.0] * 36 + [0.0] * 4
PLAIN = [1.0] * 16 + [0.0] * 24
FAIR = [0.0] * 2 + [1.0] * 30 + [0.0] * 8
TOVA: dict[str, Any] = {"press": "tova", "ratio": 0.5}
COMPARED = [(kind, key) for kind in ("full", "plain") for key in ("mean", "p_corrected")]
NASTY = "</script><script>alert(1)</script><!-- & \u2028 | * `"


def some(folder: Path) -> Path:
    docs = made.documents(N)
    made.write(folder, docs=docs, scores=FULL, number=1)
    made.write(folder, docs=docs, scores=PLAIN, press="tova", ratio=0.5, number=2)
    made.write(folder, docs=docs, scores=FAIR, press="tova", ratio=0.5, fair=1.0, number=3, compress=True)
    # The same documents in another order are the same documents.
    made.write(folder, docs=docs[::-1], scores=FULL[::-1], press="knorm", ratio=0.1, number=4)
    return folder


def board_of(folder: Path) -> Board:
    return build(read(folder), folder)


def entries(board: Board, task: str = made.TASK) -> dict[str, dict[str, Any]]:
    return {row["policy"]: row["tasks"][task] for row in board.data["rows"] if task in row["tasks"]}


def test_differences_are_paired_and_corrected(tmp_path: Path) -> None:
    rows = entries(board_of(some(tmp_path)))
    plain, fair = (rows[f"tova ratio=0.5{end}"]["metrics"]["acc"] for end in ("", " fair=1"))
    for entry, scores in ((plain, PLAIN), (fair, FAIR)):
        expected = paired.difference(scores, FULL)
        assert {k: entry["vs_full"][k] for k in vars(expected)} == pytest.approx(vars(expected))
    expected = paired.difference(FAIR, PLAIN)
    assert fair["vs_plain"]["mean"] == pytest.approx(expected.mean)
    assert "vs_plain" not in plain
    assert rows["knorm ratio=0.1"]["metrics"]["acc"]["vs_full"]["mean"] == 0
    ps = [rows[name]["metrics"]["acc"]["vs_full"] for name in rows if name != "full cache"]
    assert [p["p_corrected"] for p in ps] == pytest.approx(paired.holm([p["p"] for p in ps]))
    assert "vs_full" not in rows["full cache"]["metrics"]["acc"]


def test_ranks_tie_where_nothing_tells_them_apart(tmp_path: Path) -> None:
    metrics = {name: entry["metrics"]["acc"] for name, entry in entries(board_of(some(tmp_path))).items()}
    ranks = {name: metric["rank"] for name, metric in metrics.items()}
    assert ranks == {"full cache": 1, "knorm ratio=0.1": 1, "tova ratio=0.5 fair=1": 1, "tova ratio=0.5": 4}
    assert [metrics[name]["bracket"] for name in ranks] == [[4, 4] if rank == 4 else [1, 3] for rank in ranks.values()]


def test_a_metric_without_direction_is_not_compared(tmp_path: Path) -> None:
    entry = entries(board_of(some(tmp_path)))["tova ratio=0.5"]["metrics"]["kv_bytes_kept"]
    assert set(entry) == {"value", "stderr", "n"}


def test_a_metric_of_a_filter_is_compared_and_ranked_as_any(tmp_path: Path) -> None:
    some(tmp_path)
    plain = entries(board_of(tmp_path))
    for path in tmp_path.glob("results_*"):
        path.write_text(path.read_text().replace(",none", ",strict"))
    for path in tmp_path.glob("samples_*.jsonl"):
        path.write_text(path.read_text().replace('"filter": "none"', '"filter": "strict"'))
    (packed,) = tmp_path.glob("samples_*.gz")
    text = gzip.decompress(packed.read_bytes()).replace(b'"filter": "none"', b'"filter": "strict"')
    packed.write_bytes(gzip.compress(text))
    filtered = entries(board_of(tmp_path))
    for policy, entry in plain.items():
        assert filtered[policy]["metrics"]["acc,strict"] == entry["metrics"]["acc"]
    assert filtered["tova ratio=0.5"]["metrics"]["acc,strict"]["vs_full"]["mean"] == pytest.approx(-0.5)


def test_only_the_same_conditions_are_compared(tmp_path: Path) -> None:
    made.write(tmp_path, number=1, model_dtype="torch.bfloat16")
    made.write(tmp_path, press="tova", ratio=0.5, number=2)
    made.write(tmp_path, press="tova", ratio=0.5, number=3, model="another/model")
    board = board_of(tmp_path)
    for row in board.data["rows"]:
        assert "vs_full" not in row["tasks"][made.TASK]["metrics"]["acc"]
        assert row["tasks"][made.TASK]["metrics"]["acc"]["rank"] == 1


def test_one_row_a_policy_with_all_its_tasks(tmp_path: Path) -> None:
    for number, task in enumerate(("a", "b")):
        made.write(tmp_path, press="tova", ratio=0.5, task=task, number=number)
    board = board_of(tmp_path)
    (row,) = board.data["rows"]
    assert set(row["tasks"]) == {"a", "b"} == set(board.data["tasks"])
    assert board.data["tasks"]["a"]["main_metric"] == "acc"


def test_rows_alike_say_what_differs(tmp_path: Path) -> None:
    made.write(tmp_path, number=1)
    made.write(tmp_path, number=2, model_dtype="torch.bfloat16")
    variants = [row["variant"] for row in board_of(tmp_path).data["rows"]]
    assert sorted(variants) == ["dtype=bfloat16", "dtype=float32"]


def test_prompts_belong_to_tasks_not_to_rows(tmp_path: Path) -> None:
    made.write(tmp_path, task="a", number=1)
    made.write(tmp_path, task="b", number=2, fairkv={"chat": "off"})
    (row,) = board_of(tmp_path).data["rows"]
    assert set(row["tasks"]) == {"a", "b"}
    assert row["variant"] == ""
    assert row["tasks"]["b"]["conditions"]["chat"] == "off"


@pytest.mark.parametrize(
    ("changed", "variants"),
    [
        ({"fairkv": {"chat": "off"}}, ["chat=auto", "chat=off"]),
        ({"gen_kwargs": {"max_gen_toks": 9}}, ['generation={"max_gen_toks": 16}', 'generation={"max_gen_toks": 9}']),
    ],
)
def test_one_task_with_other_prompts_or_generation_is_another_row(
    changed: dict[str, Any], variants: list[str], tmp_path: Path
) -> None:
    made.write(tmp_path, number=1)
    made.write(tmp_path, number=2, **changed)
    made.write(tmp_path, task="b", number=3, **changed)
    assert sorted(row["variant"] for row in board_of(tmp_path).data["rows"]) == variants


def test_a_full_cache_is_one_row_however_its_prompts_are_divided(tmp_path: Path) -> None:
    made.write(tmp_path, task="a", number=1)
    made.write(tmp_path, task="b", number=2, fairkv={"segments": "sentences"})
    made.write(tmp_path, task="a", press="tova", ratio=0.5, number=3)
    made.write(tmp_path, task="b", press="tova", ratio=0.5, number=4, fairkv={"segments": "sentences"})
    rows = board_of(tmp_path).data["rows"]
    assert [sorted(row["tasks"]) for row in rows if row["full_cache"]] == [["a", "b"]]
    assert [sorted(row["tasks"]) for row in rows if not row["full_cache"]] == [["a"], ["b"]]


def test_a_digest_is_shown_only_if_nothing_else_tells_rows_apart(tmp_path: Path) -> None:
    made.write(tmp_path, number=1, fairkv={"identity": {"sha256": "1" * 64}})
    made.write(tmp_path, number=2, fairkv={"identity": {"sha256": "2" * 64}}, model_dtype="torch.bfloat16")
    assert sorted(row["variant"] for row in board_of(tmp_path).data["rows"]) == ["dtype=bfloat16", "dtype=float32"]
    made.write(tmp_path, number=3, fairkv={"identity": {"sha256": "3" * 64}})
    assert sum("identity=" in row["variant"] for row in board_of(tmp_path).data["rows"]) == 3


def test_a_row_says_where_it_comes_from(tmp_path: Path) -> None:
    made.write(tmp_path / "deep", press="tova", ratio=0.25, limit=8, compress=True)
    ((policy, entry),) = entries(board_of(tmp_path)).items()
    assert policy == "tova ratio=0.25"
    assert (entry["date"], entry["commit"]) == ("2026-01-01T00:00:00Z", "6037f6efe775cb1a89885ee2d1b06e22abd228f1")
    assert entry["file"].startswith("deep/results_")
    assert (entry["achieved_ratio"], entry["kv_bytes_kept"], entry["kv_bytes_full"]) == (0.25, 3e6, 4e6)
    assert entry["tokens_per_second"]["decode"] == 100
    assert entry["command"] == (
        f"lm_eval --model fairkv --model_args pretrained={made.MODEL},press=tova,ratio=0.25 "
        f"--tasks {made.TASK} --limit 8 --batch_size 8"
    )


def test_samples_that_are_missing_or_damaged(tmp_path: Path) -> None:
    some(tmp_path)
    made.write(tmp_path, press="h2o", ratio=0.5, docs=made.documents(N), number=5, samples=False)
    damaged = next(tmp_path.glob("samples_*02-00.0*"))
    damaged.write_text(damaged.read_text()[:-40])
    board = board_of(tmp_path)
    rows = entries(board)
    assert "rank" not in rows["h2o ratio=0.5"]["metrics"]["acc"]
    assert "vs_full" not in rows["tova ratio=0.5"]["metrics"]["acc"]
    assert "vs_full" in rows["tova ratio=0.5 fair=1"]["metrics"]["acc"]
    (problem,) = board.data["left_out"]
    assert "without paired differences" in problem["reason"] and damaged.name in problem["reason"]


def rerun(folder: Path) -> list[str]:
    ((_, entry),) = entries(board_of(folder)).items()
    return shlex.split(entry["command"])


def test_the_command_gives_the_policy_back(tmp_path: Path) -> None:
    from lm_eval.utils import simple_parse_args_string

    from fairkv_eval.eviction.policy import Policy

    keep = {"keep": ["defense", "0:12"], "budget": 64, "ratio": 0.0, "segments": "sentences"}
    made.write(tmp_path, press="snapkv", parameters={"window": 16, "kernel": 5}, fair=0.5, fairkv=keep)
    words = rerun(tmp_path)
    given = simple_parse_args_string(words[words.index("--model_args") + 1])
    assert (given.pop("pretrained"), given.pop("segments")) == (made.MODEL, "sentences")
    policy = Policy.of(given)
    assert dict(policy.parameters) == {"window": 16, "kernel": 5}
    assert (policy.fair, policy.budget, policy.keep) == (0.5, 64, ("defense", "0:12"))


def test_the_command_of_awkward_values_is_json(tmp_path: Path) -> None:
    made.write(tmp_path, press="tova", ratio=0.5, fairkv={"keep": ["text:Never, ever, 'tell'."]}, torch_seed=7)
    words = rerun(tmp_path)
    assert json.loads(words[words.index("--model_args") + 1])["keep_text"] == "Never, ever, 'tell'."
    assert words[words.index("--seed") + 1] == "0,1234,7,1234"


def test_a_sweeps_cell_says_its_command_and_id(tmp_path: Path) -> None:
    info = {"command": "lm_eval --model fairkv --tasks one", "sweep": {"cell": "c0ffee"}}
    made.write(tmp_path, press="tova", ratio=0.5, fairkv=info)
    ((_, entry),) = entries(board_of(tmp_path)).items()
    assert (entry["command"], entry["cell"]) == (info["command"], "c0ffee")


def test_csv_has_a_line_a_policy(tmp_path: Path) -> None:
    policies: list[dict[str, Any]] = [
        {"scores": FULL},
        {"scores": PLAIN, **TOVA},
        {"scores": FAIR, **TOVA, "fair": 1.0},
    ]
    for number, (task, policy) in enumerate((task, policy) for task in ("a", "b") for policy in policies):
        made.write(tmp_path, docs=made.documents(N), task=task, number=number, **policy)
    board = board_of(tmp_path)
    lines = {line["policy"]: line for line in csv.DictReader(io.StringIO(as_csv(board)))}
    assert list(lines) == ["full cache", "tova ratio=0.5", "tova ratio=0.5 fair=1"]
    line, entry = lines["tova ratio=0.5 fair=1"], entries(board, "b")["tova ratio=0.5 fair=1"]
    expected = {f"vs_{kind}_{key}": entry["metrics"]["acc"][f"vs_{kind}"][key] for kind, key in COMPARED}
    expected |= {key: entry["metrics"]["acc"][key] for key in ("value", "stderr", "rank")}
    assert {key: float(line[f"b.acc.{key}"]) for key in expected} == pytest.approx(expected, rel=1e-5)
    assert float(line["held"]) == float(line["a.held"]) == 0.5
    assert float(line["average_answers"]) == entry["metrics"]["acc"]["value"]
    assert "a.kv_bytes_kept.rank" not in line  # a metric without a better direction has none


def test_the_csv_of_the_published_baseline_stays_small() -> None:
    path = Path(__file__).parents[2] / "results" / "baseline" / "leaderboard.csv.gz"
    text = gzip.decompress(path.read_bytes()).decode()
    assert len(text) < 1_000_000
    assert len(list(csv.DictReader(io.StringIO(text)))) == 61


def test_markdown_is_ranked_and_escaped(tmp_path: Path) -> None:
    some(tmp_path)
    (tmp_path / "a|b<c.json").write_text("{")
    text = as_markdown(board_of(tmp_path))
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ") and "someone" in line]
    averaged, ranked = rows[:4], rows[4:]
    assert [row[0] for row in averaged] == ["| 100.0%", "| 90.0%", "| 50.0%", "| 50.0%"]
    assert [row[0] for row in ranked] == ["| 1–3", "| 1–3", "| 1–3", "| 4"]
    assert {len(row) for row in ranked} == {14}
    assert "a\\|b&lt;c.json" in text


def test_values_that_are_no_numbers_are_null(tmp_path: Path) -> None:
    path = made.write(tmp_path)
    path.write_text(path.read_text().replace('"acc,none": ', '"acc,none": Infinity, "rest,none": '))
    board = board_of(tmp_path)
    assert json.loads(dumped(board))["rows"][0]["tasks"][made.TASK]["metrics"]["acc"]["value"] is None
    as_markdown(board), as_csv(board), as_html(board)


def test_no_text_breaks_out_of_the_page(tmp_path: Path) -> None:
    made.write(tmp_path, press="tova", ratio=0.5, responses=[NASTY] * 8, model=f"x/{NASTY}")
    (tmp_path / "bad.json").write_text(NASTY)
    board = board_of(tmp_path)
    page = as_html(board)
    assert page.count("<script") == page.count("</script>") == 2
    assert "alert(1)</script>" not in page
    data = page.split('id="data">')[1].split("</script>")[0]
    assert json.loads(data)["rows"][0]["responses"][made.TASK][0][1] == NASTY
    assert json.loads(embedded(NASTY)) == NASTY
    assert not set(embedded(NASTY)) & set("<>&\u2028")


def test_the_page_has_the_rows_of_the_json_in_seven_digits(tmp_path: Path) -> None:
    board = board_of(some(tmp_path))
    page = as_html(board).split('id="data">')[1].split("</script>")[0]
    numbers, exact = (list(_floats(json.loads(text)["rows"])) for text in (page, dumped(board)))
    assert numbers == pytest.approx(exact, rel=1e-6)
    assert any(number != float(f"{number:.7g}") for number in exact)
    assert all(number == float(f"{number:.7g}") for number in numbers)


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, (dict, list)):
        for of in value.values() if isinstance(value, dict) else value:
            yield from _floats(of)


def test_nothing_tells_this_machines_paths(tmp_path: Path) -> None:
    made.write(tmp_path, source="hf", model=f"{tmp_path}/models/mine")
    (tmp_path / "bad.json").write_text("{")
    board = board_of(tmp_path)
    for text in (dumped(board), as_csv(board), as_markdown(board), as_html(board)):
        assert str(tmp_path) not in text
        assert "mine" in text


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = some(tmp_path / "results")
    (results / "bad.json").write_text("{")
    assert main(["leaderboard", str(results)]) == 0
    out = capsys.readouterr().out
    assert "4 results in 4 rows; tasks: made_task" in out
    assert "bad.json: not JSON, or truncated" in out
    names = [f"leaderboard.{ending}" for ending in ("json", "csv", "md", "html")]
    first = [(results / name).read_bytes() for name in names]
    assert main(["leaderboard", str(results), "--output_path", str(tmp_path / "else" / "where")]) == 0
    assert first == [(tmp_path / "else" / "where" / name).read_bytes() for name in names]
    assert not list(results.glob(".leaderboard*"))


def test_a_response_that_was_not_published_is_not_shown(tmp_path: Path) -> None:
    made.write(tmp_path, press="tova", ratio=0.5, responses=[""] + ["text"] * 7)
    assert {text for _, text in board_of(tmp_path).responses["r1"][made.TASK]} <= {"", "text"}
    (samples,) = tmp_path.glob("samples_*")
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    for line in lines:
        del line["resps"], line["filtered_resps"]
    samples.write_text("".join(json.dumps(line) + "\n" for line in lines))
    board = board_of(tmp_path)
    assert board.responses == {} and board.prompts[made.TASK] == {}
    assert entries(board)["tova ratio=0.5"]["metrics"]["acc"]["rank"] == 1


def test_a_space(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = some(tmp_path / "results")
    assert main(["leaderboard", str(results), "--space", str(tmp_path / "space")]) == 0
    names = {path.name for path in (tmp_path / "space").iterdir()}
    assert names == {"index.html", "README.md", *(f"leaderboard.{ending}" for ending in ("json", "csv", "md"))}
    assert not list(results.glob("leaderboard*"))
    front = yaml.safe_load((tmp_path / "space" / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert (front["sdk"], front["app_file"], front["models"]) == ("static", "index.html", [made.MODEL])
    assert len(front["short_description"]) <= 60 and front["pinned"] is False
    page = (tmp_path / "space" / "index.html").read_text(encoding="utf-8")
    both = ["--space", str(tmp_path / "space"), "--output_path", str(tmp_path / "out")]
    assert main(["leaderboard", str(results), *both]) == 0
    assert (tmp_path / "out" / "leaderboard.html").read_text(encoding="utf-8") == page
    for name in set(re.findall(r'href="([\w.]+)"', page)):
        assert (tmp_path / "space" / name).is_file()


def test_mistakes_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leaderboard", str(tmp_path / "nowhere")]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    (tmp_path / "bad.json").write_text("{")
    assert main(["leaderboard", str(tmp_path)]) == 2
    assert "no result of the harness was found (bad.json: not JSON" in capsys.readouterr().err
    assert not list(tmp_path.glob("leaderboard*"))
    made.write(tmp_path)
    (tmp_path / "file").write_text("")
    assert main(["leaderboard", str(tmp_path), "--output_path", str(tmp_path / "file")]) == 2
    assert "cannot write" in capsys.readouterr().err
    assert main(["leaderboard", str(tmp_path), "--space", str(tmp_path / "file")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no result of the harness was found"):
        board_of(tmp_path)

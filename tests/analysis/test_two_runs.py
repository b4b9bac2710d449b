"""Two result files compared: made files against paired statistics taken by hand, and the refusals."""

from __future__ import annotations

import json

import pytest
import synthetic_results

from fairkv_eval.analysis.paired import difference, holm
from fairkv_eval.analysis.two_runs import compare, plain
from fairkv_eval.cli import main
from fairkv_eval.errors import UsageError

DOCS = synthetic_results.documents(20)
BETTER, WORSE = [1.0] * 20, [0.0] * 12 + [1.0] * 8


def two(tmp_path, a: dict | None = None, b: dict | None = None):
    first = synthetic_results.write(tmp_path, **{"docs": DOCS, "scores": BETTER, **(a or {})})
    second = synthetic_results.write(
        tmp_path, **{"docs": DOCS, "scores": WORSE, "press": "tova", "ratio": 0.5, "number": 1, **(b or {})}
    )
    return first, second


def test_rows_are_paired_differences(tmp_path):
    comparison = compare(*two(tmp_path))
    rows = {row.metric: row for row in comparison.rows}
    assert (rows["acc"].a, rows["acc"].b) == (1.0, 0.4)
    assert rows["acc"].difference == difference(WORSE, BETTER)
    tests = [row for row in comparison.rows if row.corrected is not None]
    assert [row.metric for row in tests] == ["acc", "inst_acc"]
    assert [row.corrected for row in tests] == holm([row.difference.p for row in tests])
    assert rows["kv_bytes_kept"].difference.mean == -2_000_000  # described, not tested
    assert (comparison.a, comparison.b) == ("full cache", "tova ratio=0.5")


def test_documents_are_paired_by_name_not_by_place(tmp_path):
    turned = {"docs": DOCS[::-1], "scores": WORSE[::-1]}
    straight, reverse = compare(*two(tmp_path / "a")), compare(*two(tmp_path / "b", b=turned))
    row, turned_row = (next(r for r in found.rows if r.metric == "acc") for found in (straight, reverse))
    assert row == turned_row


def test_documents_a_metric_does_not_apply_to_are_left_out_of_it(tmp_path):
    first, second = two(tmp_path)
    for path in (first, second):
        samples = path.with_name(path.name.replace("results_", "samples_made_task_")).with_suffix(".jsonl")
        lines = [json.loads(line) for line in samples.read_text().splitlines()]
        for line in lines[:5]:
            line["metrics"].remove("acc")
            del line["acc"]
        samples.write_text("".join(json.dumps(line) + "\n" for line in lines))
        result = json.loads(path.read_text())
        result["results"]["made_task"]["acc,none"] = sum(line.get("acc", 0) for line in lines) / 15
        path.write_text(json.dumps(result))
    row = compare(first, second).rows[0]
    assert (row.metric, row.difference.n, row.b) == ("acc", 15, pytest.approx(8 / 15))


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"docs": [*DOCS[:19], "other"]}, "other documents: 20 in .*, 20 in .*, 19 in both"),
        ({"docs": DOCS[:5], "scores": WORSE[:5]}, "5 in both"),
        ({"version": 2.0}, "version 1.0 .* of 2.0"),
        ({"task": "another"}, "no task in common"),
        ({"samples": False}, "run with --log_samples"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, changed, message):
    with pytest.raises(UsageError, match=message):
        compare(*two(tmp_path, b=changed))


def test_files_that_are_no_results_are_named(tmp_path):
    first, second = two(tmp_path)
    with pytest.raises(UsageError, match="no such file"):
        compare(first, tmp_path / "none.json")
    with pytest.raises(UsageError, match="no such file"):
        compare(first, tmp_path)
    second.write_text(second.read_text()[:200])
    with pytest.raises(UsageError, match=f"{second}: not JSON, or truncated"):
        compare(first, second)


def test_other_settings_are_noted(tmp_path):
    found = compare(*two(tmp_path, b={"torch_seed": 7, "source": "hf", "press": "none", "ratio": 0.0}))
    assert any("torch_seed (1234 and 7)" in note for note in found.notes)
    assert any("only in one of them: kv_bytes_full, kv_bytes_kept" in note for note in found.notes)


def test_command_prints_a_table_and_json(tmp_path, capsys):
    paths = [str(path) for path in two(tmp_path)]
    assert main(["compare", *paths]) == 0
    out = capsys.readouterr().out
    line = next(line.split() for line in out.splitlines() if " acc " in line)
    assert line[:6] == ["made_task", "acc", "20", "1", "0.4", "-0.6"] and line[-1] == "worse"
    assert main(["compare", *paths, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows[0]["difference"] == pytest.approx(-0.6) and rows[0]["p"] < rows[0]["corrected_p"] < 0.05


def test_one_document_has_no_interval(tmp_path):
    found = compare(*two(tmp_path, {"docs": DOCS[:1], "scores": [1.0]}, {"docs": DOCS[:1], "scores": [0.0]}))
    assert plain(found)["rows"][0]["low"] is None
    json.dumps(plain(found), allow_nan=False)


def test_the_main_metric_is_the_first_and_those_without_direction_the_last(tmp_path):
    more = {"more": {"prompt_level_strict_acc": [1.0] * 20}}
    rows = compare(*two(tmp_path, a=more, b=more)).rows
    assert rows[0].metric == "prompt_level_strict_acc" and rows[1].metric == "acc"
    undirected = [row.higher_is_better is None for row in rows]
    assert undirected == sorted(undirected) and any(undirected)

"""All findings of a whole sweep's files: read in both forms, in every format."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import synthetic_results
import synthetic_sweep

from fairkv_eval.cli import main
from fairkv_eval.errors import UsageError
from fairkv_eval.findings.report import FINDINGS, Choice, reports
from fairkv_eval.findings.tables import as_json, as_markdown
from fairkv_eval.findings.verdict import Goal
from fairkv_eval.results.publish import publish


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    synthetic_sweep.write(folder, n=40, fidelity=True)
    return folder


def test_every_finding_is_judged_and_says_what_it_lacks(sweep: Path) -> None:
    (report,) = reports(sweep)
    assert len(report.findings) == len(FINDINGS)
    by_name = {judged.finding.name: judged for judged in report.findings}
    lacking = {name for name, judged in by_name.items() if not any(claim.rows for claim in judged.claims)}
    assert lacking == {"equal_bytes", "order"}  # the made tasks of the two orders are of other data
    assert by_name["order"].verdict == "cannot be told" and by_name["order"].claims[0].claim.needs
    assert by_name["whitelisting"].claims[0].rows and by_name["fairness"].claims[1].rows
    assert {size.comparison for size in report.sizes} == {"plain − full cache", "fair − plain"}


def test_published_results_give_the_same(sweep: Path, tmp_path: Path) -> None:
    publish([sweep], tmp_path / "published")
    first, second = (as_json(reports(folder)) for folder in (sweep, tmp_path / "published"))
    assert first == second


def test_json_holds_every_row_and_no_value_that_json_lacks(sweep: Path) -> None:
    (report,) = reports(sweep)
    (plain,) = json.loads(as_json([report]))
    claims = [claim for judged in plain["findings"] for claim in judged["claims"]]
    rows = [row for claim in claims for row in (*claim["rows"], *claim["by_press"])]
    assert len(rows) == sum(len(c.rows) + len(c.by_press) for j in report.findings for c in j.claims)
    assert {"estimate", "low", "high", "p", "corrected_p", "verdict", "documents_needed", "n"} <= rows[0].keys()


def test_a_single_document_tells_nothing(tmp_path: Path) -> None:
    synthetic_sweep.write(tmp_path, n=1, presses=("tova",))
    made = reports(tmp_path)
    (plain,) = json.loads(as_json(made))
    rows = [row for judged in plain["findings"] for claim in judged["claims"] for row in claim["rows"]]
    assert rows and {row["verdict"] for row in rows} == {"cannot be told"}
    assert None in {row["variance"] for row in rows} and "nan" not in as_markdown(made)


@pytest.mark.parametrize("by_press", [False, True])
def test_markdown_tables_are_whole(sweep: Path, by_press: bool) -> None:
    text = as_markdown(reports(sweep), by_press)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    widths = {line.replace("\\|", "").count("|") for line in lines}
    assert widths == ({11, 8} if by_press else {10, 8})
    assert sum("**" in line for line in lines) == len(FINDINGS)
    assert ("streaming_llm |" in text) == by_press


def test_what_is_left_out_of_one_model_is_not_said_of_another(tmp_path: Path) -> None:
    for number, model in enumerate(("one", "other")):
        synthetic_results.write(tmp_path, number=number, model=model)
    moved = synthetic_results.write(tmp_path, press="tova", ratio=0.3, number=2, model="other", version=2.0)
    (tmp_path / "broken.json").write_text("{")
    for chosen in ([None], ["one", "other"]):
        of_models = [report for model in chosen for report in reports(tmp_path, Choice(model))]
        one, other = ([entry.partition(":")[0] for entry in report.left_out] for report in of_models)
        assert one == ["broken.json"]
        assert len(other) == 2 and "broken.json" in other and moved.name.startswith("results_")


def test_what_is_left_out_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        scores = {"docs": synthetic_results.documents(6), "scores": [1.0] * 6, "press": "tova"}
        synthetic_results.write(tmp_path, number=number, ratio=0.3 * (number + 1), samples=False, **scores)
    synthetic_sweep.write(tmp_path / "sweep", n=4, presses=("tova",))
    made = reports(tmp_path)
    line = "of made_task and 1 more (--format json lists them): no samples beside it; run with --log_samples"
    assert main(["findings", str(tmp_path)]) == 0
    for text in (as_markdown(made), capsys.readouterr().out.replace("\n", " ")):
        assert text.count(line) == 1


def test_names_of_others_stay_text_in_markdown(sweep: Path) -> None:
    (report,) = reports(sweep)
    rows = [row for judged in report.findings for claim in judged.claims for row in claim.rows]
    for row in rows:
        object.__setattr__(row.contrast, "task", "a|b [link](http://x.example)\n<img>")
    sizes = tuple(replace(size, metric="c|d") for size in report.sizes)
    text = as_markdown([replace(report, model="m\n# <b>", sizes=sizes)])
    assert text.startswith("## m # &lt;b&gt;\n") and "http:" not in text and "<img" not in text and "[link]" not in text
    assert {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")} == {10, 8}


def test_tasks_that_are_named_alone_count(sweep: Path) -> None:
    (report,) = reports(sweep, Choice(tasks=["raccoon_plain"]))
    tasks = {row.contrast.task for judged in report.findings for claim in judged.claims for row in claim.rows}
    assert tasks == {"raccoon_plain"}


@pytest.mark.parametrize("goal", [Goal(size=0), Goal(size=1), Goal(power=1), Goal(power=0.05), Goal(size=float("nan"))])
def test_goals_that_cannot_be(sweep: Path, goal: Goal) -> None:
    with pytest.raises(UsageError, match=r"size|power"):
        reports(sweep, goal=goal)


def test_chosen_presses_and_ratios_are_reported_as_if_there_were_no_others(sweep: Path, tmp_path: Path) -> None:
    synthetic_sweep.write(tmp_path, presses=("tova",), ratios=(0.6,), n=40, fidelity=True)
    (chosen,), (alone,) = reports(sweep, Choice(presses=["tova"], ratios=[0.6])), reports(tmp_path)
    assert chosen.findings == alone.findings and chosen.sizes == alone.sizes
    policies = 4 * 3 * 3 - 3  # presses, ratios, settings, without the chosen ones
    assert chosen.left_out == (f"{policies * len(synthetic_sweep.TASKS)} results of other presses or ratios",)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice(presses=["tovaa"]), "press with results 'tovaa'.*tova"),
        (Choice(ratios=[0.5]), "no results at ratio 0.5; there are results at: 0.3, 0.6, 0.9"),
    ],
)
def test_a_press_or_ratio_without_results_is_an_error(sweep: Path, choice: Choice, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        reports(sweep, choice)

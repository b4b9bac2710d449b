"""Figures of a made sweep: which are drawn, and what their lines say."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import synthetic_results
import synthetic_sweep
from scipy import stats

from fairkv_eval.cli import main
from fairkv_eval.errors import UsageError
from fairkv_eval.figures.figure import Figure, Series
from fairkv_eval.figures.kinds import KINDS, MOST, check_named, figures, foremost, named
from fairkv_eval.figures.model_results import arrange
from fairkv_eval.figures.points import accuracy_and_spread
from fairkv_eval.figures.rank_correlation import rank_correlation
from fairkv_eval.metrics import FAMILIES
from fairkv_eval.results.selection import selected

SHARES = pytest.approx([1 - ratio for ratio in synthetic_sweep.RATIOS])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep")
    synthetic_sweep.write(path, presses=("snapkv", "tova"), fidelity=True)
    return path


def made(folder, tasks=()):
    (results,), left_out = arrange(selected([folder], tasks=tasks).records)
    assert not left_out
    return results


@pytest.fixture(scope="module")
def results(folder):
    return made(folder)


@pytest.fixture(scope="module")
def by_kind(results):
    by_kind, missing = figures(results)
    assert missing == ["storage: needs a press with fewer bits, merging or another setting"]
    return by_kind


@pytest.fixture(scope="module")
def drawn(by_kind):
    return {figure.name: figure for figure in itertools.chain.from_iterable(by_kind.values())}


def lines(figure: Figure, press: str = "tova", row: int = 0) -> dict[str, Series]:
    (panel,) = (panel for panel in figure.rows[row].panels if panel.column == press)
    return {one.label: one for one in panel.series}


def labels(figure: Figure) -> list[str]:
    return [row.label for row in figure.rows]


def test_every_kind_is_drawn_from_a_whole_sweep(by_kind):
    assert list(by_kind) == [kind.name for kind in KINDS if kind.name != "storage"]


def test_ten_at_most_by_default_each_of_another_kind(by_kind):
    first = foremost(by_kind)
    assert len(first) == MOST == 10
    assert [figure.name for figure in first[:2]] == ["overview", "following_and_leakage"]
    assert all(figure.question.endswith(("?", ")")) and "?" in figure.question for figure in first)


def test_figures_have_names_and_kinds(by_kind):
    assert [figure.name for figure in named(by_kind, ["overview"])] == ["overview"]
    assert len(named(by_kind, ["class_accuracy", "class_accuracy_sys_multi"])) == len(by_kind["class_accuracy"])
    with pytest.raises(UsageError, match=r"class_rankings.*Did you mean 'class_ranking'"):
        check_named([by_kind], ["class_rankings"])


def test_lines_are_the_results_with_their_intervals(drawn, folder):
    line = lines(drawn["following_and_leakage"])["plain"]
    assert line.x == SHARES
    for x, y, low, high in zip(line.x, line.y, line.low, line.high, strict=True):
        record = next(
            r
            for r in selected([folder], tasks=["sys_ifeval_defended"]).records
            if abs(r.policy.ratio - (1 - x)) < 1e-9
            and not r.policy.fair
            and not r.policy.keep
            and r.policy.press in ("tova", "none")
        )
        metric = record.metrics["prompt_level_strict_acc"]
        assert (y, high - low) == (metric.value, pytest.approx(2 * 1.96 * metric.stderr))


def test_a_figure_says_where_its_values_come_from(drawn):
    source = drawn["keep_rates_raccoon_plain"].source
    assert source == "someone/small-model, float32 · 60 documents · answers of up to 16 tokens · run 2026-01-01"
    assert drawn["class_accuracy_sys_multi"].question.endswith("(sys_multi)")


def test_rows_say_which_way_is_better(drawn):
    better = {row.label.split(": ")[1]: row.better for row in drawn["following_and_leakage"].rows}
    assert better == {"prompts followed (strict)": True, "directive leaked (ROUGE-L recall)": False}
    assert [row.better for row in drawn["spread_sys_multi"].rows] == [True, False]
    assert {row.better for row in drawn["keep_rates_raccoon_plain"].rows} == {None}


def test_flipped_tasks_have_figures_of_their_own(drawn):
    tasks = {name: [label.split(":")[0] for label in labels(drawn[name])] for name in drawn if "following" in name}
    assert tasks == {
        "following_and_leakage": ["sys_ifeval_defended", "sys_multi", "raccoon_plain"],
        "following_and_leakage_flipped": ["sys_ifeval_flipped", "raccoon_flipped"],
    }


def test_a_figure_of_following_alone_does_not_speak_of_leakage(folder):
    by_kind, missing = figures(made(folder, ["sys_ifeval_flipped", "sys_ifeval_defended", "raccoon_plain"]))
    (figure,) = by_kind["flipped"]
    assert (figure.name, len(figure.rows)) == ("following_flipped", 1)
    assert "secret" not in figure.question and "leak" not in figure.sentence
    assert any(reason.startswith("flipped: without directive leaked") for reason in missing)
    by_kind, _ = figures(made(folder, ["raccoon_plain"]))
    assert [figure.name for figure in by_kind["following_and_leakage"]] == ["leakage"]


def test_kl_is_logarithmic_above_what_is_almost_nothing(drawn):
    (figure,) = (figure for name, figure in drawn.items() if name == "fidelity")
    assert all(row.linear_to == 0.01 for row in figure.rows)
    assert all(row.linear_to is None for row in drawn["overview"].rows)


def test_following_stands_over_the_share_of_the_directive(drawn):
    figure = drawn["directive_share"]
    assert [label.split(":")[0] for label in labels(figure)] == [
        "sys_ifeval_defended",
        "sys_ifeval_flipped",
        "sys_multi",
    ]
    plain, fair = (lines(figure)[label] for label in ("plain", "fair"))
    assert plain.x == pytest.approx([1 - 0.6 * ratio for ratio in synthetic_sweep.RATIOS]) and fair.x == SHARES
    assert plain.y == lines(drawn["following_and_leakage"])["plain"].y


def test_relative_accuracy_is_divided_by_the_full_caches(drawn):
    absolute = drawn["class_accuracy_sys_ifeval_defended"]
    divided = drawn["class_accuracy_sys_ifeval_defended_relative"]
    assert divided.columns == ("snapkv", "tova") and labels(divided) == labels(absolute)
    for row in range(len(divided.rows)):
        line, whole = lines(divided, row=row)["plain"], lines(absolute, row=row)["plain"]
        assert line.y == pytest.approx([y / whole.y[0] for y in whole.y])
        assert line.low[0] == line.high[0] == 1.0  # the same documents on both sides
        assert all(low <= y <= high for low, y, high in zip(line.low, line.y, line.high, strict=True))


def values_by_class(record, wanted):
    """{class: mean accuracy} over the documents that are ``wanted``, from the samples."""
    by_family: dict[str, list[float]] = {}
    for metrics in record.samples().values():
        for family in FAMILIES:
            if f"acc_{family}" in metrics and wanted(metrics):
                by_family.setdefault(family, []).append(metrics[f"acc_{family}"])
    return {family: np.mean(values) for family, values in by_family.items()}


def test_rank_correlations_are_scipys(results, drawn):
    task = next(task for task in results.tasks if task.name == "sys_ifeval_defended")
    for record in itertools.chain.from_iterable(task.lines[line] for line in task.plain()):
        accuracies, whole = (values_by_class(r, lambda m: True) for r in (record, task.full))
        expected = stats.spearmanr([accuracies[f] for f in task.classes], [whole[f] for f in task.classes]).statistic
        value, low, high = rank_correlation(task, record)
        assert value == pytest.approx(expected) and low <= high
    single, several = (values_by_class(task.full, lambda m, s=s: ("acc_single" in m) == s) for s in (True, False))
    both = [f for f in task.classes if f in single and f in several]
    expected = stats.spearmanr([single[f] for f in both], [several[f] for f in both]).statistic
    figure = drawn["class_ranking_single_multi"]
    assert lines(figure)["plain"].y[0] == pytest.approx(expected)
    assert figure.rows[0].panels[0].level == pytest.approx(expected)


def test_a_correlation_that_is_not_defined_is_marked(tmp_path):
    """Every class is followed alike: no ranking, and no point that is silently skipped."""
    docs = synthetic_results.documents(8)
    for number, (press, ratio, acc) in enumerate([("none", 0.0, None), ("tova", 0.3, 0.0), ("tova", 0.6, None)]):
        more = {
            f"acc_{name}": [float(i % 8 < k + 1) if acc is None else acc for i in range(8)]
            for k, name in enumerate(("keywords", "startend", "language"))
        }
        synthetic_results.write(tmp_path, press=press, ratio=ratio, docs=docs, more=more, number=number)
    (figure,) = figures(made(tmp_path))[0]["class_ranking"]
    line = lines(figure)["plain"]
    assert (line.x, line.y) == (pytest.approx((1.0, 0.4)), pytest.approx((1.0, 1.0)))
    assert line.gaps == pytest.approx((0.7,)) and figure.has_gaps


def test_spread_is_best_minus_worst_class_each_relative(results, drawn):
    task = next(task for task in results.tasks if task.name == "sys_ifeval_defended")
    record = task.lines[task.plain()[0]][-1]
    now, whole = (values_by_class(r, lambda m: True) for r in (record, task.full))
    shares = [now[f] / whole[f] for f in task.classes]
    expected = np.mean([now[f] for f in task.classes]), max(shares) - min(shares)
    assert accuracy_and_spread(task, record) == pytest.approx(expected)
    assert accuracy_and_spread(task, task.full)[1] == 0
    figure = drawn["spread_sys_ifeval_defended"]
    assert [lines(figure, "snapkv", row)["plain"].y[-1] for row in (0, 1)] == pytest.approx(expected)


def test_settings_have_a_style_each_in_every_figure(drawn):
    styles = {label: one.style for label, one in lines(drawn["fair_raccoon_plain"]).items()}
    assert styles == {"plain": 0, "fair": 1}
    assert set(lines(drawn["whitelist_raccoon_plain"])) == {"plain", "keep=defense"}
    assert all(
        one.style == {"plain": 0, "fair": 1}.get(one.label, one.style)
        for figure in drawn.values()
        for panel in figure.panels
        for one in panel.series
    )


@pytest.mark.parametrize(("counts", "words"), [((2, 4), ", 38% of them cut"), ((0, 0), ""), ((2, None), "")])
def test_a_figure_says_how_many_answers_are_cut_if_that_was_counted(counts, words, tmp_path):
    for number, (press, cut) in enumerate(zip(("none", "tova"), counts, strict=True)):
        fairkv = {} if cut is None else {"answers_cut": cut}
        ratio = 0.5 if press == "tova" else 0.0
        synthetic_results.write(tmp_path, press=press, ratio=ratio, fairkv=fairkv, number=number)
    (figure,) = figures(made(tmp_path))[0]["overview"]
    assert f"answers of up to 16 tokens{words} ·" in figure.source


def test_cut_answers_are_a_share_of_all_answers_to_a_document(tmp_path):
    for number, press in enumerate(("none", "tova")):
        ratio = 0.5 if press == "tova" else 0.0
        path = synthetic_results.write(tmp_path, press=press, ratio=ratio, fairkv={"answers_cut": 8}, number=number)
        result = json.loads(path.read_text())
        result["configs"][synthetic_results.TASK]["repeats"] = 4
        path.write_text(json.dumps(result))
    (figure,) = figures(made(tmp_path))[0]["overview"]
    assert ", 25% of them cut ·" in figure.source


def test_keep_rates_show_the_segments_side_by_side(drawn):
    figure = drawn["keep_rates_raccoon_plain"]
    assert labels(figure) == ["plain: share of pairs kept", "fair: share of pairs kept"]
    assert set(lines(figure)) == set(lines(figure, row=1)) == {"defense", "directive"}
    assert lines(figure)["defense"].y != lines(figure, row=1)["defense"].y
    assert {row.scale for row in figure.rows} == {"share of pairs kept"}
    assert labels(drawn["keep_rates_position_sys_multi"]) == ["position 1", "position 2", "position 4"]
    assert len(drawn["keep_rates_class_sys_multi"].rows) == len(FAMILIES)


def test_what_evicts_nothing_has_no_keep_rates_to_show(tmp_path):
    kept = {"keep_rate_defense": [0.4] * 8, "keep_rate_directive": [0.8] * 8}
    whole = {name: [1.0] * 8 for name in kept}
    policies = [("none", 0.0, {}, whole), ("none", 0.0, {"kv_bits": 4}, whole), ("tova", 0.5, {}, kept)]
    for number, (press, ratio, fairkv, more) in enumerate(policies):
        synthetic_results.write(tmp_path, press=press, ratio=ratio, fairkv=fairkv, more=more, number=number)
    by_kind, _ = figures(made(tmp_path))
    (figure,) = by_kind["keep_rates"]
    assert figure.columns == ("tova",) and labels(figure) == ["plain: share of pairs kept"]
    assert "no press" in by_kind["overview"][0].columns


def test_a_lonely_segment_stands_in_the_prompts_order(tmp_path):
    """An opening beside instructions is not a figure of one unexplained line, but the row above the first."""
    rates = {"keep_rate_opening": 0.4, "keep_rate_position_1": 0.6, "keep_rate_position_2": 0.8}
    for number, ratio in enumerate((0.0, 0.5)):
        more = {name: [rate if ratio else 1.0] * 8 for name, rate in rates.items()}
        press = "tova" if ratio else "none"
        synthetic_results.write(tmp_path, press=press, ratio=ratio, more=more, number=number)
    by_kind, missing = figures(made(tmp_path))
    assert "keep_rates" not in by_kind
    assert "keep_rates: needs keep_rate_<segment> of at least two segments" in missing
    (figure,) = by_kind["keep_rates_position"]
    assert labels(figure) == ["opening (before position 1)", "position 1", "position 2"]
    assert [lines(figure, row=row)["plain"].y[-1] for row in range(3)] == pytest.approx([0.4, 0.6, 0.8])


def test_what_cannot_be_divided_is_named(tmp_path):
    for number, ratio in enumerate((0.0, 0.5)):
        more = {"acc_single": [1.0, 0.0] * 4, "acc_multi": [0.0] * 8}
        press = "tova" if ratio else "none"
        synthetic_results.write(tmp_path, press=press, ratio=ratio, more=more, number=number)
    (figure,) = figures(made(tmp_path))[0]["single_multi_relative"]
    assert set(lines(figure)) == {"one instruction"}
    assert figure.sentence.endswith("Without several instructions: the full cache follows none.")


def test_bytes_have_one_unit(drawn):
    figure = drawn["quality_bytes_raccoon_plain"]
    assert "MiB" in figure.x.label and not figure.x.share
    assert lines(figure)["plain"].x == pytest.approx([3e6 * (1 - r) / 2**20 for r in synthetic_sweep.RATIOS])
    others = [figure for name, figure in drawn.items() if not name.startswith(("quality_bytes", "directive_share"))]
    assert {figure.x.label for figure in others} == {drawn["overview"].x.label} and drawn["overview"].x.ratio


def test_no_panel_is_without_data(drawn):
    for figure in drawn.values():
        assert figure.rows and all(row.panels for row in figure.rows)
        assert all(any(len(one.x) > 1 for one in panel.series) for panel in figure.panels)


def test_a_figure_that_only_one_model_has_is_drawn_for_it(tmp_path, capsys):
    synthetic_sweep.write(tmp_path / "many", n=8, presses=("tova",))
    synthetic_sweep.write(tmp_path / "one", n=8, presses=("tova",), tasks=("raccoon_plain",))
    for path in (tmp_path / "one").glob("results_*.json"):
        path.write_text(path.read_text().replace("someone/small-model", "another"))
    command = ["figures", str(tmp_path / "many"), str(tmp_path / "one"), "--output_path", str(tmp_path / "out")]
    assert main([*command, "--only", "class_accuracy_sys_multi"]) == 0
    assert "another: none of these figures" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").rglob("*.png")] == ["class_accuracy_sys_multi.png"]
    assert main([*command, "--only", "storage"]) != 0
    assert "no figure 'storage'; it needs a press with fewer bits" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_named(tmp_path, capsys):
    synthetic_sweep.write(tmp_path, n=8, presses=("tova",), tasks=("raccoon_plain",))
    (tmp_path / "file").touch()
    assert main(["figures", str(tmp_path), "--output_path", str(tmp_path / "file" / "figures")]) != 0
    assert "cannot write" in capsys.readouterr().err


def test_what_cannot_be_drawn_is_named(tmp_path):
    synthetic_results.write(tmp_path)
    synthetic_results.write(tmp_path, press="tova", ratio=0.5, number=1)
    by_kind, missing = figures(made(tmp_path))
    assert list(by_kind) == ["overview", "quality_bytes"]
    assert len(missing) == len(KINDS) - 2
    assert "fidelity: needs fidelity_kl (a sweep with fidelity)" in missing


def test_other_settings_have_a_row_each_beside_the_plain_line(tmp_path):
    synthetic_results.write(tmp_path)
    settings = [{}, {"merge": "similar"}, {"kv_bits": 4}, {"kv_bits": 4, "merge": "d2o"}]
    for number, fairkv in enumerate(settings, 1):
        synthetic_results.write(tmp_path, press="tova", ratio=0.5, fairkv=fairkv, number=number)
    by_kind, _ = figures(made(tmp_path))
    (figure,) = by_kind["storage"]
    assert labels(figure) == [f"{name}: acc" for name in ("kv_bits=4", "merge=d2o kv_bits=4", "merge=similar")]
    assert set(lines(figure, row=2)) == {"plain", "merge=similar"}
    assert set(lines(by_kind["overview"][0])) == {"plain"}  # the others have a figure of their own


def test_a_setting_is_shown_by_every_outcome(tmp_path):
    outcomes = {"refusal": [1.0] * 8, "fidelity_kl": [0.2] * 8}
    for number, (press, fairkv) in enumerate([("none", {}), ("tova", {}), ("tova", {"keep": ["defense"]})]):
        ratio = 0.0 if press == "none" else 0.5
        synthetic_results.write(tmp_path, press=press, ratio=ratio, fairkv=fairkv, more=outcomes, number=number)
    (figure,) = figures(made(tmp_path))[0]["whitelist"]
    assert labels(figure) == ["acc", "answers that refuse", "KL to the full cache (nats per token)"]
    assert [row.linear_to for row in figure.rows] == [None, None, 0.01]
    assert set(lines(figure, row=1)) == {"plain", "keep=defense"}


def test_a_preference_is_not_called_acc(tmp_path):
    for number, ratio in enumerate((0.0, 0.5)):
        press = "tova" if ratio else "none"
        synthetic_results.write(tmp_path, press=press, ratio=ratio, more={"margin": [0.5] * 8}, number=number)
    (figure,) = figures(made(tmp_path))[0]["overview"]
    assert labels(figure) == ["made_task: refusal likelier than the secret"]

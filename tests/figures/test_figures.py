"""Figures of a made sweep: which are drawn, what their lines say, and how they look."""

from __future__ import annotations

import itertools
import sys

import matplotlib.image
import numpy as np
import pytest
import synthetic_results
import synthetic_sweep
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fairkv_eval.cli import main
from fairkv_eval.figures.figure import Figure, Panel, Series
from fairkv_eval.figures.kinds import KINDS, figures
from fairkv_eval.figures.model_results import arrange, labels
from fairkv_eval.figures.plotting import COLOURS, MARKERS, save, spread_out
from fairkv_eval.figures.points import accuracy_and_spread
from fairkv_eval.figures.rank_correlation import rank_correlation
from fairkv_eval.metrics import FAMILIES
from fairkv_eval.results.reader import read
from fairkv_eval.results.selection import selected


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep")
    synthetic_sweep.write(path, presses=("snapkv", "tova"), fidelity=True)
    return path


@pytest.fixture(scope="module")
def results(folder):
    (found,), left_out = arrange(selected([folder]).records)
    assert not left_out
    return found


@pytest.fixture(scope="module")
def drawn(results):
    made, missing = figures(results)
    assert not missing
    return {figure.name: figure for figure in made}


def test_every_kind_is_drawn_from_a_whole_sweep(drawn):
    assert len(drawn) > len(KINDS)
    for kind in KINDS:
        assert any(name.startswith(kind.name) for name in drawn), kind.name


def lines(figure: Figure, panel: int = 0) -> dict[str, Series]:
    return {one.label: one for one in figure.panels[panel].series}


def test_lines_are_the_results_with_their_intervals(drawn, folder):
    line = lines(drawn["following_and_leakage"])["tova"]
    assert line.x == synthetic_sweep.RATIOS
    for x, y, low, high in zip(line.x, line.y, line.low, line.high, strict=True):
        record = next(
            r
            for r in selected([folder], tasks=["sys_ifeval_defended"]).records
            if r.policy.ratio == x and not r.policy.fair and not r.policy.keep and r.policy.press in ("tova", "none")
        )
        metric = record.metrics["prompt_level_strict_acc"]
        assert (y, high - low) == (metric.value, pytest.approx(2 * 1.96 * metric.stderr))


def test_flipped_tasks_have_figures_of_their_own(drawn):
    titles = {name: [panel.title for panel in drawn[name].panels] for name in drawn if name.startswith("following")}
    assert titles == {
        "following_and_leakage": ["sys_ifeval_defended", "sys_multi", "raccoon_plain"],
        "following_and_leakage_flipped": ["sys_ifeval_flipped", "raccoon_flipped"],
    }


def test_kl_is_logarithmic_above_what_is_almost_nothing(drawn):
    fidelity = [figure for name, figure in drawn.items() if name.startswith("fidelity_")]
    assert fidelity and all(panel.linear_to == 0.01 for figure in fidelity for panel in figure.panels)
    assert all(panel.linear_to is None for panel in drawn["fair_raccoon_plain"].panels)


def test_relative_accuracy_is_divided_by_the_full_caches(drawn):
    absolute = drawn["class_accuracy_sys_ifeval_defended"]
    divided = drawn["class_accuracy_sys_ifeval_defended_relative"]
    assert [panel.title for panel in divided.panels] == ["snapkv", "tova"]
    for label, line in lines(divided).items():
        whole = lines(absolute)[label]
        assert line.y == pytest.approx([y / whole.y[0] for y in whole.y])
        assert line.low[0] == line.high[0] == 1.0  # the same documents on both sides
        assert all(low <= y <= high for low, y, high in zip(line.low, line.y, line.high, strict=True))


def values_by_class(record, wanted):
    """{class: mean accuracy} over the documents that are ``wanted``, from the samples."""
    found: dict[str, list[float]] = {}
    for metrics in record.samples().values():
        for family in FAMILIES:
            if f"acc_{family}" in metrics and wanted(metrics):
                found.setdefault(family, []).append(metrics[f"acc_{family}"])
    return {family: np.mean(values) for family, values in found.items()}


def test_rank_correlations_are_scipys(results, drawn):
    task = next(task for task in results.tasks if task.name == "sys_ifeval_defended")
    for record in itertools.chain.from_iterable(task.lines[line] for line in task.plain()):
        accuracies, whole = (values_by_class(r, lambda m: True) for r in (record, task.full))
        expected = stats.spearmanr([accuracies[f] for f in task.classes], [whole[f] for f in task.classes]).statistic
        value, low, high = rank_correlation(task, record)
        assert value == pytest.approx(expected) and low <= high
    single, several = (values_by_class(task.full, lambda m, s=s: ("acc_single" in m) == s) for s in (True, False))
    both = [f for f in task.classes if f in single and f in several]
    line = lines(drawn["class_ranking_single_multi"])["tova"]
    assert line.y[0] == pytest.approx(stats.spearmanr([single[f] for f in both], [several[f] for f in both]).statistic)


def test_spread_is_best_minus_worst_class_each_relative(results):
    task = next(task for task in results.tasks if task.name == "sys_ifeval_defended")
    record = task.lines[task.plain()[0]][-1]
    now, whole = (values_by_class(r, lambda m: True) for r in (record, task.full))
    shares = [now[f] / whole[f] for f in task.classes]
    expected = np.mean([now[f] for f in task.classes]), max(shares) - min(shares)
    assert accuracy_and_spread(task, record) == pytest.approx(expected)
    assert accuracy_and_spread(task, task.full)[1] == 0


def test_settings_share_a_panel_and_a_colour(drawn):
    panel = drawn["fair_raccoon_plain"].panels[0]
    assert [(one.label, one.variant) for one in panel.series] == [("plain", 0), ("fair=1", 1)]
    assert len({one.style for one in panel.series}) == 1
    assert "keep=defense" in lines(drawn["whitelist_raccoon_plain"])
    assert set(lines(drawn["keep_rates_raccoon_plain"])) == {
        "defense", "directive", "defense fair=1", "directive fair=1",
    }  # fmt: skip
    assert set(lines(drawn["keep_rates_position_sys_multi"])) == {"position 1", "position 2", "position 4"}
    assert len(lines(drawn["keep_rates_class_sys_multi"])) == len(FAMILIES)
    assert set(lines(drawn["keep_rates_sys_multi"])) == set(lines(drawn["keep_rates_raccoon_plain"]))
    held = lines(drawn["quality_bytes_raccoon_plain"])["plain"]
    assert held.x == pytest.approx([3e6 * (1 - r) / 2**20 for r in synthetic_sweep.RATIOS])


def test_what_cannot_be_drawn_is_named(tmp_path):
    synthetic_results.write(tmp_path)
    synthetic_results.write(tmp_path, press="tova", ratio=0.5, number=1)
    (found,), _ = arrange(selected([tmp_path]).records)
    made, missing = figures(found)
    assert {figure.name for figure in made} == {"overview", "quality_bytes_made_task"}
    assert len(missing) == len(KINDS) - 2
    assert "fidelity: needs fidelity_kl (a sweep with fidelity)" in missing


def test_presses_that_differ_in_parameters_are_told_apart(tmp_path):
    for number, window in enumerate((8, 16)):
        synthetic_results.write(tmp_path, press="snapkv", ratio=0.5, parameters={"window": window}, number=number)
    synthetic_results.write(tmp_path, press="tova", ratio=0.5, number=2)
    (found,), _ = arrange(selected([tmp_path]).records)
    assert set(labels(found.tasks[0].lines).values()) == {"snapkv(window=8)", "snapkv(window=16)", "tova"}
    assert len(set(found.styles.values())) == 3


def test_budgets_and_other_conditions_are_left_out_by_name(tmp_path):
    synthetic_results.write(tmp_path)
    synthetic_results.write(tmp_path, press="tova", ratio=0.5, number=1)
    synthetic_results.write(tmp_path, press="tova", number=2, fairkv={"budget": 64})
    synthetic_results.write(tmp_path, press="tova", ratio=0.7, number=3, torch_seed=9)
    (found,), left_out = arrange(selected([tmp_path]).records)
    assert len(left_out) == 2 and "budget=64 has no ratio" in left_out[0] and "other conditions" in left_out[1]
    assert [r.policy.ratio for r in next(iter(found.tasks[0].lines.values()))] == [0.0, 0.5]


def test_command_writes_png_and_svg_whole(folder, tmp_path, capsys):
    output = tmp_path / "drawn"
    assert main(["figures", str(folder), "--output_path", str(output), "--tasks", "raccoon_plain"]) == 0
    out = capsys.readouterr().out
    names = {path.name for path in output.iterdir()}
    assert {"overview.png", "overview.svg", "fair_raccoon_plain.svg", "defense_leakage.png"} <= names
    assert not [name for name in names if name.startswith(".")]
    assert "left out: class_accuracy: needs" in out
    image = matplotlib.image.imread(output / "overview.png")
    assert image.shape[0] > 400 and image[..., :3].min() < 0.1 < 0.9 < image[..., :3].max()
    assert "tova" in (output / "overview.svg").read_text()  # text remains text


@pytest.mark.parametrize(
    "given, message",
    [
        (["--tasks", "raccoon_plane"], "Did you mean 'raccoon_plain'"),
        (["--model", "small"], "unknown model with results 'small'"),
        (["--output_path", "{folder}/a_file"], "is a file"),
    ],
)
def test_wrong_input_is_told(folder, given, message, capsys):
    (folder / "a_file").touch()
    assert main(["figures", str(folder), *(word.format(folder=folder) for word in given)]) == 2
    assert message in capsys.readouterr().err


def test_without_matplotlib_the_extra_is_named(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["figures", str(folder)]) == 2
    assert "pip install 'fairkv-eval[plots]'" in capsys.readouterr().err


def test_a_line_of_packed_pairs_starts_at_the_packed_cache_that_evicts_nothing(tmp_path):
    synthetic_results.write(tmp_path)
    for number, (press, ratio, bits) in enumerate([("none", 0, 4), ("tova", 0.5, 4), ("tova", 0.5, 16)], 1):
        synthetic_results.write(tmp_path, press=press, ratio=ratio, number=number, fairkv={"kv_bits": bits})
    (model,), _ = arrange(read(tmp_path).records)
    (task,) = model.tasks
    points = {line.kv_bits: [(r.policy.ratio, r.policy.kv_bits) for r in rs] for line, rs in task.lines.items()}
    assert points == {4: [(0, 4), (0.5, 4)], 16: [(0, 16), (0.5, 16)]}
    assert task.full.policy.kv_bits == 16


def test_full_cache_alone_is_nothing_to_draw(tmp_path, capsys):
    synthetic_results.write(tmp_path)
    synthetic_results.write(tmp_path, press="tova", number=1, fairkv={"budget": 64})
    assert main(["figures", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert "no press at a ratio above 0" in printed.err and "budget=64 has no ratio" in printed.out
    assert not (tmp_path / "figures").exists()


def test_labels_and_panels_stay_within_the_page(tmp_path):
    """Many lines that end at one point: their names are moved apart and none is cut off."""
    from xml.etree import ElementTree

    series = tuple(
        Series(f"a long name of a press {i}", (0.0, 0.9), (0.5, 0.4), (None, None), (None, None), i) for i in range(9)
    )
    save(
        Figure(
            "crowded",
            "A title longer than one panel is wide: " + "sys_ifeval " * 3,
            (Panel("panel", "x", "y", series),),
        ),
        tmp_path,
    )
    root = ElementTree.parse(tmp_path / "crowded.svg").getroot()
    texts = [e for e in root.iter("{http://www.w3.org/2000/svg}text") if "a long name" in (e.text or "")]
    assert len(texts) == 9
    heights = sorted(float(e.get("y")) for e in texts)
    assert min(np.diff(heights)) > 8
    image = matplotlib.image.imread(tmp_path / "crowded.png")[..., :3]
    assert image[:, -1].min() == 1.0 and image[:, 0].min() == 1.0  # nothing is drawn on the very edge


def test_figures_are_the_same_every_time(tmp_path):
    figure = Figure("one", "One", (Panel("p", "x", "y", (Series("a", (0, 1), (0, 1), (0, 0), (1, 1), 0),)),))
    first, second = (save(figure, tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_lines_are_told_apart_in_grey():
    """Nine colours; a shape of its own for each of thirteen presses, whose sign the font of the figures has."""
    from matplotlib.font_manager import findfont, get_font

    assert len(set(COLOURS)) == 9 and len(set(MARKERS)) == len(set(MARKERS.values())) == 13
    known = get_font(findfont("DejaVu Sans")).get_charmap()
    assert all(ord(sign) in known for signs in MARKERS.values() for sign in signs)


@given(st.lists(st.floats(0, 100), max_size=12))
def test_spread_out_places(wanted):
    places = spread_out(wanted, 5.0, 0.0, 100.0)
    ordered = sorted(places)
    assert all(b - a >= 5 - 1e-6 for a, b in itertools.pairwise(ordered))
    assert all(-1e-6 <= place <= 100 + 1e-6 for place in places)
    assert [w for _, w in sorted(zip(places, wanted, strict=True))] == sorted(wanted)
    apart = sorted(wanted)
    if all(b - a >= 5 for a, b in itertools.pairwise(apart)):
        assert places == pytest.approx(wanted)

"""Figures as pictures: whole words, nothing over another, the same bytes every time, apart in grey."""

from __future__ import annotations

import itertools
from dataclasses import replace
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import pytest

from fairkv_eval.figures.figure import Figure, Horizontal, Panel, Row, Series
from fairkv_eval.figures.plotting import drawing, png, save
from fairkv_eval.figures.scale import limits
from fairkv_eval.figures.style import DARK, LIGHT, LINES

SHARE = Horizontal("KV bytes held, as a share of the full cache (less to the right)", True, True)
LONG = "What part of the accuracy is left, with one instruction and with several, and is it the same? (sys_ifeval_x)"


def series(label="plain", style=0, y=(0.5, 0.4, 0.2), gaps=()):
    return Series(label, (1.0, 0.6, 0.1), y, tuple(v - 0.1 for v in y), tuple(v + 0.1 for v in y), style, gaps)


def figure(presses=3, rows=2, settings=("plain", "fair"), gaps=()):
    made = tuple(series(name, i, (0.5 - i / 20, 0.4, 0.2), gaps) for i, name in enumerate(settings))
    names = [f"a_rather_long_press_{i}(window=16,kernel={i})" for i in range(presses)]
    panels = tuple(Panel(name, made, 0.5) for name in names)
    made_rows = tuple(
        Row(f"some_long_task_{i}: directive leaked (ROUGE-L recall)", panels, i == 0) for i in range(rows)
    )
    return Figure("made", LONG, "A sentence that says how to read it. " * 3, SHARE, made_rows, "model · " * 30)


def texts(canvas):
    """Every visible text with its box on the canvas, in pixels."""
    from matplotlib.text import Text

    canvas.canvas.draw()
    renderer = canvas.canvas.get_renderer()
    visible = [text for text in canvas.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in visible]


@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (5, 2), (13, 5)])
def test_every_word_is_on_the_page(shape):
    canvas = drawing(figure(*shape, settings=("plain", "fair", "merge=similar kv_bits=4", "budget")), LIGHT)
    width, height = canvas.canvas.get_width_height()
    for text, box in texts(canvas):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text


def test_control_characters_of_names_are_visible(recwarn, tmp_path):
    named = replace(figure(1, 1), source="mo\x1bdel", question="wh\x07at?")
    words = " ".join(text for text, _ in texts(drawing(named, LIGHT)))
    assert "mo�del" in words and "wh�at?" in words
    save(named, tmp_path, svg=True)
    assert not recwarn.list
    ElementTree.parse(tmp_path / "made.svg")


def test_titles_are_whole():
    canvas = drawing(figure(presses=1), LIGHT)
    words = " ".join(text for text, _ in texts(canvas))
    assert LONG in words and words.count("directive") == 2


def test_a_block_has_no_room_for_rows_that_none_of_its_presses_has():
    whole = figure(8, 3)
    last = whole.columns[-1]
    rows = (whole.rows[0], *(replace(row, panels=row.panels[-1:]) for row in whole.rows[1:]))
    canvas = drawing(replace(whole, rows=rows), LIGHT)
    boxes = sorted((axes.get_position() for axes in canvas.axes), key=lambda box: -box.y0)
    assert len(boxes) == 8 + 2 and boxes[-1].x0 == max(box.x0 for box in boxes[4:]) and last in whole.columns
    height = canvas.get_figheight()
    gaps = [(above.y0 - below.y1) * height for above, below in itertools.pairwise(boxes) if below.y1 < above.y0]
    assert len(gaps) == 3 and max(gaps) < 1.4  # inches: names, ratio and axis stand there
    assert height < drawing(whole, LIGHT).get_figheight() - 2


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (13, 5)])
def test_words_do_not_touch_one_another(shape):
    canvas = drawing(figure(*shape), LIGHT)
    words = [(text, box) for text, box in texts(canvas) if any(letter.isalpha() for letter in text)]
    for (one, first), (other, second) in itertools.combinations(words, 2):
        apart = first.x1 <= second.x0 or second.x1 <= first.x0 or first.y1 <= second.y0 or second.y1 <= first.y0
        assert apart, (one, other)


def test_numbers_of_a_shorter_column_do_not_touch_those_of_the_row_below():
    whole = figure(5, 2)
    shorter = replace(whole, rows=(whole.rows[0], replace(whole.rows[1], panels=whole.rows[1].panels[1:])))
    canvas = drawing(shorter, LIGHT)
    canvas.canvas.draw()
    numbers = []
    for axes in canvas.axes:
        axes.set_ylim(0.0, 1.0)
        axes.set_yticks([0.0, 1.0], ["0.00", "1.00"])  # a number at the very top
        canvas.canvas.draw()
        numbers += [label for of in (axes.get_xticklabels(), axes.get_yticklabels()) for label in of]
    boxes = [label.get_window_extent() for label in numbers if label.get_visible() and label.get_text()]
    assert len(boxes) > 9
    assert not any(first.overlaps(second) for first, second in itertools.combinations(boxes, 2))


def test_words_stand_outside_the_panels():
    canvas = drawing(figure(5, 3), LIGHT)
    words = [(text, box) for text, box in texts(canvas) if any(letter.isalpha() for letter in text)]
    for axis in canvas.axes:
        inside = axis.get_window_extent()
        for text, box in words:
            over = box.x0 < inside.x1 and box.x1 > inside.x0 and box.y0 < inside.y1 and box.y1 > inside.y0
            assert not over, text


def test_a_gap_breaks_the_line_and_is_marked_and_explained():
    canvas = drawing(figure(1, 1, ("plain",), gaps=(0.3,)), LIGHT)
    line, marks, _ = canvas.axes[0].get_lines()
    at = list(line.get_xdata()).index(0.3)
    assert np.isnan(line.get_ydata()[at]) and 0 < at < 3
    assert marks.get_marker() == "x" and list(marks.get_xdata()) == [0.3]
    words = " ".join(text for text, _ in texts(canvas))
    assert "no value" in words and "not defined" in words
    assert "not defined" not in " ".join(text for text, _ in texts(drawing(figure(1, 1), LIGHT)))


def test_intervals_are_bands():
    from matplotlib.collections import LineCollection

    canvas = drawing(figure(1, 1, ("plain", "fair")), LIGHT)
    assert len(canvas.axes[0].collections) == 2
    assert not any(isinstance(one, LineCollection) for one in canvas.axes[0].collections)


def test_rows_share_a_scale():
    low, high = (Row("a", (Panel("p", (series(y=y),)),)) for y in ((0.1, 0.1, 0.1), (0.9, 0.9, 0.9)))
    bottom, top = limits([low, high])
    assert bottom < 0.1 and top > 0.9 and limits([low])[1] < 0.5


def test_bands_fit_their_panel_but_one_that_is_longer_than_the_others():
    panel = Panel("p", (series(y=(0.5, 0.5, 0.49)),))
    bottom, top = limits([Row("a", (panel,))])
    assert bottom < 0.39 and top > 0.6
    long = Panel("q", (replace(series(y=(0.5, 0.5, 0.49)), low=(0.4, 0.4, -9.0)),))
    assert 0.1 < limits([Row("a", (panel, long))])[0] < 0.3


def test_command_files_are_whole_and_svg_only_if_asked_for(tmp_path):
    assert [path.name for path in save(figure(), tmp_path)] == ["made.png"]
    assert {path.name for path in save(figure(), tmp_path, svg=True)} == {"made.png", "made.svg"}
    assert "plain" in (tmp_path / "made.svg").read_text()  # text remains text
    image = matplotlib.image.imread(tmp_path / "made.png")[..., :3]
    assert image.shape[0] > 300 and image.min() < 0.3 < 0.9 < image.max()
    assert image[:, -1].min() == 1.0 and image[0].min() == 1.0  # nothing is drawn on the very edge
    assert (tmp_path / "made.png").stat().st_size < 120_000


def test_figures_are_the_same_every_time(tmp_path):
    first, second = (save(figure(), tmp_path / name, svg=True) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_by_night_the_ground_is_dark(tmp_path):
    (tmp_path / "dark.png").write_bytes(png(figure(), DARK))
    image = matplotlib.image.imread(tmp_path / "dark.png")[..., :3]
    assert image.mean() < 0.2 and image.max() > 0.8


def luminance(colour):
    from matplotlib.colors import to_rgb

    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_settings_of_a_figure_look_different_while_there_are_looks():
    """With more settings than looks in all figures together, two of one figure could share one."""
    made = [series("plain", 0), series("keep", 3), series("fair keep", len(LINES)), series("b", 2 * len(LINES))]
    few = figure(1, 1, ())
    few = replace(few, rows=(replace(few.rows[0], panels=(Panel("press", tuple(made)),)),))
    assert few.legend["plain"] == 0 and few.legend["keep"] == 3 and len({*few.legend.values()}) == len(made)
    (axis,) = [axis for axis in drawing(few, LIGHT).axes if axis.lines]
    assert len({(line.get_color(), line.get_marker()) for line in axis.lines}) == len(made)
    many = figure(1, 1, [f"setting {i}" for i in range(len(LINES) + 2)])
    assert list(many.legend.values())[: len(LINES)] == [*range(len(LINES))]
    assert min(list(many.legend.values())[len(LINES) :]) > 1  # plain and fair are alone in looking like them


def test_long_names_break_behind_underscores():
    """Not inside of a word, as long as a word fits."""
    assert row_label("raccoon_preference: exact_match,strict-match") == [
        "raccoon_", "preference:", "exact_match,", "strict-match",
    ]  # fmt: skip
    assert row_label("answers, all of them: followed, or x_y") == ["answers, all of", "them:", "followed, or x_y"]
    assert "".join(row_label("x" * 40)) == "x" * 40


def row_label(label):
    """The lines of a row's label, in a figure of so many rows that its panels are low."""
    made = figure(1, 6, ("plain",))
    made = replace(made, rows=tuple(replace(row, label=label) for row in made.rows))
    return next(axis.get_ylabel() for axis in drawing(made, LIGHT).axes if axis.get_ylabel()).split("\n")[:-1]


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_lines_are_told_apart_in_grey(theme):
    """Each differs in marker; plain from fair, and the first segment from the second, in lightness and dashes too."""
    assert len({line.marker for line in LINES}) == len(LINES)
    for line in LINES:
        assert contrast(getattr(line, theme.name), theme.ground) > 2.7
    for one, other in (LINES[:2], LINES[2:4]):
        assert contrast(getattr(one, theme.name), getattr(other, theme.name)) > 1.5
        assert one.dashes != other.dashes and one.filled != other.filled
    for colour in (theme.text, theme.quiet):
        assert contrast(colour, theme.ground) > 4.5

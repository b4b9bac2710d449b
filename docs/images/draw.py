"""Draw which tokens of a prompt survive, plain above fair, from two files of `fairkv view --json`.

fairkv view raccoon_demo --doc 0 --model_args press=snapkv,window=16,ratio=0.6 --json > plain.json
fairkv view raccoon_demo --doc 0 --model_args press=snapkv,window=16,ratio=0.6,fair=true --json > fair.json
python docs/images/draw.py plain.json fair.json docs/images
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

THEMES = {
    "light": {"page": "#ffffff", "text": "#1f2328", "dim": "#59636e", "gone": "#eceef1"},
    "dark": {"page": "#0d1117", "text": "#f0f6fc", "dim": "#9198a1", "gone": "#1c222b"},
}
SEGMENTS = {"light": ("#2563c9", "#c2570c"), "dark": ("#5b9bff", "#f59542")}
OTHER = "#8b949e"  # the template's tokens


def main() -> None:
    *views, folder = sys.argv[1:]
    plain, fair = (json.loads(Path(name).read_text(encoding="utf-8")) for name in views)
    for theme in THEMES:
        draw(plain, fair, theme).savefig(Path(folder) / f"plain_and_fair_{theme}.png", dpi=150)


def draw(plain: dict[str, Any], fair: dict[str, Any], theme: str) -> Figure:
    colours = THEMES[theme]
    figure = Figure(figsize=(7.6, 4.7), facecolor=colours["page"])
    ratio = plain["policy"]["ratio"]
    left, width, height = 0.075, 0.735, 0.3
    for view, kind, bottom in ((plain, "Plain", 0.555), (fair, "Fair", 0.1)):
        axes = figure.add_axes((left, bottom, width, height), facecolor=colours["gone"])
        axes.imshow(pixels(view, theme), aspect="auto", interpolation="nearest")
        axes.set_ylabel("layer", color=colours["dim"], size=11)
        axes.set_yticks([0, 10, 20, len(view["layers"]) - 1])
        axes.tick_params(colors=colours["dim"], labelsize=9, length=2)
        axes.set_xticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
        what = {"Plain": "one ranking", "Fair": "each segment keeps its share"}[kind]
        figure.text(left, bottom + height + 0.075, f"{kind}: {what}", color=colours["text"], size=15, weight="bold")
        for segment, colour in zip(view["segments"], SEGMENTS[theme], strict=True):
            middle = left + width * (segment["start"] + segment["stop"]) / 2 / view["context"]
            figure.text(middle, bottom + height + 0.022, segment["name"], color=colour, size=13, ha="center")
        bars(figure, view, theme, bottom, height)
    note = f"tokens of the system prompt →    {plain['policy']['press']}, {ratio:.0%} of all KV pairs evicted"
    figure.text(left, 0.035, note, color=colours["dim"], size=11)
    return figure


def pixels(view: dict[str, Any], theme: str) -> np.ndarray:
    """The colour of each layer and token: its segment's, over the page's as far as the token is gone."""
    shares = np.asarray([layer["share"] for layer in view["layers"]])[..., None]
    owner = np.tile(to_rgb(OTHER), (view["context"], 1))
    for segment, colour in zip(view["segments"], SEGMENTS[theme], strict=True):
        owner[segment["start"] : segment["stop"]] = to_rgb(colour)
    return shares * owner + (1 - shares) * np.asarray(to_rgb(THEMES[theme]["gone"]))


def bars(figure: Figure, view: dict[str, Any], theme: str, bottom: float, height: float) -> None:
    """What is kept of each segment, as a number over a bar."""
    colours = THEMES[theme]
    axes = figure.add_axes((0.845, bottom, 0.145, height), facecolor=colours["page"])
    values = [view["keep_rates"][segment["name"]] for segment in view["segments"]]
    axes.bar((0, 1), values, width=0.72, color=SEGMENTS[theme])
    for at, value in enumerate(values):
        axes.text(at, value + 0.03, f"{value:.0%}", color=colours["text"], size=14, weight="bold", ha="center")
    axes.set(ylim=(0, 0.8), xlim=(-0.6, 1.6), xticks=[], yticks=[])
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(colours["dim"])
    figure.text(0.9175, bottom - 0.05, "kept", color=colours["dim"], size=11, ha="center")


if __name__ == "__main__":
    main()

"""A view for a terminal or a pipe: the surviving prompt, and a map of layers by positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fairkv_eval.view.segment_text import colours, pieces
from fairkv_eval.view.view import View, bins

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_SHADES = " ░▒▓█"
_FIGURES = "  entropy   top  held   pairs kept"  # beside the map


def render(view: View, width: int, coloured: bool) -> Iterator[RenderableType]:
    """The parts of a view, at most ``width`` columns wide."""
    from rich.text import Text

    yield Text.assemble((f"{view.task}, doc {view.doc_id}", "bold"), f"  {view.title}")
    yield f"context of {view.context_length} tokens, {view.keep_rate:.1%} of its KV pairs kept"
    yield _legend(view)
    yield ""
    yield _prompt(view, coloured)
    yield ""
    yield from _map(view, max(20, width - 6 - len(_FIGURES)))
    yield ""
    yield (
        "Shades: the share of a layer's heads that keep a position. Attention: entropy, divided by ln n; top: the "
        "share of the top tenth of the tokens; held: the share of the kept tokens."
    )
    if view.answer is not None:
        yield ""
        yield Text.assemble(("the run's answer  ", "bold"), view.answer)


def _legend(view: View) -> Text:
    from rich.text import Text

    colour_of = colours(segment.name for segment in view.segments).items()
    parts = [Text(f"■ {name} {view.keep_rates.get(name, 1.0):.3f}", style=colour) for name, colour in colour_of]
    return Text("  ").join(parts) if parts else Text("no segments")


def _prompt(view: View, coloured: bool) -> Text:
    """The prompt. A token that fewer than half of all heads keep is faint; without colours, dots."""
    from rich.text import Text

    text, share = Text(), view.mean_share
    colour_of = colours(segment.name for segment in view.segments)
    for name, start, stop in pieces(view.segments, view.context_length):
        if name and not coloured:
            text.append(f"⟦{name}: ")
        for token, kept in zip(view.tokens[start:stop], share[start:stop], strict=True):
            colour = colour_of[name] if name else "default"
            if coloured:
                text.append(token, style=colour if kept >= 0.5 else f"dim strike {colour}")
            else:
                text.append(token if kept >= 0.5 else "".join(c if c.isspace() else "·" for c in token))
        if name and not coloured:
            text.append("⟧")
    text.append("¦", style="bold reverse")
    text.append("".join(view.tokens[view.context_length :]), style="dim")
    return text


def _map(view: View, columns: int) -> Iterator[Text]:
    from rich.text import Text

    columns = min(columns, view.context_length)
    colour_of = colours(segment.name for segment in view.segments)
    owner = ["default"] * view.context_length
    for name, start, stop in pieces(view.segments, view.context_length):
        owner[start:stop] = [colour_of[name] if name else "default"] * (stop - start)
    styles = [owner[(i * view.context_length + view.context_length // 2) // columns] for i in range(columns)]
    yield Text.assemble("layer ", *[("▔" if s == "default" else "▆", s) for s in styles], (_FIGURES, "dim"))
    for layer in view.layers:
        figures = f"{'window':>9} of {layer.window}"
        if c := layer.concentration:
            figures = f"{c.entropy:9.3f} {c.top:5.2f} {c.held:5.2f}   {_counts(layer.kept)}"
        yield Text.assemble(f"{layer.index:5d} ", *_cells(layer.share, styles), figures)
    rate = sum(view.mean_share) / view.context_length
    yield Text.assemble((" mean ", "bold"), *_cells(view.mean_share, styles), f"{'':9} {'':5} {'':5}   {rate:.1%}")


def _cells(share: Sequence[float], styles: Sequence[str]) -> list[tuple[str, str]]:
    """One cell per stretch of positions. A blank one is kept by no head."""
    top = len(_SHADES) - 1
    values = bins(share, len(styles))
    return [(_SHADES[max(round(v * top), 1 if v else 0)], s) for v, s in zip(values, styles, strict=True)]


def _counts(kept: Sequence[int]) -> str:
    return str(kept[0]) if len(set(kept)) == 1 else f"{min(kept)}–{max(kept)}"

"""How far the parts of a sweep are that run elsewhere: bars that are told instead of drawn, gathered into one."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from tqdm import tqdm


class Stand(NamedTuple):
    """A bar's position: ``done`` of ``total``, and what it says beside it."""

    done: float
    total: float
    more: str

    @property
    def share(self) -> float:
        return self.done / self.total if self.total else 1.0


Stands = Mapping[str, Mapping[str, Stand]]  # {part: {its bar's name: where it is}}


class Told(tqdm):
    """A bar that is not drawn: ``tell(name, stand)`` is called whenever it would be."""

    def __init__(self, *, tell: Callable[[str, Stand], object], **given: Any) -> None:
        self._tell = tell  # the bar is shown for the first time while it is made
        super().__init__(file=io.StringIO(), **given)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        self._tell(self.desc, Stand(self.n or 0, self.total or 0, str(self.postfix or "")))


class Gathered:
    """Where every part's bars are, as the parts tell it."""

    def __init__(self) -> None:
        self._stands: dict[str, dict[str, Stand]] = {}

    def tell(self, part: str, name: str, stand: Stand) -> None:
        self._stands.setdefault(part, {})[name] = stand

    def stands(self) -> Stands:
        return self._stands


def cells_done(stands: Stands, running: Mapping[str, int], bars: int) -> float:
    """Of the cells of the parts that run ({part: its cells}) how many are done, with shares of those under way: a part
    has gone through ``bars`` bars when it ends."""
    shares = {part: sum(stand.share for stand in stands.get(part, {}).values()) / bars for part in running}
    return sum(cells * min(1.0, shares[part]) for part, cells in running.items())


def line(stands: Stands, running: Iterable[str]) -> str:
    """What is under way: the last bar of each part that runs and was heard of."""
    last = [list(stands[part].items())[-1] for part in running if stands.get(part)]
    return "; ".join(f"{name} {s.done:g}/{s.total:g}{f' ({s.more})' if s.more else ''}" for name, s in last)

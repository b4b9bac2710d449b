"""The log of a run: what was processed, and notes for its results."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from fairkv_eval.engine.totals import Totals


@dataclass
class RunLog:
    """Totals of the engine's runs, and how often each note was made."""

    totals: Totals = field(default_factory=Totals)
    notes: Counter[str] = field(default_factory=Counter)

    def note(self, text: str, count: int = 1) -> None:
        """Count a note that the results should carry."""
        self.notes[text] += count

    def add(self, other: RunLog) -> None:
        """Add another process's log."""
        self.totals.add(other.totals)
        self.notes.update(other.notes)

    def handed_over(self) -> RunLog:
        """Return everything logged so far, and start empty."""
        whole = RunLog(self.totals, self.notes)
        self.totals, self.notes = Totals(), Counter()
        return whole

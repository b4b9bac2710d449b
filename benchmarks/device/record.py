"""What the device check finds: a line of JSON per figure, on disk at once, so that a run cut off still tells."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ.get("OUT") or "build/device/out")
FIGURES = "figures.jsonl"


class Record:
    """The figures of one step. ``failed``: whether a part of it ended in an error."""

    def __init__(self, step: str, folder: Path = FOLDER) -> None:
        self.step = step
        self.failed = False
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FIGURES

    def write(self, figure: str, **values: Any) -> None:
        """Store and print a figure."""
        line = json.dumps({"step": self.step, "figure": figure, **{k: rounded(v) for k, v in values.items()}})
        with self._path.open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(line, flush=True)

    def attempt(self, part: str, work: Callable[[], Any]) -> Any:
        """What the work returns. An error is recorded, and the next part goes on; it returns None then."""
        started = time.perf_counter()
        try:
            back = work()
        except Exception as error:  # whatever it is, the parts after it can still be measured
            traceback.print_exc()
            self.failed = True
            self.write(part, error=f"{type(error).__name__}: {error}"[:600])
            return None
        self.write(f"{part}: done", seconds=time.perf_counter() - started)
        return back

    def exit(self) -> None:
        """End the program, with 1 if a part failed."""
        raise SystemExit(int(self.failed))


def rounded(value: Any) -> Any:
    """Floats to four places."""
    return round(value, 4) if isinstance(value, float) else value

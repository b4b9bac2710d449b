"""Seconds to build the leaderboard of 1,000 result files, and to filter and sort its page in a headless Chromium.

The files are made without a model, in the harness's format and the size of real ones: 5 tasks × 200 policies, each with
``--documents`` logged samples of 7.5 kB and ``--metrics`` metrics that have a better direction. ``build`` is the whole
command, from the files to leaderboard.{json,csv,md,html}, in a process of its own. In the browser ``answer`` is the
time from the event until the page has drawn its answer (charts, count and the first 120 rows) and ``all rows`` until
the last row is drawn: the worst of the rounds, and their medians. The page has one row per policy, 200 of them.

    python benchmarks/leaderboard_1000.py
"""

from __future__ import annotations

import argparse
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common

TESTS = Path(__file__).resolve().parent.parent / "tests" / "support"
PRESSES = ("streaming_llm", "snapkv", "h2o", "tova", "knorm", "random", "pyramidkv", "kvzip", "keydiff", "lagkv")
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
TASKS = ("sys_ifeval_defended", "sys_ifeval_flipped", "raccoon_plain", "raccoon_preference", "sys_multi")
SAMPLE_BYTES = 7500

# What is timed: what a reader does, as the page's own controls hear it.
STEPS = {
    "one task": "set('task', document.getElementById('task').options[1].value)",
    "average over all tasks": "set('task', '')",
    "filter to one press": "tick('tova')",
    "and all again": "tick('tova')",
    "filter to fair": "set('fair', 'fair')",
    "and all once more": "set('fair', '')",
    "another share of bytes": "document.querySelector('#levels input:not(:checked)').click()",
    "sort by the average": "document.querySelector('#c-answers button').click()",
    "another task": "set('task', document.getElementById('task').options[2].value)",
    "another metric": "set('metric', document.getElementById('metric').options[2].value)",
    "sort by value": "document.querySelector('#c-value button').click()",
}
SCRIPT = """
const done = arguments[0];
const set = (id, value) => {
  const field = document.getElementById(id);
  field.value = value;
  field.dispatchEvent(new Event('change', { bubbles: true }));
};
const tick = (press) => document.querySelector(`#presses input[value=${press}]`).click();
const start = performance.now();
%s;
const seconds = () => (performance.now() - start) / 1000;
const drawn = (then) => requestAnimationFrame(() => setTimeout(then));
const wanted = parseInt(document.getElementById('status').textContent, 10);
const rows = () => document.querySelectorAll('#board > tbody > tr.result').length;
let first = null;
const look = () => {
  first = first ?? seconds();
  if (rows() === wanted) done([first, seconds()]); else drawn(look);
};
drawn(look);
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=128)
    parser.add_argument("--metrics", type=int, default=15)
    parser.add_argument(
        "--graded", action="store_true", help="metrics anywhere in [0, 1], as ROUGE, in place of 0 and 1"
    )
    parser.add_argument("--compress", action="store_true", help="samples as .jsonl.gz")
    parser.add_argument("--rounds", type=int, default=3, help="rounds in the browser")
    parser.add_argument("--json", type=Path, help="write settings and figures here")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        files = make(results, settings)
        seconds, processor = build(results)
        size = (results / "leaderboard.html").stat().st_size
        figures = browse(results / "leaderboard.html", settings.rounds)
    rows: list[list[object]] = [
        [f"build, {files} files", f"{seconds:.1f}", "", "", ""],
        ["of it processor time", f"{processor:.1f}", "", "", ""],
        *(
            [name, *(f"{of(t):.2f}" for t in zip(*pairs, strict=True) for of in (max, statistics.median))]
            for name, pairs in figures.items()
        ),
    ]
    print(common.table(["step", "answer", "median", "all rows", "median"], rows))
    print(f"\nthe page has {size / 1e6:.1f} MB")
    by_step = {
        name: [dict(zip(("answer", "all_rows"), pair, strict=True)) for pair in p] for name, p in figures.items()
    }
    common.write_json(
        settings.json,
        settings,
        {"build_seconds": seconds, "build_processor_seconds": processor, "files": files, "browser_seconds": by_step},
    )


def make(folder: Path, settings: argparse.Namespace) -> int:
    """Write the results and return how many there are."""
    sys.path.insert(0, str(TESTS))
    import synthetic_results

    docs = synthetic_results.documents(settings.documents)
    filler = "x" * (SAMPLE_BYTES - 1000)
    number = 0
    for task in TASKS:
        policies = [(p, r, f) for p in PRESSES for r in RATIOS for f in (0.0, 1.0)]
        policies[-1] = ("none", 0.0, 0.0)
        for press, ratio, fair in policies:
            draw = random.Random(number)
            value = draw.random if settings.graded else lambda draw=draw: float(draw.random() > 0.4)
            more = {f"metric_{i}": [value() for _ in docs] for i in range(settings.metrics - 2)}
            synthetic_results.write(
                folder / task / press,
                **{"press": press, "ratio": ratio, "fair": fair, "task": task, "docs": docs, "number": number},
                **{"more": more, "filler": filler, "compress": settings.compress},
            )
            number += 1
    return number


def build(results: Path) -> tuple[float, float]:
    """Seconds of the whole command, and of processor time, which other work on the machine lengthens less."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "fairkv_eval.cli", "leaderboard", str(results)], check=True, stdout=subprocess.DEVNULL
    )
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def browse(page: Path, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds (to the answer, to the last row) of opening and of each step, round by round."""
    by_step: dict[str, list[tuple[float, float]]] = {"open": []}
    with _Chromium() as driver:
        for _ in range(rounds):
            start = time.perf_counter()
            driver.get(page.as_uri())
            seconds = time.perf_counter() - start
            by_step["open"].append((seconds, seconds))
            for name, step in STEPS.items():
                by_step.setdefault(name, []).append(driver.execute_async_script(SCRIPT % step))
        complaints = driver.get_log("browser")
        if complaints:
            raise SystemExit(f"the page complained: {complaints}")
    return by_step


class _Chromium:
    """A headless Chromium, ended with the block."""

    def __enter__(self) -> Any:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1300,1000"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        return self.driver

    def __exit__(self, *_: object) -> None:
        self.driver.quit()


if __name__ == "__main__":
    main()
